//! The daemon's loop: something may have changed, so everything is looked at and made right.
//!
//! There are four reasons to look: the store said something new, the kernel announced a change to something of ours,
//! what failed or is due is due, and ten minutes have passed. Whatever the reason, the same pass is made.

mod apply;
mod extension;
mod known;
mod limits;
mod make;
mod ownership;
mod pass;
mod report;
mod tell;
#[cfg(test)]
mod tests;
mod tunnels;
mod udp;
mod wireguard_key;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kernel::state::{State, WireguardDevice};
use kernel::types::IfName;
use overlay::backend::{Backend, Identity};
use overlay::keep::Keep;
use overlay::peers::Book;
use tokio::time::Instant;

use self::apply::Trust;
use self::known::Known;
use self::tell::Picture;
use crate::attachments::{Controller, StartError};
use crate::config::Config;
use crate::events::Events;
use crate::flags::Options;
use crate::health::{Health, Readiness};
use crate::instance::Taken;
use crate::kernel_thread::{KernelThread, ThreadError};
use crate::metrics::Metrics;
use crate::report::{Reporter, Settings};
use crate::status::{Status, path_beside};
use crate::supervise::Ended;
use crate::systemd::Manager;
use crate::underlay::{Underlay, UnderlayError};
use store::backoff::Backoff;
use store::files;
use store::{Changes, Store};

pub use limits::Limits;
pub use wireguard_key::DEFAULT as KEY_FILE;

/// Readiness: the host's own part of the data path is up.
const OVERLAY: &str = "overlay";

/// Nothing should change unnoticed; this is how long it lasts if something does.
const AUDIT: Duration = Duration::from_secs(600);

/// Five lines; more than this, bytes, is another file.
const LARGEST_SUBNET_FILE: u64 = 64 * 1024;

/// Before the first pass: a store that is slow to read is then an error that can be seen.
const FIRST_READING: Duration = Duration::from_secs(2);

/// Between two passes that the kernel's news cause: a burst of them is one reason.
const QUIET: Duration = Duration::from_millis(20);

