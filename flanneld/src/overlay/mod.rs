//! The overlay's controller: something may have changed, so a plan is made and carried out.
//!
//! There are six reasons to look: the store has changes, the kernel has announced a change to something of ours, a setting is
//! another that it does not announce, a part of ours has ended or done its work, what failed or is due is due, and ten minutes
//! have passed. Whatever the reason, the same pass is made: facts, plan, execution in order. What decides is
//! [`overlay::plan`], and is pure.

mod execute;
mod extension;
mod facts;
mod kernel;
mod outlet;
mod pass;
#[cfg(test)]
mod tests;
mod udp;
mod wireguard_key;

use std::time::Duration;

use overlay::plan::Memory;
use store::Store;
use store::backoff::Backoff;
use tokio::time::Instant;

use self::facts::Known;
use crate::daemon::DaemonError;
use crate::events::Events;
use crate::flags::Options;
use crate::health::Readiness;
use crate::kernel_thread::KernelThread;
use crate::unannounced::Unannounced;

pub use outlet::Outlet;
pub use wireguard_key::DEFAULT as KEY_FILE;

/// Readiness: the host's own part of the data path is up.
const OVERLAY: &str = "overlay";

/// Nothing should change unnoticed; this is how long it lasts if something does.
const AUDIT: Duration = Duration::from_secs(600);

/// Before the first pass: a store that is slow to read is then an error that can be seen.
const FIRST_READING: Duration = Duration::from_secs(2);

/// Between two passes that the kernel's news cause: a burst of them is one reason.
const QUIET: Duration = Duration::from_millis(20);

/// Everything that outlives a pass. All of it can be lost: a new daemon finds it again.
pub struct Controller {
    store: Store,
    kernel: KernelThread,
    events: Events,
    known: Known,
    /// The leases, and what was planned last.
    memory: Memory,
    /// The udp backend's data path.
    udp: udp::Udp,
    /// The extension backend's commands.
    extension: extension::Extension,
    outlet: Outlet,
    settings: Unannounced,
    /// The host was as it must be once: from then on what goes wrong is waited for.
    started: bool,
    retry: Backoff,
}

/// What the controller works with.
pub struct Parts {
    /// Where the leases are.
    pub store: Store,
    /// The thread that owns the netlink sockets.
    pub kernel: KernelThread,
    /// What the kernel announces.
    pub events: Events,
    /// Where its outcome goes.
    pub outlet: Outlet,
}

/// What a pass leaves to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    at: Option<Instant>,
}

impl Due {
    fn by(&mut self, instant: Instant) {
        self.at = Some(self.at.map_or(instant, |at| at.min(instant)));
    }
}

impl Controller {
    /// The host is not ready before the first pass has made it so.
    pub fn announce(readiness: &Readiness) {
        readiness.set(OVERLAY, Err("not configured yet".into()));
    }

    /// Nothing is planned yet.
    pub fn new(options: Options, parts: Parts) -> Self {
        let Parts { store, kernel, events, outlet } = parts;
        Self {
            udp: udp::Udp::new(outlet.counters()),
            extension: extension::Extension::new(options.environment.clone()),
            known: Known::new(options, &store),
            memory: Memory::default(),
            settings: Unannounced::default(),
            started: false,
            retry: Backoff::default(),
            store,
            kernel,
            events,
            outlet,
        }
    }

    /// Runs until it must not go on.
    pub async fn run(&mut self) -> DaemonError {
        if let Ok(Err(ended)) = tokio::time::timeout(FIRST_READING, self.first_reading()).await {
            return ended.into();
        }
        loop {
            let next = match self.pass().await {
                Ok(due) => self.wait(due).await,
                Err(error) => Err(error),
            };
            match next {
                Ok(why) => tracing::debug!(why, "looking"),
                Err(error) => return error,
            }
        }
    }

    /// Takes over what the store says.
    fn take(&mut self, changes: store::Changes) {
        self.memory.apply(changes.leases);
        self.known.health = changes.health;
        if let Some(config) = changes.config {
            self.known.text = config;
        }
    }

    async fn first_reading(&mut self) -> Result<(), store::Ended> {
        while !self.known.is_read() {
            let changes = self.store.changes().await?;
            self.take(changes);
        }
        Ok(())
    }

    /// Waits for a reason to look, and says which it is.
    async fn wait(&mut self, due: Due) -> Result<&'static str, DaemonError> {
        let ended = Instant::now();
        let due = due.at.unwrap_or(ended + AUDIT).min(ended + AUDIT);
        let why = loop {
            tokio::select! {
            changes = self.store.changes() => {
                self.take(changes?);
                return Ok("the store has changes");
            }
            () = self.udp.ended() => return Ok("a udp worker has ended"),
            news = self.extension.news() => {
                news?;
                return Ok("commands have run");
            }
            news = self.events.news() => {
                news?;
                tokio::time::sleep_until(ended + QUIET).await;
                break "the kernel has changed";
            }
            () = tokio::time::sleep_until(self.settings.due()) => {
                let desired = self.memory.desired().cloned().unwrap_or_default();
                if self.settings.changed(&self.kernel, &desired, []).await? {
                    break "a setting has changed";
                }
            }
            () = tokio::time::sleep_until(due) => break "due",
            }
        };
        self.known.survey = None;
        Ok(why)
    }
}
