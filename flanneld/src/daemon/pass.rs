//! One pass: from the store's view and the kernel's state to a host that is as the leases say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kernel::message::address::SeenAddress;
use kernel::state::{Scope, State, WireguardDevice};
use kernel::types::{Family, IfName, Mac, TableId};
use kernel::{Kernel, KernelError};
use overlay::host::{self, Desired, HostInputs};
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::{Backend, NetConf};
use overlay::peers::{self, Peers};
use overlay::subnet_env::SubnetEnv;
use tokio::time::Instant;

use super::acquire::{NoLease, random};
use super::report::{self, Applied};
use super::{Daemon, DaemonError, Due, make};
use crate::files;
use crate::store::View;
use crate::systemd;
use crate::underlay::{self, Survey, Underlay};

/// Why a pass ended before it made the host right.
enum Halt {
    /// The daemon must not go on.
    Stop(DaemonError),
    /// To be tried again …
    Retry(String),
    /// … or there is nothing to be done until the store or the kernel changes.
    Wait(String),
}

impl From<NoLease> for Halt {
    fn from(no: NoLease) -> Self {
        match no {
            NoLease::Stop(error) => Self::Stop(error),
            NoLease::Later(why) => Self::Retry(why),
        }
    }
}

/// What went wrong in a pass without ending it.
#[derive(Default)]
struct Troubles {
    all: Vec<String>,
    retry: bool,
}

impl Troubles {
    /// Something to try again.
    fn retry(&mut self, what: impl Into<String>) {
        self.all.push(what.into());
        self.retry = true;
    }

    /// Something that waiting helps, or a person.
    fn note(&mut self, what: Option<impl Into<String>>) {
        self.all.extend(what.map(Into::into));
    }
}

impl Daemon {
    /// Makes the host right, and says when to look again at the latest.
    pub(super) async fn pass(&mut self) -> Result<Due, DaemonError> {
        let (mut due, mut troubles) = (Due::default(), Troubles::default());
        let fresh = match self.reconcile(&mut due, &mut troubles).await {
            Ok(changed) => changed,
            Err(Halt::Stop(error)) => return Err(error),
            Err(Halt::Retry(why)) => {
                troubles.retry(why);
                false
            }
            Err(Halt::Wait(why)) => {
                troubles.note(Some(why));
                false
            }
        };
        if troubles.retry {
            due.by(Instant::now() + self.retry.next());
        } else {
            self.retry.reset();
        }
        let error = (!troubles.all.is_empty()).then(|| troubles.all.join("; "));
        if let Some(text) = &error
            && self.status.last_error != error
        {
            tracing::warn!(error = text, "not all is well");
        }
        self.status.last_error = error;
        self.status.last_reconcile = Some(report::now());
        self.write_status(fresh);
        Ok(due)
    }

