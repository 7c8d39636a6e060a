//! The embedded store: files that several daemons of one machine share.

mod layout;
mod lock;
#[cfg(test)]
mod tests;
mod ttl;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch as level;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::{Outcome, StoreError, View};
use layout::Layout;
pub(crate) use layout::is_key;
use watch::Watch;

use crate::backoff::Backoff;
use crate::clock::Moment;

/// A timer stands still while the host sleeps, and leases do not: so no timer for the next expiry is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Handle of an embedded store. Following it ends with the handle.
#[derive(Debug)]
pub struct Embedded {
    layout: Arc<Layout>,
    view: level::Receiver<View>,
    follower: AbortHandle,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Embedded {
    /// Opens, or makes, the store in `root`. Needs a tokio runtime.
    pub fn open(root: PathBuf) -> Self {
        let name: Arc<str> = format!("embedded {}", root.display()).into();
        let layout = Arc::new(Layout::new(root));
        let (sender, view) = level::channel(View { name: name.clone(), ..View::default() });
        let follower =
            Follower { name, layout: layout.clone(), view: sender, unexpired: Backoff::default(), retry: None };
        let follower = tokio::spawn(follower.run()).abort_handle();
        Self { layout, view, follower }
    }

    pub(super) fn view(&self) -> level::Receiver<View> {
        self.view.clone()
    }

    pub(super) async fn create(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Outcome, StoreError> {
        let (key, value) = (key.to_owned(), value.to_vec());
        blocking(&self.layout, move |layout| layout.create(&key, &value, ttl)).await
    }

    pub(super) async fn renew(
        &self,
        key: &str,
        old: &[u8],
        new: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Outcome, StoreError> {
        let (key, old, new) = (key.to_owned(), old.to_vec(), new.to_vec());
        blocking(&self.layout, move |layout| layout.renew(&key, &old, &new, ttl)).await
    }

    pub(super) async fn delete(&self, key: &str, old: &[u8]) -> Result<Outcome, StoreError> {
        let (key, old) = (key.to_owned(), old.to_vec());
        blocking(&self.layout, move |layout| layout.delete(&key, &old)).await
    }
}

/// File work off the loop's thread: another daemon may hold the lock, and a disk may be slow.
async fn blocking<T: Send + 'static>(
    layout: &Arc<Layout>,
    work: impl FnOnce(&Layout) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let layout = layout.clone();
    tokio::task::spawn_blocking(move || work(&layout)).await.map_err(|_| StoreError::Stopped)?
}

/// Keeps the view equal to the files.
struct Follower {
    /// The store's, for people.
    name: Arc<str>,
    layout: Arc<Layout>,
    view: level::Sender<View>,
    /// For leases that are over and cannot be removed …
    unexpired: Backoff,
    /// … and when that is tried again.
    retry: Option<Instant>,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.follow(&mut backoff).await else { return };
            let wait = backoff.next();
            tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "the store cannot be followed; what it said stays");
            self.view.send_modify(|view| {
                view.complete = false;
                view.error = Some(error.to_string().into());
                view.stale_since.get_or_insert_with(SystemTime::now);
            });
            tokio::time::sleep(wait).await;
        }
    }

    /// Publishes what the files say, again and again. Ends well only when nobody listens any more.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), StoreError> {
        blocking(&self.layout, |layout| Ok(layout.prepare()?)).await?;
        let mut watch = Watch::new(&self.layout)?;
        loop {
            // armed before it is read, so that nothing falls between
            watch.arm(&self.layout)?;
            let view = blocking(&self.layout, |layout| Ok(layout.read(&layout.now())?)).await?;
            let expiry = view.expires.values().flatten().min().copied();
            self.publish(View { name: self.name.clone(), ..view });
            backoff.reset();
            tokio::select! {
                changed = watch.changed() => changed?,
                () = until(expiry, self.retry) => self.expire().await,
                () = self.view.closed() => return Ok(()),
            }
        }
    }

    fn publish(&self, new: View) {
        self.view.send_if_modified(|view| {
            let news = !view.says_the_same(&new);
            *view = new;
            news
        });
    }

    async fn expire(&mut self) {
        match blocking(&self.layout, |layout| Ok(layout.expire(&layout.now())?)).await {
            Ok(keys) => {
                self.unexpired.reset();
                self.retry = None;
                keys.iter().for_each(|key| tracing::info!(key, "a lease has expired"));
            }
            Err(error) => {
                let wait = self.unexpired.next();
                tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "an expired lease cannot be removed");
                self.retry = Some(Instant::now() + wait);
            }
        }
    }
}

async fn until(expiry: Option<Moment>, not_before: Option<Instant>) {
    let left = expiry.map(|end| end.left(Moment::now()));
    tokio::time::sleep(left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)).await;
    if let Some(instant) = not_before {
        tokio::time::sleep_until(instant).await;
    }
}
