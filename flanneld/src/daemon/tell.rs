//! What others are told: people by the status and the log, the CNI plugin by subnet.env, the service manager.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use overlay::host::PeerPath;
use overlay::peers::Peers;
use overlay::subnet_env::SubnetEnv;
use tokio::time::Instant;

use super::pass::Troubles;
use super::{Daemon, report};
use crate::health::Ready;
use crate::systemd;
use store::files;

/// The status of thousands of peers takes longer to write than one lease to follow: it is written no more often, but for
/// what is wrong.
const STATUS_PAUSE: Duration = Duration::from_millis(500);

/// The peers of the last pass, for when the status is written.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) peers: Peers,
    pub(super) paths: Vec<PeerPath>,
    pub(super) ignored: Arc<BTreeMap<String, String>>,
}

/// When the status was written, and when it must be again.
#[derive(Debug, Default)]
pub(super) struct Telling {
    written: Option<Instant>,
    /// A status that was not written yet; true: it is written even when only its time is new.
    waiting: Option<bool>,
    /// That it could not be written was said.
    failed: bool,
}

impl Telling {
    /// When the status that waits must be written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.and(self.written).map(|written| written + STATUS_PAUSE)
    }
}

impl Daemon {
    /// Tells the outcome of a pass: `error` is what is wrong, `fresh` that something was changed.
    pub(super) fn tell(&mut self, error: Option<String>, fresh: bool) {
        let other = self.status.last_error != error;
        if let (Some(text), true) = (&error, other) {
            tracing::warn!(error = text, "not all is well");
        }
        if error.is_none() {
            self.metrics.clean();
        }
        self.status.last_error = error;
        self.status.last_reconcile = Some(report::now());
        self.telling.waiting = Some(fresh || self.telling.waiting == Some(true));
        let rested = self.telling.due().is_none_or(|due| due <= Instant::now());
        // until the host is started every step of it is told at once: somebody waits for it
        if other || rested || !self.started() {
            self.write_status();
        }
    }

    /// Answers `/readyz`: ready is the host whose own data path is up, once it was made from all that the store holds. That
    /// the store is away then is no reason to take the host out of service.
    pub(super) fn say_ready(&mut self, up: bool) {
        let health = &self.known.health;
        let why = || health.error.clone().unwrap_or_else(|| "it does not answer".into());
        let stale = health.stale_since.map(|since| (since, why()));
        let now = Ready { ready: up || (self.ready.borrow().ready && !health.complete), stale };
        self.ready.send_if_modified(|ready| {
            let news = *ready != now;
            *ready = now;
            news
        });
    }

    /// Writes the status that waits.
    pub(super) fn write_status(&mut self) {
        let fresh = self.telling.waiting.take().unwrap_or(true);
        report::peers(&mut self.status, &self.picture);
        let Picture { peers, paths, ignored } = &self.picture;
        self.metrics.count(paths.iter().map(|path| path.reach.into()), peers.rejected.len() + ignored.len());
        self.status.drift = self.metrics.drifts();
        let written = self.writer.write(&self.status, fresh);
        if let (Err(error), false) = (&written, self.telling.failed) {
            tracing::warn!(%error, "the status cannot be written");
        }
        self.telling.failed = written.is_err();
        self.telling.written = Some(Instant::now());
    }

    /// Says each thing once for as long as it is so.
    pub(super) fn warn(&mut self, peers: &Peers, paths: &[PeerPath], ignored: &BTreeMap<String, String>) {
        let now: BTreeSet<String> = report::warnings(peers, paths, ignored).into_iter().collect();
        now.difference(&self.warned).for_each(|text| tracing::warn!("{text}"));
        self.warned = now;
    }

    /// Writes subnet.env when it says something new, and tells the service manager the first time.
    pub(super) fn tell_plugin(&mut self, env: SubnetEnv, troubles: &mut Troubles) {
        let text = env.format();
        if self.subnet_env.as_ref() == Some(&text) {
            return;
        }
        if !self.started() {
            // whoever sees the file may look at the status next
            self.tell(troubles.text(), true);
        }
        if let Err(error) = files::replace(&self.options.subnet_file, text.as_bytes()) {
            return troubles.retry(error.to_string());
        }
        let first = self.subnet_env.replace(text).is_none();
        tracing::info!(file = %self.options.subnet_file.display(), mtu = env.mtu.0, "subnet file written");
        if let (true, Some(socket)) = (first, &self.notify_socket)
            && let Err(error) = systemd::ready(socket)
        {
            tracing::warn!(%error, socket, "the service manager cannot be told");
        }
    }
}
