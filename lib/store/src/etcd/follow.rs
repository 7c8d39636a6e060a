//! Keeps the view equal to etcd: one list, then one watch from there on, and again when that breaks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch as level;
use tokio::time::Instant;
use tonic::{Code, Streaming};

use super::super::View;
use super::client::Client;
use super::ends::Ends;
use super::error::{EtcdError, WatchEnd};
use super::keys::Keys;
use super::link::Link;
use super::pb;
use super::working::Working;
use crate::backoff::Backoff;

/// Between two changes of the view pass so many times what the change took to make: what comes in a burst is one change,
/// and a lease that comes alone is told at once.
const GATHER: u32 = 10;

/// The pause is never longer than this.
const LONGEST_GATHER: Duration = Duration::from_millis(50);

/// A watch that lived as long was a good one: its end is no reason to wait.
const SOUND: Duration = Duration::from_secs(5);

/// As upstream's longest wait.
const LONGEST: Duration = Duration::from_secs(5);

/// Follows the keys below the prefix.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    pub(super) ends: Arc<Ends>,
    pub(super) view: level::Sender<View>,
    pub(super) working: Working,
    /// When the watch broke that was.
    pub(super) lost: Option<SystemTime>,
}

/// A watch that has begun.
struct Watch {
    link: Link,
    answers: Streaming<pb::WatchResponse>,
}

/// How the following of a watch ended.
enum End {
    /// Nobody listens any more.
    Unheard,
    /// It broke after so long.
    Broken(Duration, EtcdError),
}

