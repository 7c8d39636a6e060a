//! Publishes the outcome of a pass: to people in the status and the log, to the CNI plugin in subnet.env, to probes
//! in `/readyz`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::types::Family;
use overlay::lans::Lan;
use overlay::lease::Subnets;
use overlay::netconf::NetConf;
use overlay::plan::Work;
use overlay::reach::Mode;
use overlay::subnet_env::SubnetEnv;
use overlay::underlay::Found;
use store::{Held, StoreHealth};
use tokio::sync::watch;

use super::kernel::Applied;
use super::rules::Ruled;
use super::{OVERLAY, RULES};
use crate::health::Readiness;
use crate::metrics::{Expiry, Metrics};
use crate::report::{Head, Passed, Report};
use crate::udp::counters::{Counters, Snapshot};
use overlay::status;

/// Publishes the outcome of passes.
pub struct Outlet {
    report: Report,
    metrics: Metrics,
    readiness: Readiness,
    /// The status without the peers.
    status: Head,
    /// This host's subnets, for other controllers.
    subnets: watch::Sender<Subnets>,
    found: Option<Arc<Found>>,
    /// Chains of others that drop every forwarded packet of pods.
    certain: Vec<String>,
}

impl Outlet {
    /// `status` contains what is known about the daemon itself.
    pub fn new(report: Report, metrics: Metrics, readiness: Readiness, status: Head) -> Self {
        let subnets = watch::Sender::new(Subnets::default());
        Self { report, metrics, readiness, status, subnets, found: None, certain: Vec::new() }
    }

    /// A receiver of this host's subnets.
    pub fn subnets(&self) -> watch::Receiver<Subnets> {
        self.subnets.subscribe()
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        self.metrics.udp.clone()
    }

    /// Reports the store's health.
    pub(super) fn store(&mut self, health: &StoreHealth) {
        self.status.store = health.name.to_string();
        self.status.store_stale_since = health.stale_since.map(status::rfc3339);
        self.status.store_error = health.error.as_deref().map(str::to_owned);
        self.metrics.store(health.stale_since);
        let why = || health.error.clone().unwrap_or_else(|| "it does not answer".into());
        self.readiness.set_stale(health.stale_since.map(|since| (since, why())));
    }

    /// Reports the network and the underlay.
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

    /// Reports other programs' routes inside the network.
    pub(super) fn foreign_routes(&mut self, routes: Vec<String>) {
        self.status.foreign_routes = routes;
    }

    /// Reports that the host's own part of the data path is down.
    pub(super) fn down(&self, why: String) {
        self.readiness.set(OVERLAY, Err(why));
    }

    /// Reports this host's links whose prefixes overlap the network, and what else an operator should look at: each once in
    /// the log, for as long as it is so.
    pub(super) fn warnings(&mut self, lans: &[Lan], more: &[String]) {
        let warnings: Vec<String> = lans.iter().map(ToString::to_string).chain(more.iter().cloned()).collect();
        let before = std::mem::replace(&mut self.status.warnings, warnings);
        self.status.warnings.iter().filter(|text| !before.contains(text)).for_each(|text| tracing::warn!("{text}"));
    }

    /// Reports this host's lease.
    pub(super) fn lease(&mut self, held: Option<&Held>) {
        self.metrics.lease(held.and_then(|held| match held.expires {
            Some(end) => Some(Expiry::At(end)),
            None => held.reservation.then_some(Expiry::Never),
        }));
        let subnets = held.map(|held| held.subnets);
        self.status.subnets = subnets.iter().flat_map(Subnets::iter).collect();
        let subnets = subnets.unwrap_or_default();
        self.subnets.send_if_modified(|known| std::mem::replace(known, subnets) != subnets);
    }

    /// Reports the cost of a plan.
    pub(super) fn planned(&self, work: &Work) {
        self.metrics.worked(work);
    }

    /// Reports the result of applying a plan. The host is ready when its own data path is up, made from the complete
    /// contents of the store (`read`), and nothing of other programs
    /// leads its packets `elsewhere`: a route, or a rule of the routing policy. A store that fails later is no
    /// reason to take the host out of service.
    pub(super) fn applied(&mut self, applied: &Applied, elsewhere: &[String], read: bool) {
        self.metrics.passed(applied.took.as_secs_f64(), &applied.steps, applied.drift);
        applied.log();
        let carries = || match &self.found {
            Some(found) => found.carries.clone().map_err(|down| down.to_string()),
            None => Ok(()),
        };
        let reaches = || elsewhere.first().map_or(Ok(()), |route| Err(route.clone()));
        match applied.up().and_then(|()| carries()).and_then(|()| reaches()) {
            Ok(()) if !read => self.readiness.set(OVERLAY, Err("the store has not been read yet".into())),
            up => self.readiness.set(OVERLAY, up),
        }
    }

    /// The packet rules were looked at.
    pub(super) fn ruled(&mut self, ruled: &Ruled) {
        let Ruled { applied, drops } = ruled;
        self.metrics.passed(applied.took.as_secs_f64(), &applied.steps, applied.drift);
        applied.log();
        let dropping: Vec<String> = drops.iter().map(ToString::to_string).collect();
        let may = drops.iter().filter(|drops| !drops.certain).map(ToString::to_string);
        may.filter(|text| !self.status.dropping.contains(text)).for_each(|text| tracing::warn!("{text}"));
        self.certain = drops.iter().filter(|drops| drops.certain).map(ToString::to_string).collect();
        self.status.dropping = dropping;
    }

    /// Chains of others that drop every forwarded packet of pods.
    pub(super) fn dropped(&self) -> Vec<String> {
        self.certain.clone()
    }

    /// Whether the packet rules that pods need are there.
    pub(super) fn rules_are(&self, there: bool) {
        let holds = match self.certain.first() {
            _ if !there => Err("the masquerade rules cannot be written".into()),
            Some(dropped) => Err(dropped.clone()),
            None => Ok(()),
        };
        self.readiness.set(RULES, holds);
    }

    /// Reports the traffic of the udp backend.
    pub(super) fn moved(&mut self, counters: Option<Snapshot>) {
        self.status.udp = counters.map(Into::into);
    }

    /// Writes subnet.env: the host is in order, and the CNI plugin may attach pods.
    pub(super) fn subnet_env(&mut self, env: &SubnetEnv) {
        self.status.mtu = env.mtu.0;
        self.report.subnet_env(env.format());
    }

    /// Whether pods of this host can reach others.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Logs warnings for the operator.
    pub(super) fn warn(&self, warnings: &[String]) {
        warnings.iter().for_each(|text| tracing::warn!("{text}"));
    }

    /// Reports the outcome of a pass: the problem, and `passed`, which contains everything but the head.
    pub(super) fn passed(&mut self, error: Option<String>, passed: Passed) {
        if let (Some(text), true) = (&error, self.status.last_error != error) {
            tracing::warn!(error = text, "reconcile failed");
        }
        if error.is_none() {
            self.metrics.clean();
        }
        self.metrics.looked();
        let now = SystemTime::now();
        self.status.last_error = error;
        self.status.last_reconcile = Some(status::rfc3339(now));
        let at = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.report.passed(Passed { head: self.status.clone(), at, ..passed });
    }
}
