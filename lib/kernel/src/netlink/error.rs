//! The kernel's errors, and what they mean for the caller.

use std::fmt;

use super::errnos::{LINES, NUMBERS};

/// An error number with its symbol, as strace prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Another object stands in the way, or uses this one.
    pub const BUSY: Self = Self(libc::EBUSY);
    /// The operation was not tried because another one was refused.
    pub const CANCELED: Self = Self(libc::ECANCELED);
    /// The request is invalid.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// The kernel does not have the operation.
    pub const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);

    /// The error number of an I/O error; EIO if it has none.
    pub fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The symbol and its text.
    fn words(self) -> Option<(&'static str, &'static str)> {
        let at = NUMBERS.iter().position(|number| *number == self.0)?;
        LINES.lines().nth(at)?.split_once(": ")
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some((symbol, text)) => write!(f, "{symbol}: {text}"),
            None => write!(f, "errno {}, which Linux does not define", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An operation on an object that the kernel refused: `add route 10.244.3.0/24 via 10.244.0.1 dev eth0: ENETUNREACH:
/// Network is unreachable (Nexthop has invalid gateway)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {errno}{}", text.as_deref().map(|t| format!(" ({t})")).unwrap_or_default())]
pub struct KernelError {
    /// The operation and its object.
    pub what: String,
    /// The error number.
    pub errno: Errno,
    /// The kernel's message (NLMSGERR_ATTR_MSG), if it gave one.
    pub text: Option<String>,
}

impl KernelError {
    /// The error `errno` of the operation `what`, without a message.
    pub fn new(what: impl Into<String>, errno: Errno) -> Self {
        Self { what: what.into(), errno, text: None }
    }

    /// The error of a failed system call.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(what, Errno::of(error))
    }

    /// Whether the object already exists.
    pub fn is_already(&self) -> bool {
        self.errno.0 == libc::EEXIST
    }

    /// Whether the kernel says EINVAL: the request is not possible as things are.
    pub fn is_invalid(&self) -> bool {
        self.errno == Errno::INVAL
    }

    /// Whether the kernel says EPERM: the caller does not have the capability that the request needs.
    pub fn is_denied(&self) -> bool {
        self.errno.0 == libc::EPERM
    }

    /// Whether a file cannot be read, such as a parameter that only takes values.
    pub fn is_unreadable(&self) -> bool {
        self.errno.0 == libc::EACCES
    }

    /// Whether the object, or the link that it belongs to, does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno.0, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL)
    }

    /// Whether the same call may succeed later without a change of the configuration.
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

    /// Whether a file system is read-only, such as /proc/sys in a container without privileges.
    pub fn is_read_only(&self) -> bool {
        self.errno.0 == libc::EROFS
    }

    /// Whether the object, or the link that it needs, is in use by something else.
    pub fn is_busy(&self) -> bool {
        matches!(self.errno.0, libc::EBUSY | libc::EADDRINUSE)
    }

    /// Whether a bridge has no number left for another port (`find_portno`, net/bridge/br_if.c).
    pub fn is_full_bridge(&self) -> bool {
        self.errno.0 == libc::EXFULL
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_error_number_has_a_symbol_and_a_sentence() {
        // 41 and 58 are second names of other numbers on some machines, and unused here
        for number in (1..=133).filter(|number| ![41, 58].contains(number)).chain([524]) {
            let text = Errno(number).to_string();
            let (symbol, sentence) = text.split_once(": ").unwrap_or_else(|| panic!("{number}: {text}"));
            assert!(symbol.starts_with('E') && symbol.len() > 2, "{number}: {text}");
            assert!(sentence.len() > 5 && !sentence.contains("nformation"), "{number}: {text}");
        }
        assert_eq!(Errno(libc::EXFULL).to_string(), "EXFULL: Exchange full");
        assert_eq!(Errno(libc::EOPNOTSUPP).to_string(), "EOPNOTSUPP: Operation not supported");
        assert_eq!(Errno(4000).to_string(), "errno 4000, which Linux does not define");
        assert_eq!(Errno(i32::MIN).to_string(), "errno -2147483648, which Linux does not define");
    }

    #[test]
    fn no_number_is_there_twice() {
        let numbers: BTreeSet<_> = NUMBERS.iter().collect();
        let symbols: BTreeSet<_> = LINES.lines().filter_map(|line| line.split_once(": ")).map(|(s, _)| s).collect();
        assert_eq!(
            (numbers.len(), symbols.len(), LINES.lines().count()),
            (NUMBERS.len(), NUMBERS.len(), NUMBERS.len())
        );
    }
}
