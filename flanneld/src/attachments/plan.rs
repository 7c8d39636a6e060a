//! Derives the desired objects from the records of attachments. Pure.
//!
//! A record describes what ADD made: the pod's port on a bridge, the bridge, packet rules. All of that is desired as
//! long as the record exists. The link to the pod itself is not: only a new ADD can make it, so its absence is
//! reported.

mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use attachment::bandwidth::Bandwidth;
use attachment::record::{HostLink, MADE, Record, SharedLink};
use attachment::rules::Rules;
use ipnetwork::IpNetwork;
use kernel::message::link::SeenLink;
use kernel::message::neighbour::Forwarding;
use kernel::message::route::IPV6_PREFIX_METRIC;
use kernel::nft::TableKey;
use kernel::state::{
    Birth, Bridge, Link, LinkKind, NeighbourKey, Passing, Port, Route, RouteKey, RouteScope, Scope, State, Vlan,
    VlanKey,
};
use kernel::types::{IfName, Mac, Mtu, RouteProtocol, VlanId, host_net, masked};
use overlay::lease::Subnets;
use overlay::ways;
use tokio::time::Instant;

pub(super) use self::made::limits;
use self::made::{by_programs, chained, rules};
use super::programs::ByProgram;
use super::records::{Name, Records, arp_ignore};
use crate::events::facts::Fixed;
use crate::repairs::Repairs;

/// The desired state of one link, and of the objects on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object {
    /// The objects.
    pub state: State,
    /// Which of the kernel's objects to compare with them.
    pub scope: Scope,
    /// The attachments that need it. During a repair one of them must not be in use.
    pub owners: Vec<Name>,
}

/// The packet rules of one attachment in one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruled {
    /// The attachment.
    pub owner: Name,
    /// The rules.
    pub rules: Rules,
    /// The chained plugin that made them; `None`: the plugin with the interface.
    pub chained: Option<&'static str>,
}

/// A problem that this controller cannot or must not repair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// The link to a pod is gone.
    Gone(Name, String),
    /// A bridge that no plugin made is missing.
    NoBridge(String),
    /// A bridge may drop what it sends.
    Queue(String),
    /// The host does not answer pods that ask for their gateway.
    Deaf(String),
    /// A permanent neighbour of a pod's address has another MAC than the pod.
    Neighbour {
        /// The attachment.
        owner: Name,
        /// The neighbour.
        key: NeighbourKey,
        /// Its MAC.
        mac: Mac,
    },
    /// A bridge sends the frames for a pod elsewhere, whatever it learns.
    Forwarding {
        /// The attachment.
        owner: Name,
        /// The bridge.
        bridge: IfName,
        /// Its entry.
        entry: Forwarding,
    },
    /// Another program keeps changing the object, so repairs of it pause.
    Rests(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(name, link) => {
                write!(f, "{link}, which leads to the pod of {name}, is gone: recreate the pod")
            }
            Self::NoBridge(link) => write!(f, "{link}, which pods are attached to, is gone, and no plugin made it"),
            Self::Queue(text) => f.write_str(text),
            Self::Deaf(value) => write!(
                f,
                "net.ipv4.conf.all.arp_ignore is {value}: the host does not answer pods that ask for their gateway; \
                 `sysctl -w net.ipv4.conf.all.arp_ignore=0` (or 1, or 2)"
            ),
            Self::Neighbour { owner, key: NeighbourKey { dev, addr }, mac } => write!(
                f,
                "{dev} has the permanent neighbour {addr} with {mac}, which is not the MAC of the pod of {owner}: \
                 ip neigh del {addr} dev {dev}"
            ),
            Self::Forwarding { owner, bridge, entry: Forwarding { port, mac } } => {
                let table = if port == bridge { "self local" } else { "master" };
                write!(
                    f,
                    "{bridge} sends the frames for the pod of {owner} to {port}: bridge fdb del {mac} dev {port} {table}"
                )
            }
            Self::Rests(object) => {
                write!(f, "{object} was repaired five times within a minute: another program keeps changing it")
            }
        }
    }
}

