//! What survives from one plan to the next.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use kernel::state::{PublicKey, Scope, State};
use kernel::survey::SeenLink;
use kernel::types::{Family, IfName, Mac, RouteProtocol, masked};

use super::frame::{Built, Change, Frame, moved};
use super::notes::{self, Said};
use super::{DataPath, Facts, Leased, PeerChanges, Work};
use crate::backend::{self, Backend, Census, Companion, Host, Identity};
use crate::keep::{self, Keep, Keeping, publish};
use crate::lease::{LeaseAttrs, LeaseChanges, Subnets};
use crate::net::ByFamily;
use crate::netconf::NetConf;
use crate::ownership::{Overlap, Owner};
use crate::peers::{self, Book, Half, Reason, Service, Touched};
use crate::subnet_env::SubnetEnv;
use crate::taken::{Way, ways};
use crate::underlay::{self, Found, Survey, UnderlayError};

/// What survives from one plan to the next: remembered facts, the leases, and the last plan.
#[derive(Debug, Default)]
pub struct Memory {
    remembered: Remembered,
    book: Book,
    cache: Cache,
}

/// Facts that cannot be learned again.
#[derive(Debug, Clone, Default)]
struct Remembered {
    /// The MAC addresses of this host's VTEPs, found or made once, because the peers know them.
    vtep_macs: ByFamily<Option<Mac>>,
    keep: Keep,
    underlay: Option<Arc<Found>>,
    /// The networks whose objects may exist; `None`: those of the last run.
    networks: Option<Vec<IpNetwork>>,
    /// WireGuard peers whose lease has had another endpoint since the last plan that was carried out.
    moved: BTreeSet<(IfName, PublicKey)>,
}

/// Results that can be computed again.
#[derive(Debug, Default)]
struct Cache {
    ground: Option<Ground>,
    census: Census,
    keeping: Keeping,
    built: Option<Built>,
    /// Whether the last plan was carried out.
    settled: bool,
    /// Whether two leases have the same WireGuard key.
    contested: bool,
    said: Said,
    /// The subnets that packets may not reach.
    lost: BTreeSet<IpNetwork>,
}

/// What this host's kernel says, computed once for each survey and configuration.
#[derive(Debug)]
struct Ground {
    survey: Arc<Survey>,
    conf: Arc<NetConf>,
    /// The networks whose objects may exist.
    networks: Vec<IpNetwork>,
    owner: Owner,
    /// Families whose underlay address is temporarily missing.
    missing: Vec<UnderlayError>,
    addresses: Arc<BTreeSet<IpAddr>>,
    /// The prefixes of the underlay's addresses.
    prefixes: Vec<IpNetwork>,
    /// Gateways and DNS servers.
    hosts: Vec<(IpAddr, Service)>,
    /// The tunnel devices that are ours.
    devices: Vec<IfName>,
    /// Their backends.
    left: Vec<Backend>,
    /// The links with an IPv6 default route from a router.
    routers: Vec<IfName>,
}

impl Memory {
    /// Adds the changes of the store.
    pub fn apply(&mut self, changes: LeaseChanges) {
        self.book.apply(changes);
    }

    /// The leases, with the verdicts of the last plan.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The desired kernel state of the last plan; `None` before the first plan with a lease.
    pub fn desired(&self) -> Option<&Arc<State>> {
        self.cache.built.as_ref().map(Built::state)
    }

