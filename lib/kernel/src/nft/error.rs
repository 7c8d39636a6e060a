//! What can go wrong, told with the operation, the object and the kernel's own words.

use std::fmt;
use std::io;

use crate::netlink::Errno;

/// A failure to read or change nf_tables.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No netlink socket to nf_tables.
    #[error("nf_tables: open netlink socket: {}{}", Errno::of(.source), hint(.source))]
    Open {
        /// Why.
        source: io::Error,
    },
    /// A request did not leave, or its answer did not come.
    #[error("nf_tables: {what}: {}{}", words(.source), hint(.source))]
    Exchange {
        /// What was asked.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused a transaction. Nothing of it was done.
    #[error("nf_tables: transaction refused, nothing was changed: {}", list(.0))]
    Refused(Vec<Refusal>),
    /// The kernel refused to tell something.
    #[error("nf_tables: {0}")]
    Unreadable(Refusal),
    /// Others changed the rule set in between, each time it was tried. Nothing was done.
    #[error("nf_tables: {what}: the rule set was changed by others meanwhile, {tries} times in a row; try again")]
    Busy {
        /// What was tried.
        what: String,
        /// How often.
        tries: u32,
    },
    /// Something has no representation: a name or a text with a zero inside, or one that is too long.
    #[error("nf_tables: {what}: cannot be encoded: a text holds a zero byte, or the operation is longer than 64 KiB")]
    Unencodable {
        /// The operation.
        what: String,
    },
    /// The kernel's answer was not understood.
    #[error("nf_tables: {what}: malformed answer from the kernel")]
    Malformed {
        /// What was asked.
        what: String,
    },
}

/// One operation the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// The operation and its object: `delete chain inet filter x`.
    pub operation: String,
    /// The errno.
    pub errno: io::Error,
    /// The kernel's sentence (extended ack), when it gave one.
    pub text: Option<String>,
}

impl Refusal {
    pub(super) fn new(operation: impl Into<String>, errno: i32, text: Option<String>) -> Self {
        Self { operation: operation.into(), errno: io::Error::from_raw_os_error(errno), text }
    }

    fn is(&self, errno: i32) -> bool {
        self.errno.raw_os_error() == Some(errno)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, Errno::of(&self.errno))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        f.write_str(hint(&self.errno))
    }
}

impl NftError {
    /// The object is not there (ENOENT), and nothing else is wrong.
    pub fn is_absent(&self) -> bool {
        self.all(|errno| errno == libc::ENOENT)
    }

    /// The object is there already (EEXIST), and nothing else is wrong. Also: an interval overlaps another.
    pub fn is_already(&self) -> bool {
        self.all(|errno| errno == libc::EEXIST)
    }

    /// The same may work when tried again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
            || self.all(|errno| {
                [libc::EAGAIN, libc::EINTR, libc::ERESTART, libc::EBUSY, libc::ENOBUFS, libc::ENOMEM].contains(&errno)
            })
    }

    /// There is a cause, and `test` holds for every one.
    fn all(&self, test: impl Fn(i32) -> bool) -> bool {
        let holds = |e: &io::Error| e.raw_os_error().is_some_and(&test);
        match self {
            Self::Open { source } | Self::Exchange { source, .. } => holds(source),
            Self::Refused(all) => !all.is_empty() && all.iter().all(|r| holds(&r.errno)),
            Self::Unreadable(refusal) => holds(&refusal.errno),
            Self::Busy { .. } | Self::Unencodable { .. } | Self::Malformed { .. } => false,
        }
    }

    /// A transaction's error that only says the rule set has another generation.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Refused(all) if all.iter().any(|r| r.is(libc::ERESTART)))
    }
}

/// What to do about it, for the few causes where that is known.
fn hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (needs CAP_NET_ADMIN in this network namespace)",
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => " (the kernel lacks nfnetlink: modprobe nf_tables)",
        Some(libc::EOPNOTSUPP) => " (the kernel may lack a part of nf_tables: a module, or CONFIG_NFT_*)",
        Some(libc::EMSGSIZE) => " (the transaction is larger than the socket's send buffer may be: net.core.wmem_max)",
        _ => "",
    }
}

/// The kernel's error, or that of a short write, which has no number.
fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |errno| Errno(errno).to_string())
}

fn list(refusals: &[Refusal]) -> String {
    const SHOWN: usize = 5;
    let mut text = refusals.iter().take(SHOWN).map(Refusal::to_string).collect::<Vec<_>>().join("; ");
    if refusals.len() > SHOWN {
        text += &format!("; and {} more", refusals.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errnos: &[i32]) -> NftError {
        NftError::Refused(errnos.iter().map(|e| Refusal::new("delete chain inet t c", *e, None)).collect())
    }

    #[test]
    fn questions_are_answered_for_all_causes() {
        assert!(refused(&[libc::ENOENT, libc::ENOENT]).is_absent());
        assert!(!refused(&[libc::ENOENT, libc::EEXIST]).is_absent());
        assert!(!refused(&[]).is_absent());
        assert!(refused(&[libc::EEXIST]).is_already());
        assert!(refused(&[libc::ERESTART]).is_retryable() && refused(&[libc::ERESTART]).is_outdated());
        assert!(NftError::Busy { what: "x".into(), tries: 2 }.is_retryable());
        assert!(!refused(&[libc::EINVAL]).is_retryable());
    }

    #[test]
    fn a_line_says_what_and_why() {
        let error = NftError::Refused(vec![Refusal::new("add rule inet t c", libc::EPERM, Some("no".into()))]);
        assert_eq!(
            error.to_string(),
            "nf_tables: transaction refused, nothing was changed: add rule inet t c: EPERM: Operation not permitted: \
             no (needs CAP_NET_ADMIN in this network namespace)"
        );
        assert!(refused(&[libc::ENOENT; 7]).to_string().ends_with("; and 2 more"));
    }
}
