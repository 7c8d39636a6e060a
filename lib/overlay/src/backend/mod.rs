//! The backends: how packets get from host to host.
//!
//! A backend is one file. It has the keys of its configuration and their check, what its leases say, its devices, how a
//! peer is carried, what a pod's interface may carry, and which companion works beside the kernel. Nothing else knows
//! one backend from another: a new one is a file, a variant of [`Backend`], and a line in `KINDS` and `conf`.
//!
//! While the configuration changes, hosts disagree. Three rules hold for every backend ([`crate::keep`]):
//! - *keep*: the devices of the backend before stay while a peer may still send to them;
//! - *publish*: a backend without lease data of its own publishes how the devices that stay are reached;
//! - *drain*: devices that nobody may send to any more go a moment later, because packets are still on their way.

pub mod alloc;
mod error;
pub mod extension;
pub mod host_gw;
pub mod ipip;
mod keys;
#[cfg(test)]
mod tests;
pub mod udp;
pub mod vxlan;
pub mod wireguard;

use std::collections::BTreeMap;
use std::fmt;

use gojson::{Json, Reader};
use kernel::state::{Link, PublicKey, Secret, State};
use kernel::types::{Family, IfName, Mac, Mtu};

pub use error::Mistake;

use crate::lease::{LeaseAttrs, LeaseType, Subnets};
use crate::net::ByFamily;
use crate::ownership;
use crate::peers::{Half, Peer};
use crate::reach::{Mode, Reach, Tunnel, Why};
use crate::underlay::Underlay;
use extension::ExtensionConf;
use ipip::IpipConf;
use udp::UdpConf;
use vxlan::VxlanConf;
use wireguard::WireguardConf;

/// A backend with its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// In VXLAN packets, or with `DirectRouting` without them where no router is between.
    Vxlan(VxlanConf),
    /// By plain routes: all hosts are on one segment.
    HostGw,
    /// In UDP datagrams that a program of ours packs. IPv4 only.
    Udp(UdpConf),
    /// In IPIP packets, or with `DirectRouting` without them where no router is between. IPv4 only.
    Ipip(IpipConf),
    /// In WireGuard packets, encrypted.
    Wireguard(WireguardConf),
    /// By commands of the operator's.
    Extension(ExtensionConf),
    /// Not at all: subnets are leased, and something else moves the packets.
    Alloc,
}

/// What is the same for all configurations of a backend.
#[derive(Debug)]
pub struct Kind {
    /// `Backend.Type`, in lower case.
    pub name: &'static str,
    /// The `BackendType` of its leases: its name, but empty for alloc and udp, as upstream publishes it.
    pub lease_type: &'static str,
    /// What the data of its leases is.
    pub data: Data,
    /// It moves IPv4 only.
    pub v4_only: bool,
    /// What it packs packets in, if it does.
    pub tunnel: Option<Tunnel>,
    /// Reads its keys.
    read: fn(&mut Reader<'_>, bool, &mut Vec<Mistake>) -> Backend,
    /// The backend whose device a link is that carries our mark.
    left: fn(&IfName, &Link) -> Option<Backend>,
}

/// What the `BackendData` of a backend's leases is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// A VTEP, without which the lease is of no use.
    Vtep,
    /// The VTEP of a host that has left vxlan and keeps it, or nothing.
    KeptVtep,
    /// A WireGuard key and port.
    Key,
    /// A text for commands.
    Text,
}

/// Every backend there is.
pub static KINDS: [&Kind; 7] =
    [&vxlan::KIND, &host_gw::KIND, &udp::KIND, &ipip::KIND, &wireguard::KIND, &extension::KIND, &alloc::KIND];

/// Upstream's backends that this program does not have, and what to say about each.
const UNSUPPORTED: [(&str, &str); 2] = [
    ("ipsec", "this program runs no IKE daemon; wireguard encrypts, vxlan would send the packets in clear"),
    ("tencent-vpc", "this program does not speak to cloud APIs; alloc leases subnets and leaves routes to others"),
];

