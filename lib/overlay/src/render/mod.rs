//! From a host and its peers to what its kernel must look like: devices once, then peer by peer.
//!
//! Each peer's objects depend on nothing but the host and that peer, so that one of them can be written anew alone.

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

/// What is desired of the kernel, and what comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The objects.
    pub state: State,
    /// Which of the kernel's objects are to be compared with them.
    pub scope: Scope,
    /// How each family of each peer is reached, in the order of the peers. None for alloc, which moves no packets.
    pub paths: Vec<PeerPath>,
    /// FLANNEL_MTU: what a pod's interface may carry.
    pub mtu: Mtu,
}

/// How one family of a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPath {
    /// The peer's key.
    pub peer: String,
    /// The family.
    pub family: Family,
    /// The way.
    pub reach: Reach,
    /// Why this way.
    pub reason: Why,
}

/// A backend before the one in force, whose devices stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The backend.
    pub backend: Backend,
    /// Packets go by its devices where both they and those of the backend in force reach a peer.
    pub leads: bool,
}

/// Which of the kernel's objects are ours beside the desired ones.
#[derive(Debug, Clone, Copy)]
pub struct Ours<'a> {
    /// The tunnel devices of this host that are ours. Those that are not desired are deleted.
    pub devices: &'a [IfName],
    /// Which networks are.
    pub owner: &'a Owner,
    /// All peers are known. If not, nothing is deleted.
    pub complete: bool,
}

/// A host that is ready to write its devices and its peers.
#[derive(Debug)]
pub struct Renderer {
    backend: Backend,
    mode: Option<Mode>,
    networks: ByFamily<Option<IpNetwork>>,
    underlay: IfName,
    connected: Vec<IpNetwork>,
    /// In the order in which they are tried.
    ends: Vec<Tried>,
    /// Every name that a device of `ends` can have.
    names: Vec<IfName>,
    /// Devices that are only kept, and not compared.
    untouched: Vec<IfName>,
    mtu: Mtu,
}

/// An end of a tunnel of this host.
#[derive(Debug)]
struct Tried {
    current: bool,
    end: Box<dyn End>,
}

impl Renderer {
    /// A host that runs `backend` and still has the devices of those that are `kept`, the newest first.
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

    /// FLANNEL_MTU: what a pod's interface may carry.
    pub fn mtu(&self) -> Mtu {
        self.mtu
    }

    /// Writes the devices.
    pub fn write_devices(&self, state: &mut State) {
        // those of the backend in force come last: of two that would write one object, its one counts
        let (current, kept): (Vec<&Tried>, Vec<&Tried>) = self.ends.iter().partition(|tried| tried.current);
        kept.into_iter().chain(current).for_each(|tried| tried.end.write(state));
    }

    /// Writes what carries packets to a peer, and gives how each of its families is reached. `spread`: see [`MANY`].
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

    /// The first end that reaches a peer. Without one, why the first does not; with one that is the last resort, why it is.
    fn choose(&self, mode: Mode, peer: &Peer, half: &Half, on_link: bool) -> (Option<&Tried>, Option<Why>) {
        let mut why = None;
        // nothing goes by another end that would have to be encrypted
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

    /// Everything that is desired.
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

    /// Our devices by their names and by their mark; our routes, and what a Go flanneld left, of which its direct routes are
    /// known by the peers' `gateways`.
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
            neighbours: devices,
            // where routes are left to others they may well use protocol boot
            routes: Some(ours.owner.routes(self.mode.is_some().then_some(gateways))),
            others,
            wireguard: state.wireguard.keys().cloned().collect(),
            sysctls: state.sysctls.keys().cloned().collect(),
            keep: !ours.complete,
            ..Scope::default()
        }
    }
}

/// Why a peer is not reached by a host without a tunnel.
fn no_end(half: &Half) -> Why {
    if half.vtep.is_some() { Why::NoOwnVtep } else { Why::NoPeerVtep }
}

/// With more peers than this, IPv4's routes by a gateway get different scopes. The kernel keeps such routes in a hash table by
/// link, protocol, scope, preferred source and metric, but not by gateway (`fib_info_hash_bucket`,
/// net/ipv4/fib_semantics.c): with a gateway per peer all of them are in one bucket, which is searched for every new one.
/// 10,000 routes take 1.3 s of the kernel's time so, and 0.14 s with scopes. A scope below `link` (253) changes nothing in
/// how packets are routed.
pub const MANY: usize = 1024;

/// `site` in rt_scopes: it and what is narrower is the operator's to choose (`enum rt_scope_t`, linux/rtnetlink.h).
const SITE: u128 = 200;

fn spread_route(dst: IpNetwork, route: &mut Route) {
    if dst.is_ipv4() && route.via.is_some() {
        // neighbours in the network differ most in the last bits that they have
        let number = number(dst.network()) >> 32_u32.saturating_sub(dst.prefix().into());
        route.scope = u8::try_from(number % SITE).ok().filter(|scope| *scope != 0);
    }
}

pub(crate) fn flannel_route(dev: &IfName) -> Route {
    Route { protocol: RouteProtocol::FLANNEL, ..Route::by(dev) }
}
