//! Errors of calls to etcd.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

/// A call that etcd refused, or a member that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint accepts a connection.
    #[error("etcd: {}", list(.0))]
    Unreachable(Vec<(String, LinkError)>),
    /// A call was refused or not answered.
    #[error("etcd {endpoint}: {op}: {}{}{}", said(status), hint(status), certificate_hint(endpoint, status))]
    Call {
        /// The member that was asked.
        endpoint: String,
        /// The operation: a verb and its object.
        op: &'static str,
        /// The status that etcd, or the connection, returned.
        status: Box<Status>,
    },
    /// A watch has ended.
    #[error("etcd {endpoint}: watch the leases: {why}")]
    Watch {
        /// The member that ended it.
        endpoint: String,
        /// The reason.
        why: WatchEnd,
    },
    /// An answer has no header, or not the part that every answer of its kind has.
    #[error("etcd {endpoint}: {op}: this is not an answer of etcd")]
    Answer {
        /// The member that was asked.
        endpoint: String,
        /// The operation: a verb and its object.
        op: &'static str,
    },
}

/// Why a watch has ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnd {
    /// etcd ended it.
    #[error("canceled: {0}")]
    Canceled(String),
    /// etcd no longer has the changes since the last one.
    #[error("etcd compacted the revisions before {0}; listing the leases again")]
    Compacted(i64),
    /// The member answers with an older revision than before.
    #[error("the store is older than before (restored from a backup, or recreated); listing the leases again")]
    Older,
    /// The stream ended.
    #[error("the connection has ended")]
    Closed,
    /// Another call found that the member does not answer.
    #[error("the member does not answer")]
    Left,
}

/// Why no connection to a member exists.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection takes too long.
    #[error("no connection within {} ms", .0.as_millis())]
    Slow(Duration),
    /// Its name is not resolved.
    #[error("the name {host} cannot be resolved: {source}")]
    Name {
        /// The member's host and port.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// It is refused, or TLS does not come about.
    #[error("{}", chain(.0))]
    Transport(#[source] tonic::transport::Error),
    /// A TLS file cannot be read.
    #[error("read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// etcd rejects the user or the password.
    #[error("log in as {user}: {}{}", said(status), hint(status))]
    Login {
        /// The user.
        user: String,
        /// The status that etcd returned.
        status: Box<Status>,
    },
}

fn list(of: &[(String, LinkError)]) -> String {
    let all: Vec<String> = of.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect();
    all.join("; ")
}

/// An error with its sources. A source that only repeats the text before it is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn said(status: &Status) -> Said<'_> {
    Said(status)
}

struct Said<'a>(&'a Status);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.message(), std::error::Error::source(self.0)) {
            ("", None) => write!(f, "{:?}", self.0.code()),
            (message, None) => f.write_str(message),
            (message, Some(source)) => {
                let source = chain(source);
                if source.contains(message) { f.write_str(&source) } else { write!(f, "{message}: {source}") }
            }
        }
    }
}

fn hint(status: &Status) -> &'static str {
    match status.code() {
        Code::PermissionDenied => {
            " (the user's role needs readwrite permission on the prefix: etcdctl role grant-permission ROLE --prefix=true readwrite PREFIX/)"
        }
        Code::InvalidArgument if status.message().contains("authentication failed") => {
            " (check --etcd-username and --etcd-password)"
        }
        Code::InvalidArgument if is_without_login(status) => {
            " (etcd requires a login: set --etcd-username and --etcd-password)"
        }
        Code::ResourceExhausted if status.message().contains("database space exceeded") => {
            " (etcd accepts no writes: compact, defragment, and disarm its alarm)"
        }
        _ => "",
    }
}

/// With TLS 1.3 a server refuses the client's certificate only after the handshake, by closing the connection.
fn certificate_hint(endpoint: &str, status: &Status) -> &'static str {
    let text = chain(status);
    let refused = ["connection closed", "broken pipe", "fatal alert"].iter().any(|words| text.contains(words));
    if endpoint.starts_with("https") && refused {
        " (if this persists, etcd may require a client certificate, or a different one: check --etcd-certfile and --etcd-keyfile)"
    } else {
        ""
    }
}

fn is_without_login(status: &Status) -> bool {
    status.message().contains("user name is empty")
}

/// What a failed call says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Log in again: a token expires after minutes, and when the process that issued it ends.
    Login,
    /// Try another member.
    Leave,
    /// The call itself is at fault.
    Refused,
}

/// etcd's own errors are those of `api/v3rpc/rpctypes/error.go`. Unavailable means "no leader", "leader changed" or
/// "request timed out", and also a broken connection.
pub(super) fn verdict(status: &Status) -> Verdict {
    match status.code() {
        Code::Unauthenticated => Verdict::Login,
        Code::InvalidArgument if is_without_login(status) || status.message().contains("old auth") => Verdict::Login,
        Code::InvalidArgument if status.message().contains("revision of auth store is old") => Verdict::Login,
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled => Verdict::Leave,
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_the_callers_the_tokens_or_the_members() {
        for (status, expected) in [
            (Status::unauthenticated("etcdserver: invalid auth token"), Verdict::Login),
            (Status::invalid_argument("etcdserver: user name is empty"), Verdict::Login),
            (Status::invalid_argument("etcdserver: revision of auth store is old"), Verdict::Login),
            (Status::unavailable("etcdserver: no leader"), Verdict::Leave),
            (Status::unavailable("etcdserver: request timed out"), Verdict::Leave),
            (Status::deadline_exceeded("no answer"), Verdict::Leave),
            (Status::permission_denied("etcdserver: permission denied"), Verdict::Refused),
            (Status::out_of_range("etcdserver: mvcc: required revision has been compacted"), Verdict::Refused),
        ] {
            assert_eq!(verdict(&status), expected, "{status:?}");
        }
    }

    #[test]
    fn errors_name_the_member_the_call_and_the_way_out() {
        let call =
            |status| EtcdError::Call { endpoint: "http://a:1".into(), op: "list the leases", status: Box::new(status) };
        let text = call(Status::permission_denied("etcdserver: permission denied")).to_string();
        assert!(
            text.starts_with("etcd http://a:1: list the leases: etcdserver: permission denied (the user's"),
            "{text}"
        );
        let text = call(Status::invalid_argument("etcdserver: user name is empty")).to_string();
        assert!(text.ends_with("--etcd-username and --etcd-password)"), "{text}");
        let slow = |endpoint: &str| (endpoint.to_owned(), LinkError::Slow(Duration::from_secs(2)));
        assert_eq!(
            EtcdError::Unreachable(vec![slow("http://a:1"), slow("http://b:1")]).to_string(),
            "etcd: http://a:1: no connection within 2000 ms; http://b:1: no connection within 2000 ms"
        );
    }
}
