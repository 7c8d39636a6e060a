//! A pass gathers facts, plans, and carries the plan out.

use ipnetwork::IpNetwork;
use kernel::Kernel;
use overlay::lans::Lan;
use overlay::lease::LeaseAttrs;
use overlay::netconf::NetConf;
use overlay::plan::{Blocked, Plan, plan};
use store::{Claim, HoldError};
use tokio::time::Instant;

use super::extension::Unready;
use super::facts::{Gathered, OwnLease, random};
use super::{Controller, Due};
use crate::daemon::DaemonError;
use crate::report::Passed;

/// Why a pass ended early.
pub(super) enum Failure {
    /// The daemon must stop.
    Stop(DaemonError),
    /// Try again …
    Retry(String),
    /// … or nothing can be done until the store or the kernel changes.
    Wait(String),
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Wait(why) => Self::Wait(why.to_string()),
            HoldError::Retry(why) => Self::Retry(why.to_string()),
            HoldError::Lost(subnets) => Self::Stop(DaemonError::Revoked(subnets.to_string())),
            HoldError::OutOfSubnets(error) => Self::Stop(error.into()),
        }
    }
}

/// The results of a pass.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) due: Due,
    troubles: Vec<String>,
    retry: bool,
    pub(super) outcome: Passed,
}

impl Pass {
    /// Adds a problem that is retried.
    pub(super) fn retry(&mut self, what: impl Into<String>) {
        self.troubles.push(what.into());
        self.retry = true;
    }

    /// Adds a problem that only time or the operator can solve.
    pub(super) fn note(&mut self, what: impl IntoIterator<Item = impl Into<String>>) {
        self.troubles.extend(what.into_iter().map(Into::into));
    }

    /// All problems in one line; `None` when there are none.
    fn trouble(&self) -> Option<String> {
        (!self.troubles.is_empty()).then(|| self.troubles.join("; "))
    }
}

impl Controller {
    /// Makes one pass. Returns when to make the next one at the latest.
    pub(super) async fn pass(&mut self) -> Result<Due, DaemonError> {
        let mut pass = Pass::default();
        match self.reconcile(&mut pass).await {
            Ok(()) => {}
            Err(Failure::Stop(error)) => return Err(error),
            Err(Failure::Retry(why)) => pass.retry(why),
            Err(Failure::Wait(why)) => pass.note([why]),
        }
        if pass.retry {
            pass.due.by(Instant::now() + self.retry.next());
            // After a failure the state of the host is unknown.
            self.known.survey = None;
        } else {
            self.retry.reset();
        }
        let trouble = pass.trouble();
        self.outlet.passed(trouble, pass.outcome);
        self.store.network_is(self.outlet.is_ready());
        Ok(pass.due)
    }

    async fn reconcile(&mut self, pass: &mut Pass) -> Result<(), Failure> {
        self.outlet.store(&self.known.health);
        pass.note(self.known.health.error.as_deref());
        let gathered = self.known.gather(&self.kernel, &self.events, &self.store).await?;
        pass.note(self.known.config_error());
        let prepared = self.extension.prepare(&gathered.conf, &mut pass.due);
        self.wait_until_started(prepared, pass)?;
        let mut plan = self.plan(&gathered, pass);
        let attrs = self.check(&plan, &gathered)?;
        plan.warnings.extend(self.known.bridge_filter(&gathered.conf));
        self.outlet.warnings(&plan.lans, &plan.warnings);
        self.must_change(&gathered.conf).await?;
        if self.hold(&gathered, (&attrs, &plan.lans), pass).await? {
            plan = self.plan(&gathered, pass);
        }
        if self.ask_for_endpoints(&plan, pass).await? {
            plan = self.plan(&gathered, pass);
        }
        pass.note(std::mem::take(&mut plan.notes));
        plan.look_again.into_iter().for_each(|at| pass.due.by(at.into()));
        self.execute(plan, &gathered, pass).await
    }

