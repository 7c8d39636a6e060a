//! One pass: from the store's view and the kernel's state to a host that is as the leases say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kernel::state::{PublicKey, Scope};
use kernel::types::{Family, Mac, RouteProtocol, TableId};
use kernel::{Kernel, KernelError};
use overlay::host::{self, Desired, HostInputs};
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::{Backend, NetConf};
use overlay::ownership::Owner;
use overlay::peers::{self, Peers};
use overlay::settings;
use overlay::subnet_env::SubnetEnv;
use tokio::time::Instant;

use super::acquire::{NoLease, random};
use super::tell::Picture;
use super::{Daemon, DaemonError, Due, limits, make, report, tunnels};
use crate::events::Interest;
use crate::store::View;
use crate::underlay::{self, Survey, Underlay};

/// Why a pass ended before it made the host right.
pub(super) enum Halt {
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
pub(super) struct Troubles {
    all: Vec<String>,
    retry: bool,
}

impl Troubles {
    /// Something to try again.
    pub(super) fn retry(&mut self, what: impl Into<String>) {
        self.all.push(what.into());
        self.retry = true;
    }

    /// Something that waiting helps, or a person.
    pub(super) fn note(&mut self, what: Option<impl Into<String>>) {
        self.all.extend(what.map(Into::into));
    }

    /// All of it, one line; `None` when all is well.
    pub(super) fn text(&self) -> Option<String> {
        (!self.all.is_empty()).then(|| self.all.join("; "))
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
        self.tell(troubles.text(), fresh);
        Ok(due)
    }

