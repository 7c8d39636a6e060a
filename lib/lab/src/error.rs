//! What goes wrong in a lab.

use std::fmt::Display;
use std::time::Duration;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A step that failed, with what it was about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system, the kernel crate or a plugin refused.
    #[error("{doing}: {cause}")]
    Step {
        /// The operation and its object.
        doing: String,
        /// Why not.
        #[source]
        cause: Cause,
    },
    /// The machine or the user's rights lack something.
    #[error(transparent)]
    Lack(#[from] super::sandbox::Lack),
    /// A condition did not come true in time.
    #[error("{what}: not within {} ms; last seen: {last}", waited.as_millis())]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// The state at the last look.
        last: String,
    },
    /// What was measured is not what must be.
    #[error("{0}")]
    Wrong(String),
}

/// Says what was being done when a result is an error.
pub trait Doing<T> {
    /// Wraps the error as [`Error::Step`].
    fn doing(self, what: impl Display) -> Result<T, Error>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Error> {
        self.map_err(|cause| Error::Step { doing: what.to_string(), cause: cause.into() })
    }
}