/// The objects to check, and the problems that are known without a check.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Links that attachments share. They come first, because a port needs its bridge.
    pub shared: BTreeMap<IfName, Object>,
    /// The ports of pods.
    pub ports: BTreeMap<IfName, Object>,
    /// The host's ends of pods without a bridge, each with its addresses and the routes by it.
    pub ends: BTreeMap<IfName, Object>,
    /// The limits of pods' rates, by the host's link that leads to the pod.
    pub limits: BTreeMap<IfName, Object>,
    /// Packet rules.
    pub rules: Vec<Ruled>,
    /// What other programs keep.
    pub programs: Vec<ByProgram>,
    /// The problems.
    pub findings: BTreeSet<Finding>,
    /// The number of attachments.
    pub count: usize,
    /// The exempted attachments.
    pub exempted: Vec<Name>,
    /// When repairs of a paused object resume.
    pub look_again: Option<Instant>,
}

/// The facts that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The records.
    pub records: &'a Records,
    /// The host's links, by name.
    pub links: &'a BTreeMap<IfName, SeenLink>,
    /// The settings of [`Records::silent_settings`].
    pub arp: &'a BTreeMap<String, String>,
    /// Permanent neighbours and static forwarding entries on the way to pods.
    pub fixed: &'a Fixed,
    /// This host's subnets. Attachments with addresses elsewhere do not belong to this daemon.
    pub subnets: Subnets,
    /// The current time.
    pub now: Instant,
}

impl Facts<'_> {
    /// What sends the packets for a pod elsewhere, and is not ours to change.
    fn misled(&self, owner: &Name, end: &HostLink, record: &Record) -> Vec<Finding> {
        let pod = || record.pod.as_ref();
        let Some(own) = pod().and_then(|pod| pod.mac.parse::<Mac>().ok()) else { return Vec::new() };
        let Some(bridge) = end.master.as_ref().and_then(|master| IfName::new(master).ok()) else { return Vec::new() };
        let nets = pod().into_iter().flat_map(|pod| &pod.addresses).filter_map(|text| text.parse().ok());
        let neighbours = nets.filter_map(|net: IpNetwork| {
            let key = NeighbourKey { dev: bridge.clone(), addr: net.ip() };
            let mac = *self.fixed.neighbours.get(&key).filter(|mac| **mac != own)?;
            Some(Finding::Neighbour { owner: owner.clone(), key, mac })
        });
        let elsewhere = |entry: &&Forwarding| entry.mac == own && entry.port.as_str() != end.name;
        let forwarding = self.fixed.forwarding.iter().filter(elsewhere).cloned();
        let forwarding =
            forwarding.map(|entry| Finding::Forwarding { owner: owner.clone(), bridge: bridge.clone(), entry });
        neighbours.chain(forwarding).collect()
    }

    /// The host's end of a pair, if the link of this name still is it: `end` is what the record says of it.
    fn end_of_pair(&self, dev: &IfName, end: Option<&HostLink>) -> Option<&SeenLink> {
        let seen = self.links.get(dev).filter(|seen| matches!(seen.link.kind, LinkKind::Veth(_)))?;
        let is_same = |end: &HostLink| {
            seen.index.0 == end.index || seen.link.mac.is_some() && seen.link.mac == end.mac.parse().ok()
        };
        end.is_none_or(is_same).then_some(seen)
    }

    /// The link's `arp_ignore` when a pod gets no answer about its gateway's address, which is one of the link's own and of the
    /// pod's subnet: 1 and 2 answer for such (arp_ignore, net/ipv4/arp.c).
    fn refuses_arp(&self, link: &str) -> Option<String> {
        let value = self.arp.get(&arp_ignore(link))?;
        value.parse::<u8>().is_ok_and(|value| value > 2).then(|| value.clone())
    }
}

/// Recent repairs by object: a link's name, `limits of LINK`, or `rules of NETWORK/ID@IF in table TABLE`.
pub type History = BTreeMap<String, Repairs>;

impl Ruled {
    /// The name of the rules in a report.
    pub fn label(&self) -> String {
        format!("rules of {} in table {}", self.owner, self.rules.table)
    }
}

