//! Runs file operations off the runtime's thread: another daemon may hold the lock, and a disk may be slow or hang.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::layout::Layout;
use crate::error::StoreError;
use crate::thread::{self, Running};

/// After this long an operation counts as hanging. It is longer than the wait for a lock.
const SLOW: Duration = Duration::from_secs(8);

/// Runs operations one after the other. When one hangs, only those of the same desk wait.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    layout: Arc<Layout>,
    turn: Arc<Semaphore>,
    patience: Duration,
}

impl Desk {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self::with_patience(layout, SLOW)
    }

    pub(super) fn with_patience(layout: Arc<Layout>, patience: Duration) -> Self {
        Self { layout, turn: Arc::new(Semaphore::new(1)), patience }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Starts `work` after all earlier work.
    async fn begin<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T, E> + Send + 'static,
    ) -> Result<Running<Result<T, E>>, StoreError> {
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| StoreError::Stopped)?;
        let layout = self.layout.clone();
        Ok(thread::start(move || {
            let done = work(&layout);
            drop(turn);
            done
        })?)
    }

    /// Runs `work`. If it takes too long, this fails while the work goes on.
    pub(super) async fn run<T, E>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T, E> + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        StoreError: From<E>,
    {
        let done = async { Ok::<_, StoreError>(self.begin(work).await?.result().await?) };
        match tokio::time::timeout(self.patience, done).await {
            Ok(done) => Ok(done??),
            Err(_) => Err(self.slow()),
        }
    }

    /// Runs `work` to its end, however long it takes, and calls `slow` if it takes too long.
    pub(super) async fn finish<T, E>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T, E> + Send + 'static,
        slow: impl FnOnce(StoreError),
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        StoreError: From<E>,
    {
        let mut job = self.begin(work).await?;
        let done = match tokio::time::timeout(self.patience, job.result()).await {
            Ok(done) => done,
            Err(_) => {
                slow(self.slow());
                job.result().await
            }
        };
        Ok(done??)
    }

    fn slow(&self) -> StoreError {
        StoreError::Slow(self.layout.root().to_owned())
    }
}