    /// True when something was changed.
    async fn reconcile(&mut self, due: &mut Due, troubles: &mut Troubles) -> Result<bool, Halt> {
        let view = self.view.borrow_and_update().clone();
        troubles.note(view.error.as_deref());
        let conf = self.configuration(&view, troubles)?;
        let survey = self.survey().await?;
        let underlay = self.find_underlay(&conf, &survey)?;
        self.know_macs(&conf, &survey, &view, &underlay);
        let mut attrs = make::attributes(&conf, &underlay, &self.macs);
        self.know_keys(&conf, &mut attrs).map_err(Halt::Retry)?;
        if let Err(why) = self.extension.prepare(&conf, &mut attrs).await {
            self.retry_once_started(why, troubles)?;
        }
        report::base(&mut self.status, &conf, &underlay);
        troubles.note(report::behind_nat(&conf, &underlay));
        match self.ensure_lease(&conf, &attrs, due).await {
            // a lease that cannot be renewed or written again now is no reason to let go of the kernel
            Err(NoLease::Later(why)) if self.own.is_some() => troubles.retry(why),
            other => other?,
        }
        let subnets = self.own.as_ref().map(|own| own.subnets).unwrap_or_default();
        self.status.subnets = subnets.iter().collect();
        if let Err(why) = self.extension.announce(&conf, &subnets, &attrs).await {
            self.retry_once_started(why, troubles)?;
        }
        // not marked as seen: a configuration that came since the pass began is for the next one
        let view = self.view.borrow().clone();
        let peers = self.judge(&conf, &survey, subnets, &view);
        let desired = self.desired(&conf, &survey, &underlay, &peers, view.complete);
        report::peers(&mut self.status, &peers, &desired, &view.ignored);
        self.warn(&peers);
        self.events.set_interest(make::interest(&conf, &desired.scope.links, Some(&underlay), &survey));
        let applied = self.apply(desired.state, desired.scope).await?;
        applied.log();
        troubles.all.extend(self.extension.tell(&conf, &peers.good, view.complete, due));
        if let Some(trouble) = applied.trouble() {
            troubles.retry(trouble);
        }
        if applied.ready() {
            if let Err(why) = self.publish(&attrs, due).await {
                troubles.retry(why);
            }
            self.status.mtu = desired.mtu.0;
            let env = SubnetEnv { networks: conf.networks(), subnets, mtu: desired.mtu, ipmasq: false };
            self.tell_plugin(env, troubles);
        }
        Ok(applied.report.done > 0)
    }

    /// At the start there is nothing to go on with; later a lease is to be kept, and a host's peers followed.
    fn retry_once_started(&self, why: String, troubles: &mut Troubles) -> Result<(), Halt> {
        if !self.started() {
            return Err(Halt::Retry(why));
        }
        troubles.retry(why);
        Ok(())
    }

    fn configuration(&mut self, view: &View, troubles: &mut Troubles) -> Result<Arc<NetConf>, Halt> {
        if view.complete {
            self.config.take(view.config.as_ref());
        }
        match self.config.good() {
            Some(conf) => {
                troubles.note(self.config.error());
                Ok(conf.clone())
            }
            None => Err(Halt::Wait(self.config.error().unwrap_or("the store is not read yet").to_owned())),
        }
    }

    async fn survey(&self) -> Result<Survey, Halt> {
        let can_reach = self.options.select.can_reach;
        let survey = self.kernel.call(move |kernel| survey(kernel, can_reach)).await;
        survey.map_err(|error| Halt::Stop(error.into()))?.map_err(|error| Halt::Retry(error.to_string()))
    }

    fn find_underlay(&mut self, conf: &NetConf, survey: &Survey) -> Result<Underlay, Halt> {
        let families: Vec<Family> = conf.families().map(|(family, _)| family).collect();
        match underlay::choose(&self.options.select, &families, survey) {
            Ok(found) => {
                if self.underlay.as_ref() != Some(&found) {
                    let Underlay { dev, mtu, public, why, .. } = &found;
                    tracing::info!(%dev, %mtu, ?public, why, "underlay");
                    self.underlay = Some(found.clone());
                }
                Ok(found)
            }
            Err(error) if !self.started() => Err(Halt::Stop(error.into())),
            Err(error) => {
                self.events.set_interest(make::interest(conf, &make::known_devices(survey), None, survey));
                Err(Halt::Wait(error.to_string()))
            }
        }
    }

    /// The MACs of this host's VTEPs, found once and then kept: the peers know them.
    fn know_macs(&mut self, conf: &NetConf, survey: &Survey, view: &View, underlay: &Underlay) {
        let Backend::Vxlan(vxlan) = &conf.backend else {
            self.vxlan = self.vxlan.or_else(|| make::vxlan_left(survey));
            return;
        };
        self.vxlan = Some(*vxlan);
        let leases = make::stored(view);
        let own = leases.iter().map(|stored| &stored.lease.attrs).find(|attrs| publishes(attrs, underlay));
        for (family, _) in conf.families() {
            let known = self.macs.get_mut(family);
            if known.is_none() {
                let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
                *known = Some(make::vtep_mac(family, vxlan, survey, own, Mac::local([a, b, c, d, e, f])));
            }
        }
    }

