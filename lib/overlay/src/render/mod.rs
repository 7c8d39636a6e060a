//! Turns a host and its peers into the desired kernel state: devices once, then peer by peer.
//!
//! Each peer's objects depend only on the host and on that peer, so they can be rendered separately.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tunnel_tests;

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use kernel::state::{Route, RouteKey, Scope, State};
use kernel::types::{Family, IfName, Mtu, RouteProtocol};

use crate::backend::{Backend, End, Host, Role};
use crate::net::{ByFamily, number};
use crate::ownership::{self, Gateways, Owner};
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Reach, Why, decide};

/// The desired kernel state, and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The objects.
    pub state: State,
    /// Which of the kernel's objects to compare with them.
    pub scope: Scope,
    /// How to reach each family of each peer, in the order of the peers. Empty for alloc, which carries no packets.
    pub paths: Vec<PeerPath>,
    /// FLANNEL_MTU: the MTU of a pod's interface.
    pub mtu: Mtu,
}

/// How one family of a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPath {
    /// The peer's key.
    pub peer: String,
    /// The family.
    pub family: Family,
    /// The way to it.
    pub reach: Reach,
    /// The reason for this way.
    pub reason: Why,
}

/// A previous backend whose devices stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The backend.
    pub backend: Backend,
    /// Whether its devices are preferred when both they and those of the current backend reach a peer.
    pub leads: bool,
}

/// Which of the kernel's objects are ours besides the desired ones.
#[derive(Debug, Clone, Copy)]
pub struct Ours<'a> {
    /// The tunnel devices that belong to this network. Those that are not desired are deleted.
    pub devices: &'a [IfName],
    /// Which networks are ours.
    pub owner: &'a Owner,
    /// Whether all peers are known. If not, nothing is deleted.
    pub complete: bool,
}

/// Renders a host's devices and peers.
#[derive(Debug)]
pub struct Renderer {
    backend: Backend,
    mode: Option<Mode>,
    networks: ByFamily<Option<IpNetwork>>,
    underlay: IfName,
    connected: Vec<IpNetwork>,
    /// In the order in which they are tried.
    ends: Vec<Tried>,
    /// All names that devices of `ends` can have.
    names: Vec<IfName>,
    /// Devices that are only kept, and so not compared.
    untouched: Vec<IfName>,
    mtu: Mtu,
}

/// One end of a tunnel on this host.
#[derive(Debug)]
struct Tried {
    current: bool,
    end: Box<dyn End>,
}

impl Renderer {
    /// A host that runs `backend` and still has the devices of the `kept` ones, newest first.
    pub fn new(host: &Host, backend: &Backend, kept: &[Kept]) -> Self {
        let mut renderer = Self {
            backend: backend.clone(),
            mode: backend.mode(),
            networks: host.networks,
            underlay: host.underlay.dev.clone(),
            connected: host.underlay.connected.clone(),
            ends: Vec::new(),
            names: Vec::new(),
            untouched: Vec::new(),
            mtu: backend.pod_mtu(host.underlay.mtu),
        };
        for kept in kept.iter().filter(|kept| kept.leads) {
            renderer.add(host, &kept.backend, backend);
        }
        renderer.add(host, backend, backend);
        for kept in kept.iter().filter(|kept| !kept.leads) {
            renderer.add(host, &kept.backend, backend);
        }
        renderer
    }

    fn add(&mut self, host: &Host, backend: &Backend, current: &Backend) {
        let role = match () {
            () if backend == current => Role::Current,
            () if backend.has_names_of(current) => Role::Renamed,
            () => Role::Kept,
        };
        let conf = backend.conf();
        let names = conf.names(role);
        if role != Role::Current && conf.stays_as_it_is() {
            self.untouched.extend(names);
        } else {
            self.names.extend(names);
        }
        self.ends.extend(conf.end(host, role).map(|end| Tried { current: role == Role::Current, end }));
    }

    /// FLANNEL_MTU: the MTU of a pod's interface.
    pub fn mtu(&self) -> Mtu {
        self.mtu
    }

    /// Writes the devices.
    pub fn write_devices(&self, state: &mut State) {
        // Those of the current backend come last: if two write the same object, the last one wins.
        let (current, kept): (Vec<&Tried>, Vec<&Tried>) = self.ends.iter().partition(|tried| tried.current);
        kept.into_iter().chain(current).for_each(|tried| tried.end.write(state));
    }

    /// Writes the objects that carry packets to a peer, and returns how each of its families is reached. `spread`:
    /// see [`MANY`].
    pub fn write_peer(
        &self,
        peer: &Peer,
        spread: bool,
        state: &mut State,
        mut reached: impl FnMut(&Half, (Reach, Why)),
    ) {
        let on = Family::ALL.into_iter().filter(|family| self.networks.get(*family).is_some());
        for half in on.filter_map(|family| peer.half(family)) {
            let way = match self.mode {
                Some(mode) => Some(self.write_half(mode, peer, &half, state)),
                None => self.backend.left_to_others(peer),
            };
            if spread && let Some(route) = state.routes.get_mut(&RouteKey::main(half.subnet)) {
                spread_route(half.subnet, route);
            }
            way.into_iter().for_each(|way| reached(&half, way));
        }
    }

