//! Connects the task that follows a store, the controller that consumes its changes, and the keeper of this host's
//! lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use overlay::lease::{LeaseChanges, Subnets};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::error::Ended;
use crate::index::{Entry, Index};
use crate::pending::Pending;
use crate::snapshot::{Event, Snapshot};

/// The pause between two change sets, as a multiple of the time that the consumer took for the first. So a burst
/// becomes a few change sets, and a single change is delivered at once.
const GATHER: u32 = 10;

/// The upper limit of that pause.
const LONGEST_GATHER: Duration = Duration::from_millis(50);

/// What changed in a store since the last change set.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The changes of leases.
    pub leases: LeaseChanges,
    /// `Some` when the network's configuration has changed; the inner `None` means that the store has none.
    pub config: Option<Option<Arc<[u8]>>>,
    /// The store's current health.
    pub health: StoreHealth,
}

/// Whether a store can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHealth {
    /// The store's name in messages: `embedded /var/lib/flannel/network`, `etcd http://192.0.2.1:2379`.
    pub name: Arc<str>,
    /// Whether all of the store's contents are known. While they are not, nobody may conclude that a lease is gone.
    pub complete: bool,
    /// Why the store cannot be read; `None` while it can.
    pub error: Option<Arc<str>>,
    /// Since when changes of the store go unseen; `None` while they are seen.
    pub stale_since: Option<SystemTime>,
    /// The contents are those that were saved at this time, because the store could not be read since the start.
    pub remembered: Option<SystemTime>,
}

/// The parts of a store's contents that are kept, and its health.
#[derive(Debug)]
struct State {
    pending: Pending,
    health: StoreHealth,
    health_changed: bool,
    ended: bool,
}

/// The state that all parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Notifies the consumer of a new change set.
    news: Notify,
    /// Notifies a writer that the index has changed.
    indexed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.lock().health.complete
    }

    /// The index entry of a lease.
    pub(crate) fn entry(&self, subnets: &Subnets) -> Option<Entry> {
        self.lock().pending.index().get(subnets).copied()
    }

    /// Calls `look` with the index of all leases.
    pub(crate) fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(self.lock().pending.index())
    }

    /// Waits until the index entry of a lease satisfies `wanted`.
    pub(crate) async fn shows(&self, subnets: &Subnets, wanted: impl Fn(Option<Entry>) -> bool) {
        loop {
            let mut indexed = std::pin::pin!(self.indexed.notified());
            indexed.as_mut().enable();
            if wanted(self.entry(subnets)) {
                return;
            }
            indexed.await;
        }
    }
}

/// The follower's end. When it is dropped, even by a panic, the consumer learns that the follower has ended.
#[derive(Debug)]
pub(crate) struct Publisher(Arc<Shared>);

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.news.notify_one();
    }
}

impl Publisher {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        change(&mut state);
        let news = state.health_changed || !state.pending.is_empty();
        drop(state);
        self.0.indexed.notify_waiters();
        if news {
            self.0.news.notify_one();
        }
    }

    /// Publishes the complete contents of the store, which messages call `name`.
    pub(crate) fn replace(&self, name: Arc<str>, snapshot: Snapshot) {
        self.change(|state| {
            state.pending.replace(snapshot);
            state.set_health(StoreHealth { name, complete: true, error: None, stale_since: None, remembered: None });
        });
    }

    /// Publishes that the known contents are current again.
    pub(crate) fn resume(&self, name: Arc<str>) {
        self.change(|state| {
            state.set_health(StoreHealth { name, complete: true, error: None, stale_since: None, remembered: None })
        });
    }

    /// Publishes changes.
    pub(crate) fn apply(&self, events: impl IntoIterator<Item = Event>) {
        self.change(|state| events.into_iter().for_each(|event| state.pending.apply(event)));
    }

    /// Publishes that the store cannot be read, since `since` or an earlier failure. Returns whether this is a new
    /// error.
    pub(crate) fn fail(&self, error: &dyn std::fmt::Display, since: SystemTime) -> bool {
        let mut news = false;
        self.change(|state| {
            let before = &state.health;
            let stale_since = before.stale_since.or(Some(since));
            let error = Some(error.to_string().into());
            news = before.complete || before.error != error;
            let name = before.name.clone();
            let remembered = before.remembered;
            state.set_health(StoreHealth { name, complete: false, error, stale_since, remembered });
        });
        news
    }

    /// Publishes contents that were saved at `at`, until the store can be read.
    pub(crate) fn remember(&self, name: Arc<str>, snapshot: Snapshot, at: SystemTime) {
        self.change(|state| {
            state.pending.replace(snapshot);
            let (error, since) = (state.health.error.clone(), Some(at));
            state.set_health(StoreHealth { name, complete: false, error, stale_since: since, remembered: since });
        });
    }

    /// Wakes the consumer, because something that is not a lease has changed.
    pub(crate) fn nudge(&self) {
        self.change(|state| state.health_changed = true);
    }

    /// The number of known leases.
    pub(crate) fn len(&self) -> usize {
        self.0.with_index(Index::len)
    }
}

