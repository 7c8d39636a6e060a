//! Keeps the feed equal to etcd: one list, then one watch from there on, and again when that breaks.

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

/// Leases of a list that are read at a time: some 150 KB, so that many leases do not stand in memory twice.
const PAGE: i64 = 500;

/// A watch that lived as long was a good one: its end is no reason to wait.
const SOUND: Duration = Duration::from_secs(5);

/// As upstream's longest wait.
const LONGEST: Duration = Duration::from_secs(5);

/// Follows the keys below the prefix.
#[derive(Debug)]
pub(super) struct Follower {
    client: Arc<Client>,
    keys: Keys,
    feed: Publisher,
    working: Working,
    /// What was listed and is not published: there is no watch yet that goes on from it.
    listed: Option<Snapshot>,
    /// When the watch broke.
    lost: Option<SystemTime>,
}

/// A watch that has begun.
struct Watch {
    link: Link,
    answers: Streaming<pb::WatchResponse>,
}

/// Why a watch was over, and how long it lived.
struct End {
    lived: Duration,
    error: EtcdError,
}

impl Follower {
    pub(super) fn new(client: Arc<Client>, keys: Keys, feed: Publisher) -> Self {
        Self { client, working: Working::new(keys.clone()), keys, feed, listed: None, lost: None }
    }

    /// Does not end.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.begin().await {
                Ok(watch) => match self.follow(watch).await {
                    End { lived, error } if lived >= SOUND => {
                        backoff.reset();
                        tracing::info!(%error, "the watch has ended; beginning another");
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
                tracing::warn!(%error, leases, retry_ms, "etcd cannot be followed; its leases stay as they were");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// A watch from where the last one was left, or from a new list.
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

    /// True when the store's history is the one that was followed, and has not lost what came since. A store that was
    /// restored from a backup, or made anew, counts from an earlier revision, and would say nothing until it reaches ours.
    async fn can_resume(&self) -> Result<bool, EtcdError> {
        let Some((key, revision)) = self.working.newest() else { return Ok(false) };
        let ask =
            pb::RangeRequest { key: key.clone(), revision: self.working.revision(), ..pb::RangeRequest::default() };
        match self.client.range(ask).await {
            Ok(answer) => Ok(matches!(&answer.kvs[..], [kv] if kv.mod_revision == *revision)),
            // compacted, or not there yet
            Err(EtcdError::Call { status, .. }) if status.code() == Code::OutOfRange => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists everything at one revision, a page at a time.
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

    /// Whether the watch goes on.
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

    /// There is a watch: what was listed, or known before, is the store's.
    fn publish(&mut self, link: &Link) {
        let name: Arc<str> = format!("etcd {}", link.endpoint).into();
        match self.listed.take() {
            Some(snapshot) => self.feed.replace(name.clone(), snapshot),
            None => self.feed.resume(name.clone()),
        }
        self.lost = None;
        tracing::info!(store = &*name, leases = self.feed.len(), "the store is followed");
    }
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
