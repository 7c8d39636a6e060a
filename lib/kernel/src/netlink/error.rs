//! What the kernel refused, and how to think about it.

use std::fmt;

/// An error number with its symbol, as strace prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// An operation that depends on another one which was refused.
    pub const CANCELED: Self = Self(libc::ECANCELED);
    /// The protocol is not there.
    pub const PROTONOSUPPORT: Self = Self(libc::EPROTONOSUPPORT);
    /// The address family is not there.
    pub const AFNOSUPPORT: Self = Self(libc::EAFNOSUPPORT);
    /// The request makes no sense to the kernel.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// The operation is not there.
    pub const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);

    /// The error number of an I/O error; EIO when it carries none.
    pub fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }

    fn symbol(self) -> Option<&'static str> {
        let name = match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::ESRCH => "ESRCH",
            libc::ENXIO => "ENXIO",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOSPC => "ENOSPC",
            libc::EROFS => "EROFS",
            libc::ERANGE => "ERANGE",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::ENETDOWN => "ENETDOWN",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::ENOBUFS => "ENOBUFS",
            libc::ENOTCONN => "ENOTCONN",
            libc::EINTR => "EINTR",
            libc::ENOTUNIQ => "ENOTUNIQ",
            _ => return None,
        };
        Some(name)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        match self.symbol() {
            Some(symbol) => write!(f, "{symbol}: {text}"),
            None => write!(f, "errno {}: {text}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One operation on one object that the kernel did not do:
/// `add route 10.244.3.0/24 via 10.244.0.1 dev eth0: ENETUNREACH: Network is unreachable (Nexthop has invalid gateway)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {errno}{}", text.as_deref().map(|t| format!(" ({t})")).unwrap_or_default())]
pub struct KernelError {
    /// The operation and its object.
    pub what: String,
    /// The error number.
    pub errno: Errno,
    /// The kernel's sentence (NLMSGERR_ATTR_MSG), when it gave one.
    pub text: Option<String>,
}

impl KernelError {
    /// An error of `what` with `errno` and nothing more.
    pub fn new(what: impl Into<String>, errno: Errno) -> Self {
        Self { what: what.into(), errno, text: None }
    }

    /// From a failed system call.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(what, Errno::of(error))
    }

    /// The object is already there.
    pub fn is_already(&self) -> bool {
        self.errno.0 == libc::EEXIST
    }

    /// The object, or the link it hangs on, is already gone.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno.0, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL)
    }

    /// The same call may succeed later without anybody changing the configuration.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.errno.0,
            libc::EAGAIN
                | libc::EBUSY
                | libc::EINTR
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
        )
    }
}