    /// The ways to the subnets of the peers that packets reach, in the last plan.
    pub fn ways(&self) -> impl Iterator<Item = Way<'_>> + Clone {
        let reached = move |half: &Half| !self.cache.lost.contains(&half.subnet);
        let halves = self.book.peers().flat_map(|peer| Family::ALL.into_iter().filter_map(|family| peer.half(family)));
        let subnets = halves.filter(reached).map(|half| half.subnet);
        self.desired().into_iter().flat_map(move |desired| ways(desired, subnets.clone()))
    }

    /// The link to the other hosts that was last chosen.
    pub fn underlay(&self) -> Option<&Found> {
        self.remembered.underlay.as_deref()
    }

    /// Which of the kernel's objects were ours in the last plan, including a Go flanneld's direct routes, which the
    /// leases distinguish from others.
    pub fn scope(&self) -> Option<Arc<Scope>> {
        Some(Arc::new(self.cache.built.as_ref()?.whole_scope(&self.book)))
    }

    /// Records that the last plan was carried out: the next plan describes the changes since, and former networks
    /// have no objects left.
    pub fn settle(&mut self) {
        self.cache.settled = true;
        self.remembered.moved.clear();
        let known = self.cache.ground.as_ref().map(|ground| ground.conf.networks());
        self.remembered.networks = known.or_else(|| self.remembered.networks.take());
    }

    /// A copy without the last plan: only the remembered facts, and the leases as the store delivers them.
    #[cfg(test)]
    pub(super) fn cold(&self) -> Self {
        let mut book = Book::default();
        let put = self.book.leases().cloned().collect();
        book.apply(LeaseChanges { snapshot: true, put, refused: self.book.refused(), ..LeaseChanges::default() });
        Self { remembered: self.remembered.clone(), book, cache: Cache::default() }
    }

    pub(super) fn missing(&self) -> &[UnderlayError] {
        self.cache.ground.as_ref().map(|ground| ground.missing.as_slice()).unwrap_or_default()
    }

    pub(super) fn look_again(&self) -> Option<Instant> {
        self.cache.keeping.look_again
    }

    /// The networks whose objects may exist: the current ones, and the former ones until nothing is left of them.
    fn networks(&mut self, facts: &Facts<'_>) -> Vec<IpNetwork> {
        let known = self.remembered.networks.get_or_insert_with(|| facts.own.former.to_vec());
        let new: Vec<_> = facts.conf.networks().into_iter().filter(|network| !known.contains(network)).collect();
        known.extend(new);
        known.clone()
    }

    /// Another flanneld's network that overlaps this host's, as long as this host's is not announced.
    pub(super) fn overlap(&self, facts: &Facts<'_>) -> Option<Overlap> {
        let ground = self.cache.ground.as_ref()?;
        ground.owner.overlap(facts.served?.iter().copied())
    }

    pub(super) fn find_underlay(&mut self, facts: &Facts<'_>) -> Result<Arc<Found>, UnderlayError> {
        let networks = self.networks(facts);
        let known = |ground: &Ground| {
            Arc::ptr_eq(&ground.survey, facts.survey)
                && Arc::ptr_eq(&ground.conf, facts.conf)
                && ground.networks == networks
        };
        if let (Some(found), true) = (&self.remembered.underlay, self.cache.ground.as_ref().is_some_and(known)) {
            return Ok(found.clone());
        }
        let families: Vec<Family> = facts.conf.families().map(|(family, _)| family).collect();
        let before = self.remembered.underlay.as_deref();
        let (found, missing) = underlay::choose(&facts.options.select, &families, facts.survey, before)?;
        self.cache.ground = Some(Ground::new(facts, networks, missing, &found.underlay.dev));
        // An equal pointer means that nothing has changed.
        let found = match &self.remembered.underlay {
            Some(before) if **before == found => before.clone(),
            _ => Arc::new(found),
        };
        self.remembered.underlay = Some(found.clone());
        Ok(found)
    }

    /// Determines the MAC address of this host's VTEP of each family: that of the existing device, because the peers
    /// send to it; else the one in the lease of the last run; else a new one.
    pub(super) fn know_macs(&mut self, facts: &Facts<'_>, underlay: &Found) {
        let Some(ground) = &self.cache.ground else { return };
        for (family, _) in facts.conf.families() {
            let known = self.remembered.vtep_macs.get_mut(family);
            let backends = std::iter::once(&facts.conf.backend).chain(&ground.left);
            let device = backends.filter_map(|backend| backend.mac_device(family)).next();
            if let (None, Some(device)) = (*known, device) {
                let seen = || ground.device_mac(&device);
                let said = || last_runs_mac(&self.book, facts.own.previous, underlay, family);
                let mac = seen().or_else(said).filter(|mac| mac.is_unicast());
                *known = Some(mac.unwrap_or_else(|| Mac::local(*facts.own.random.get(family))));
            }
        }
    }

    pub(super) fn publish(&self, facts: &Facts<'_>, underlay: &Found) -> LeaseAttrs {
        publish(&facts.conf.backend, &self.cache.keeping.offered, underlay.public, &self.identity(facts))
    }

    fn identity(&self, facts: &Facts<'_>) -> Identity {
        let text = facts.own.printed.map(str::to_owned);
        Identity { vtep_macs: self.remembered.vtep_macs, wireguard: facts.own.keys, text }
    }

    /// Without a lease no host uses the devices.
    pub(super) fn lose_lease(&mut self) {
        self.cache.keeping = Keeping::default();
    }

    /// What to do with the lease `own`.
    pub(super) fn lease(&mut self, facts: &Facts<'_>, underlay: &Arc<Found>, own: Subnets) -> Leased {
        let touched = self.book.judge(facts.conf, &self.own(facts, own));
        self.take_census(&touched);
        self.cache.keeping = self.keep(facts);
        let change = self.render(self.frame(facts, underlay, own), &touched);
        let lost = self.newly_lost(&change.peers);
        let (rejected, warnings) = self.judged(&touched);
        // The previous plan may not have been carried out.
        self.remembered.moved.extend(change.moved);
        let settled = std::mem::take(&mut self.cache.settled);
        let work = Work { judged: touched.judged, rendered: change.rendered, compared: change.compared };
        let scope = self.cache.built.as_ref().map(|built| built.scope().clone()).unwrap_or_default();
        let mtu = facts.conf.backend.pod_mtu(underlay.underlay.mtu);
        Leased {
            scope,
            delta: change.delta.filter(|_| settled),
            moved: self.remembered.moved.iter().cloned().collect(),
            data_path: self.companions(facts).find_map(|companion| data_path(facts, underlay, own, &companion)),
            commands: self.companions(facts).find_map(|companion| match companion {
                Companion::Commands(conf) => Some(conf),
                Companion::DataPath(_) => None,
            }),
            subnet_env: SubnetEnv {
                networks: facts.conf.networks(),
                subnets: own,
                mtu,
                ipmasq: facts.options.rules.masquerade.is_some(),
            },
            peers: change.peers,
            rejected,
            warnings: warnings.into_iter().chain(notes::unreachable(&lost)).collect(),
            keeps: !self.cache.keeping.kept.is_empty(),
            contested: self.cache.contested,
            work,
        }
    }

    fn own(&self, facts: &Facts<'_>, subnets: Subnets) -> peers::Own {
        let macs = self.remembered.vtep_macs;
        let ground = self.cache.ground.as_ref();
        let hosts = ground.map(|ground| ground.hosts.as_slice()).unwrap_or_default();
        peers::Own {
            subnets,
            addresses: ground.map(|ground| ground.addresses.clone()).unwrap_or_default(),
            macs: Family::ALL.into_iter().filter_map(|family| *macs.get(family)).collect(),
            key: facts.own.keys.map(|keys| keys.public),
            endpoints: facts.endpoints.clone(),
            hosts: hosts.iter().chain(facts.services).copied().collect(),
            underlay: ground.map(|ground| ground.prefixes.clone()).unwrap_or_default(),
        }
    }

    fn take_census(&mut self, touched: &Touched) {
        if touched.all {
            self.cache.census = Census::of(self.book.peers());
        }
        for (key, was) in &touched.peers {
            was.iter().for_each(|peer| self.cache.census.remove(peer));
            self.book.peer(key).into_iter().for_each(|peer| self.cache.census.add(peer));
        }
    }

    fn keep(&mut self, facts: &Facts<'_>) -> Keeping {
        self.remembered.keep.follow(&keep::Facts {
            now: facts.now,
            backend: &facts.conf.backend,
            found: self.cache.ground.as_ref().map(|ground| ground.left.as_slice()).unwrap_or_default(),
            census: &self.cache.census,
            complete: facts.complete,
            published: facts.own.published,
            can_rename: facts.options.can_rename,
        })
    }

    fn frame(&self, facts: &Facts<'_>, underlay: &Found, own: Subnets) -> Frame {
        let ground = self.cache.ground.as_ref();
        Frame {
            backend: facts.conf.backend.clone(),
            host: Host {
                networks: facts.conf.network_by_family(),
                own,
                identity: self.identity(facts),
                underlay: underlay.underlay.clone(),
            },
            kept: self.cache.keeping.kept.clone(),
            devices: ground.map(|ground| ground.devices.clone()).unwrap_or_default(),
            owner: ground.map(|ground| ground.owner.clone()).unwrap_or_default(),
            routers: ground.map(|ground| ground.routers.clone()).unwrap_or_default(),
            complete: facts.complete,
            limits: facts.survey.limits,
            blackhole: facts.options.blackhole,
        }
    }

    fn render(&mut self, frame: Frame, touched: &Touched) -> Change {
        let warm = self.cache.built.as_mut().filter(|built| *built.frame() == frame && !touched.all);
        let mut all = match warm.map(|built| built.change(touched, &self.book)) {
            Some(Ok(change)) => return change,
            Some(Err(moved)) => moved,
            None => Vec::new(),
        };
        let (built, change) = Built::new(frame, &self.book);
        let before = self.cache.built.replace(built);
        all.extend(before.zip(self.desired()).map(|(before, now)| moved(before.state(), now)).unwrap_or_default());
        Change { moved: all, ..change }
    }

    /// The peers that packets may not reach, if they were reached before or are new.
    fn newly_lost(&mut self, changes: &PeerChanges) -> Vec<super::PeerView> {
        let lost = &mut self.cache.lost;
        let before = if changes.whole { std::mem::take(lost) } else { BTreeSet::new() };
        for subnet in &changes.gone {
            lost.remove(subnet);
        }
        let mut new = Vec::new();
        for peer in &changes.put {
            if !notes::is_lost(peer) {
                lost.remove(&peer.subnet);
            } else if lost.insert(peer.subnet) && !before.contains(&peer.subnet) {
                new.push(*peer);
            }
        }
        new
    }

    /// The rejected leases, if they have changed, and those that are new.
    fn judged(&mut self, touched: &Touched) -> (Option<Vec<peers::Rejected>>, Vec<String>) {
        if !touched.rejected && touched.peers.is_empty() {
            return (None, Vec::new());
        }
        let rejected: Vec<peers::Rejected> = self.book.rejected().collect();
        self.cache.contested = rejected.iter().any(|rejected| matches!(rejected.reason, Reason::SameKey { .. }));
        let warnings = self.cache.said.news(notes::of_leases(&rejected, &self.book));
        (touched.rejected.then_some(rejected), warnings)
    }

    fn companions<'a>(&'a self, facts: &'a Facts<'_>) -> impl Iterator<Item = Companion> + 'a {
        let kept = self.cache.keeping.kept.iter().map(|kept| &kept.backend);
        std::iter::once(&facts.conf.backend).chain(kept).filter_map(Backend::companion)
    }
}