impl Follower {
    /// Ends when nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.begin().await {
                Ok(watch) => match self.follow(watch).await {
                    End::Unheard => return,
                    End::Broken(lived, error) if lived >= SOUND => {
                        backoff.reset();
                        tracing::info!(%error, "the watch has ended; beginning another");
                        continue;
                    }
                    End::Broken(_, error) => error,
                },
                Err(error) => error,
            };
            let wait = jittered(backoff.next(), random());
            self.say_lost(&error, wait);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.view.closed() => return,
            }
        }
    }

    /// A watch from where the last one was left, or from a new list.
    async fn begin(&mut self) -> Result<Watch, EtcdError> {
        if !self.can_resume().await? {
            self.list().await?;
        }
        let (key, range_end) = self.keys.all();
        let start_revision = self.working.revision() + 1;
        let create = pb::WatchCreateRequest { key, range_end, start_revision, progress_notify: true, fragment: true };
        let (link, answers) = self.client.watch(create).await?;
        Ok(Watch { link, answers })
    }

    /// True when the store's history is the one that was followed, and has not lost what came since. A store that was
    /// restored from a backup, or made anew, counts from an earlier revision, and would say nothing until it reaches ours.
    async fn can_resume(&self) -> Result<bool, EtcdError> {
        let Some((key, revision)) = self.working.newest() else { return Ok(false) };
        let ask = pb::RangeRequest { key: key.clone(), range_end: Vec::new(), revision: self.working.revision() };
        match self.client.range(ask).await {
            Ok(answer) => Ok(matches!(&answer.kvs[..], [kv] if kv.mod_revision == *revision)),
            // compacted, or not there yet
            Err(EtcdError::Call { status, .. }) if status.code() == Code::OutOfRange => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn list(&mut self) -> Result<(), EtcdError> {
        let (key, range_end) = self.keys.all();
        let answer = self.client.range(pb::RangeRequest { key, range_end, revision: 0 }).await?;
        let revision = answer.header.map(|header| header.revision);
        let revision =
            revision.ok_or_else(|| EtcdError::Answer { endpoint: self.client.endpoints(), op: "read the leases" })?;
        tracing::debug!(revision, keys = answer.kvs.len(), "listed");
        self.working.list(answer, revision, &self.ends.known());
        Ok(())
    }

    async fn follow(&mut self, mut watch: Watch) -> End {
        let began = Instant::now();
        let (mut tell_at, mut live) = (began, false);
        // what came while nothing was told
        let mut news = false;
        loop {
            tokio::select! {
                biased;
                () = self.view.closed() => return End::Unheard,
                () = watch.link.left.notified() => {
                    return self.broken(&watch, began, WatchEnd::Left).await;
                }
                () = tokio::time::sleep_until(tell_at), if news => {
                    (tell_at, news) = (self.tell(&watch.link), false);
                }
                answer = watch.answers.message() => match answer {
                    Ok(Some(answer)) => match self.take(answer) {
                        Ok(whole) => {
                            news |= whole;
                            if !live {
                                live = true;
                                (tell_at, news) = (self.tell(&watch.link), false);
                            }
                        }
                        Err(why) => return self.broken(&watch, began, why).await,
                    },
                    Ok(None) => return self.broken(&watch, began, WatchEnd::Closed).await,
                    Err(status) => {
                        self.client.leave(&watch.link).await;
                        let endpoint = watch.link.endpoint.to_string();
                        return self.ended(began, EtcdError::Call { endpoint, op: "watch the leases", status: Box::new(status) });
                    }
                },
                () = self.ends.news() => {
                    self.working.learn(&self.ends.known());
                    news = live;
                }
            }
        }
    }

    /// True when the view may be told of it: a part of a change waits for the rest.
    fn take(&mut self, answer: pb::WatchResponse) -> Result<bool, WatchEnd> {
        if answer.compact_revision != 0 {
            self.working = Working::new(self.keys.clone());
            return Err(WatchEnd::Compacted(answer.compact_revision));
        }
        if answer.canceled {
            return Err(WatchEnd::Canceled(answer.cancel_reason));
        }
        if answer.header.is_some_and(|header| header.revision < self.working.revision()) {
            self.working = Working::new(self.keys.clone());
            return Err(WatchEnd::Older);
        }
        let whole = !answer.fragment;
        self.working.apply(answer, &self.ends.known());
        Ok(whole)
    }

    async fn broken(&mut self, watch: &Watch, began: Instant, why: WatchEnd) -> End {
        if matches!(why, WatchEnd::Closed) {
            self.client.leave(&watch.link).await;
        }
        self.ended(began, EtcdError::Watch { endpoint: watch.link.endpoint.to_string(), why })
    }

    fn ended(&mut self, began: Instant, error: EtcdError) -> End {
        self.lost.get_or_insert_with(SystemTime::now);
        End::Broken(began.elapsed(), error)
    }

    /// Publishes what there is; when it may be done again.
    fn tell(&mut self, link: &Link) -> Instant {
        let began = Instant::now();
        let new = self.working.view(format!("etcd {}", link.endpoint).into());
        if self.lost.take().is_some() || !self.view.borrow().complete {
            tracing::info!(store = &*new.name, leases = new.leases.len(), "the store is followed");
        }
        self.view.send_if_modified(|view| {
            let news = !view.says_the_same(&new);
            *view = new;
            news
        });
        let now = Instant::now();
        now + pause(now - began)
    }

    fn say_lost(&mut self, error: &EtcdError, wait: Duration) {
        let since = *self.lost.get_or_insert_with(SystemTime::now);
        let text: Arc<str> = error.to_string().into();
        self.view.send_if_modified(|view| {
            let news = view.complete || view.error.as_ref() != Some(&text);
            if news {
                tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "etcd cannot be followed; what it said stays");
            }
            view.complete = false;
            view.error = Some(text);
            view.stale_since.get_or_insert(since);
            news
        });
    }
}

/// How long is gathered after a change of the view that took `took` to make.
fn pause(took: Duration) -> Duration {
    (took * GATHER).min(LONGEST_GATHER)
}

/// Half of `wait` to all of it: the daemons of a cluster lose their etcd at one moment.
fn jittered(wait: Duration, random: u64) -> Duration {
    let wait = wait.min(LONGEST);
    wait / 2 + (wait / 2).mul_f64((random % 1000) as f64 / 1000.0)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // without entropy all wait alike
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_tenth_of_the_time_is_spent_on_views() {
        assert_eq!(pause(Duration::from_micros(50)), Duration::from_micros(500));
        assert_eq!(pause(Duration::from_millis(2)), Duration::from_millis(20));
        assert_eq!(pause(Duration::from_secs(1)), LONGEST_GATHER);
    }

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| jittered(backoff.next(), 0)).collect();
        assert_eq!(waits[..3], [50, 100, 200].map(Duration::from_millis));
        assert_eq!(waits[11], LONGEST / 2);
        for random in 0..2000 {
            let wait = jittered(Duration::from_secs(1), random);
            assert!(wait >= Duration::from_millis(500) && wait < Duration::from_secs(1), "{wait:?}");
        }
        assert_ne!(jittered(LONGEST, 1), jittered(LONGEST, 2));
    }
}