/// Why the daemon stops.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The kernel cannot be spoken to.
    #[error(transparent)]
    Kernel(#[from] ThreadError),
    /// The kernel's announcements cannot be heard.
    #[error("listen to the kernel: {0}")]
    Listen(#[source] io::Error),
    /// At the start: there is nothing to put the overlay on.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// At the start: there is no subnet to be had.
    #[error(transparent)]
    OutOfSubnets(#[from] overlay::allocate::OutOfSubnets),
    /// Another host has this one's subnet. What runs here has addresses that are not ours to use any more.
    #[error(
        "Lease has been revoked. Shutting down daemon. (another host holds {0} now; a restart leases another subnet, and \
         pods must then be made anew)"
    )]
    Revoked(String),
    /// The health server's address cannot be had.
    #[error("serve health on {address}: {source}; free the port, or name another with --healthz-port")]
    Health {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The store's follower has ended.
    #[error("{0}; the daemon stops, so that it is started again")]
    Store(#[from] store::Ended),
    /// The attachments controller cannot be started.
    #[error("look after attachments: {0}")]
    Attachments(#[from] StartError),
    /// Another daemon does this one's work.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// A part of the daemon has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The program's own machinery.
    #[error("start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// Everything that outlives a pass. All of it can be lost: a new daemon finds it again.
pub struct Daemon {
    options: Options,
    store: Store,
    known: Known,
    kernel: KernelThread,
    events: Events,
    attachments: Option<Controller>,
    config: Config,
    underlay: Option<Underlay>,
    identity: Identity,
    ownership: ownership::Ownership,
    keep: Keep,
    /// The kernel gives a link that is up another name.
    can_rename: bool,
    /// The devices before the backend in force that a peer may start to send to.
    offered: Vec<Backend>,
    /// What was wanted last of the WireGuard devices.
    wireguard: BTreeMap<IfName, WireguardDevice>,
    /// The udp backend's data path.
    udp: udp::Udp,
    extension: extension::Extension,
    /// The host was as it must be once: from then on what goes wrong is waited for.
    started: bool,
    /// All leases, and the verdict on each.
    book: Book,
    /// The kernel as it was left.
    trust: Option<Trust>,
    /// What was wanted of it last.
    wanted: Option<Arc<State>>,
    picture: Picture,
    reporter: Reporter,
    metrics: Metrics,
    readiness: Readiness,
    health: Option<Health>,
    /// What was warned of and still is so.
    warned: BTreeSet<String>,
    status: Status,
    retry: Backoff,
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

impl Daemon {
    /// Opens what the daemon needs. `notify_socket` is NOTIFY_SOCKET's value.
    pub fn new(options: Options, notify_socket: Option<String>) -> Result<Self, DaemonError> {
        let status = Status { pid: std::process::id(), ..Status::default() };
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        readiness.set(OVERLAY, Err("not configured yet".into()));
        let served = Self::serve(options.health, readiness.clone(), metrics.clone());
        let opened = served.and_then(|health| Ok((health, Self::open()?)));
        let (health, (events, kernel)) = opened.inspect_err(|error| {
            let status = Status { last_error: Some(error.to_string()), ..status.clone() };
            // the error itself is on its way to the log
            let _ = files::replace(&path_beside(&options.subnet_file), status.to_json().as_bytes());
        })?;
        let attachments = options.heal_attachments.then(Controller::start).transpose()?;
        let reporter = Reporter::start(Settings {
            subnet_file: options.subnet_file.clone(),
            manager: notify_socket.map(Manager::new),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
        });
        let store = Store::open(&options.store, &options.etcd_prefix, options.renew_margin);
        Ok(Self {
            known: Known::new(store.health()),
            config: Config::new(store.no_config()),
            store,
            kernel,
            events,
            attachments,
            underlay: None,
            identity: Identity::default(),
            ownership: ownership::Ownership::default(),
            keep: Keep::default(),
            can_rename: ::kernel::release::renames_links(),
            offered: Vec::new(),
            extension: extension::Extension::new(options.environment.clone()),
            wireguard: BTreeMap::new(),
            udp: udp::Udp::new(metrics.udp.clone()),
            started: false,
            book: Book::default(),
            trust: None,
            wanted: None,
            picture: Picture::default(),
            reporter,
            metrics,
            readiness,
            health,
            warned: BTreeSet::new(),
            status,
            retry: Backoff::default(),
            options,
        })
    }

    fn serve(address: Option<SocketAddr>, ready: Readiness, metrics: Metrics) -> Result<Option<Health>, DaemonError> {
        let serve =
            |address| Health::serve(address, ready, metrics).map_err(|source| DaemonError::Health { address, source });
        address.map(serve).transpose()
    }

    fn open() -> Result<(Events, KernelThread), DaemonError> {
        // first the ear: what changes while it is read is announced
        let events = Events::listen().map_err(DaemonError::Listen)?;
        Ok((events, KernelThread::start()?))
    }

    /// Runs until it must not go on. The last error is then in the status.
    pub async fn run(mut self) -> DaemonError {
        if let Ok(Err(ended)) = tokio::time::timeout(FIRST_READING, self.first_reading()).await {
            return self.end(ended.into());
        }
        loop {
            let next = match self.pass().await {
                Ok(due) => self.wait(due).await,
                Err(error) => Err(error),
            };
            match next {
                Ok(why) => tracing::debug!(why, "looking"),
                Err(error) => return self.end(error),
            }
        }
    }

    /// The last error is in the status.
    fn end(&self, error: DaemonError) -> DaemonError {
        self.reporter.last_words(&error.to_string());
        error
    }

    /// Takes over what the store says.
    fn take(&mut self, changes: Changes) {
        let Changes { leases, config, health } = changes;
        self.known.health = health;
        self.book.apply(leases);
        if let Some(config) = config {
            self.known.config = config;
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
        let why = tokio::select! {
            changes = self.store.changes() => {
                self.take(changes?);
                return Ok("the store changed");
            }
            () = self.udp.ended() => return Ok("a udp worker has ended"),
            news = self.extension.news() => {
                news?;
                return Ok("commands have run");
            }
            news = attachments(&mut self.attachments) => {
                news?;
                return Ok("attachments have changed");
            }
            ended = health(&mut self.health) => return Err(ended.into()),
            ended = self.reporter.ended() => return Err(ended.into()),
            news = self.events.news() => {
                news?;
                tokio::time::sleep_until(ended + QUIET).await;
                "the kernel changed"
            }
            () = tokio::time::sleep_until(due) => "due",
        };
        self.trust = None;
        Ok(why)
    }

    /// This host's subnets.
    fn subnets(&self) -> overlay::lease::Subnets {
        self.store.held().map(|held| held.subnets).unwrap_or_default()
    }

    /// What the last run told the CNI plugin.
    fn previous(&self) -> overlay::subnet_env::Previous {
        let text = files::read_configured(&self.options.subnet_file, LARGEST_SUBNET_FILE).unwrap_or_default();
        overlay::subnet_env::Previous::parse(&String::from_utf8_lossy(&text))
    }
}

/// News of the attachments controller, if there is one.
async fn attachments(controller: &mut Option<Controller>) -> Result<(), Ended> {
    match controller {
        Some(controller) => controller.news().await,
        None => std::future::pending().await,
    }
}

/// The end of the health server, if there is one.
async fn health(server: &mut Option<Health>) -> Ended {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}
