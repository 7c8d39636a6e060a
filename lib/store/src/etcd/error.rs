//! What goes wrong between here and etcd.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

/// A call that etcd did not do, or a member that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// None of the endpoints takes a connection.
    #[error("etcd: {}", list(.0))]
    Unreachable(Vec<(String, LinkError)>),
    /// A call was refused, or not answered.
    #[error("etcd {endpoint}: {op}: {}{}{}", said(status), hint(status), certificate_hint(endpoint, status))]
    Call {
        /// The member that was asked.
        endpoint: String,
        /// What was asked for: a verb and its object.
        op: &'static str,
        /// etcd's word, or the connection's.
        status: Box<Status>,
    },
    /// The watch is over.
    #[error("etcd {endpoint}: watch the leases: {why}")]
    Watch {
        /// The member that ended it.
        endpoint: String,
        /// The reason.
        why: WatchEnd,
    },
    /// An answer is without what every answer has.
    #[error("etcd {endpoint}: {op}: the answer is not one of etcd's")]
    Answer {
        /// The member that was asked.
        endpoint: String,
        /// What was asked for.
        op: &'static str,
    },
}

/// Why a watch is over.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnd {
    /// etcd ended it.
    #[error("canceled: {0}")]
    Canceled(String),
    /// etcd does not have the changes of the time in between any more.
    #[error("what was before revision {0} is compacted; the leases are listed anew")]
    Compacted(i64),
    /// It answers from before what it said already.
    #[error("the store is older than it was (restored, or made anew); the leases are listed anew")]
    Older,
    /// The stream ended.
    #[error("the connection has ended")]
    Closed,
    /// Another call found that the member does not answer.
    #[error("the member does not answer")]
    Left,
}

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It takes too long.
    #[error("no connection within {} ms", .0.as_millis())]
    Slow(Duration),
    /// It is refused, or TLS does not come about.
    #[error("{}", chain(.0))]
    Transport(#[source] tonic::transport::Error),
    /// A file of TLS cannot be read.
    #[error("read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// etcd does not take the user or the password.
    #[error("log in as {user}: {}{}", said(status), hint(status))]
    Login {
        /// The user.
        user: String,
        /// etcd's word.
        status: Box<Status>,
    },
}

fn list(of: &[(String, LinkError)]) -> String {
    let all: Vec<String> = of.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect();
    all.join("; ")
}

/// An error with its causes; a cause that says no more than its effect is left out.
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
            " (the user's role needs the right readwrite on the prefix: etcdctl role grant-permission ROLE --prefix=true readwrite PREFIX/)"
        }
        Code::InvalidArgument if status.message().contains("authentication failed") => {
            " (--etcd-username and --etcd-password)"
        }
        Code::InvalidArgument if is_without_login(status) => {
            " (etcd asks for a user: --etcd-username and --etcd-password)"
        }
        Code::ResourceExhausted if status.message().contains("database space exceeded") => {
            " (etcd takes no writes: compact, defragment and disarm its alarm)"
        }
        _ => "",
    }
}

/// With TLS 1.3 a server refuses a client's certificate after the client has begun, by closing the connection.
fn certificate_hint(endpoint: &str, status: &Status) -> &'static str {
    let text = chain(status);
    let refused = ["connection closed", "broken pipe", "fatal alert"].iter().any(|words| text.contains(words));
    if endpoint.starts_with("https") && refused {
        " (if it goes on: etcd may want a client's certificate, or another one: --etcd-certfile and --etcd-keyfile)"
    } else {
        ""
    }
}

fn is_without_login(status: &Status) -> bool {
    status.message().contains("user name is empty")
}

/// What a failed call says about the way to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One has to log in anew: a token ends after minutes, and with the process that gave it.
    Login,
    /// Another member may do better.
    Leave,
    /// The call is at fault.
    Refused,
}

/// etcd's own errors by `api/v3rpc/rpctypes/error.go`: Unavailable is "no leader", "leader changed" and "request timed
/// out", and also what a broken connection is made into.
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
