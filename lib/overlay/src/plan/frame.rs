//! The inputs that every peer's objects depend on, and the resulting objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::state::{PublicKey, Route, RouteKey, RouteKind, Scope, State};
use kernel::types::{Family, IfName, RouteProtocol};

use super::objects::{Fragment, Objects, count, join};
use super::{Delta, PeerChanges, PeerView};
use crate::backend::{Backend, Host};
use crate::lease::Subnets;
use crate::limits::{self, Limits};
use crate::ownership::{self, Gateways, Owner};
use crate::peers::{Book, Peer, Touched};
use crate::render::{Kept, MANY, Ours, Renderer};
use crate::settings;

/// The inputs that every peer's objects depend on. While they are unchanged, only changed peers are rendered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    pub(super) backend: Backend,
    pub(super) host: Host,
    pub(super) kept: Vec<Kept>,
    /// The tunnel devices that are ours.
    pub(super) devices: Vec<IfName>,
    pub(super) owner: Owner,
    /// The links with an IPv6 default route from a router.
    pub(super) routers: Vec<IfName>,
    pub(super) complete: bool,
    pub(super) limits: Limits,
    pub(super) blackhole: bool,
}

/// The parts that depend on the number of peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flips {
    spread: bool,
    limits: Limits,
}

/// A frame with the objects of all peers.
#[derive(Debug)]
pub(super) struct Built {
    frame: Frame,
    renderer: Renderer,
    objects: Objects,
    scope: Arc<Scope>,
    flips: Flips,
}

/// WireGuard peers whose endpoint has changed.
pub(super) type Moved = Vec<(IfName, PublicKey)>;

/// The difference from the previous state.
pub(super) struct Change {
    pub(super) delta: Option<Delta>,
    pub(super) peers: PeerChanges,
    pub(super) rendered: usize,
    pub(super) compared: usize,
    pub(super) moved: Moved,
}

impl Frame {
    fn ours(&self) -> Ours<'_> {
        Ours { devices: &self.devices, owner: &self.owner, complete: self.complete }
    }
}

impl Built {
    /// Renders everything.
    pub(super) fn new(frame: Frame, book: &Book) -> (Self, Change) {
        let renderer = Renderer::new(&frame.host, &frame.backend, &frame.kept);
        let spread = book.len() > MANY;
        let mut devices = State::default();
        renderer.write_devices(&mut devices);
        let mut objects = Objects::new(devices);
        let (mut peers, mut shared) = (PeerChanges { whole: true, ..PeerChanges::default() }, BTreeSet::new());
        let mut scratch = Scratch { renderer: &renderer, spread };
        for peer in book.peers() {
            shared.extend(objects.put(peer.subnets(), scratch.write(peer, &mut peers.put)));
        }
        objects.regroup(shared.into_iter().collect(), |key| scratch.again(book, key));
        let flips = Flips { spread, limits: limits::higher(objects.neighbours(), &frame.limits) };
        let state = objects.edit();
        flips.write(state);
        let settings = settings::wanted(&frame.backend, &frame.host, &frame.routers, state);
        state.sysctls.extend(settings);
        if frame.blackhole {
            write_blackholes(state, frame.host.own);
        }
        let scope = Arc::new(renderer.scope(frame.ours(), objects.state(), Gateways::default()));
        let change =
            Change { delta: None, rendered: book.len(), compared: count(objects.state()), peers, moved: Vec::new() };
        (Self { frame, renderer, objects, scope, flips }, change)
    }

    pub(super) fn frame(&self) -> &Frame {
        &self.frame
    }

    pub(super) fn state(&self) -> &Arc<State> {
        self.objects.state()
    }

    pub(super) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// The scope, including a Go flanneld's direct routes, which the leases identify.
    pub(super) fn whole_scope(&self, book: &Book) -> Scope {
        let gateways: BTreeMap<_, _> = book.peers().flat_map(ownership::gateways).collect();
        self.renderer.scope(self.frame.ours(), self.state(), gateways.into())
    }