impl Plan {
    /// The tables of the packet rules.
    pub fn tables(&self) -> BTreeSet<TableKey> {
        self.rules.iter().map(|ruled| ruled.rules.table.clone()).collect()
    }

    /// The desired state of all links, to compare announcements with.
    pub fn links(&self) -> Object {
        let objects = [&self.shared, &self.ports, &self.ends, &self.limits];
        let mut all = Object::merge(objects.into_iter().flat_map(BTreeMap::values));
        // an address that another program added to a bridge is no reason for a check
        all.scope.addresses.clear();
        all
    }
}

impl Object {
    /// The route to the prefix of an address, as the kernel adds it with the address, and only then: without it nothing comes
    /// to the pods.
    fn add_route(&mut self, dev: &IfName, net: IpNetwork) {
        let dst = masked(net);
        if dst == host_net(net.ip()) {
            return;
        }
        let (src, metric) = match net.ip() {
            IpAddr::V4(_) => (Some(net.ip()), None),
            IpAddr::V6(_) => (None, Some(IPV6_PREFIX_METRIC)),
        };
        let route = Route { src, protocol: RouteProtocol::KERNEL, ..Route::by(dev) };
        self.state.routes.insert(RouteKey { metric, ..RouteKey::main(dst) }, route);
        // no more of the table is read than that: there may be thousands of routes to peers
        let kernels = RouteScope { protocol: Some(RouteProtocol::KERNEL), ..RouteScope::default() };
        self.scope.routes = Some(kernels);
    }

    /// Merges several objects into one.
    pub fn merge<'a>(objects: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for object in objects {
            all.state.extend(object.state.clone());
            let Scope { links, read_links, addresses, local, vlans, queues, sysctls, routes, keep, .. } = &object.scope;
            all.scope.links.extend(links.iter().cloned());
            all.scope.read_links.extend(read_links.iter().cloned());
            all.scope.addresses.extend(addresses.iter().cloned());
            all.scope.local.extend(local.iter().cloned());
            all.scope.vlans.extend(vlans.iter().cloned());
            all.scope.queues.extend(queues.iter().cloned());
            all.scope.sysctls.extend(sysctls.iter().cloned());
            all.scope.keep |= keep;
            match (&mut all.scope.routes, routes) {
                (Some(all), Some(more)) if all.protocol == more.protocol => all.within.extend(&more.within),
                (none @ None, Some(first)) => *none = Some(first.clone()),
                // Only announcements are compared with both, and for them desired routes suffice.
                _ => {}
            }
        }
        all
    }
}

/// Makes the plan. `history` knows which objects were repaired too often.
pub fn plan(facts: &Facts<'_>, history: &mut History) -> Plan {
    let mut plan = Plan::default();
    let mut bridges: BTreeMap<IfName, Shared<'_>> = BTreeMap::new();
    for (name, record) in facts.records.committed().filter(|(_, record)| is_here(record, facts.subnets)) {
        if facts.records.is_exempted(name) {
            plan.exempted.push(name.clone());
            continue;
        }
        plan.count += 1;
        for link in record.shared.iter().filter(|_| record.committed) {
            if let Ok(dev) = IfName::new(&link.name) {
                bridges.entry(dev).or_default().add(name, link);
            }
        }
        plan.rules.extend(rules(name, record));
        plan.rules.extend(chained(name, record));
        plan.programs.extend(by_programs(name, record));
    }
    for (dev, shared) in bridges {
        plan.add_shared(facts, dev, &shared);
    }
    for (name, record) in facts.records.committed().filter(|(_, record)| is_here(record, facts.subnets)) {
        if let (Some(end), true, false) = (&record.host, record.committed, facts.records.is_exempted(name)) {
            plan.add_host_link(facts, name, (end, &record.shared));
            plan.findings.extend(facts.misled(name, end, record));
        }
        if let (Some(bandwidth), false) = (limits(record), facts.records.is_exempted(name)) {
            plan.add_limits(facts, name, (record.host.as_ref(), bandwidth));
        }
    }
    plan.leave_resting(facts.now, history);
    plan
}

