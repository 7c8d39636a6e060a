//! The overlay controller: whenever something may have changed, it makes a plan and carries it out.
//!
//! It makes a pass for seven reasons: the store has changes, the kernel announced a change to an object of ours, a setting
//! that it does not announce has changed, packet rules have changed, a part of the daemon has ended or finished its work,
//! a retry or a deadline is due, or ten minutes have passed. Every pass is the same: facts, plan, execution in order.
//! [`overlay::plan`] makes all decisions, and is pure.

mod bridge_filter;
mod execute;
mod extension;
mod facts;
mod kernel;
mod outlet;
mod pass;
mod rules;
#[cfg(test)]
mod tests;
mod udp;
mod wireguard_key;

use std::time::Duration;

use ::kernel::state::{Route, RouteKey};
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

/// The readiness condition: the host's own part of the data path is up.
const OVERLAY: &str = "overlay";

/// The readiness condition: the packet rules that pods need are there, and no chain drops what they accept.
const RULES: &str = "rules";

/// Every change should be announced. If one is not, it is found after this time.
const AUDIT: Duration = Duration::from_secs(600);

/// How long the first pass waits for the store; after that the error becomes visible.
const FIRST_READING: Duration = Duration::from_secs(2);

/// The pause between two passes because of the kernel's announcements, so that a burst leads to one pass.
const QUIET: Duration = Duration::from_millis(20);

/// Everything that outlives a pass. All of it can be lost: a new daemon finds it again.
pub struct Controller {
    store: Store,
    kernel: KernelThread,
    events: Events,
    known: Known,
    /// The leases, and the last plan.
    memory: Memory,
    /// The udp backend's data path.
    udp: udp::Udp,
    /// The extension backend's commands.
    extension: extension::Extension,
    /// The packet rules.
    rules: rules::Rules,
    outlet: Outlet,
    settings: Unannounced,
    /// Other programs' routes inside the network, as last read.
    foreign: Vec<(RouteKey, Route)>,
    /// True after the first complete pass: from then on a failure is retried.
    started: bool,
    retry: Backoff,
}

/// What the controller needs.
pub struct Parts {
    /// The store of the leases.
    pub store: Store,
    /// The thread that owns the netlink sockets.
    pub kernel: KernelThread,
    /// The kernel's announcements.
    pub events: Events,
    /// Receives the outcome of each pass.
    pub outlet: Outlet,
}

/// When the next pass is due.
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
    /// Sets the readiness condition: the host is not ready before the first complete pass.
    pub fn announce(readiness: &Readiness) {
        readiness.set(OVERLAY, Err("not configured yet".into()));
    }

    /// Starts without a plan.
    pub fn new(options: Options, parts: Parts) -> Self {
        let Parts { store, kernel, events, outlet } = parts;
        Self {
            udp: udp::Udp::new(outlet.counters()),
            extension: extension::Extension::new(options.environment.clone()),
            rules: rules::Rules::new(options.rules.clone()),
            known: Known::new(options, &store),
            memory: Memory::default(),
            settings: Unannounced::default(),
            foreign: Vec::new(),
            started: false,
            retry: Backoff::default(),
            store,
            kernel,
            events,
            outlet,
        }
    }

    /// Runs until an error.
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

    /// Takes the changes of the store.
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

    /// Waits for a reason for a pass, and returns it.
    async fn wait(&mut self, due: Due) -> Result<&'static str, DaemonError> {
        let ended = Instant::now();
        let due = due.at.unwrap_or(ended + AUDIT).min(ended + AUDIT);
        let why = loop {
            let look = self.settings.due();
            tokio::select! {
                changes = self.store.changes() => {
                    self.take(changes?);
                    return Ok("the store has changed");
                }
                () = self.udp.ended() => return Ok("a udp worker has ended"),
                news = self.extension.news() => {
                    news?;
                    return Ok("a command has ended");
                }
                news = self.events.news() => {
                    news?;
                    tokio::time::sleep_until(ended + QUIET).await;
                    break "the kernel has changed";
                }
                () = self.settings.written() => {}
                () = tokio::time::sleep_until(look) => {
                    let desired = self.memory.desired().cloned().unwrap_or_default();
                    if self.settings.changed(&self.kernel, &desired, []).await? {
                        break "a setting has changed";
                    }
                }
                changed = self.rules.changed() => {
                    changed?;
                    tokio::time::sleep_until(ended + rules::QUIET).await;
                    return Ok("packet rules have changed");
                }
                () = tokio::time::sleep_until(due) => {
                    self.rules.look_again();
                    break "due";
                }
            }
        };
        self.known.survey = None;
        Ok(why)
    }
}