    fn write_half(&self, mode: Mode, peer: &Peer, half: &Half, state: &mut State) -> (Reach, Why) {
        let on_link = self.connected.iter().any(|net| net.contains(half.public));
        let (end, why) = self.choose(mode, peer, half, on_link);
        let tunnel = end.map(|tried| tried.end.tunnel()).ok_or_else(|| why.unwrap_or(no_end(half)));
        let (reach, reason) = decide(mode, on_link, tunnel);
        match (reach, end) {
            (Reach::Through(tunnel), Some(tried)) => {
                tried.end.write_peer(peer, half, state);
                (reach, if tried.current { why.unwrap_or(reason) } else { Why::Kept(tunnel) })
            }
            (Reach::Direct, _) => {
                let route = Route { via: Some(half.public), ..flannel_route(&self.underlay) };
                state.routes.insert(RouteKey::main(half.subnet), route);
                (reach, reason)
            }
            _ => (reach, reason),
        }
    }

    /// The first end that reaches the peer. If there is none, the reason why the first does not; if it is the last
    /// resort, the reason for that.
    fn choose(&self, mode: Mode, peer: &Peer, half: &Half, on_link: bool) -> (Option<&Tried>, Option<Why>) {
        let mut why = None;
        // Packets that must be encrypted use no other end.
        let tried = || self.ends.iter().filter(|tried| tried.current || mode != Mode::Encrypted);
        for tried in tried() {
            match tried.end.reaches(peer, half) {
                Ok(()) => return (Some(tried), None),
                Err(error) => why = why.filter(|_| !tried.current).or(Some(error)),
            }
        }
        let last = tried().filter(|tried| tried.current);
        let last = last.filter_map(|tried| Some((tried, tried.end.last_resort(peer, half, on_link)?))).next();
        last.map_or((None, why), |(tried, why)| (Some(tried), Some(why)))
    }

    /// The complete desired state.
    pub fn desired<'a>(
        &self,
        peers: impl IntoIterator<Item = &'a Peer, IntoIter: ExactSizeIterator>,
        ours: Ours<'_>,
    ) -> Desired {
        let (mut state, mut paths) = (State::default(), Vec::new());
        self.write_devices(&mut state);
        let peers = peers.into_iter();
        let spread = peers.len() > MANY;
        let mut gateways = BTreeMap::new();
        for peer in peers {
            self.write_peer(peer, spread, &mut state, |half, (reach, reason)| {
                paths.push(PeerPath { peer: peer.key(), family: half.subnet.into(), reach, reason });
            });
            gateways.extend(ownership::gateways(peer));
        }
        Desired { scope: self.scope(ours, &state, gateways.into()), paths, mtu: self.mtu, state }
    }

    /// Our devices by their names and by their mark, our routes, and what a Go flanneld left. `gateways` of the peers
    /// identify the direct routes among the latter.
    pub fn scope(&self, ours: Ours<'_>, state: &State, gateways: Gateways) -> Scope {
        let known = ours.devices.iter().filter(|device| !self.untouched.contains(device));
        let devices: BTreeSet<&IfName> = self.names.iter().chain(state.links.keys()).chain(known).collect();
        let others = ours.owner.others();
        let devices: Vec<IfName> =
            devices.into_iter().filter(|device| !others.contains_key(*device)).cloned().collect();
        Scope {
            links: devices.clone(),
            read_links: vec![self.underlay.clone()],
            addresses: devices.clone(),
            neighbours: devices.clone(),
            local: devices,
            // A program that does the routing for us may use protocol boot.
            routes: Some(ours.owner.routes(self.mode.is_some().then_some(gateways))),
            others,
            wireguard: state.wireguard.keys().cloned().collect(),
            sysctls: state.sysctls.keys().cloned().collect(),
            keep: !ours.complete,
            ..Scope::default()
        }
    }
}

/// Why a host without a tunnel does not reach a peer.
fn no_end(half: &Half) -> Why {
    if half.vtep.is_some() { Why::NoOwnVtep } else { Why::NoPeerVtep }
}

/// With more peers than this, IPv4 routes by a gateway get different scopes. The kernel keeps such routes in a hash
/// table by link, protocol, scope, preferred source and metric, but not by gateway (`fib_info_hash_bucket`,
/// net/ipv4/fib_semantics.c). With one gateway per peer all of them share one bucket, and each new route searches it.
/// That costs 1.3 s of kernel time for 10,000 routes, and 0.14 s with different scopes. A scope below `link` (253)
/// does not affect routing.
pub const MANY: usize = 1024;

/// `site` in rt_scopes: this and narrower scopes are for the operator to use (`enum rt_scope_t`, linux/rtnetlink.h).
const SITE: u128 = 200;

fn spread_route(dst: IpNetwork, route: &mut Route) {
    if dst.is_ipv4() && route.via.is_some() {
        // Neighbouring prefixes in the network differ most in their last bits.
        let number = number(dst.network()) >> 32_u32.saturating_sub(dst.prefix().into());
        route.scope = u8::try_from(number % SITE).ok().filter(|scope| *scope != 0);
    }
}

pub(crate) fn flannel_route(dev: &IfName) -> Route {
    Route { protocol: RouteProtocol::FLANNEL, ..Route::by(dev) }
}