/// Whether the attachment's addresses are in this host's subnets.
fn is_here(record: &Record, subnets: Subnets) -> bool {
    let of_pod = record.pod.iter().flat_map(|pod| &pod.addresses).filter_map(|text| text.parse::<IpNetwork>().ok());
    let mut all: Vec<IpNetwork> = of_pod.collect();
    if all.is_empty() {
        // the plugin with the interface is another suite's
        all = record.sections.iter().flat_map(|kept| kept.section.addresses()).collect();
    }
    let inside = |net: &IpNetwork| subnets.iter().any(|subnet| subnet.contains(net.ip()));
    !all.is_empty() && all.iter().all(inside)
}

/// What the records say about one shared link.
#[derive(Default)]
struct Shared<'a> {
    owners: Vec<Name>,
    links: Vec<&'a SharedLink>,
}

impl<'a> Shared<'a> {
    fn add(&mut self, owner: &Name, link: &'a SharedLink) {
        self.owners.push(owner.clone());
        self.links.push(link);
    }

    fn is_bridge(&self) -> bool {
        self.links.iter().any(|link| link.kind == "bridge")
    }

    /// Whether a plugin made it.
    fn is_made(&self) -> bool {
        self.links.iter().any(|link| link.made)
    }

    /// The MAC address that all records agree on. If they differ, another program changed it while nobody repaired
    /// it.
    fn mac(&self) -> Option<Mac> {
        let macs: BTreeSet<&str> =
            self.links.iter().map(|link| link.mac.as_str()).filter(|mac| !mac.is_empty()).collect();
        let mut macs = macs.into_iter();
        macs.next().filter(|_| macs.next().is_none())?.parse().ok()
    }

    fn addresses(&self) -> BTreeSet<IpNetwork> {
        self.links.iter().flat_map(|link| &link.addresses).filter_map(|net| net.parse().ok()).collect()
    }

    /// A new bridge, as a plugin makes it.
    fn new_bridge(&self) -> Link {
        let mtu = self.links.iter().map(|link| link.mtu).max().filter(|mtu| *mtu > 0);
        let vlan_filtering = self.links.iter().any(|link| link.vlan_filtering);
        Link {
            mac: self.mac(),
            mtu: mtu.map(Mtu),
            alias: Some(MADE.to_owned()),
            promisc: self.promisc(),
            ..Link::up(LinkKind::Bridge(Bridge { vlan_filtering, ..Bridge::default() }))
        }
    }

    /// The existing bridge with the settings that a plugin needs; other settings stay.
    fn changed_bridge(&self, seen: &SeenLink) -> Link {
        let is_set = matches!(&seen.link.kind, LinkKind::Bridge(bridge) if bridge.vlan_filtering);
        let wanted = self.links.iter().any(|link| link.vlan_filtering);
        let kind = LinkKind::Bridge(Bridge { vlan_filtering: is_set || wanted, stp: Some(false) });
        Link {
            mac: self.mac(),
            promisc: self.promisc(),
            alias: Some(MADE.to_owned()),
            arp: Some(true),
            multicast: Some(true),
            protodown: Some(false),
            ..Link::up(kind)
        }
    }

    /// The bridge that a plugin made, when somebody has renamed it: it has the plugin's mark and the MAC of the records.
    fn under_another_name<'l>(&self, links: &'l BTreeMap<IfName, SeenLink>) -> Option<&'l SeenLink> {
        let mac = self.mac().filter(|_| self.is_bridge() && self.is_made())?;
        links.values().find(|seen| {
            let link = &seen.link;
            matches!(link.kind, LinkKind::Bridge(_)) && link.alias.as_deref() == Some(MADE) && link.mac == Some(mac)
        })
    }

    fn promisc(&self) -> Option<bool> {
        self.links.iter().any(|link| link.promisc).then_some(true)
    }
}