/// What the data of leases of this type is; `None` when no backend has the type.
pub fn data_of(lease_type: &str) -> Option<Data> {
    KINDS.iter().find(|kind| kind.lease_type == lease_type).map(|kind| kind.data)
}

/// All that packets can be packed in.
pub fn tunnels() -> impl Iterator<Item = Tunnel> {
    KINDS.iter().filter_map(|kind| kind.tunnel)
}

/// The backend of which a link with our mark is a device.
pub fn left(name: &IfName, link: &Link) -> Option<Backend> {
    KINDS.iter().find_map(|kind| (kind.left)(name, link))
}

/// This host's pair of WireGuard keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardKeys {
    /// The private one, clamped as the kernel keeps it.
    pub private: Secret,
    /// The one that is published.
    pub public: PublicKey,
}

/// What this host is known by: found or made once, then kept, because the peers know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The MAC addresses of its VTEPs, the same whatever the VNI. `None` takes what the kernel gives.
    pub vtep_macs: ByFamily<Option<Mac>>,
    /// Its WireGuard keys.
    pub wireguard: Option<WireguardKeys>,
    /// What the extension backend's first command printed.
    pub text: Option<String>,
}

/// A host, as far as the devices of a backend depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The networks of the families that are on.
    pub networks: ByFamily<Option<ipnetwork::IpNetwork>>,
    /// Its lease.
    pub own: Subnets,
    /// What it is known by.
    pub identity: Identity,
    /// The way out of it.
    pub underlay: Underlay,
}

impl Host {
    /// The alias of its devices: the networks that they serve.
    pub fn mark(&self) -> String {
        ownership::mark(Family::ALL.into_iter().filter_map(|family| *self.networks.get(family)))
    }
}

/// Whose devices are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Those of the backend in force.
    Current,
    /// Those of a backend before, under upstream's names.
    Kept,
    /// Those of a backend before whose names the backend in force has.
    Renamed,
}

/// A program that works beside the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Companion {
    /// It moves the packets of the udp backend.
    DataPath(UdpConf),
    /// It runs the extension backend's commands.
    Commands(ExtensionConf),
}

/// This host's end of a tunnel: its devices, and who is reached by them.
pub(crate) trait End: fmt::Debug + Send + Sync {
    /// Writes the devices.
    fn write(&self, state: &mut State);

    /// What packets are packed in.
    fn tunnel(&self) -> Tunnel;

    /// Whether one family of a peer is reached.
    ///
    /// # Errors
    /// Why it is not.
    fn reaches(&self, peer: &Peer, half: &Half) -> Result<(), Why>;

    /// Why packets go in this tunnel to a peer that nothing else reaches; `None`: they do not.
    fn last_resort(&self, _peer: &Peer, _half: &Half, _on_link: bool) -> Option<Why> {
        None
    }

    /// Writes what carries packets to one family of a peer that is reached.
    fn write_peer(&self, peer: &Peer, half: &Half, state: &mut State);
}

/// The leases of the peers, counted by what they say about the devices that their hosts send to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    types: BTreeMap<LeaseType, usize>,
    vtep_vnis: BTreeMap<Option<u32>, usize>,
}

/// A backend's part, for its configuration.
pub(crate) trait Conf {
    fn kind(&self) -> &'static Kind;

    /// When packets go to a peer without a tunnel; `None`: routes are left to others.
    fn mode(&self) -> Option<Mode>;

