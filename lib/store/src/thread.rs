//! Blocking work on a thread of its own. tokio's pool panics if it cannot create its first thread.

use std::io;
use std::thread::Builder;

use tokio::sync::oneshot;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The thread cannot be created: the limit of processes is reached, or there is no memory for it.
    #[error("create a thread: {0}")]
    Create(#[source] io::Error),
    /// The work has panicked, which is a bug. The panic's message is on stderr.
    #[error("a thread has panicked")]
    Panicked,
}

/// Work on its thread. It goes on when this is dropped.
#[derive(Debug)]
pub struct Running<T>(oneshot::Receiver<T>);

/// Starts `work` on a new thread.
///
/// # Errors
/// [`ThreadError::Create`].
pub fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<Running<T>, ThreadError> {
    let (sender, result) = oneshot::channel();
    let work = move || drop(sender.send(work()));
    Builder::new().name("blocking".into()).spawn(work).map_err(ThreadError::Create)?;
    Ok(Running(result))
}

/// Runs `work` on a new thread and returns its result.
///
/// # Errors
/// See [`ThreadError`].
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ThreadError> {
    start(work)?.result().await
}

impl<T> Running<T> {
    /// Waits for the result. Cancel-safe.
    ///
    /// # Errors
    /// [`ThreadError::Panicked`].
    pub async fn result(&mut self) -> Result<T, ThreadError> {
        (&mut self.0).await.map_err(|_| ThreadError::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_returns_its_result_or_its_panic() {
        assert_eq!(run(|| 7).await.unwrap(), 7);
        let error = run(|| -> u8 { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.to_string(), "a thread has panicked");
    }
}
