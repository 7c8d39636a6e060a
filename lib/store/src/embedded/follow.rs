//! Follows the files: reads everything once, and afterwards only what the kernel announces as changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overlay::lease::Subnets;
use tokio::time::Instant;

use super::desk::Desk;
use super::layout::Reading;
use super::ttl::{Ends, Ttl};
use super::watch::{News, Watch};
use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::error::StoreError;
use crate::feed::Publisher;

/// Timers stop while the host sleeps, but leases keep running. So no timer for the next expiry is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Publishes the contents of the files.
#[derive(Debug)]
pub(super) struct Follower {
    /// The name of the store in messages.
    name: Arc<str>,
    desk: Desk,
    feed: Publisher,
    ends: Ends,
    /// The back-off for expired leases that cannot be removed …
    unexpired: Backoff,
    /// … and the time of the next attempt.
    retry: Option<Instant>,
}

impl Follower {
    pub(super) fn new(name: Arc<str>, desk: Desk, feed: Publisher) -> Self {
        Self { name, desk, feed, ends: Ends::default(), unexpired: Backoff::default(), retry: None }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.follow(&mut backoff).await;
            let wait = backoff.next();
            if self.feed.fail(&error, SystemTime::now()) {
                tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "cannot follow the store; keeping its last known leases");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Publishes the contents of the files and every later change, until an error.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, StoreError> {
        self.desk.run(|layout| layout.prepare()).await?;
        let mut watch = Watch::new(self.desk.layout())?;
        loop {
            // The watch starts before the first reading, so that no change falls between the two.
            watch.arm(self.desk.layout())?;
            self.read_all().await?;
            backoff.reset();
            loop {
                tokio::select! {
                    news = watch.changed() => match news? {
                        News { all: true, .. } => break,
                        News { names, .. } => self.read_these(names.into_iter().collect()).await?,
                    },
                    () = until(self.ends.next(), self.retry) => self.expire().await,
                }
            }
        }
    }

    async fn read_all(&mut self) -> Result<(), StoreError> {
        let feed = &self.feed;
        let Reading { entries, ends } =
            self.desk.finish(|layout| layout.read_all(), |error| said(feed, &error)).await?;
        let there: BTreeMap<_, _> = ends.into_iter().collect();
        self.ends.retain(|key| there.contains_key(key));
        self.set_ends(there);
        self.feed.replace(self.name.clone(), entries);
        Ok(())
    }

    async fn read_these(&mut self, names: Vec<String>) -> Result<(), StoreError> {
        let feed = &self.feed;
        let read = self.desk.finish(move |layout| layout.read_these(&names), |error| said(feed, &error));
        let Reading { entries, ends } = read.await?;
        self.set_ends(ends);
        self.feed.apply(entries);
        self.feed.resume(self.name.clone());
        Ok(())
    }

    fn set_ends(&mut self, ends: impl IntoIterator<Item = (Subnets, Option<Ttl>)>) {
        let now = self.desk.layout().now();
        ends.into_iter().for_each(|(key, ttl)| self.ends.set(key, ttl, &now));
    }

    async fn expire(&mut self) {
        let over = self.ends.over(Moment::now());
        if over.is_empty() {
            return;
        }
        match self.desk.run(move |layout| layout.expire(&over)).await {
            // Somebody renewed them; the watch reports that soon.
            Ok(removed) if removed.is_empty() => self.retry = Some(Instant::now() + self.unexpired.next()),
            Ok(removed) => {
                self.unexpired.reset();
                self.retry = None;
                removed.iter().for_each(|lease| tracing::info!(%lease, "a lease has expired"));
                self.set_ends(removed.into_iter().map(|lease| (lease, None)));
            }
            Err(error) => {
                let wait = self.unexpired.next();
                tracing::warn!(%error, retry_ms = wait.as_millis() as u64, "an expired lease cannot be removed");
                self.retry = Some(Instant::now() + wait);
            }
        }
    }
}

fn said(feed: &Publisher, error: &StoreError) {
    if feed.fail(error, SystemTime::now()) {
        tracing::warn!(%error, "cannot follow the store; keeping its last known leases");
    }
}

async fn until(expiry: Option<Moment>, not_before: Option<Instant>) {
    let left = expiry.map(|end| end.left(Moment::now()));
    tokio::time::sleep(left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)).await;
    if let Some(instant) = not_before {
        tokio::time::sleep_until(instant).await;
    }
}
