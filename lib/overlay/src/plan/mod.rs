//! Turns facts into a plan: what this host must lease, publish, run, write, and have in its kernel. Pure: the time is
//! a fact, too.
//!
//! Each change of a fact leads to a new plan, which costs what that change costs: [`Memory`] keeps the last plan, and
//! only changed peers are rendered again. This is only a cache: a plan made without it is equal. Only these are
//! remembered and cannot be found in the facts again: the MAC addresses of this host's VTEPs, former backends and
//! networks, and an underlay address that is temporarily missing.

mod facts;
mod frame;
mod memory;
mod notes;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::{IpNetwork, Ipv4Network};
use kernel::state::{Scope, State};
use kernel::types::{IfName, Mac};

pub use facts::{Facts, Options, Own};
pub use memory::Memory;

use crate::backend::extension::ExtensionConf;
use crate::backend::udp::UdpConf;
use crate::lans::{Lan, lans};
use crate::lease::{LeaseAttrs, Subnets};
use crate::ownership::Overlap;
use crate::peers::Rejected;
use crate::reach::{Reach, Why};
use crate::subnet_env::SubnetEnv;
use crate::underlay::{Found, UnderlayError};
use crate::ways;

/// What to do. Without an underlay or a lease it is incomplete.
#[derive(Debug)]
pub struct Plan {
    /// The link to the other hosts; `None`: there is none.
    pub underlay: Option<Arc<Found>>,
    /// The attributes to publish once the kernel is ready for the packets of peers; their addresses identify this host in
    /// the store. Or the reason why this host cannot take part in the network.
    pub attrs: Result<LeaseAttrs, Blocked>,
    /// What is done once there is a lease.
    pub leased: Option<Leased>,
    /// Messages for the operator that do not prevent the rest of the plan.
    pub notes: Vec<String>,
    /// This host's links whose prefixes overlap the network.
    pub lans: Vec<Lan>,
    /// What else an operator should look at, although packets may flow.
    pub warnings: Vec<String>,
    /// When the plan changes without new facts.
    pub look_again: Option<Instant>,
}

/// Why this host cannot take part in the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// No link leads to the other hosts.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// Another flanneld on this host serves an overlapping network.
    #[error(transparent)]
    Overlap(#[from] Overlap),
}

/// What to do with a lease.
#[derive(Debug)]
pub struct Leased {
    /// Which of the kernel's objects are ours, except what a Go flanneld has left ([`Memory::scope`]).
    pub scope: Arc<Scope>,
    /// The changes of the desired state ([`Memory::desired`]) since the previous plan, if they are known and small.
    pub delta: Option<Delta>,
    /// WireGuard peers whose lease has a new endpoint, which overrides the address that they have roamed to.
    pub moved: Vec<(IfName, kernel::state::PublicKey)>,
    /// The udp backend's data path, as long as some host uses its device.
    pub data_path: Option<DataPath>,
    /// The extension backend's commands.
    pub commands: Option<ExtensionConf>,
    /// The content of subnet.env.
    pub subnet_env: SubnetEnv,
    /// How peers are reached, for the peers that have changed.
    pub peers: PeerChanges,
    /// The entries of the store that are not accepted; `None`: unchanged.
    pub rejected: Option<Vec<Rejected>>,
    /// Warnings for the operator, each once as long as its cause lasts.
    pub warnings: Vec<String>,
    /// Whether devices of a previous backend stay for now; how long depends on what this host publishes.
    pub keeps: bool,
    /// Whether two leases have the same WireGuard key, so that the kernel must be asked who sends with it.
    pub contested: bool,
    /// The cost of making the plan.
    pub work: Work,
}

/// The objects that have changed, and the links that they depend on: their desired state, and their state after the
/// last plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// The desired objects.
    pub desired: State,
    /// The objects as previously desired.
    pub assumed: State,
}

/// The udp backend's data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPath {
    /// The backend's configuration.
    pub conf: UdpConf,
    /// The whole network.
    pub network: Ipv4Network,
    /// This host's subnet.
    pub own: Ipv4Network,
    /// The address to send from.
    pub local: Ipv4Addr,
}

/// How one family of a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Its subnet.
    pub subnet: IpNetwork,
    /// Its underlay address.
    pub public: IpAddr,
    /// The way to it.
    pub reach: Reach,
    /// The reason for this way.
    pub reason: Why,
    /// Its VTEP's MAC address.
    pub vtep_mac: Option<Mac>,
}

/// The peers whose way has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChanges {
    /// Whether `put` contains all peers.
    pub whole: bool,
    /// The leases that were considered.
    pub leases: Vec<Subnets>,
    /// Peers that are new or have changed.
    pub put: Vec<PeerView>,
    /// Subnets of peers that are gone and not in `put`.
    pub gone: Vec<IpNetwork>,
}

impl Plan {
    fn blocked(underlay: Option<Arc<Found>>, why: impl Into<Blocked>) -> Self {
        Self {
            underlay,
            attrs: Err(why.into()),
            leased: None,
            notes: Vec::new(),
            lans: Vec::new(),
            warnings: Vec::new(),
            look_again: None,
        }
    }
}

impl Leased {
    /// The complete desired state to apply, when `desired` is planned. WireGuard peers keep the addresses that they
    /// have roamed to, unless their lease has a new one.
    pub fn written(&self, desired: &Arc<State>) -> Arc<State> {
        if self.moved.is_empty() {
            return desired.clone();
        }
        let mut state = (**desired).clone();
        for (dev, key) in &self.moved {
            let peer = state.wireguard.get_mut(dev).and_then(|device| device.peers.get_mut(key));
            peer.into_iter().for_each(|peer| peer.roams = false);
        }
        Arc::new(state)
    }
}

/// The cost of making a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// The number of leases that were judged.
    pub judged: usize,
    /// The number of peers that were rendered.
    pub rendered: usize,
    /// The number of objects to compare with the kernel's.
    pub compared: usize,
}

/// Makes the plan for these facts. Leases are added by [`Memory::apply`].
pub fn plan(facts: &Facts<'_>, memory: &mut Memory) -> Plan {
    let underlay = match memory.find_underlay(facts) {
        Ok(found) => found,
        Err(error) => return Plan::blocked(None, error),
    };
    if let Some(overlap) = memory.overlap(facts) {
        return Plan::blocked(Some(underlay), overlap);
    }
    memory.know_macs(facts, &underlay);
    let mut notes = notes::of_host(facts, &underlay, memory.missing());
    let leased = match facts.own.subnets {
        Some(own) => Some(memory.lease(facts, &underlay, own)),
        None => {
            memory.lose_lease();
            None
        }
    };
    let devices = leased.iter().flat_map(|leased| &leased.scope.links);
    notes.extend(
        devices
            .flat_map(|device| facts.survey.links.iter().filter(move |link| link.name == *device))
            .filter_map(ways::queue),
    );
    notes.extend(leased.as_ref().and_then(|_| notes::same_address(facts, &underlay, memory.book())));
    let pods: Vec<Subnets> = facts.own.subnets.into_iter().chain([facts.own.previous]).collect();
    Plan {
        attrs: Ok(memory.publish(facts, &underlay)),
        warnings: notes::of_underlay(facts, &underlay, memory.book()),
        lans: lans(facts.conf, facts.survey, &underlay.underlay.dev, &pods),
        underlay: Some(underlay),
        leased,
        notes,
        look_again: memory.look_again(),
    }
}

/// The addresses from which the holders of WireGuard keys have sent recently.
pub type Endpoints = BTreeMap<kernel::state::PublicKey, Vec<IpAddr>>;
