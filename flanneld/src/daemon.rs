//! The daemon starts each of its parts once and watches them. The end of a part ends the daemon.

use std::io;
use std::net::SocketAddr;

use store::{Store, files};

use crate::attachments::{self, StartError};
use crate::events::Events;
use crate::flags::Options;
use crate::health::{Health, Readiness};
use crate::instance::Taken;
use crate::kernel_thread::{KernelThread, ThreadError};
use crate::metrics::Metrics;
use crate::overlay::{Controller, Outlet, Parts};
use crate::reclaim;
use crate::report::{Head, Reporter, Settings};
use crate::rules_watch::RulesError;
use crate::supervise::Ended;
use crate::systemd::Manager;
use overlay::status::{Peers, path_beside};

/// Why the daemon stops.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No netlink socket or no kernel thread.
    #[error(transparent)]
    Kernel(#[from] ThreadError),
    /// The kernel's announcements cannot be received.
    #[error("listen to the kernel: {0}")]
    Listen(#[source] io::Error),
    /// At the start: there is no underlay.
    #[error(transparent)]
    Underlay(#[from] ::overlay::underlay::UnderlayError),
    /// At the start: no subnet is free.
    #[error(transparent)]
    OutOfSubnets(#[from] ::overlay::allocate::OutOfSubnets),
    /// The kernel lets this process change nothing.
    #[error(
        "flanneld needs CAP_NET_ADMIN in this network namespace for the backend {0}: start it as root, or give it the \
         capability (systemd: AmbientCapabilities=CAP_NET_ADMIN; a container: securityContext.capabilities.add)"
    )]
    Denied(&'static str),
    /// Another host holds this host's subnet, so the pods here may no longer use their addresses.
    #[error(
        "Lease has been revoked. Shutting down daemon. (another host now holds {0}; a restart leases another subnet, and \
         pods must then be made anew)"
    )]
    Revoked(String),
    /// The health server cannot bind its address.
    #[error("serve health on {address}: {source}; free the port, or choose another with --healthz-port")]
    Health {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The announcements of packet rules cannot be read.
    #[error("watch the packet rules: {0}")]
    Rules(#[from] RulesError),
    /// The store's follower has ended.
    #[error("{0}; the daemon stops, so that a supervisor restarts it")]
    Store(#[from] store::Ended),
    /// The attachments controller cannot be started.
    #[error("repair attachments: {0}")]
    Attachments(#[from] StartError),
    /// The reclaim controller cannot be started.
    #[error("reclaim attachments: {0}")]
    Reclaim(#[source] ThreadError),
    /// Another daemon serves the same subnet.env.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// A part of the daemon has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The asynchronous runtime cannot start.
    #[error("start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// The daemon, ready to run.
pub struct Daemon {
    overlay: Controller,
    attachments: Option<attachments::Controller>,
    reclaim: Option<reclaim::Controller>,
    reporter: Reporter,
    health: Option<Health>,
}

impl Daemon {
    /// Opens what the daemon needs. `notify_socket` is NOTIFY_SOCKET's value.
    ///
    /// # Errors
    /// A part cannot start; the status contains the error.
    pub fn new(options: Options, notify_socket: Option<String>) -> Result<Self, DaemonError> {
        let status = Head { pid: std::process::id(), ..Head::default() };
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        Controller::announce(&readiness);
        let served = serve(options.health, readiness.clone(), metrics.clone());
        let opened = served.and_then(|health| Ok((health, open()?)));
        let (health, (events, kernel)) = opened.inspect_err(|error| {
            let status = Head { last_error: Some(error.to_string()), ..status.clone() }.with_peers(Peers::default());
            // The error itself is logged by the caller.
            let _ = files::replace(&path_beside(&options.subnet_file), status.to_json().as_bytes());
        })?;
        let reporter = Reporter::start(Settings {
            subnet_file: options.subnet_file.clone(),
            manager: notify_socket.map(Manager::new),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
        });
        let store = Store::open(&options.store, &options.etcd_prefix, options.renew_margin);
        let (heal, reclaims) = (options.heal_attachments, options.reclaim);
        let outlet = Outlet::new(reporter.handle(), metrics.clone(), readiness, status);
        let reclaim_parts = || reclaim::Parts { report: reporter.handle(), metrics: metrics.clone() };
        let reclaim = reclaims.then(|| reclaim::Controller::start(reclaim_parts())).transpose();
        let reclaim = reclaim.map_err(DaemonError::Reclaim);
        let reclaim = reclaim.inspect_err(|error| reporter.handle().last_words(&error.to_string()))?;
        let (report, resync) = (reporter.handle(), options.resync);
        let parts = || attachments::Parts { subnets: outlet.subnets(), report, metrics, resync };
        let attachments = heal.then(|| attachments::Controller::start(parts())).transpose();
        let attachments = attachments.inspect_err(|error| reporter.handle().last_words(&error.to_string()))?;
        let overlay = Controller::new(options, Parts { store, kernel, events, outlet });
        Ok(Self { overlay, attachments, reclaim, reporter, health })
    }

    /// Runs until an error, which is then also in the status.
    pub async fn run(mut self) -> DaemonError {
        let error = tokio::select! {
            error = self.overlay.run() => error,
            ended = attachments(&mut self.attachments) => ended.into(),
            ended = reclaim(&mut self.reclaim) => ended.into(),
            ended = health(&mut self.health) => ended.into(),
            ended = self.reporter.ended() => ended.into(),
        };
        self.reporter.handle().last_words(&error.to_string());
        error
    }
}

fn serve(address: Option<SocketAddr>, ready: Readiness, metrics: Metrics) -> Result<Option<Health>, DaemonError> {
    let serve =
        |address| Health::serve(address, ready, metrics).map_err(|source| DaemonError::Health { address, source });
    address.map(serve).transpose()
}

fn open() -> Result<(Events, KernelThread), DaemonError> {
    let kernel = KernelThread::start()?;
    // The listener is there before anything is read, so that changes during the first reading are not missed.
    let events = Events::listen(Some(kernel.port())).map_err(DaemonError::Listen)?;
    Ok((events, kernel))
}

/// Waits for the end of the attachments controller, if there is one.
async fn attachments(controller: &mut Option<attachments::Controller>) -> Ended {
    match controller {
        Some(controller) => controller.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the reclaim controller, if there is one.
async fn reclaim(controller: &mut Option<reclaim::Controller>) -> Ended {
    match controller {
        Some(controller) => controller.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the health server, if there is one.
async fn health(server: &mut Option<Health>) -> Ended {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