impl Plan {
    fn add_shared(&mut self, facts: &Facts<'_>, dev: IfName, shared: &Shared<'_>) {
        let (bridge, made) = (shared.is_bridge(), shared.is_made());
        let there = facts.links.get(&dev);
        let renamed = there.is_none().then(|| shared.under_another_name(facts.links)).flatten();
        let seen = there.or(renamed);
        if seen.is_none() && !(bridge && made) {
            self.findings.insert(Finding::NoBridge(dev.to_string()));
            return;
        }
        self.findings.extend(seen.and_then(ways::queue).map(Finding::Queue));
        let mut object = Object { owners: shared.owners.clone(), ..Object::default() };
        if bridge && made {
            let link = seen.map_or_else(|| shared.new_bridge(), |seen| shared.changed_bridge(seen));
            let was = renamed.map(|seen| seen.name.clone());
            if let Some(was) = &was {
                // nothing is deleted: the scope is kept
                object.scope.links.extend([was.clone(), dev.clone()]);
            }
            object.state.links.insert(dev.clone(), Link { was, ..link });
            object.scope.read_links.push(dev.clone());
            // A link without IPv6 does not have this setting.
            if seen.is_none_or(|seen| seen.ipv6.is_some()) {
                object.state.conf("ipv6", &dev, "accept_ra", "0");
            }
        }
        for net in shared.addresses() {
            object.state.address(&dev, net, true);
            object.add_route(&dev, net);
            if net.is_ipv6() {
                object.state.conf("ipv6", &dev, "disable_ipv6", "0");
            }
            // The host must forward what pods send to their gateway.
            if net.is_ipv4() {
                object.state.conf("ipv4", &dev, "forwarding", "1");
                if facts.refuses_arp(dev.as_str()).is_some() {
                    object.state.conf("ipv4", &dev, "arp_ignore", "0");
                }
                self.findings.extend(facts.refuses_arp("all").map(Finding::Deaf));
            }
        }
        object.scope.sysctls.extend(object.state.sysctls.keys().cloned());
        // Other addresses on the bridge stay.
        (object.scope.addresses, object.scope.keep) = (vec![dev.clone()], true);
        object.scope.local.push(dev.clone());
        self.shared.insert(dev, object);
    }

    /// Adds the host's link of an attachment, if it still exists.
    fn add_host_link(&mut self, facts: &Facts<'_>, owner: &Name, (end, shared): (&HostLink, &[SharedLink])) {
        let (Ok(dev), Ok(mac)) = (IfName::new(&end.name), end.mac.parse::<Mac>()) else { return };
        let master = end.master.as_ref().and_then(|master| IfName::new(master).ok());
        if master.is_none() && end.routes.is_empty() {
            return;
        }
        let Some(seen) = facts.end_of_pair(&dev, Some(end)) else {
            self.findings.insert(Finding::Gone(owner.clone(), end.name.clone()));
            return;
        };
        let mut object = Object { owners: vec![owner.clone()], ..Object::default() };
        // Only ADD creates it, with the other end in the pod.
        let birth = Birth::Moved(dev.clone());
        let link = Link {
            birth,
            mac: Some(mac),
            master: Some(master.clone()),
            protodown: Some(false),
            // the pod's end was made with the same, and sends as much
            mtu: shared
                .iter()
                .find(|link| end.master.as_deref() == Some(&link.name))
                .map(|link| Mtu(link.mtu))
                .filter(|mtu| mtu.0 > 0),
            ..Link::up(seen.link.kind.clone())
        };
        object.state.links.insert(dev.clone(), link);
        object.scope.read_links.push(dev.clone());
        // as at ADD: the kernel forgets it while the MTU is too small for IPv6
        if seen.ipv6.is_some() {
            object.state.conf("ipv6", &dev, "accept_ra", "0");
        }
        match master {
            Some(bridge) => self.add_port(facts, (dev, bridge), end, object),
            None => drop(self.ends.insert(dev.clone(), pair(dev, end, object))),
        }
    }