impl State {
    fn set_health(&mut self, health: StoreHealth) {
        self.health_changed |= self.health != health;
        self.health = health;
    }
}

/// The consumer's end: the changes of a store. Dropping it ends the follower.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    follower: AbortHandle,
    /// When the last change set was delivered, until the next one is requested.
    given: Option<Instant>,
    /// The earliest time for the next change set.
    not_before: Option<Instant>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Feed {
    /// Starts a follower with the other end. Messages call the store `name`. Needs a tokio runtime.
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        name: Arc<str>,
        follow: impl FnOnce(Publisher) -> F,
    ) -> Self {
        let stale_since = Some(SystemTime::now());
        let health = StoreHealth { name, complete: false, error: None, stale_since, remembered: None };
        let state = State { pending: Pending::default(), health, health_changed: false, ended: false };
        let (state, news, indexed) = (Mutex::new(state), Notify::new(), Notify::new());
        let shared = Arc::new(Shared { state, news, indexed });
        let follower = tokio::spawn(follow(Publisher(shared.clone()))).abort_handle();
        Self { shared, follower, given: None, not_before: None }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The store's current health.
    pub fn health(&self) -> StoreHealth {
        self.shared.lock().health.clone()
    }

    /// Waits for the next change set. The first one is a snapshot, or says why none exists yet; the same holds after
    /// another store replaces this one. Cancel-safe.
    ///
    /// # Errors
    /// The follower has ended or panicked, and every earlier change was delivered.
    pub async fn changes(&mut self) -> Result<Changes, Ended> {
        if let Some(given) = self.given.take() {
            let now = Instant::now();
            self.not_before = Some(now + ((now - given) * GATHER).min(LONGEST_GATHER));
        }
        loop {
            if let Some(not_before) = self.not_before {
                tokio::time::sleep_until(not_before).await;
                self.not_before = None;
            }
            if let Some(changes) = self.take()? {
                self.given = Some(Instant::now());
                return Ok(changes);
            }
            self.shared.news.notified().await;
        }
    }

    fn take(&self) -> Result<Option<Changes>, Ended> {
        let mut state = self.shared.lock();
        if state.pending.is_empty() && !state.health_changed {
            return if state.ended { Err(Ended) } else { Ok(None) };
        }
        state.health_changed = false;
        let (leases, config) = state.pending.take();
        Ok(Some(Changes { leases, config, health: state.health.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work);
    }

    fn lease(n: usize) -> Event {
        Event::read(&format!("10.5.{n}.0-24"), br#"{"PublicIP":"192.0.2.1"}"#, 0, None)
    }

    #[test]
    fn the_end_of_the_follower_is_known_after_all_it_said() {
        block_on(async {
            let mut feed = Feed::start("s".into(), async |feed: Publisher| {
                feed.replace("s".into(), Snapshot::default());
                panic!("as a follower may");
            });
            let first = feed.changes().await.unwrap();
            assert!(first.leases.snapshot && first.health.complete && first.config == Some(None));
            assert_eq!(feed.changes().await, Err(Ended));
            assert_eq!(feed.changes().await, Err(Ended));
        });
    }

    #[test]
    fn what_comes_while_the_consumer_is_busy_is_one_change_set() {
        block_on(async {
            let mut feed = Feed::start("s".into(), async |feed: Publisher| {
                for n in 0..200 {
                    feed.apply([lease(n)]);
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
                std::future::pending::<()>().await;
            });
            let (mut sets, mut leases) = (0, 0);
            while leases < 200 {
                leases += feed.changes().await.unwrap().leases.put.len();
                sets += 1;
                // The time that this consumer takes for it.
                tokio::time::advance(Duration::from_millis(3)).await;
            }
            assert!(leases == 200 && sets < 30, "{sets} change sets");
        });
    }

    #[test]
    fn a_store_that_cannot_be_read_says_so_once_for_each_reason() {
        block_on(async {
            let (send, mut errors) = tokio::sync::mpsc::channel::<Option<&'static str>>(1);
            let mut feed = Feed::start("s".into(), async move |feed: Publisher| {
                while let Some(error) = errors.recv().await {
                    match error {
                        Some(error) => drop(feed.fail(&error, SystemTime::UNIX_EPOCH)),
                        None => feed.resume("s".into()),
                    }
                }
            });
            let mut said = Vec::new();
            for error in [Some("a"), Some("a"), Some("b"), None] {
                send.send(error).await.unwrap();
                if said.last() != Some(&error) {
                    let health = feed.changes().await.unwrap().health;
                    assert_eq!((health.complete, health.error.as_deref()), (error.is_none(), error));
                    said.push(error);
                }
            }
            drop(send);
            assert_eq!(feed.changes().await, Err(Ended), "nothing was said twice");
        });
    }
}