    /// True when something was changed.
    async fn reconcile(&mut self, due: &mut Due, troubles: &mut Troubles) -> Result<bool, Halt> {
        let view = self.view.borrow_and_update().clone();
        report::store(&mut self.status, &view);
        self.metrics.store(view.stale_since);
        troubles.note(view.error.as_deref());
        let conf = self.configuration(&view, troubles)?;
        let survey = match &self.trust {
            Some(trust) => trust.survey.clone(),
            None => Arc::new(self.survey().await?),
        };
        let (owner, devices) = self.ownership(&conf, &survey)?;
        let underlay = self.find_underlay(&conf, &survey, troubles)?;
        self.know_macs(&conf, (&survey, &owner), &view, &underlay);
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
        troubles.note(self.contest_note());
        let subnets = self.own.as_ref().map(|own| own.subnets).unwrap_or_default();
        self.status.subnets = subnets.iter().collect();
        if let Err(why) = self.extension.announce(&conf, &subnets, &attrs).await {
            self.retry_once_started(why, troubles)?;
        }
        // not marked as seen: a configuration that came since the pass began is for the next one
        let view = self.view.borrow().clone();
        let mut peers = self.judge(&conf, &survey, subnets, &view, BTreeMap::new());
        if tunnels::is_contested(&peers) {
            let heard = self.heard(due).await?;
            peers = self.judge(&conf, &survey, subnets, &view, heard);
        }
        self.udp.follow(&conf);
        self.drain.follow(&conf, Instant::now(), due);
        troubles.note(report::same_address(&conf, &underlay, &peers));
        let facts = make::underlay_facts(&underlay, &survey);
        let Desired { mut state, mut scope, paths, mtu } = host::desired(&HostInputs {
            conf: &conf,
            own: subnets,
            vtep_macs: self.macs,
            wireguard_keys: self.wireguard_keys,
            peers: &peers.good,
            underlay: &facts,
            keep_vtep: self.vxlan,
            owner: &owner,
            known_devices: &self.drain.deletable(devices),
            complete: view.complete,
        });
        limits::raise(&mut state, &survey.limits);
        let settings = settings::wanted(&conf, &underlay.dev, &make::routers(&survey), &state);
        scope.sysctls.extend(settings.keys().cloned());
        state.sysctls.extend(settings);
        if self.trust.is_none() {
            self.status.foreign_routes = make::foreign_routes(&scope, subnets, &survey);
        }
        if self.options.blackhole_route {
            make::add_blackholes(&mut state, subnets);
        }
        let wanted = Arc::new(state);
        self.warn(&peers, &paths, &view.ignored);
        let facts = make::facts(&self.options.select, &conf, Some(&underlay), (&scope, subnets), &survey);
        self.events.set_interest(Interest { wanted: wanted.clone(), scope: scope.clone(), facts });
        let udp_ends = self.udp.ends(&conf, &scope);
        if !udp_ends {
            // before its routes: what they send to the device is moved from the first packet on
            self.carry_udp(&conf, &wanted, &underlay, &peers, view.complete).await.map_err(Halt::Retry)?;
        }
        self.picture = Picture { peers, paths, ignored: view.ignored.clone() };
        let applied = self.apply(wanted, scope, survey).await?;
        applied.log();
        troubles.all.extend(self.extension.tell(&conf, &self.picture.peers.good, view.complete, due));
        if let Some(trouble) = applied.trouble() {
            troubles.retry(trouble);
        }
        self.say_ready(applied.ready() && view.complete, &view);
        self.ownership.settled(&conf, applied.outcome.is_whole() && view.complete);
        if udp_ends && applied.ready() {
            self.udp.end();
        }
        self.status.udp = self.udp.counters().map(Into::into);
        if applied.ready() {
            if let Err(why) = self.publish(&attrs, due).await {
                troubles.retry(why);
            }
            self.status.mtu = mtu.0;
            let env = SubnetEnv { networks: conf.networks(), subnets, mtu, ipmasq: false };
            self.tell_plugin(env, troubles);
        }
        Ok(!applied.outcome.done.is_empty())
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
        if view.complete && self.config.take(view.config.as_ref()) {
            // another backend has other devices
            self.trust = None;
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
        self.events.survey_begins();
        let survey = self.kernel.call(move |kernel| survey(kernel, can_reach)).await;
        let survey =
            survey.map_err(|error| Halt::Stop(error.into()))?.map_err(|error| Halt::Retry(error.to_string()))?;
        self.events.survey_ends(&survey.links);
        Ok(survey)
    }

    fn find_underlay(&mut self, conf: &NetConf, survey: &Survey, troubles: &mut Troubles) -> Result<Underlay, Halt> {
        let families = make::families(conf);
        match underlay::follow(&self.options.select, &families, survey, self.underlay.as_ref()) {
            Ok((found, missing)) => {
                missing.iter().for_each(|missing| troubles.note(Some(missing.to_string())));
                if self.underlay.as_ref() != Some(&found) {
                    let Underlay { dev, mtu, public, why, .. } = &found;
                    tracing::info!(%dev, %mtu, ?public, why, "underlay");
                    self.underlay = Some(found.clone());
                }
                Ok(found)
            }
            Err(error) if !self.started() => Err(Halt::Stop(error.into())),
            Err(error) => {
                let nothing = (&Scope::default(), Subnets::default());
                let facts = make::facts(&self.options.select, conf, None, nothing, survey);
                self.events.set_interest(Interest { facts, ..Interest::default() });
                Err(Halt::Wait(error.to_string()))
            }
        }
    }

    /// The MACs of this host's VTEPs, found once and then kept: the peers know them.
    fn know_macs(&mut self, conf: &NetConf, (survey, owner): (&Survey, &Owner), view: &View, underlay: &Underlay) {
        let Backend::Vxlan(vxlan) = &conf.backend else {
            self.vxlan = self.vxlan.or_else(|| make::vxlan_left(survey, owner));
            return;
        };
        self.vxlan = Some(*vxlan);
        if conf.families().all(|(family, _)| self.macs.get(family).is_some()) {
            return;
        }
        let leases = make::stored(view);
        // a MAC is taken from the lease of the last run alone: the host that another lease is of may be alive
        let previous = self.previous().subnets;
        let own = leases.iter().filter(|stored| stored.lease.subnets == previous);
        let own = own.map(|stored| &stored.lease.attrs).find(|attrs| publishes(attrs, underlay));
        for (family, _) in conf.families() {
            let known = self.macs.get_mut(family);
            if known.is_none() {
                let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
                *known = Some(make::vtep_mac(family, vxlan, (survey, owner), own, Mac::local([a, b, c, d, e, f])));
            }
        }
    }

    fn judge(
        &mut self,
        conf: &NetConf,
        survey: &Survey,
        subnets: Subnets,
        view: &View,
        heard: BTreeMap<PublicKey, Vec<IpAddr>>,
    ) -> Peers {
        let own = peers::Own {
            subnets,
            addresses: survey.addresses.iter().map(|seen| seen.key.net.ip()).collect(),
            macs: Family::ALL.into_iter().filter_map(|family| *self.macs.get(family)).collect(),
            key: self.wireguard_keys.map(|keys| keys.public),
            heard,
        };
        self.leases.update(&view.leases);
        peers::judge(conf, &own, &self.leases)
    }
}

/// True when the lease is this host's by its addresses.
fn publishes(attrs: &LeaseAttrs, underlay: &Underlay) -> bool {
    underlay.public.iter().all(|addr| attrs.public(Family::from(*addr)).is_none_or(|theirs| theirs == *addr))
        && underlay.public.iter().any(|addr| attrs.public(Family::from(*addr)) == Some(*addr))
}

/// Reads what the underlay is chosen from.
fn survey(kernel: &mut Kernel, can_reach: Option<IpAddr>) -> Result<Survey, KernelError> {
    // links first: an address of a link whose name is not known is left out
    let links = kernel.links()?;
    let addresses = kernel.addresses()?;
    // there may be thousands of our own, and none of them is a way out
    let routes = kernel.routes_but(TableId::MAIN, RouteProtocol::FLANNEL)?;
    // no route is an answer
    let reach = can_reach.and_then(|addr| kernel.route_to(addr).ok().flatten());
    Ok(Survey { links, addresses, routes, reach, limits: limits::read() })
}
