//! The wiring of hosts, and the kernel objects in each namespace. Pure.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnetwork::IpNetwork;
use kernel::state::{Bridge, Link, LinkKind, Route, RouteKey, State, Veth, VethPeer};
use kernel::types::{Family, IfName, InvalidValue};

/// The largest host number. Addresses end in 10 plus the number.
pub const MAX_HOSTS: usize = 200;

/// Hosts, numbered from 1, on segments. A router joins the segments if there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The hosts of each segment.
    pub segments: Vec<Vec<usize>>,
}

/// One namespace of a topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The bridge of a segment; segments are numbered from 1.
    Switch(usize),
    /// The router that joins the segments.
    Router,
    /// A host, numbered from 1.
    Host(usize),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Switch(segment) => write!(f, "switch{segment}"),
            Self::Router => f.write_str("router"),
            Self::Host(host) => write!(f, "host{host}"),
        }
    }
}

impl Topology {
    /// `hosts` hosts on one segment.
    pub fn flat(hosts: usize) -> Self {
        Self { segments: vec![(1..=hosts).collect()] }
    }

    /// Every third host behind the router, the others together on one segment.
    pub fn every_third_routed(hosts: usize) -> Self {
        let (routed, near): (Vec<_>, Vec<_>) = (1..=hosts).partition(|host| host % 3 == 0);
        Self { segments: [near, routed].into_iter().filter(|segment| !segment.is_empty()).collect() }
    }

    /// All hosts in ascending order.
    pub fn hosts(&self) -> Vec<usize> {
        let mut all: Vec<_> = self.segments.iter().flatten().copied().collect();
        all.sort_unstable();
        all
    }

    /// All namespaces in the order in which they must be created: a switch is wired to the later ones.
    pub fn nodes(&self) -> Vec<Node> {
        let switches = (1..=self.segments.len()).map(Node::Switch);
        let router = self.has_router().then_some(Node::Router);
        switches.chain(router).chain(self.hosts().into_iter().map(Node::Host)).collect()
    }

    /// The segment of `host`, numbered from 1.
    pub fn segment_of(&self, host: usize) -> Option<usize> {
        self.segments.iter().position(|segment| segment.contains(&host)).map(|index| index + 1)
    }

    /// Whether the two hosts are on one segment.
    pub fn on_one_segment(&self, a: usize, b: usize) -> bool {
        self.segment_of(a) == self.segment_of(b)
    }

    /// The underlay address of `host`.
    pub fn underlay(&self, host: usize, family: Family) -> Option<IpAddr> {
        self.segment_of(host).map(|segment| station(segment, 10 + host, family).ip())
    }

    /// The kernel objects of `node`. `netns` returns the open namespace of another node, in which a switch creates the
    /// other ends of its cables.
    pub fn state(&self, node: Node, netns: &dyn Fn(Node) -> RawFd) -> Result<State, InvalidValue> {
        match node {
            Node::Switch(segment) => self.switch(segment, netns),
            Node::Router => self.router(),
            Node::Host(host) => self.host(host),
        }
    }

    fn has_router(&self) -> bool {
        self.segments.len() > 1
    }

    fn switch(&self, segment: usize, netns: &dyn Fn(Node) -> RawFd) -> Result<State, InvalidValue> {
        let bridge = IfName::new("br0")?;
        let mut state = State::default();
        // a switch has no address, and must not take part in the segment's neighbour discovery
        state.sysctls.insert("net/ipv6/conf/all/disable_ipv6".into(), "1".into());
        state.sysctls.insert("net/ipv6/conf/default/disable_ipv6".into(), "1".into());
        state.links.insert(bridge.clone(), Link::up(LinkKind::Bridge(Bridge::default())));
        for (port, node, end) in self.cables(segment)? {
            let peer = VethPeer { name: end, mac: None, mtu: None, netns: Some(netns(node)) };
            let kind = LinkKind::Veth(Veth { peer: Some(Box::new(peer)) });
            state.links.insert(port, Link { master: Some(Some(bridge.clone())), ..Link::up(kind) });
        }
        Ok(state)
    }

    /// The cables of a switch: the port's name, the node at the other end, and the link's name there.
    fn cables(&self, segment: usize) -> Result<Vec<(IfName, Node, IfName)>, InvalidValue> {
        let mut cables = Vec::new();
        for host in self.segments.get(segment - 1).into_iter().flatten() {
            cables.push((IfName::new(&format!("host{host}"))?, Node::Host(*host), IfName::new("eth0")?));
        }
        if self.has_router() {
            cables.push((IfName::new("router")?, Node::Router, router_link(segment)?));
        }
        Ok(cables)
    }