impl Ground {
    fn new(facts: &Facts<'_>, networks: Vec<IpNetwork>, missing: Vec<UnderlayError>, dev: &IfName) -> Self {
        let survey = facts.survey;
        let mut owner = Owner::new(facts.conf.networks(), networks.clone());
        let tunnels = survey.links.iter().filter(|seen| seen.link.kind.is_tunnel());
        let devices = owner.survey(tunnels.map(|seen| (&seen.name, &seen.link, addresses(survey, &seen.name))));
        let ours = survey.links.iter().filter(|seen| devices.contains(&seen.name));
        let gateways = peers::gateways(&survey.routes, dev).into_iter();
        Self {
            survey: survey.clone(),
            conf: facts.conf.clone(),
            networks,
            owner,
            missing,
            addresses: Arc::new(survey.addresses.iter().map(|seen| seen.key.net.ip()).collect()),
            prefixes: addresses(survey, dev).into_iter().map(masked).collect(),
            hosts: gateways.chain(survey.dns_servers.iter().copied()).collect(),
            left: ours.filter_map(|seen| backend::left(&seen.name, &seen.link)).collect(),
            routers: routers(survey),
            devices,
        }
    }

    /// The MAC of a tunnel's device that is no other network's, whoever made it.
    fn device_mac(&self, name: &IfName) -> Option<Mac> {
        let device = self.survey.links.iter().find(|seen| seen.name == *name)?;
        let tunnel = device.link.kind.is_tunnel() && !self.owner.others().contains_key(name);
        tunnel.then_some(device.link.mac)?
    }
}

