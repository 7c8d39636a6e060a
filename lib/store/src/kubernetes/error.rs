//! Errors of the Kubernetes store.

use std::time::Duration;

use kube::core::Status;

/// The HTTP status of a watch whose start the server no longer has.
const GONE: u16 = 410;

/// A call to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} at {server}: {cause}{}", hint(cause))]
pub struct KubeError {
    /// The operation: "list nodes", "patch the node n1".
    pub op: String,
    /// The API server's URL.
    pub server: String,
    /// The reason.
    pub cause: Cause,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The server answered with an error.
    #[error("{} ({})", .0.message, .0.code)]
    Answer(Box<Status>),
    /// The configuration of the client cannot be read.
    #[error("{}", chain(.0.as_ref()))]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server cannot be reached, or its answer cannot be read.
    #[error("{}", chain(.0))]
    Transport(#[source] Box<kube::Error>),
    /// The server did not answer in this time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The server ended a list before its end.
    #[error("the answer ended early")]
    Cut,
}

/// What the operator can do.
fn hint(cause: &Cause) -> &'static str {
    match cause {
        Cause::Answer(status) => match status.code {
            401 => " (is the token expired, or of another cluster? retrying)",
            // an admission webhook refuses with the same status, and in its own words
            403 if status.message.contains(" cannot ") => {
                " (flanneld's ClusterRole needs: nodes get, list, watch; nodes/status patch; pods get)"
            }
            404 => "",
            429 => " (the server is busy; retrying)",
            _ => "",
        },
        Cause::Config(_) => " (is this a pod with a service account? else give --kubeconfig-file or --kube-api-url)",
        Cause::Transport(_) | Cause::Timeout(_) | Cause::Cut => " (retrying)",
    }
}

/// An error with the errors that caused it: the outer ones alone do not say why.
fn chain(error: &dyn std::error::Error) -> String {
    // kube's own words for its parts say nothing to an operator
    let mut text = error.to_string().replace("ServiceError: ", "").replace("HyperError: ", "");
    let mut next = error.source();
    while let Some(inner) = next {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = inner.source();
    }
    text
}

impl From<kube::Error> for Cause {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Answer(status),
            error => Self::Transport(Box::new(error)),
        }
    }
}

impl Cause {
    /// The configuration of the client cannot be read.
    pub(super) fn config(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Config(Box::new(error))
    }
}

impl KubeError {
    fn status(&self) -> Option<&Status> {
        match &self.cause {
            Cause::Answer(status) => Some(status),
            _ => None,
        }
    }

    /// Whether the object does not exist.
    pub fn is_absent(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// Whether the watch cannot continue where it ended, so that everything must be read again.
    pub(super) fn is_gone(&self) -> bool {
        self.status().is_some_and(|status| status.code == GONE || status.reason == "Expired")
    }

    /// Whether the server cannot send a list as a watch. Servers before 1.27 refuse the request (422); later ones may
    /// lack a feature of their etcd (500).
    pub(super) fn lacks_streaming(&self) -> bool {
        self.status().is_some_and(|status| {
            let names = ["esourceVersionMatch", "sendInitialEvents"];
            let refused = matches!(status.code, 400 | 422) && names.iter().any(|name| status.message.contains(name));
            refused || status.code == 500 && status.message.contains("RequestWatchProgress")
        })
    }

    /// How long the server asks to wait before the next attempt.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Whether a new connection may help: credentials may have been renewed.
    pub(super) fn needs_new_client(&self) -> bool {
        match &self.cause {
            Cause::Answer(status) => status.code == 401,
            Cause::Config(_) | Cause::Transport(_) | Cause::Timeout(_) => true,
            Cause::Cut => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> KubeError {
        let status = serde_json::from_str(text).unwrap();
        KubeError { op: "watch nodes".into(), server: "https://192.0.2.1:6443".into(), cause: Cause::Answer(status) }
    }

    #[test]
    fn answers_are_told_apart() {
        let old = answer(
            r#"{"status":"Failure","message":"ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch","reason":"Invalid","code":422}"#,
        );
        let etcd = answer(
            r#"{"status":"Failure","message":"a watch stream was requested by the client but the required storage feature RequestWatchProgress is disabled","code":500}"#,
        );
        assert!(old.lacks_streaming() && etcd.lacks_streaming() && !old.is_gone());
        let gone =
            answer(r#"{"status":"Failure","message":"too old resource version: 1 (9)","reason":"Expired","code":410}"#);
        assert!(gone.is_gone() && !gone.lacks_streaming());
        let busy = answer(r#"{"message":"too many requests","code":429,"details":{"retryAfterSeconds":7}}"#);
        assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
        assert!(answer(r#"{"message":"nodes \"n1\" not found","code":404}"#).is_absent());
        assert!(answer(r#"{"message":"Unauthorized","code":401}"#).needs_new_client());
    }

    #[test]
    fn an_error_says_what_to_do() {
        let denied =
            answer(r#"{"message":"nodes is forbidden: User \"x\" cannot watch resource \"nodes\"","code":403}"#);
        assert_eq!(
            denied.to_string(),
            "cannot watch nodes at https://192.0.2.1:6443: nodes is forbidden: User \"x\" cannot watch resource \"nodes\" (403) \
             (flanneld's ClusterRole needs: nodes get, list, watch; nodes/status patch; pods get)"
        );
    }
}
