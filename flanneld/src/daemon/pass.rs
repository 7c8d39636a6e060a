//! One pass: from the store's view and the kernel's state to a host that is as the leases say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kernel::state::PublicKey;
use kernel::types::{Family, Mac, RouteProtocol, TableId};
use kernel::{Kernel, KernelError};
use overlay::host::{self, Desired, HostInputs};
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::netconf::{Backend, NetConf};
use overlay::peers::{self, Peers};
use overlay::subnet_env::SubnetEnv;
use tokio::time::Instant;

use super::known::Known;
use super::tell::Picture;
use super::{Daemon, DaemonError, Due, limits, make, report, tunnels};
use crate::events::Interest;
use crate::underlay::{self, Survey, Underlay};
use store::{Claim, HoldError, Published};

/// Why a pass ended before it made the host right.
pub(super) enum Halt {
    /// The daemon must not go on.
    Stop(DaemonError),
    /// To be tried again …
    Retry(String),
    /// … or there is nothing to be done until the store or the kernel changes.
    Wait(String),
}

impl From<HoldError> for Halt {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Wait(why) => Self::Wait(why.to_string()),
            HoldError::Retry(why) => Self::Retry(why.to_string()),
            HoldError::Lost(subnets) => Self::Stop(DaemonError::Revoked(subnets.to_string())),
            HoldError::OutOfSubnets(error) => Self::Stop(error.into()),
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
        report::store(&mut self.status, &self.known.health);
        self.metrics.store(self.known.health.stale_since);
        troubles.note(self.known.health.error.as_deref());
        let conf = self.configuration(troubles)?;
        let survey = match &self.trust {
            Some(trust) => trust.survey.clone(),
            None => Arc::new(self.survey().await?),
        };
        let underlay = self.find_underlay(&conf, &survey, troubles)?;
        self.know_macs(&conf, &survey, &underlay);
        let mut attrs = make::attributes(&conf, &underlay, &self.macs);
        self.know_keys(&conf, &mut attrs).map_err(Halt::Retry)?;
        if let Err(why) = self.extension.prepare(&conf, &mut attrs).await {
            self.retry_once_started(why, troubles)?;
        }
        report::base(&mut self.status, &conf, &underlay);
        troubles.note(report::behind_nat(&conf, &underlay));
        self.hold(&conf, &attrs, due, troubles).await?;
        let subnets = self.subnets();
        self.status.subnets = subnets.iter().collect();
        if let Err(why) = self.extension.announce(&conf, &subnets, &attrs).await {
            self.retry_once_started(why, troubles)?;
        }
        let complete = self.known.health.complete;
        let mut peers = self.judge(&conf, &survey, subnets, BTreeMap::new());
        if tunnels::is_contested(&peers) {
            let heard = self.heard(due).await?;
            peers = self.judge(&conf, &survey, subnets, heard);
        }
        self.udp.follow(&conf);
        self.drain.follow(&conf, Instant::now(), due);
        troubles.note(report::same_address(&conf, &underlay, &peers));
        let Desired { mut state, scope, paths, mtu } = self.desired(&conf, &survey, &underlay, &peers, complete);
        limits::raise(&mut state, &survey.limits);
        if self.options.blackhole_route {
            make::add_blackholes(&mut state, subnets);
        }
        let wanted = Arc::new(state);
        let refused = self.known.refused.clone();
        self.warn(&peers, &paths, &refused);
        let facts = make::facts(&self.options.select, &conf, Some(&underlay), &scope.links, &survey);
        self.events.set_interest(Interest { wanted: wanted.clone(), scope: scope.clone(), facts });
        let udp_ends = self.udp.ends(&conf, &scope);
        if !udp_ends {
            // before its routes: what they send to the device is moved from the first packet on
            self.carry_udp(&conf, &wanted, &underlay, &peers, complete).await.map_err(Halt::Retry)?;
        }
        self.picture = Picture { peers, paths, ignored: refused };
        let applied = self.apply(wanted, scope, survey).await?;
        applied.log();
        troubles.all.extend(self.extension.tell(&conf, &self.picture.peers.good, complete, due));
        if let Some(trouble) = applied.trouble() {
            troubles.retry(trouble);
        }
        self.say_ready(applied.ready() && complete);
        if udp_ends && applied.ready() {
            self.udp.end();
        }
        self.status.udp = self.udp.counters().map(Into::into);
        if applied.ready() {
            match self.store.publish(&attrs).await {
                Ok(Published::After(after)) => due.by(after),
                Ok(Published::Unchanged | Published::Written) => {}
                Err(error) => troubles.retry(error.to_string()),
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

    /// Sees to it that this host has a lease, and keeps it.
    async fn hold(
        &mut self,
        conf: &NetConf,
        attrs: &LeaseAttrs,
        due: &mut Due,
        troubles: &mut Troubles,
    ) -> Result<(), Halt> {
        let (previous, started) = (self.previous(), self.started());
        let claim = Claim { conf, attrs, previous, started, now: Instant::now(), random: random() };
        match self.store.hold(&claim).await {
            Ok(held) => {
                held.look_again.into_iter().for_each(|at| due.by(at));
                troubles.note(held.note);
            }
            // a lease that cannot be renewed or written again now is no reason to let go of the kernel
            Err(HoldError::Retry(why)) if self.store.held().is_some() => troubles.retry(why.to_string()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn configuration(&mut self, troubles: &mut Troubles) -> Result<Arc<NetConf>, Halt> {
        let Known { health, config, .. } = &self.known;
        if health.complete && self.config.take(config.as_ref()) {
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
                let facts = make::facts(&self.options.select, conf, None, &[], survey);
                self.events.set_interest(Interest { facts, ..Interest::default() });
                Err(Halt::Wait(error.to_string()))
            }
        }
    }

    /// The MACs of this host's VTEPs, found once and then kept: the peers know them.
    fn know_macs(&mut self, conf: &NetConf, survey: &Survey, underlay: &Underlay) {
        let Backend::Vxlan(vxlan) = &conf.backend else {
            self.vxlan = self.vxlan.or_else(|| make::vxlan_left(survey));
            return;
        };
        self.vxlan = Some(*vxlan);
        if conf.families().all(|(family, _)| self.macs.get(family).is_some()) {
            return;
        }
        // a MAC is taken from the lease of the last run alone: the host that another lease is of may be alive
        let own = self.known.attrs(&self.previous()).filter(|attrs| publishes(attrs, underlay));
        for (family, _) in conf.families() {
            let known = self.macs.get_mut(family);
            if known.is_none() {
                let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
                *known = Some(make::vtep_mac(family, vxlan, survey, own.as_ref(), Mac::local([a, b, c, d, e, f])));
            }
        }
    }

    fn judge(
        &mut self,
        conf: &NetConf,
        survey: &Survey,
        subnets: Subnets,
        heard: BTreeMap<PublicKey, Vec<IpAddr>>,
    ) -> Peers {
        let own = peers::Own {
            subnets,
            addresses: survey.addresses.iter().map(|seen| seen.key.net.ip()).collect(),
            macs: Family::ALL.into_iter().filter_map(|family| *self.macs.get(family)).collect(),
            key: self.wireguard_keys.map(|keys| keys.public),
            heard,
        };
        self.leases.update(&self.known.leases);
        peers::judge(conf, &own, &self.leases)
    }

    fn desired(&self, conf: &NetConf, survey: &Survey, underlay: &Underlay, peers: &Peers, complete: bool) -> Desired {
        host::desired(&HostInputs {
            conf,
            own: self.subnets(),
            vtep_macs: self.macs,
            wireguard_keys: self.wireguard_keys,
            peers: &peers.good,
            underlay: &make::underlay_facts(underlay, survey),
            keep_vtep: self.vxlan,
            known_devices: &self.drain.deletable(make::known_devices(survey)),
            complete,
        })
    }
}

/// From the kernel; none of it is a secret.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // a machine without entropy yet: two hosts that draw alike find out at the creation of the key
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
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