fn addresses(survey: &Survey, dev: &IfName) -> Vec<IpNetwork> {
    survey.addresses.iter().filter(|seen| seen.key.dev == *dev).map(|seen| seen.key.net).collect()
}

/// The links with an IPv6 default route from a router.
fn routers(survey: &Survey) -> Vec<IfName> {
    let by_router = |dev: &IfName| {
        survey.routes.iter().any(|(key, route)| {
            key.dst.prefix() == 0 && route.dev.as_ref() == Some(dev) && route.protocol == RouteProtocol::ROUTER
        })
    };
    let takes = |link: &&SeenLink| link.ipv6.is_some_and(|ipv6| ipv6.accept_ra != 0) && by_router(&link.name);
    survey.links.iter().filter(takes).map(|link| link.name.clone()).collect()
}

/// The MAC address in the lease of the last run. Since another host may have taken the lease, its addresses must be
/// this host's.
fn last_runs_mac(book: &Book, previous: Subnets, underlay: &Found, family: Family) -> Option<Mac> {
    let attrs = &book.lease(&previous)?.attrs;
    let same = |family: Family| match (attrs.public(family), *underlay.public.get(family)) {
        (Some(theirs), Some(ours)) => Some(theirs == ours),
        _ => None,
    };
    let same: Vec<bool> = Family::ALL.into_iter().filter_map(same).collect();
    let ours = !same.is_empty() && same.into_iter().all(|same| same);
    attrs.vtep(family).filter(|_| ours).map(|vtep| vtep.vtep_mac)
}

fn data_path(facts: &Facts<'_>, underlay: &Found, own: Subnets, companion: &Companion) -> Option<DataPath> {
    let Companion::DataPath(conf) = companion else { return None };
    let (Some(IpNetwork::V4(network)), Some(IpAddr::V4(local))) =
        (facts.conf.network_by_family().v4, underlay.underlay.addresses.v4)
    else {
        return None;
    };
    Some(DataPath { conf: *conf, network, own: own.v4?, local })
}
