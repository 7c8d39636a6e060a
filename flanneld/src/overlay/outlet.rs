//! What others learn of a pass: people by the status and the log, the CNI plugin by subnet.env, probes by `/readyz`.

use std::sync::Arc;
use std::time::SystemTime;

use kernel::types::Family;
use overlay::lease::Subnets;
use overlay::netconf::NetConf;
use overlay::reach::Mode;
use overlay::subnet_env::SubnetEnv;
use overlay::underlay::Found;
use store::StoreHealth;
use tokio::sync::watch;

use super::OVERLAY;
use super::kernel::Applied;
use crate::health::Readiness;
use crate::metrics::Metrics;
use crate::report::{PeerChanges, Report};
use crate::udp::counters::{Counters, Snapshot};
use overlay::status::{self, Rejected, Status};

/// Where its outcome goes.
pub struct Outlet {
    report: Report,
    metrics: Metrics,
    readiness: Readiness,
    /// Without the peers.
    status: Status,
    /// This host's subnets, for other controllers.
    subnets: watch::Sender<Subnets>,
    found: Option<Arc<Found>>,
}

impl Outlet {
    /// `status` is what is known of the daemon itself.
    pub fn new(report: Report, metrics: Metrics, readiness: Readiness, status: Status) -> Self {
        let subnets = watch::Sender::new(Subnets::default());
        Self { report, metrics, readiness, status, subnets, found: None }
    }

    /// This host's subnets, and their changes.
    pub fn subnets(&self) -> watch::Receiver<Subnets> {
        self.subnets.subscribe()
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        self.metrics.udp.clone()
    }

    /// How the store is.
    pub(super) fn store(&mut self, health: &StoreHealth) {
        self.status.store = health.name.to_string();
        self.status.store_stale_since = health.stale_since.map(status::rfc3339);
        self.status.store_error = health.error.as_deref().map(str::to_owned);
        self.metrics.store(health.stale_since);
        let why = || health.error.clone().unwrap_or_else(|| "it does not answer".into());
        self.readiness.set_stale(health.stale_since.map(|since| (since, why())));
    }

    /// Which network it is, and the way out of this host.
    pub(super) fn underlay(&mut self, conf: &NetConf, found: &Arc<Found>) {
        let same = |before: &Arc<Found>| (&before.underlay, before.public) == (&found.underlay, found.public);
        if !self.found.as_ref().is_some_and(same) {
            let Found { underlay, public, why, .. } = &**found;
            tracing::info!(dev = %underlay.dev, mtu = %underlay.mtu, ?public, why, "using this link as underlay");
        }
        self.status.backend = conf.backend.name().to_owned();
        self.status.direct_routing = conf.backend.mode() == Some(Mode::WherePossible);
        self.status.network = conf.networks();
        self.status.public_ips = Family::ALL.into_iter().filter_map(|family| *found.public.get(family)).collect();
        let link = &found.underlay;
        self.status.underlay = Some(status::Underlay { dev: link.dev.to_string(), mtu: link.mtu.0 });
        self.found = Some(found.clone());
    }

    /// Other programs' routes inside the network.
    pub(super) fn foreign_routes(&mut self, routes: Vec<String>) {
        self.status.foreign_routes = routes;
    }

    /// The host's own part of the data path is not up.
    pub(super) fn down(&self, why: String) {
        self.readiness.set(OVERLAY, Err(why));
    }

    /// This host's lease.
    pub(super) fn lease(&mut self, subnets: Option<Subnets>) {
        self.status.subnets = subnets.iter().flat_map(Subnets::iter).collect();
        let subnets = subnets.unwrap_or_default();
        self.subnets.send_if_modified(|known| std::mem::replace(known, subnets) != subnets);
    }

    /// The kernel was made as it is planned, or not. The host is ready when its own data path is up, made from all that the
    /// store holds (`read`), and the kernel uses it (not `misled`). A store that is away later is no reason to take the host out of service.
    pub(super) fn applied(&mut self, applied: &Applied, read: bool, misled: Option<String>) {
        self.metrics.passed(applied.took.as_secs_f64(), &applied.steps, applied.drift);
        applied.log();
        let carries = || match &self.found {
            Some(found) => found.carries.clone().map_err(|down| down.to_string()),
            None => Ok(()),
        };
        match applied.up().and_then(|()| carries()).and_then(|()| misled.map_or(Ok(()), Err)) {
            Ok(()) if !read => self.readiness.set(OVERLAY, Err("the store is not read yet".into())),
            up => self.readiness.set(OVERLAY, up),
        }
    }

    /// What the udp backend has moved.
    pub(super) fn moved(&mut self, counters: Option<Snapshot>) {
        self.status.udp = counters.map(Into::into);
    }

    /// The host is as it must be: the CNI plugin may attach pods.
    pub(super) fn subnet_env(&mut self, env: &SubnetEnv) {
        self.status.mtu = env.mtu.0;
        self.report.subnet_env(env.format());
    }

    /// What a person may need to look at.
    pub(super) fn warn(&self, warnings: &[String]) {
        warnings.iter().for_each(|text| tracing::warn!("{text}"));
    }

    /// The outcome of a pass: what is wrong, which peers are reached otherwise, what is not followed, and whether something
    /// was changed (`fresh`).
    pub(super) fn passed(
        &mut self,
        error: Option<String>,
        peers: PeerChanges,
        rejected: Option<Vec<Rejected>>,
        fresh: bool,
    ) {
        if let (Some(text), true) = (&error, self.status.last_error != error) {
            tracing::warn!(error = text, "reconcile failed");
        }
        if error.is_none() {
            self.metrics.clean();
        }
        self.status.last_error = error;
        self.status.last_reconcile = Some(status::rfc3339(SystemTime::now()));
        self.report.passed(&self.status, peers, rejected, fresh);
    }
}
