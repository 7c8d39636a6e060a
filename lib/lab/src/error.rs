//! The errors of a lab.

use std::fmt::Display;
use std::time::Duration;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a step of a lab failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system, the kernel crate or a plugin refused.
    #[error("{doing}: {cause}")]
    Step {
        /// The operation and its object.
        doing: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// The sandbox cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] super::sandbox::SandboxError),
    /// A condition did not become true in time.
    #[error("{what}: not within {} ms; last seen: {last}", waited.as_millis())]
    Timeout {
        /// The condition.
        what: String,
        /// How long the condition was waited for.
        waited: Duration,
        /// The last state that was seen.
        last: String,
    },
    /// A result is not as expected.
    #[error("{0}")]
    Wrong(String),
}

/// Adds the operation to an error.
pub trait Doing<T> {
    /// Wraps the error as [`Error::Step`] with the operation `what`.
    fn doing(self, what: impl Display) -> Result<T, Error>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Error> {
        self.map_err(|cause| Error::Step { doing: what.to_string(), cause: cause.into() })
    }
}