    /// What a pod's interface may carry. One number for both families, as upstream has it.
    fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        underlay
    }

    /// What a lease says of a family.
    fn lease_data(&self, _identity: &Identity, _family: Family) -> Option<Json> {
        None
    }

    /// The device whose MAC address the leases say, if they say one.
    fn mac_device(&self, _family: Family) -> Option<IfName> {
        None
    }

    /// The leases say a WireGuard key.
    fn needs_key(&self) -> bool {
        false
    }

    /// The names of its devices, also of those that this host does not need.
    fn names(&self, _role: Role) -> Vec<IfName> {
        Vec::new()
    }

    /// A device that is only kept is neither compared nor changed.
    fn stays_as_it_is(&self) -> bool {
        false
    }

    /// This host's end of the tunnel; `None` when the backend has no devices.
    fn end(&self, _host: &Host, _role: Role) -> Option<Box<dyn End>> {
        None
    }

    /// Which devices these are: two configurations with one value are of the same ones. `None`: it has none.
    fn devices(&self) -> Option<Devices> {
        None
    }

    /// The device works as the one of `current` does beside it. If not, there can be only one of them.
    fn can_stay_beside(&self, _current: &Backend) -> bool {
        true
    }

    /// Whether a lease makes its readers send to the devices of this configuration.
    fn is_named_in(&self, attrs: &LeaseAttrs) -> bool {
        self.kind().lease_type == attrs.backend_type
    }

    /// Whether some peer's lease says that its host may send to the devices of this configuration.
    fn may_be_sent_to(&self, census: &Census) -> bool {
        census.of_type(self.kind().lease_type)
    }

    /// Whether the leases of the two configurations look alike, so that they do not tell which one a host has.
    fn looks_like(&self, current: &Backend) -> bool {
        self.kind().lease_type == current.kind().lease_type
    }

    fn companion(&self) -> Option<Companion> {
        None
    }

    /// What to say when this host publishes an address that its underlay link does not have.
    fn behind_nat(&self) -> Option<&'static str> {
        None
    }

    /// Two hosts behind one address can both be reached.
    fn shares_addresses(&self) -> bool {
        false
    }
}

/// Which devices a configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Devices {
    /// `Kind::name`
    kind: &'static str,
    /// What their names depend on.
    name: u32,
    /// What else cannot be changed while they live.
    fixed: u32,
}

impl Backend {
    /// Reads the value of `Backend`, an object. `ipv6`: IPv6 is on. `None` only together with a mistake.
    ///
    /// # Errors
    /// No backend has the type.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        ipv6: bool,
        mistakes: &mut Vec<Mistake>,
    ) -> Result<Option<Self>, Unknown> {
        let name = reader.take::<String>("Type").unwrap_or_default().to_lowercase();
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else { return Err(Unknown(name)) };
        let before = mistakes.len();
        let backend = (kind.read)(reader, ipv6, mistakes);
        let backend = backend.check(ipv6, mistakes);
        Ok(backend.filter(|_| mistakes.len() == before))
    }

    /// Without a `Backend` key it is udp.
    pub(crate) fn absent(ipv6: bool, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        Self::Udp(UdpConf::default()).check(ipv6, mistakes)
    }

    fn check(self, ipv6: bool, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        let kind = self.kind();
        if ipv6 && kind.v4_only {
            mistakes.push(Mistake::V4Only { name: kind.name });
            return None;
        }
        Some(self)
    }

    pub(crate) fn conf(&self) -> &dyn Conf {
        match self {
            Self::Vxlan(conf) => conf,
            Self::HostGw => &host_gw::HostGw,
            Self::Udp(conf) => conf,
            Self::Ipip(conf) => conf,
            Self::Wireguard(conf) => conf,
            Self::Extension(conf) => conf,
            Self::Alloc => &alloc::Alloc,
        }
    }

    /// What is the same for all configurations of it.
    pub fn kind(&self) -> &'static Kind {
        self.conf().kind()
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        self.kind().name
    }

    /// The `BackendType` of its leases.
    pub fn lease_type(&self) -> &'static str {
        self.kind().lease_type
    }

    /// When packets go to a peer without a tunnel; `None` for those that leave routes to others.
    pub fn mode(&self) -> Option<Mode> {
        self.conf().mode()
    }

    /// What a pod's interface may carry, when the underlay link carries `underlay`.
    pub fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        self.conf().pod_mtu(underlay)
    }

    /// The device whose MAC address this host's lease says for a family, if it says one.
    pub fn mac_device(&self, family: Family) -> Option<IfName> {
        self.conf().mac_device(family)
    }

    /// This host's lease says a WireGuard key.
    pub fn needs_key(&self) -> bool {
        self.conf().needs_key()
    }

    /// What to say when this host publishes an address that its underlay link does not have.
    pub fn behind_nat(&self) -> Option<&'static str> {
        self.conf().behind_nat()
    }

    /// Two hosts behind one address can both be reached.
    pub fn shares_addresses(&self) -> bool {
        self.conf().shares_addresses()
    }

    /// The program that works beside the kernel.
    pub fn companion(&self) -> Option<Companion> {
        self.conf().companion()
    }

    /// How one family of a peer is reached where routes are left to others.
    pub(crate) fn left_to_others(&self, peer: &Peer) -> Option<(Reach, Why)> {
        let tunnel = self.kind().tunnel?;
        Some(match peer.backend_type() == self.lease_type() {
            true => (Reach::Through(tunnel), Why::ByMode(tunnel)),
            false => (Reach::Unreachable(Why::NotIn(tunnel)), Why::NotIn(tunnel)),
        })
    }

    /// True when the two configurations have the same devices.
    pub(crate) fn has_devices_of(&self, other: &Self) -> bool {
        self.conf().devices().is_some_and(|devices| Some(devices) == other.conf().devices())
    }

    /// True when the devices of the two configurations have one name and are different ones.
    pub(crate) fn has_names_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.conf().devices(), other.conf().devices());
        ours.zip(theirs).is_some_and(|(ours, theirs)| {
            (ours.kind, ours.name) == (theirs.kind, theirs.name) && ours.fixed != theirs.fixed
        })
    }
}

