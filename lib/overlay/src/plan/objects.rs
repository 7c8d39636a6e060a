//! The desired objects, updated in place as peers appear and disappear.
//!
//! The keys of a peer's objects are its own, with two exceptions: a host that left a lease behind has two leases with
//! one VTEP or one WireGuard key. The FDB entry is the same for both leases, so it is counted. The WireGuard peer has
//! the subnets of both, so it is merged from all leases with its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::state::{FdbKey, PublicKey, State, WireguardDevice};
use kernel::types::{Family, IfName};

use super::Delta;
use crate::lease::Subnets;
use crate::net::ByFamily;

type Shared = (IfName, PublicKey);

/// Desired objects, and how many peers need each.
#[derive(Debug, Default)]
pub(super) struct Objects {
    state: Arc<State>,
    /// How many peers need an entry besides the first; usually there are none.
    more: BTreeMap<FdbKey, usize>,
    /// The leases that have each WireGuard key.
    holders: BTreeMap<Shared, Vec<Subnets>>,
    neighbours: ByFamily<usize>,
}

/// The objects of one peer's lease, without merging shared ones.
pub(super) type Fragment = State;

impl Objects {
    /// Starts with the devices, without peers.
    pub(super) fn new(devices: State) -> Self {
        Self { state: Arc::new(devices), ..Self::default() }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The number of neighbours.
    pub(super) fn neighbours(&self) -> ByFamily<usize> {
        self.neighbours
    }

    pub(super) fn edit(&mut self) -> &mut State {
        Arc::make_mut(&mut self.state)
    }

    /// Adds a peer's objects. Returns the WireGuard keys that other leases also have.
    pub(super) fn put(&mut self, key: Subnets, fragment: Fragment) -> Vec<Shared> {
        let State { neighbours, fdb, wireguard, routes, .. } = fragment;
        for neighbour in neighbours.keys() {
            *self.neighbours.get_mut(Family::from(neighbour.addr)) += 1;
        }
        let state = Arc::make_mut(&mut self.state);
        state.neighbours.extend(neighbours);
        state.routes.extend(routes);
        for (key, entry) in fdb {
            if state.fdb.insert(key.clone(), entry).is_some() {
                *self.more.entry(key).or_default() += 1;
            }
        }
        let mut shared = Vec::new();
        for (dev, device) in wireguard {
            for (public_key, peer) in device.peers {
                let holders = self.holders.entry((dev.clone(), public_key)).or_default();
                holders.push(key);
                if holders.len() > 1 {
                    shared.push((dev.clone(), public_key));
                }
                state.wireguard.entry(dev.clone()).or_default().peers.insert(public_key, peer);
            }
        }
        shared
    }

    /// Removes a peer's objects, as passed to `put`. Returns the WireGuard keys that other leases still have.
    pub(super) fn take(&mut self, key: &Subnets, fragment: &Fragment) -> Vec<Shared> {
        let state = Arc::make_mut(&mut self.state);
        for neighbour in fragment.neighbours.keys() {
            *self.neighbours.get_mut(Family::from(neighbour.addr)) -= 1;
            state.neighbours.remove(neighbour);
        }
        for route in fragment.routes.keys() {
            state.routes.remove(route);
        }
        for entry in fragment.fdb.keys() {
            match self.more.get_mut(entry) {
                Some(1) => drop(self.more.remove(entry)),
                Some(more) => *more -= 1,
                None => drop(state.fdb.remove(entry)),
            }
        }
        let mut shared = Vec::new();
        for (dev, device) in &fragment.wireguard {
            for public_key in device.peers.keys() {
                let at = (dev.clone(), *public_key);
                let holders = self.holders.entry(at.clone()).or_default();
                holders.retain(|holder| holder != key);
                if holders.is_empty() {
                    self.holders.remove(&at);
                    state.wireguard.entry(dev.clone()).or_default().peers.remove(public_key);
                } else {
                    shared.push(at);
                }
            }
        }
        shared
    }

    /// Merges WireGuard peers that several leases have. `render` returns a lease's objects.
    pub(super) fn regroup(&mut self, shared: Vec<Shared>, render: impl Fn(&Subnets) -> Fragment) {
        for at in shared {
            let mut holders = self.holders.get(&at).cloned().unwrap_or_default();
            holders.sort_unstable();
            let (dev, public_key) = at;
            let mut whole: Option<kernel::state::WireguardPeer> = None;
            for holder in &holders {
                let peer =
                    render(holder).wireguard.remove(&dev).and_then(|mut device| device.peers.remove(&public_key));
                match (&mut whole, peer) {
                    (Some(whole), Some(peer)) => whole.allowed_ips.extend(peer.allowed_ips),
                    (None, peer) => whole = peer,
                    (_, None) => {}
                }
            }
            let device = self.edit().wireguard.entry(dev).or_default();
            whole.into_iter().for_each(|peer| drop(device.peers.insert(public_key, peer)));
        }
    }

    /// The objects whose keys are in `keys`, and all links, which the others may depend on.
    pub(super) fn select(&self, keys: &Fragment) -> State {
        fn of<K: Ord + Clone, V: Clone, W>(all: &BTreeMap<K, V>, keys: &BTreeMap<K, W>) -> BTreeMap<K, V> {
            keys.keys()
                .filter_map(|key| all.get_key_value(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        }
        let State { neighbours, fdb, routes, wireguard, links, .. } = &*self.state;
        let device = |(dev, wanted): (&IfName, &WireguardDevice)| {
            let device = wireguard.get(dev)?;
            Some((dev.clone(), WireguardDevice { peers: of(&device.peers, &wanted.peers), ..device_alone(device) }))
        };
        State {
            links: links.clone(),
            neighbours: of(neighbours, &keys.neighbours),
            fdb: of(fdb, &keys.fdb),
            routes: of(routes, &keys.routes),
            wireguard: keys.wireguard.iter().filter_map(device).collect(),
            ..State::default()
        }
    }
}

/// A device without its peers.
fn device_alone(device: &WireguardDevice) -> WireguardDevice {
    let WireguardDevice { private_key, listen_port, .. } = *device;
    WireguardDevice { private_key, listen_port, peers: BTreeMap::new() }
}

/// Adds all keys of `more` to `keys`; the values do not matter.
pub(super) fn join(keys: &mut Fragment, more: Fragment) {
    let State { neighbours, fdb, routes, wireguard, .. } = more;
    keys.neighbours.extend(neighbours);
    keys.fdb.extend(fdb);
    keys.routes.extend(routes);
    for (dev, device) in wireguard {
        keys.wireguard.entry(dev).or_default().peers.extend(device.peers);
    }
}

/// The number of objects in `keys`.
pub(super) fn count(keys: &Fragment) -> usize {
    let peers: usize = keys.wireguard.values().map(|device| device.peers.len()).sum();
    keys.neighbours.len() + keys.fdb.len() + keys.routes.len() + peers
}

impl Delta {
    /// The number of objects to compare, without links.
    pub fn len(&self) -> usize {
        let mut keys = self.assumed.clone();
        join(&mut keys, self.desired.clone());
        count(&keys)
    }

    /// Whether there is nothing to compare.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