    fn judge(&self, conf: &NetConf, survey: &Survey, subnets: Subnets, view: &View) -> Peers {
        let own = peers::Own {
            subnets,
            addresses: survey.addresses.iter().map(|seen| seen.key.net.ip()).collect(),
            macs: Family::ALL.into_iter().filter_map(|family| *self.macs.get(family)).collect(),
            key: self.wireguard_keys.map(|keys| keys.public),
        };
        peers::check(conf, &own, view.leases.iter())
    }

    fn desired(&self, conf: &NetConf, survey: &Survey, underlay: &Underlay, peers: &Peers, complete: bool) -> Desired {
        host::desired(&HostInputs {
            conf,
            own: self.own.as_ref().map(|own| own.subnets).unwrap_or_default(),
            vtep_macs: self.macs,
            wireguard_keys: self.wireguard_keys,
            peers: &peers.good,
            underlay: &make::underlay_facts(underlay, survey),
            keep_vtep: self.vxlan,
            known_devices: &make::known_devices(survey),
            complete,
        })
    }

    /// Says each thing once for as long as it is so.
    fn warn(&mut self, peers: &Peers) {
        let now: BTreeSet<String> = report::warnings(&self.status, peers).into_iter().collect();
        now.difference(&self.warned).for_each(|text| tracing::warn!("{text}"));
        self.warned = now;
    }

    async fn apply(&mut self, desired: State, scope: Scope) -> Result<Applied, Halt> {
        let before = std::mem::replace(&mut self.wireguard, desired.wireguard.clone());
        let done = self.kernel.call(move |kernel| apply(kernel, desired, &scope, &before)).await;
        done.map_err(|error| Halt::Stop(error.into()))?.map_err(|error| Halt::Retry(error.to_string()))
    }

    /// Writes subnet.env when it says something new, and tells the service manager the first time.
    fn tell_plugin(&mut self, env: SubnetEnv, troubles: &mut Troubles) {
        let text = env.format();
        if self.subnet_env.as_ref() == Some(&text) {
            return;
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

/// True when the lease is this host's by its addresses.
fn publishes(attrs: &LeaseAttrs, underlay: &Underlay) -> bool {
    underlay.public.iter().all(|addr| attrs.public(Family::from(*addr)).is_none_or(|theirs| theirs == *addr))
        && underlay.public.iter().any(|addr| attrs.public(Family::from(*addr)) == Some(*addr))
}

/// Reads what the underlay is chosen from.
fn survey(kernel: &mut Kernel, can_reach: Option<IpAddr>) -> Result<Survey, KernelError> {
    let links = kernel.links()?;
    let addresses: Vec<SeenAddress> = kernel.addresses()?;
    let routes = kernel.routes(TableId::MAIN)?;
    // no route is an answer
    let reach = can_reach.and_then(|addr| kernel.route_to(addr).ok().flatten());
    Ok(Survey { links, addresses, routes, reach })
}

/// Reads what is there, and makes it what is wanted.
fn apply(
    kernel: &mut Kernel,
    mut desired: State,
    scope: &Scope,
    before: &BTreeMap<IfName, WireguardDevice>,
) -> Result<Applied, KernelError> {
    let observed = kernel.observe(scope)?;
    host::wireguard::follow_roaming(&mut desired, &observed, before);
    let plan = kernel::diff::diff(&desired, &observed, scope);
    let mut steps = BTreeMap::new();
    for step in &plan.steps {
        tracing::debug!(%step, "step");
        *steps.entry(step.object()).or_default() += 1;
    }
    let started = std::time::Instant::now();
    let report = kernel.apply(&plan.steps);
    let took: Duration = started.elapsed();
    tracing::debug!(steps = plan.steps.len(), took_us = took.as_micros() as u64, "applied");
    Ok(Applied { report, steps, conflicts: plan.conflicts })
}