    /// Renders the changed peers.
    ///
    /// # Errors
    /// The number of peers has crossed a limit, so that every peer's objects change. Returns the WireGuard peers
    /// whose endpoint has changed.
    pub(super) fn change(&mut self, touched: &Touched, book: &Book) -> Result<Change, Moved> {
        let spread = self.flips.spread;
        let mut scratch = Scratch { renderer: &self.renderer, spread };
        let (mut views, mut before) = (PeerChanges::default(), Vec::new());
        let (mut keys, mut shared) = (Fragment::default(), BTreeSet::new());
        let old: Vec<(&Subnets, Fragment)> = touched
            .peers
            .iter()
            .filter_map(|(key, was)| Some((key, scratch.write(was.as_ref()?, &mut before))))
            .collect();
        let new: Vec<(Subnets, Fragment)> = touched
            .peers
            .keys()
            .filter_map(|key| Some((*key, scratch.write(book.peer(key)?, &mut views.put))))
            .collect();
        old.iter().for_each(|(_, fragment)| join(&mut keys, fragment.clone()));
        new.iter().for_each(|(_, fragment)| join(&mut keys, fragment.clone()));
        let assumed = self.objects.select(&keys);
        let rendered = old.len() + new.len();
        for (key, fragment) in old {
            shared.extend(self.objects.take(key, &fragment));
        }
        for (key, fragment) in new {
            shared.extend(self.objects.put(key, fragment));
        }
        self.objects.regroup(shared.into_iter().collect(), |key| scratch.again(book, key));
        let flips =
            Flips { spread: book.len() > MANY, limits: limits::higher(self.objects.neighbours(), &self.frame.limits) };
        let desired = self.objects.select(&keys);
        let moved = moved(&assumed, &desired);
        if flips != self.flips {
            return Err(moved);
        }
        views.leases = touched.peers.keys().copied().collect();
        let there: BTreeSet<IpNetwork> = views.put.iter().map(|view| view.subnet).collect();
        views.gone = before.iter().map(|view| view.subnet).filter(|subnet| !there.contains(subnet)).collect();
        let delta = Some(Delta { desired, assumed });
        Ok(Change { delta, peers: views, rendered, compared: count(&keys), moved })
    }
}

/// Renders peers one after the other.
struct Scratch<'a> {
    renderer: &'a Renderer,
    spread: bool,
}

impl Scratch<'_> {
    /// A peer's objects, and how to reach it.
    fn write(&mut self, peer: &Peer, views: &mut Vec<PeerView>) -> Fragment {
        let mut fragment = Fragment::default();
        let way = |half: &crate::peers::Half, (reach, reason)| PeerView {
            subnet: half.subnet,
            public: half.public,
            reach,
            reason,
            vtep_mac: half.vtep.map(|vtep| vtep.vtep_mac),
        };
        self.renderer.write_peer(peer, self.spread, &mut fragment, |half, reach| views.push(way(half, reach)));
        fragment
    }

    fn again(&self, book: &Book, key: &Subnets) -> Fragment {
        let mut fragment = Fragment::default();
        if let Some(peer) = book.peer(key) {
            self.renderer.write_peer(peer, self.spread, &mut fragment, |_, _| {});
        }
        fragment
    }
}

impl Flips {
    fn write(&self, state: &mut State) {
        for family in Family::ALL {
            for (path, value) in limits::paths(family).into_iter().zip(self.limits.get(family).iter().flatten()) {
                state.sysctls.insert(path, value.to_string());
            }
        }
    }
}

/// The WireGuard peers whose endpoint has changed.
pub(super) fn moved(before: &State, now: &State) -> Moved {
    let known = |dev: &IfName, key: &PublicKey| before.wireguard.get(dev).and_then(|device| device.peers.get(key));
    let peers = now.wireguard.iter().flat_map(|(dev, device)| device.peers.iter().map(move |peer| (dev, peer)));
    peers
        .filter(|(dev, (key, peer))| known(dev, key).is_some_and(|before| before.endpoint != peer.endpoint))
        .map(|(dev, (key, _))| (dev.clone(), *key))
        .collect()
}

/// After every other route to this host's subnets: the routes of the bridge and of pods have lower metrics.
/// Upstream's route has no metric, so it cannot exist beside the bridge's.
const LAST: u32 = 1 << 30;

/// `ip route add blackhole SUBNET`: the default route must not forward packets for addresses that no pod has.
fn write_blackholes(state: &mut State, own: Subnets) {
    for dst in own.iter() {
        let key = RouteKey { metric: Some(LAST), ..RouteKey::main(dst) };
        let route = Route {
            kind: RouteKind::Blackhole,
            dev: None,
            via: None,
            onlink: false,
            scope: None,
            src: None,
            protocol: RouteProtocol::FLANNEL,
            mtu: None,
            advmss: None,
            further: false,
        };
        state.routes.insert(key, route);
    }
}