    /// Adds the limits of an attachment's rate, if its link still exists.
    fn add_limits(&mut self, facts: &Facts<'_>, owner: &Name, (end, bandwidth): (Option<&HostLink>, &Bandwidth)) {
        let Ok(dev) = IfName::new(&bandwidth.link) else { return };
        if facts.end_of_pair(&dev, end.filter(|end| end.name == bandwidth.link)).is_none() {
            self.findings.insert(Finding::Gone(owner.clone(), bandwidth.link.clone()));
            return;
        }
        let (state, scope) = bandwidth.host();
        self.limits.insert(dev, Object { state, scope, owners: vec![owner.clone()] });
    }

    fn add_port(&mut self, facts: &Facts<'_>, (dev, bridge): (IfName, IfName), end: &HostLink, mut object: Object) {
        if !facts.links.contains_key(&bridge) && !self.shared.contains_key(&bridge) {
            self.findings.insert(Finding::NoBridge(bridge.to_string()));
            return;
        }
        // spanning tree keeps a port from forwarding for a while, and is another's where no plugin made the bridge
        let spans = |seen: &SeenLink| matches!(&seen.link.kind, LinkKind::Bridge(Bridge { stp: Some(true), .. }));
        let made = self.shared.get(&bridge).is_some_and(|object| object.state.links.contains_key(&bridge));
        let waits = facts.links.get(&bridge).is_some_and(spans) && !made;
        let passing = (!waits).then(Passing::default);
        object.state.ports.insert(dev.clone(), Port { hairpin: end.hairpin, isolated: end.isolated, passing });
        for vlan in &end.vlans {
            if let Ok(id) = VlanId::new(vlan.id) {
                let carried = Vlan { pvid: vlan.pvid, untagged: vlan.untagged };
                object.state.vlans.insert(VlanKey { dev: dev.clone(), id }, carried);
            }
        }
        object.scope.sysctls.extend(object.state.sysctls.keys().cloned());
        if end.only_vlans {
            object.scope.vlans.push(dev.clone());
        }
        self.ports.insert(dev, object);
    }

    /// Removes the objects that were repaired too often, and reports them.
    fn leave_resting(&mut self, now: Instant, history: &mut History) {
        let mut rests = BTreeMap::new();
        history.retain(|object, repairs| {
            let allowed = repairs.allowed(now);
            if allowed > now {
                rests.insert(object.clone(), allowed);
            }
            !repairs.is_empty()
        });
        let awake = |label: &str| !rests.contains_key(label);
        self.shared.retain(|dev, _| awake(dev.as_str()));
        self.ports.retain(|dev, _| awake(dev.as_str()));
        self.ends.retain(|dev, _| awake(dev.as_str()));
        self.limits.retain(|dev, _| awake(&limits_of(dev)));
        self.rules.retain(|ruled| awake(&ruled.label()));
        self.programs.retain(|one| awake(&one.label()));
        self.look_again = rests.values().min().copied();
        self.findings.extend(rests.into_keys().map(Finding::Rests));
    }
}

/// The name of limits in a report.
pub(super) fn limits_of(dev: &IfName) -> String {
    format!("limits of {dev}")
}

/// RT_SCOPE_HOST, linux/rtnetlink.h
const HOST: u8 = 254;

/// The host's end of a pair without a bridge: the gateways' addresses, and a route to each of the pod's addresses.
fn pair(dev: IfName, end: &HostLink, mut object: Object) -> Object {
    let Object { state, scope, .. } = &mut object;
    end.addresses.iter().for_each(|net| state.address(&dev, *net, true));
    for dst in &end.routes {
        let route = Route { scope: dst.is_ipv4().then_some(HOST), ..Route::by(&dev) };
        state.routes.insert(RouteKey::main(*dst), route);
    }
    if end.routes.iter().any(|net| net.is_ipv4()) {
        state.conf("ipv4", &dev, "forwarding", "1");
    }
    scope.sysctls.extend(state.sysctls.keys().cloned());
    scope.routes =
        Some(RouteScope { protocol: Some(RouteProtocol::BOOT), within: end.routes.clone(), ..RouteScope::default() });
    // Other addresses and routes stay.
    (scope.addresses, scope.keep) = (vec![dev], true);
    object
}

#[cfg(test)]
mod tests;