    fn router(&self) -> Result<State, InvalidValue> {
        let mut state = station_state(&IfName::new("lo")?);
        for segment in 1..=self.segments.len() {
            wire(&mut state, &router_link(segment)?, segment, 1);
        }
        state.sysctls.insert("net/ipv4/ip_forward".into(), "1".into());
        state.sysctls.insert("net/ipv6/conf/all/forwarding".into(), "1".into());
        Ok(state)
    }

    fn host(&self, host: usize) -> Result<State, InvalidValue> {
        let mut state = station_state(&IfName::new("lo")?);
        let eth0 = IfName::new("eth0")?;
        let segment = self.segment_of(host).unwrap_or(1);
        wire(&mut state, &eth0, segment, 10 + host);
        if self.has_router() {
            for family in Family::ALL {
                let via = Some(station(segment, 1, family).ip());
                state.routes.insert(RouteKey::main(family.default_net()), Route { via, ..Route::by(&eth0) });
            }
        }
        Ok(state)
    }
}

fn router_link(segment: usize) -> Result<IfName, InvalidValue> {
    IfName::new(&format!("eth{}", segment - 1))
}

/// 192.168.SEGMENT.NUMBER/24 and fd00:SEGMENT::NUMBER/64.
fn station(segment: usize, number: usize, family: Family) -> IpNetwork {
    // both numbers fit, see `MAX_HOSTS`
    let (segment, number) = (segment as u8, number as u8);
    match family {
        Family::V4 => network(IpAddr::from([192, 168, segment, number]), 24),
        Family::V6 => network(IpAddr::from([0xfd00, segment.into(), 0, 0, 0, 0, 0, number.into()]), 64),
    }
}

#[expect(clippy::expect_used, reason = "both prefix lengths are constants that fit their family")]
fn network(addr: IpAddr, prefix: u8) -> IpNetwork {
    IpNetwork::new(addr, prefix).expect("a constant prefix length")
}

fn station_state(lo: &IfName) -> State {
    let mut state = State::default();
    state.links.insert(lo.clone(), Link::up(LinkKind::Loopback));
    // a new namespace inherits IPv4's settings from the machine (net.core.devconf_inherit_init_net), where a strict
    // reverse path filter would change the results
    for dev in ["all", "default"] {
        state.sysctls.insert(format!("net/ipv4/conf/{dev}/rp_filter"), "0".into());
        state.sysctls.insert(format!("net/ipv6/conf/{dev}/accept_dad"), "0".into());
    }
    state
}

/// A link of a station. It is created with the switch's cable, so only its kind is given here.
fn wire(state: &mut State, link: &IfName, segment: usize, number: usize) {
    state.links.insert(link.clone(), Link::up(LinkKind::Veth(Veth { peer: None })));
    state.conf("ipv4", link, "rp_filter", "0");
    state.conf("ipv6", link, "accept_dad", "0");
    for family in Family::ALL {
        state.address(link, station(segment, number, family), true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_hosts_are_two_and_one() {
        let three = Topology::every_third_routed(3);
        assert_eq!(three.segments, [vec![1, 2], vec![3]]);
        assert!(three.on_one_segment(1, 2) && !three.on_one_segment(1, 3));
        let names: Vec<_> = three.nodes().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["switch1", "switch2", "router", "host1", "host2", "host3"]);
        assert_eq!(three.underlay(3, Family::V4).unwrap().to_string(), "192.168.2.13");
        assert_eq!(three.underlay(3, Family::V6).unwrap().to_string(), "fd00:2::d");
    }

    #[test]
    fn a_flat_world_has_no_router() {
        let flat = Topology::flat(2);
        assert_eq!(flat.nodes(), [Node::Switch(1), Node::Host(1), Node::Host(2)]);
        assert!(flat.state(Node::Host(1), &|_| -1).unwrap().routes.is_empty());
        assert_eq!(Topology::every_third_routed(2), flat);
    }

    #[test]
    fn a_switch_has_a_cable_to_each_of_its_nodes() {
        let three = Topology::every_third_routed(3);
        let fd = |node| if node == Node::Router { 7 } else { 8 };
        let state = three.state(Node::Switch(2), &fd).unwrap();
        let names: Vec<_> = state.links.keys().map(IfName::as_str).collect();
        assert_eq!(names, ["br0", "host3", "router"]);
        let LinkKind::Veth(Veth { peer: Some(peer) }) = &state.links[&IfName::new("router").unwrap()].kind else {
            panic!()
        };
        assert_eq!((peer.name.as_str(), peer.netns), ("eth1", Some(7)));
    }

    #[test]
    fn a_host_goes_by_its_router() {
        let state = Topology::every_third_routed(3).state(Node::Host(3), &|_| -1).unwrap();
        let via: Vec<_> = state.routes.values().map(|route| route.via.unwrap().to_string()).collect();
        assert_eq!(via, ["192.168.2.1", "fd00:2::1"]);
    }
}
