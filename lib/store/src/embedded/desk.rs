//! File work off the runtime's thread: another daemon may hold the lock, and a disk may be slow or hang.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::layout::Layout;
use crate::error::StoreError;

/// After this long a file system is said not to answer. Longer than a lock is waited for.
const SLOW: Duration = Duration::from_secs(8);

/// Does one thing after the other; what hangs does not make others hang.
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

    /// Begins `work` when what is before it is done.
    async fn begin<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T, E> + Send + 'static,
    ) -> Result<JoinHandle<Result<T, E>>, StoreError> {
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| StoreError::Stopped)?;
        let layout = self.layout.clone();
        Ok(tokio::task::spawn_blocking(move || {
            let done = work(&layout);
            drop(turn);
            done
        }))
    }

    /// Does `work`. When that takes too long this fails, and the work goes on.
    pub(super) async fn run<T, E>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T, E> + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        StoreError: From<E>,
    {
        let done = async { self.begin(work).await?.await.map_err(|_| StoreError::Stopped) };
        match tokio::time::timeout(self.patience, done).await {
            Ok(done) => Ok(done??),
            Err(_) => Err(self.slow()),
        }
    }

    /// Does `work`, however long that takes. `slow` is called when it takes too long.
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
        let done = match tokio::time::timeout(self.patience, &mut job).await {
            Ok(done) => done,
            Err(_) => {
                slow(self.slow());
                job.await
            }
        };
        Ok(done.map_err(|_| StoreError::Stopped)??)
    }

    fn slow(&self) -> StoreError {
        StoreError::Slow(self.layout.root().to_owned())
    }
}
