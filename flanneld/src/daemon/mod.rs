//! The daemon's loop: something may have changed, so everything is looked at and made right.
//!
//! There are four reasons to look: the store said something new, the kernel announced a change to something of ours,
//! what failed or is due is due, and ten minutes have passed. Whatever the reason, the same pass is made.

mod acquire;
mod apply;
mod drain;
mod extension;
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
use kernel::types::{IfName, Mac};
use overlay::host::WireguardKeys;
use overlay::net::ByFamily;
use overlay::netconf::VxlanConf;
use overlay::peers::Leases;
use tokio::sync::watch;
use tokio::time::Instant;

use self::apply::Trust;
use self::tell::{Picture, Telling};
use crate::backoff::Backoff;
use crate::config::Config;
use crate::events::Events;
use crate::files;
use crate::flags::Options;
use crate::health::{Health, Ready};
use crate::kernel_thread::{KernelThread, ThreadError};
use crate::metrics::Metrics;
use crate::status::{self, Status};
use crate::store::{Store, View};
use crate::underlay::{Underlay, UnderlayError};

pub use limits::Limits;
pub use wireguard_key::DEFAULT as KEY_FILE;

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
    /// The program's own machinery.
    #[error("start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// This host's lease, as it was last written.
#[derive(Debug, Clone, PartialEq)]
struct Own {
    /// As it is spelt in the store.
    key: String,
    subnets: overlay::lease::Subnets,
    value: Vec<u8>,
    /// It does not end, and is not made to.
    reservation: bool,
    renewed: Instant,
}

/// Everything that outlives a pass. All of it can be lost: a new daemon finds it again.
pub struct Daemon {
    options: Options,
    notify_socket: Option<String>,
    store: Store,
    view: watch::Receiver<View>,
    kernel: KernelThread,
    events: Events,
    config: Config,
    own: Option<Own>,
    /// When the lease was taken for its address alone.
    unproven: Option<Instant>,
    underlay: Option<Underlay>,
    macs: ByFamily<Option<Mac>>,
    /// The backend that was, while others may still send to its devices.
    vxlan: Option<VxlanConf>,
    /// This host's WireGuard keys, once they are needed.
    wireguard_keys: Option<WireguardKeys>,
    /// What was wanted last of the WireGuard devices.
    wireguard: BTreeMap<IfName, WireguardDevice>,
    ownership: ownership::Ownership,
    /// The devices of the backend before.
    drain: drain::Drain,
    /// The udp backend's data path.
    udp: udp::Udp,
    extension: extension::Extension,
    /// The content of subnet.env, once it is written.
    subnet_env: Option<String>,
    /// All leases, taken apart.
    leases: Leases,
    /// The kernel as it was left.
    trust: Option<Trust>,
    /// What was wanted of it last.
    wanted: Option<Arc<State>>,
    picture: Picture,
    telling: Telling,
    metrics: Metrics,
    ready: watch::Sender<Ready>,
    /// Kept: it serves while it is there.
    _health: Option<Health>,
    /// What was warned of and still is so.
    warned: BTreeSet<String>,
    status: Status,
    writer: status::Writer,
    retry: Backoff,
    /// Against another host that writes our lease again and again.
    contest: Backoff,
    publish_after: Option<Instant>,
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
        let mut writer = status::Writer::new(&options.subnet_file);
        let mut status = Status { pid: std::process::id(), ..Status::default() };
        let (metrics, (ready, answers)) = (Metrics::default(), watch::channel(Ready::default()));
        let served = Self::serve(options.health, answers, metrics.clone());
        let opened = served.and_then(|health| Ok((health, Self::open()?)));
        let (health, (events, kernel)) = opened.inspect_err(|error| {
            status.last_error = Some(error.to_string());
            // the error itself is on its way to the log
            let _ = writer.write(&status, true);
        })?;
        let store = Store::open(&options.store, &options.etcd_prefix);
        Ok(Self {
            notify_socket,
            view: store.view(),
            config: Config::new(store.no_config()),
            store,
            kernel,
            events,
            own: None,
            unproven: None,
            underlay: None,
            macs: ByFamily::default(),
            vxlan: None,
            wireguard_keys: None,
            extension: extension::Extension::new(options.environment.clone()),
            wireguard: BTreeMap::new(),
            ownership: ownership::Ownership::default(),
            drain: drain::Drain::default(),
            udp: udp::Udp::new(metrics.udp.clone()),
            subnet_env: None,
            leases: Leases::default(),
            trust: None,
            wanted: None,
            picture: Picture::default(),
            telling: Telling::default(),
            metrics,
            ready,
            _health: health,
            warned: BTreeSet::new(),
            status,
            writer,
            retry: Backoff::default(),
            contest: Backoff::default(),
            publish_after: None,
            options,
        })
    }

    fn serve(
        address: Option<SocketAddr>,
        ready: watch::Receiver<Ready>,
        metrics: Metrics,
    ) -> Result<Option<Health>, DaemonError> {
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
        let read = self.view.wait_for(|view| view.complete || view.error.is_some());
        let _ = tokio::time::timeout(FIRST_READING, read).await;
        loop {
            let due = match self.pass().await {
                Ok(due) => due,
                Err(error) => {
                    self.status.last_error = Some(error.to_string());
                    self.write_status();
                    return error;
                }
            };
            let why = self.wait(due).await;
            tracing::debug!(why, "looking");
        }
    }

    /// Waits for a reason to look, and says which it is.
    async fn wait(&mut self, due: Due) -> &'static str {
        let ended = Instant::now();
        let due = due.at.unwrap_or(ended + AUDIT).min(ended + AUDIT);
        loop {
            let status = self.telling.due();
            tokio::select! {
                changed = self.view.changed() => match changed {
                    Ok(()) => return "the store changed",
                    // its follower has panicked; the next pass reads what is left
                    Err(_) => tokio::time::sleep_until(due).await,
                },
                () = self.events.news() => {
                    tokio::time::sleep_until(ended + QUIET).await;
                    self.trust = None;
                    return "the kernel changed";
                }
                () = self.extension.news() => return "commands have run",
                () = tokio::time::sleep_until(due) => {}
                () = tokio::time::sleep_until(status.unwrap_or(due)), if status.is_some() => {
                    self.write_status();
                    continue;
                }
            }
            self.trust = None;
            return "due";
        }
    }

    /// True once the host was as wanted: from then on what goes wrong is waited for.
    fn started(&self) -> bool {
        self.subnet_env.is_some()
    }

    /// What the last run told the CNI plugin.
    fn previous(&self) -> overlay::subnet_env::Previous {
        let text = files::read_configured(&self.options.subnet_file, LARGEST_SUBNET_FILE).unwrap_or_default();
        overlay::subnet_env::Previous::parse(&String::from_utf8_lossy(&text))
    }
}
