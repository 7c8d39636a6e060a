//! Keeps the feed equal to etcd: lists everything once, watches from there on, and starts again when the watch
//! breaks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::{Code, Streaming};

use super::client::Client;
use super::error::{EtcdError, WatchEnd};
use super::keys::Keys;
use super::link::Link;
use super::pb;
use super::working::Working;
use crate::backoff::Backoff;
use crate::feed::Publisher;
use crate::snapshot::Snapshot;

/// Leases per page of a list: about 150 KB, so that a large list is not in memory twice.
const PAGE: i64 = 500;

/// The end of a watch that lived at least this long is no reason to wait before the next.
const SOUND: Duration = Duration::from_secs(5);

/// The longest wait; upstream's value.
const LONGEST: Duration = Duration::from_secs(5);

/// Follows the keys below the prefix.
#[derive(Debug)]
pub(super) struct Follower {
    client: Arc<Client>,
    keys: Keys,
    feed: Publisher,
    working: Working,
    /// A list that is not published yet, because no watch continues from it.
    listed: Option<Snapshot>,
    /// When the watch broke.
    lost: Option<SystemTime>,
}

/// A watch that has started.
struct Watch {
    link: Link,
    answers: Streaming<pb::WatchResponse>,
}

/// Why a watch ended, and how long it lived.
struct End {
    lived: Duration,
    error: EtcdError,
}

impl Follower {
    pub(super) fn new(client: Arc<Client>, keys: Keys, feed: Publisher) -> Self {
        Self { client, working: Working::new(keys.clone()), keys, feed, listed: None, lost: None }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.begin().await {
                Ok(watch) => match self.follow(watch).await {
                    End { lived, error } if lived >= SOUND => {
                        backoff.reset();
                        tracing::info!(%error, "the watch has ended; starting another");
                        continue;
                    }
                    End { error, .. } => error,
                },
                Err(error) => error,
            };
            let wait = jittered(backoff.next(), random());
            let since = *self.lost.get_or_insert_with(SystemTime::now);
            if self.feed.fail(&error, since) {
                let (leases, retry_ms) = (self.feed.len(), wait.as_millis() as u64);
                tracing::warn!(%error, leases, retry_ms, "cannot follow etcd; keeping its last known leases");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Starts a watch where the last one ended, or after a new list.
    async fn begin(&mut self) -> Result<Watch, EtcdError> {
        if !self.can_resume().await? {
            self.list().await?;
        }
        self.client.resolve().await;
        let (key, range_end) = self.keys.all();
        let start_revision = self.working.revision() + 1;
        let create = pb::WatchCreateRequest { key, range_end, start_revision, progress_notify: true, fragment: true };
        let (link, answers) = self.client.watch(create).await?;
        self.working.watched();
        Ok(Watch { link, answers })
    }

    /// Whether the store still has the history that this follower knows, including what came since. A store that was
    /// restored from a backup or recreated counts from an earlier revision, and would send nothing until it reaches
    /// ours.
    async fn can_resume(&self) -> Result<bool, EtcdError> {
        let Some((key, revision)) = self.working.newest() else { return Ok(false) };
        let ask =
            pb::RangeRequest { key: key.clone(), revision: self.working.revision(), ..pb::RangeRequest::default() };
        match self.client.range(ask).await {
            Ok(answer) => Ok(matches!(&answer.kvs[..], [kv] if kv.mod_revision == *revision)),
            // The revision is compacted, or in the future.
            Err(EtcdError::Call { status, .. }) if status.code() == Code::OutOfRange => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists everything at one revision, page by page.
    async fn list(&mut self) -> Result<(), EtcdError> {
        self.working.reset();
        let (mut snapshot, mut revision) = (Snapshot::default(), 0);
        let (mut key, range_end) = self.keys.all();
        loop {
            let ask = pb::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE,
                revision,
                ..pb::RangeRequest::default()
            };
            let answer = self.client.range(ask).await?;
            if revision == 0 {
                revision = answer.header.map(|header| header.revision).ok_or_else(|| self.no_answer())?;
            }
            let next = answer.kvs.last().filter(|_| answer.more).map(|kv| [&kv.key[..], &[0]].concat());
            self.working.page(answer.kvs, &mut snapshot);
            match next {
                Some(next) => key = next,
                None => break,
            }
        }
        tracing::debug!(revision, leases = snapshot.leases.len(), "listed");
        self.working.listed(revision);
        self.listed = Some(snapshot);
        Ok(())
    }

    fn no_answer(&self) -> EtcdError {
        EtcdError::Answer { endpoint: self.client.endpoints(), op: "read the leases" }
    }

    async fn follow(&mut self, mut watch: Watch) -> End {
        let began = Instant::now();
        let mut live = false;
        loop {
            let answer = tokio::select! {
                biased;
                () = watch.link.left.notified() => return self.broken(&watch, began, WatchEnd::Left).await,
                answer = watch.answers.message() => answer,
            };
            match answer {
                Ok(Some(answer)) => {
                    if let Err(why) = self.check(&answer) {
                        return self.broken(&watch, began, why).await;
                    }
                    if !std::mem::replace(&mut live, true) {
                        self.publish(&watch.link);
                    }
                    self.feed.apply(self.working.apply(answer));
                }
                Ok(None) => return self.broken(&watch, began, WatchEnd::Closed).await,
                Err(status) => {
                    self.client.leave(&watch.link).await;
                    let (endpoint, status) = (watch.link.endpoint.to_string(), Box::new(status));
                    return self.ended(began, EtcdError::Call { endpoint, op: "watch the leases", status });
                }
            }
        }
    }

    /// Checks that the watch continues.
    fn check(&mut self, answer: &pb::WatchResponse) -> Result<(), WatchEnd> {
        if answer.compact_revision != 0 {
            self.working.reset();
            return Err(WatchEnd::Compacted(answer.compact_revision));
        }
        if answer.canceled {
            return Err(WatchEnd::Canceled(answer.cancel_reason.clone()));
        }
        if answer.header.is_some_and(|header| header.revision < self.working.revision()) {
            self.working.reset();
            return Err(WatchEnd::Older);
        }
        Ok(())
    }

    async fn broken(&mut self, watch: &Watch, began: Instant, why: WatchEnd) -> End {
        if matches!(why, WatchEnd::Closed) {
            self.client.leave(&watch.link).await;
        }
        self.ended(began, EtcdError::Watch { endpoint: watch.link.endpoint.to_string(), why })
    }

    fn ended(&mut self, began: Instant, error: EtcdError) -> End {
        self.lost.get_or_insert_with(SystemTime::now);
        End { lived: began.elapsed(), error }
    }

    /// Publishes the list, or confirms what was known before, now that a watch continues from it.
    fn publish(&mut self, link: &Link) {
        let name: Arc<str> = format!("etcd {}", link.endpoint).into();
        match self.listed.take() {
            Some(snapshot) => self.feed.replace(name.clone(), snapshot),
            None => self.feed.resume(name.clone()),
        }
        self.lost = None;
        tracing::info!(store = &*name, leases = self.feed.len(), "store in sync");
    }
}

/// A random time between half of `wait` and all of it: the daemons of a cluster lose their etcd at the same moment.
fn jittered(wait: Duration, random: u64) -> Duration {
    let wait = wait.min(LONGEST);
    wait / 2 + (wait / 2).mul_f64((random % 1000) as f64 / 1000.0)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy all daemons wait equally long.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