    fn plan(&mut self, gathered: &Gathered, pass: &mut Pass) -> Plan {
        let (held, published) = (self.store.held(), self.store.published());
        let own = OwnLease { subnets: held.map(|held| held.subnets), published: published.as_ref() };
        let printed = self.extension.printed();
        let facts = self.known.facts(gathered, own, printed.as_deref());
        let mut plan = plan(&facts, &mut self.memory);
        self.take_interest(&plan, gathered);
        if let Some(leased) = &mut plan.leased {
            self.udp.planned(&leased.peers, gathered.conf.backend.mode().is_some());
            self.report_peers(leased, pass);
        }
        plan
    }

    /// The attributes to publish, if this host can take part in the network.
    fn check(&mut self, plan: &Plan, gathered: &Gathered) -> Result<LeaseAttrs, Failure> {
        plan.underlay.iter().for_each(|found| self.outlet.underlay(&gathered.conf, found));
        self.known.settle_claim(gathered, plan.attrs.is_ok());
        match &plan.attrs {
            Ok(attrs) => Ok(attrs.clone()),
            Err(Blocked::Underlay(error)) if !self.started => Err(Failure::Stop(error.clone().into())),
            Err(Blocked::Underlay(error)) => {
                self.outlet.down(error.to_string());
                Err(Failure::Wait(error.to_string()))
            }
            Err(Blocked::Overlap(overlap)) => Err(Failure::Retry(overlap.to_string())),
        }
    }

    /// A start without the right to change the kernel ends before it leases a subnet or changes a sysctl, which takes no
    /// capability.
    async fn must_change(&self, conf: &NetConf) -> Result<(), Failure> {
        if self.started || conf.backend.mode().is_none() {
            return Ok(());
        }
        let may = self.kernel.call(Kernel::may_change).await.map_err(|error| Failure::Stop(error.into()))?;
        match may.map_err(|error| Failure::Retry(error.to_string()))? {
            true => Ok(()),
            false => Err(Failure::Stop(DaemonError::Denied(conf.backend.name()))),
        }
    }

    /// Makes sure that this host has a lease. Returns whether it differs from the one that the plan was made for.
    /// A new lease leaves out `lans`, if it can.
    async fn hold(
        &mut self,
        gathered: &Gathered,
        (attrs, lans): (&LeaseAttrs, &[Lan]),
        pass: &mut Pass,
    ) -> Result<bool, Failure> {
        let before = self.store.held().map(|held| held.subnets);
        let (conf, previous, started) = (&*gathered.conf, gathered.previous.subnets, self.started);
        let avoid: Vec<IpNetwork> = lans.iter().map(|lan| lan.address).collect();
        let claim = Claim { conf, attrs, previous, started, now: Instant::now(), random: random(), avoid: &avoid };
        match self.store.hold(&claim).await {
            Ok(held) => {
                held.look_again.into_iter().for_each(|at| pass.due.by(at));
                pass.note(held.note);
            }
            // If the lease cannot be renewed or rewritten now, the kernel is still kept up to date.
            Err(HoldError::Retry(why)) if before.is_some() => pass.retry(why.to_string()),
            Err(error) => return Err(error.into()),
        }
        let held = self.store.held();
        self.outlet.lease(held.as_ref());
        let now = held.map(|held| held.subnets);
        let announced = self.extension.announce(conf, &now.unwrap_or_default(), attrs, &mut pass.due);
        self.wait_until_started(announced, pass)?;
        Ok(now != before)
    }

    /// During the start, a command that is not done ends the pass. Later only a failure is reported, so that the
    /// lease and the peers stay up to date.
    fn wait_until_started(&self, command: Result<(), Unready>, pass: &mut Pass) -> Result<(), Failure> {
        match command {
            Ok(()) => {}
            Err(Unready::Running(why) | Unready::Failed(why)) if !self.started => return Err(Failure::Wait(why)),
            Err(Unready::Running(_)) => {}
            Err(Unready::Failed(why)) => pass.note([why]),
        }
        Ok(())
    }
}
