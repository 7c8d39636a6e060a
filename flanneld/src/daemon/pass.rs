//! One pass: from the store's view and the kernel's state to a host that is as the leases say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use kernel::state::Scope;
use kernel::types::{Family, IfName, Mac, RouteProtocol, TableId, masked};
use kernel::{Kernel, KernelError};
use overlay::backend::{Backend, Census, Host};
use overlay::keep::{self, Keeping};
use overlay::lease::{LeaseAttrs, StoredAttrs, Subnets};
use overlay::netconf::NetConf;
use overlay::ownership::Owner;
use overlay::peers::{self, Peers, Service};
use overlay::render::{Desired, Ours, Renderer};
use overlay::settings;
use overlay::subnet_env::SubnetEnv;
use tokio::time::Instant;

use super::extension::Unready;
use super::known::Known;
use super::tell::Picture;
use super::{Daemon, DaemonError, Due, OVERLAY, limits, make, report, tunnels};
use crate::events::Interest;
use crate::underlay::{self, Survey, Underlay};
use store::{Claim, HoldError, Published};

/// Bytes. glibc reads three servers and six domains (resolv.conf(5)).
const LARGEST_RESOLV_CONF: u64 = 64 * 1024;

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
        let (owner, devices) = self.ownership(&conf, &survey)?;
        let underlay = self.find_underlay(&conf, &survey, troubles)?;
        self.know_macs(&conf, (&survey, &owner), &underlay);
        self.know_keys(&conf).map_err(Halt::Retry)?;
        let prepared = self.extension.prepare(&conf, due);
        self.wait_until_started(prepared, troubles)?;
        self.identity.text = self.extension.printed();
        let public = make::public(&underlay);
        let attrs = keep::publish(&conf.backend, &self.offered, public, &self.identity);
        report::base(&mut self.status, &conf, &underlay);
        troubles.note(report::behind_nat(&conf, &underlay));
        self.hold(&conf, &attrs, due, troubles).await?;
        let subnets = self.subnets();
        self.status.subnets = subnets.iter().collect();
        if let Some(controller) = &self.attachments {
            controller.set_subnets(subnets);
        }
        let announced = self.extension.announce(&conf, &subnets, &attrs, due);
        self.wait_until_started(announced, troubles)?;
        let complete = self.known.health.complete;
        let mut own = self.own_facts(&survey, &underlay, subnets);
        let mut peers = self.judge(&conf, &own);
        if tunnels::is_contested(&peers) {
            own.endpoints = self.endpoints(due).await?;
            peers = self.judge(&conf, &own);
        }
        let keeping = self.keep(&conf, (&survey, &owner), &peers, complete, due);
        self.udp.follow(std::iter::once(&conf.backend).chain(keeping.kept.iter().map(|kept| &kept.backend)));
        troubles.note(report::same_address(&conf, &underlay, &peers));
        let host = self.host(&conf, &survey, &underlay);
        let ours = Ours { devices: &devices, owner: &owner, complete };
        let Desired { mut state, mut scope, paths, mtu } =
            Renderer::new(&host, &conf.backend, &keeping.kept).desired(&peers.good, ours);
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
        self.warn(&peers, &paths);
        let facts = make::facts(&self.options.select, &conf, Some(&underlay), (&scope, subnets), &survey);
        self.events.set_interest(Interest { wanted: wanted.clone(), scope: scope.clone(), facts });
        let udp_ends = self.udp.ends();
        if !udp_ends {
            // before its routes: what they send to the device is moved from the first packet on
            self.carry_udp(&conf, &wanted, &underlay, &peers, complete).await.map_err(Halt::Retry)?;
        }
        self.picture = Picture { peers, paths };
        let applied = self.apply(wanted, scope, survey.clone()).await?;
        applied.log();
        troubles.all.extend(self.extension.tell(&conf, &self.picture.peers.good, complete, due));
        if let Some(trouble) = applied.trouble() {
            troubles.retry(trouble);
        }
        self.say_ready(applied.up().and_then(|()| report::carries(&survey, &underlay)));
        self.ownership.settled(&conf, applied.outcome.is_whole() && complete);
        if udp_ends && applied.ready() {
            self.udp.end();
        }
        self.status.udp = self.udp.counters().map(Into::into);
        if applied.ready() {
            let attrs = keep::publish(&conf.backend, &self.offered, public, &self.identity);
            match self.store.publish(&attrs).await {
                Ok(Published::After(after)) => due.by(after),
                Ok(Published::Unchanged | Published::Written) => {}
                Err(error) => troubles.retry(error.to_string()),
            }
            self.status.mtu = mtu.0;
            let env = SubnetEnv { networks: conf.networks(), subnets, mtu, ipmasq: false };
            self.tell_plugin(env);
        }
        Ok(!applied.outcome.done.is_empty())
    }

    /// Before the start is done, a command that has not done its work ends the pass. Later the lease and the peers go on, and
    /// only a failure is reported.
    fn wait_until_started(&self, command: Result<(), Unready>, troubles: &mut Troubles) -> Result<(), Halt> {
        match command {
            Ok(()) => {}
            Err(Unready::Running(why) | Unready::Failed(why)) if !self.started => return Err(Halt::Wait(why)),
            Err(Unready::Running(_)) => {}
            Err(Unready::Failed(why)) => troubles.note(Some(why)),
        }
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
        let (previous, started) = (self.previous().subnets, self.started);
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
            Err(error) if !self.started => Err(Halt::Stop(error.into())),
            Err(error) => {
                self.readiness.set(OVERLAY, Err(error.to_string()));
                let nothing = (&Scope::default(), Subnets::default());
                let facts = make::facts(&self.options.select, conf, None, nothing, survey);
                self.events.set_interest(Interest { facts, ..Interest::default() });
                Err(Halt::Wait(error.to_string()))
            }
        }
    }

    /// The MACs of this host's VTEPs, found once and then kept: the peers know them.
    fn know_macs(&mut self, conf: &NetConf, (survey, owner): (&Survey, &Owner), underlay: &Underlay) {
        let unknown = |(family, _)| self.identity.vtep_macs.get(family).is_none();
        let devices =
            || conf.families().filter_map(|(family, _)| Some((family, device(conf, (survey, owner), family)?)));
        if !conf.families().any(unknown) || devices().next().is_none() {
            return;
        }
        // a MAC is taken from the lease of the last run alone: the host that another lease is of may be alive
        let own = self.book.lease(&self.previous().subnets).filter(|lease| publishes(&lease.attrs, underlay));
        for (family, device) in devices() {
            let known = self.identity.vtep_macs.get_mut(family);
            if known.is_none() {
                let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
                *known = Some(make::vtep_mac(family, &device, (survey, owner), own, Mac::local([a, b, c, d, e, f])));
            }
        }
    }

    /// What no other host may claim.
    fn own_facts(&self, survey: &Survey, underlay: &Underlay, subnets: Subnets) -> peers::Own {
        let mut hosts = peers::gateways(&survey.routes, &underlay.dev);
        hosts.extend(self.store.addresses().into_iter().map(|address| (address, Service::Store)));
        hosts.extend(&survey.dns_servers);
        let of_underlay = survey.addresses.iter().filter(|seen| seen.key.dev == underlay.dev);
        peers::Own {
            subnets,
            addresses: survey.addresses.iter().map(|seen| seen.key.net.ip()).collect::<BTreeSet<_>>().into(),
            macs: Family::ALL.into_iter().filter_map(|family| *self.identity.vtep_macs.get(family)).collect(),
            key: self.identity.wireguard.map(|keys| keys.public),
            endpoints: BTreeMap::new(),
            hosts,
            underlay: of_underlay.map(|seen| masked(seen.key.net)).collect(),
        }
    }

    fn judge(&mut self, conf: &NetConf, own: &peers::Own) -> Peers {
        self.book.judge(conf, own);
        Peers::from(&self.book)
    }

    /// What stays of the backends before.
    fn keep(
        &mut self,
        conf: &NetConf,
        (survey, owner): (&Survey, &Owner),
        peers: &Peers,
        complete: bool,
        due: &mut Due,
    ) -> Keeping {
        let published = self.store.published();
        let keeping = self.keep.follow(&keep::Facts {
            now: Instant::now().into_std(),
            backend: &conf.backend,
            found: &make::left(survey, owner),
            census: &Census::of(&peers.good),
            complete,
            published: published.as_ref(),
            can_rename: self.can_rename,
        });
        keeping.look_again.into_iter().for_each(|at| due.by(at.into()));
        self.offered.clone_from(&keeping.offered);
        keeping
    }

    fn host(&self, conf: &NetConf, survey: &Survey, underlay: &Underlay) -> Host {
        Host {
            networks: conf.network_by_family(),
            own: self.subnets(),
            identity: self.identity.clone(),
            underlay: make::underlay_facts(underlay, survey),
        }
    }
}

/// The device whose MAC address is this host's VTEP's: that of the backend in force, or of one before.
fn device(conf: &NetConf, (survey, owner): (&Survey, &Owner), family: Family) -> Option<IfName> {
    let left = make::left(survey, owner);
    std::iter::once(&conf.backend).chain(&left).find_map(|backend: &Backend| backend.mac_device(family))
}

/// From the kernel; none of it is a secret.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // a machine without entropy yet: two hosts that draw alike find out at the creation of the key
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
}

/// True when the lease is this host's by its addresses.
fn publishes(attrs: &StoredAttrs, underlay: &Underlay) -> bool {
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
    let read = |path: &str| store::files::read_configured(Path::new(path), LARGEST_RESOLV_CONF).ok();
    Ok(Survey { links, addresses, routes, reach, limits: limits::read(), dns_servers: peers::dns_servers(read) })
}
