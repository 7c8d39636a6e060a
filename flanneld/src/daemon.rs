//! The daemon: its parts, each started once and watched. The end of one of them ends the daemon.

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
use crate::report::{Reporter, Settings};
use crate::rules_watch::RulesError;
use crate::supervise::Ended;
use crate::systemd::Manager;
use overlay::status::{Status, path_beside};

/// Why the daemon stops.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The kernel cannot be spoken to.
    #[error(transparent)]
    Kernel(#[from] ThreadError),
    /// The kernel's announcements cannot be read.
    #[error("listen to the kernel: {0}")]
    Listen(#[source] io::Error),
    /// At the start: there is nothing to put the overlay on.
    #[error(transparent)]
    Underlay(#[from] ::overlay::underlay::UnderlayError),
    /// At the start: there is no subnet to be had.
    #[error(transparent)]
    OutOfSubnets(#[from] ::overlay::allocate::OutOfSubnets),
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
    /// The announcements of packet rules cannot be read.
    #[error("watch the packet rules: {0}")]
    Rules(#[from] RulesError),
    /// The store's follower has ended.
    #[error("{0}; the daemon stops, so that it is started again")]
    Store(#[from] store::Ended),
    /// The attachments controller cannot be started.
    #[error("repair attachments: {0}")]
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

/// The daemon, ready to run.
pub struct Daemon {
    overlay: Controller,
    attachments: Option<attachments::Controller>,
    reporter: Reporter,
    health: Option<Health>,
}

impl Daemon {
    /// Opens what the daemon needs. `notify_socket` is NOTIFY_SOCKET's value.
    ///
    /// # Errors
    /// A part cannot be started; the status says so.
    pub fn new(options: Options, notify_socket: Option<String>) -> Result<Self, DaemonError> {
        let status = Status { pid: std::process::id(), ..Status::default() };
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        Controller::announce(&readiness);
        let served = serve(options.health, readiness.clone(), metrics.clone());
        let opened = served.and_then(|health| Ok((health, open()?)));
        let (health, (events, kernel)) = opened.inspect_err(|error| {
            let status = Status { last_error: Some(error.to_string()), ..status.clone() };
            // the error itself is on its way to the log
            let _ = files::replace(&path_beside(&options.subnet_file), status.to_json().as_bytes());
        })?;
        let reporter = Reporter::start(Settings {
            subnet_file: options.subnet_file.clone(),
            manager: notify_socket.map(Manager::new),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
        });
        let store = Store::open(&options.store, &options.etcd_prefix, options.renew_margin);
        let heal = options.heal_attachments;
        let outlet = Outlet::new(reporter.handle(), metrics.clone(), readiness, status);
        let parts = || attachments::Parts { subnets: outlet.subnets(), report: reporter.handle(), metrics };
        let attachments = heal.then(|| attachments::Controller::start(parts())).transpose();
        let attachments = attachments.inspect_err(|error| reporter.handle().last_words(&error.to_string()))?;
        let overlay = Controller::new(options, Parts { store, kernel, events, outlet });
        Ok(Self { overlay, attachments, reporter, health })
    }

    /// Runs until it must not go on. The last error is then in the status.
    pub async fn run(mut self) -> DaemonError {
        let error = tokio::select! {
            error = self.overlay.run() => error,
            ended = attachments(&mut self.attachments) => ended.into(),
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
    // what changes while it is read is announced, so announcements come first
    let events = Events::listen().map_err(DaemonError::Listen)?;
    Ok((events, KernelThread::start()?))
}

/// The end of the attachments controller, if there is one.
async fn attachments(controller: &mut Option<attachments::Controller>) -> Ended {
    match controller {
        Some(controller) => controller.ended().await,
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

#[cfg(test)]
mod tests;