/// A `Backend.Type` that no backend has. Its other keys are none of ours, so they are not called unknown.
pub(crate) struct Unknown(String);

impl From<Unknown> for Mistake {
    fn from(Unknown(name): Unknown) -> Self {
        match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
            Some((name, why)) => Self::Unsupported { name, why },
            None => Self::Unknown { name },
        }
    }
}

impl Census {
    /// The leases of `peers`.
    pub fn of<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Self {
        let mut census = Self::default();
        peers.into_iter().for_each(|peer| census.add(peer));
        census
    }

    /// One peer more.
    pub fn add(&mut self, peer: &Peer) {
        *self.types.entry(peer.backend_type()).or_default() += 1;
        for vni in sent_to(peer) {
            *self.vtep_vnis.entry(vni).or_default() += 1;
        }
    }

    /// One peer less.
    pub fn remove(&mut self, peer: &Peer) {
        take_one(&mut self.types, &peer.backend_type());
        for vni in sent_to(peer) {
            take_one(&mut self.vtep_vnis, &vni);
        }
    }

    fn of_type(&self, lease_type: &str) -> bool {
        self.types.contains_key(&LeaseType::new(lease_type))
    }

    /// Some host of backend vxlan has a VTEP of this VNI, as far as its lease says.
    fn speaks(&self, vni: kernel::types::Vni) -> bool {
        self.vtep_vnis.keys().any(|theirs| theirs.is_none_or(|theirs| theirs == vni.get() & 0xffff))
    }
}

/// The VNIs that a peer sends with. A lease has the low 16 bits of one ([`crate::lease::VxlanData::to_json`]).
fn sent_to(peer: &Peer) -> impl Iterator<Item = Option<u32>> {
    let sends = peer.backend_type().says() == Some(Data::Vtep);
    let halves = Family::ALL.into_iter().filter_map(|family| peer.half(family)).filter(move |_| sends);
    halves.filter_map(|half| Some(half.vtep?.vni.map(|vni| vni.get() & 0xffff)))
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
