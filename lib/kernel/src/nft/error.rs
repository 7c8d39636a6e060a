//! Errors of nf_tables, each with the operation, the object and the kernel's own message.

use crate::netlink::{Errno, KernelError};

/// A failure to read or change nf_tables.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NftError {
    /// nf_tables cannot be reached, a request could not be sent, or the kernel refused a read.
    #[error("nf_tables: {}", with_hint(.0))]
    Failed(KernelError),
    /// The kernel refused a transaction and changed nothing.
    #[error("nf_tables: transaction refused, nothing was changed: {}", list(.0))]
    Refused(Vec<Refusal>),
    /// Others changed the rule set during each try. Nothing was changed.
    #[error("nf_tables: {what}: the rule set was changed by others meanwhile, {tries} times in a row; try again")]
    Busy {
        /// The operation.
        what: String,
        /// The number of tries.
        tries: u32,
    },
    /// A name or a text contains a zero byte, or the operation is too long.
    #[error("nf_tables: {what}: cannot be encoded: a text holds a zero byte, or the operation is longer than 64 KiB")]
    Unencodable {
        /// The operation.
        what: String,
    },
    /// The kernel's reply cannot be decoded.
    #[error("nf_tables: {what}: malformed answer from the kernel")]
    Malformed {
        /// The request.
        what: String,
    },
}

/// An operation that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The operation's place in the batch, from 0; `None` for the transaction as a whole.
    pub place: Option<usize>,
    /// The operation (`delete chain inet filter x`), the errno, and the kernel's message.
    pub error: KernelError,
}

impl NftError {
    /// Whether the object does not exist (ENOENT) and nothing else is wrong.
    pub fn is_absent(&self) -> bool {
        self.all(|errno| errno == libc::ENOENT)
    }

    /// Whether the object already exists (EEXIST) and nothing else is wrong. Also true if an interval overlaps another.
    pub fn is_already(&self) -> bool {
        self.all(|errno| errno == libc::EEXIST)
    }

    /// Whether another try may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
            || self.all(|errno| {
                [libc::EAGAIN, libc::EINTR, libc::ERESTART, libc::EBUSY, libc::ENOBUFS, libc::ENOMEM].contains(&errno)
            })
    }

    /// Whether the kernel has no nf_tables (nfnetlink's error for a missing subsystem), or it cannot be used here.
    pub fn is_unsupported(&self) -> bool {
        self.all(|errno| [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP].contains(&errno))
    }

    /// Whether there is at least one errno and `test` holds for all.
    fn all(&self, test: impl Fn(i32) -> bool) -> bool {
        match self {
            Self::Failed(error) => test(error.errno.0),
            Self::Refused(all) => !all.is_empty() && all.iter().all(|refusal| test(refusal.error.errno.0)),
            Self::Busy { .. } | Self::Unencodable { .. } | Self::Malformed { .. } => false,
        }
    }

    /// Whether the error only says that the rule set has another generation.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Refused(all) if all.iter().any(|refusal| refusal.error.errno.0 == libc::ERESTART))
    }

    /// The error as that of one operation, `what`.
    pub fn about(self, what: &str) -> KernelError {
        let text = match &self {
            Self::Failed(error) => return KernelError { what: what.into(), ..error.clone() },
            Self::Refused(all) => match &all[..] {
                [one, ..] => return KernelError { what: what.into(), ..one.error.clone() },
                [] => self.to_string(),
            },
            Self::Busy { .. } | Self::Unencodable { .. } | Self::Malformed { .. } => self.to_string(),
        };
        let errno = match self {
            Self::Busy { .. } => libc::EAGAIN,
            Self::Unencodable { .. } => libc::EMSGSIZE,
            _ => libc::EPROTO,
        };
        KernelError { what: what.into(), errno: Errno(errno), text: Some(text) }
    }
}

impl From<KernelError> for NftError {
    fn from(error: KernelError) -> Self {
        Self::Failed(error)
    }
}

fn with_hint(error: &KernelError) -> String {
    format!("{error}{}", hint(error.errno))
}

/// What to do about it, for the errors where that is known.
fn hint(cause: Errno) -> &'static str {
    match cause.0 {
        libc::EPERM | libc::EACCES => " (needs CAP_NET_ADMIN in this network namespace)",
        libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => " (the kernel has no nfnetlink: modprobe nf_tables)",
        libc::EOPNOTSUPP => " (a part of nf_tables may be missing in the kernel: a module, or CONFIG_NFT_*)",
        libc::EMSGSIZE => " (the transaction is larger than the socket's send buffer may be: net.core.wmem_max)",
        _ => "",
    }
}

fn list(refusals: &[Refusal]) -> String {
    const SHOWN: usize = 5;
    let mut text = refusals.iter().take(SHOWN).map(|refusal| with_hint(&refusal.error)).collect::<Vec<_>>().join("; ");
    if refusals.len() > SHOWN {
        text += &format!("; and {} more", refusals.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(what: &str, errno: i32, text: Option<&str>) -> Refusal {
        let error = KernelError { what: what.into(), errno: Errno(errno), text: text.map(Into::into) };
        Refusal { place: Some(0), error }
    }

    fn refused(errnos: &[i32]) -> NftError {
        NftError::Refused(errnos.iter().map(|e| refusal("delete chain inet t c", *e, None)).collect())
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
        let error = NftError::Refused(vec![refusal("add rule inet t c", libc::EPERM, Some("no"))]);
        assert_eq!(
            error.to_string(),
            "nf_tables: transaction refused, nothing was changed: add rule inet t c: EPERM: Operation not permitted \
             (no) (needs CAP_NET_ADMIN in this network namespace)"
        );
        assert!(refused(&[libc::ENOENT; 7]).to_string().ends_with("; and 2 more"));
    }
}
