//! From the facts to one plan: what this host must lease, publish, run, write and have in its kernel. Pure: the time is a
//! fact, too.
//!
//! A plan is made anew for every fact that changes, and costs what that fact's change costs: [`Memory`] keeps what was
//! planned last, and of the peers only those that have changed are rendered again. What is kept so is no memory: a plan
//! made without it is the same. Remembered, and not to be found again in the facts, are only this host's VTEPs' MAC
//! addresses, the backends and networks before those in force, and an underlay address that is missing for a moment.

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
use crate::lease::{LeaseAttrs, Subnets};
use crate::ownership::Overlap;
use crate::peers::Rejected;
use crate::reach::{Reach, Why};
use crate::subnet_env::SubnetEnv;
use crate::underlay::{Found, UnderlayError};
use crate::ways;

/// What is to be done. Without an underlay or a lease only a part of it is known.
#[derive(Debug)]
pub struct Plan {
    /// The way out of this host; `None`: there is none.
    pub underlay: Option<Arc<Found>>,
    /// What this host publishes once the kernel is ready for what its peers will do; the addresses in it are those that it is
    /// known by in the store. Or why it can have no part in the network.
    pub attrs: Result<LeaseAttrs, Blocked>,
    /// What is done once there is a lease.
    pub leased: Option<Leased>,
    /// What a person should know, and that does not keep the rest from being done.
    pub notes: Vec<String>,
    /// When the plan changes by itself.
    pub look_again: Option<Instant>,
}

/// Why this host can have no part in the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// No link leads to the other hosts.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// Another flanneld on this host serves a network with the same addresses.
    #[error(transparent)]
    Overlap(#[from] Overlap),
}

/// What is done with a lease.
#[derive(Debug)]
pub struct Leased {
    /// Which of the kernel's objects are ours, but for what a Go flanneld has left ([`Memory::scope`]).
    pub scope: Arc<Scope>,
    /// What of the desired state ([`Memory::desired`]) has changed since the plan before, when that is known and little.
    pub delta: Option<Delta>,
    /// WireGuard peers whose lease says another endpoint than before: it counts, wherever they have roamed to.
    pub moved: Vec<(IfName, kernel::state::PublicKey)>,
    /// The udp backend's data path, while its device is there for someone.
    pub data_path: Option<DataPath>,
    /// The extension backend's commands.
    pub commands: Option<ExtensionConf>,
    /// The content of subnet.env.
    pub subnet_env: SubnetEnv,
    /// How peers are reached, of those for which something has changed.
    pub peers: PeerChanges,
    /// What the store holds that is not followed; `None`: as before.
    pub rejected: Option<Vec<Rejected>>,
    /// What a person may need to look at, once for as long as it is so.
    pub warnings: Vec<String>,
    /// Devices of a backend before stay for now; for how long depends on what this host publishes.
    pub keeps: bool,
    /// Two leases have one WireGuard key: who sends with it is to be asked of the kernel.
    pub contested: bool,
    /// What making the plan has cost.
    pub work: Work,
}

/// The objects that have changed, and the links they hang on: as they are desired, and as the last plan left them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// As they are desired now.
    pub desired: State,
    /// As they were desired before.
    pub assumed: State,
}

/// The udp backend's data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPath {
    /// The backend.
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
    /// The way.
    pub reach: Reach,
    /// Why this way.
    pub reason: Why,
    /// Its VTEP's address.
    pub vtep_mac: Option<Mac>,
}

/// Which peers are reached otherwise than before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChanges {
    /// `put` are all there are.
    pub whole: bool,
    /// The leases that were looked at.
    pub leases: Vec<Subnets>,
    /// New ones, and those that have changed.
    pub put: Vec<PeerView>,
    /// The subnets of those that are reached no more, and are not in `put`.
    pub gone: Vec<IpNetwork>,
}

impl Plan {
    fn blocked(underlay: Option<Arc<Found>>, why: impl Into<Blocked>) -> Self {
        Self { underlay, attrs: Err(why.into()), leased: None, notes: Vec::new(), look_again: None }
    }
}

impl Leased {
    /// The whole desired state as it is written, when `desired` is planned: WireGuard peers may have roamed, unless their
    /// lease has moved them.
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

/// What making a plan has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Leases whose verdict was asked for.
    pub judged: usize,
    /// Peers whose objects were written.
    pub rendered: usize,
    /// Objects that are to be compared with the kernel's.
    pub compared: usize,
}

/// Makes the plan for these facts. Leases come by [`Memory::apply`].
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
    Plan {
        attrs: Ok(memory.publish(facts, &underlay)),
        underlay: Some(underlay),
        leased,
        notes,
        look_again: memory.look_again(),
    }
}

/// From where the holders of WireGuard keys have sent lately.
pub type Endpoints = BTreeMap<kernel::state::PublicKey, Vec<IpAddr>>;
