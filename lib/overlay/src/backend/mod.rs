//! The backends carry packets from host to host.
//!
//! A backend is one file. The file has the keys of its configuration and their checks, the data of its leases, its
//! devices, how it carries packets to a peer, the MTU of a pod's interface, and the companion that works beside the
//! kernel. Nothing else distinguishes one backend from another: a new backend is a file, a variant of [`Backend`],
//! and a line each in `KINDS` and `conf`.
//!
//! While the configuration changes, hosts disagree. Three rules hold for every backend ([`crate::keep`]):
//! - *keep*: the devices of the previous backend stay while a peer may still send to them;
//! - *publish*: a backend without lease data of its own publishes how to reach the devices that stay;
//! - *drain*: a device that nobody may send to any more is deleted a moment later, because packets may still be on
//!   their way.

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
    /// Carries packets in VXLAN, or with `DirectRouting` without a tunnel to hosts on the same segment.
    Vxlan(VxlanConf),
    /// Carries packets by plain routes: all hosts are on one segment.
    HostGw,
    /// Carries packets in UDP datagrams, which a program of ours makes. IPv4 only.
    Udp(UdpConf),
    /// Carries packets in IPIP, or with `DirectRouting` without a tunnel to hosts on the same segment. IPv4 only.
    Ipip(IpipConf),
    /// Carries packets encrypted, by WireGuard.
    Wireguard(WireguardConf),
    /// Leaves the packets to commands of the operator.
    Extension(ExtensionConf),
    /// Leases subnets only; something else carries the packets.
    Alloc,
}

/// The properties that all configurations of a backend share.
#[derive(Debug)]
pub struct Kind {
    /// `Backend.Type`, in lower case.
    pub name: &'static str,
    /// The `BackendType` of its leases: the backend's name, but empty for alloc and udp, as upstream publishes it.
    pub lease_type: &'static str,
    /// The kind of data in its leases.
    pub data: Data,
    /// Whether it carries only IPv4.
    pub v4_only: bool,
    /// The tunnel that it packs packets in, if any.
    pub tunnel: Option<Tunnel>,
    /// Reads the backend's keys.
    read: fn(&mut Reader<'_>, bool, &mut Vec<Mistake>) -> Backend,
    /// The backend that a link with our mark belongs to.
    left: fn(&IfName, &Link) -> Option<Backend>,
}

/// The kinds of `BackendData` in leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// A VTEP; without it the lease is useless.
    Vtep,
    /// Nothing, or the VTEP of a host that has left vxlan and keeps its device.
    KeptVtep,
    /// A WireGuard key and port.
    Key,
    /// Text for commands.
    Text,
}

/// All backends.
pub static KINDS: [&Kind; 7] =
    [&vxlan::KIND, &host_gw::KIND, &udp::KIND, &ipip::KIND, &wireguard::KIND, &extension::KIND, &alloc::KIND];

/// Upstream's backends that this program does not support, and the reason for each.
const UNSUPPORTED: [(&str, &str); 2] = [
    ("ipsec", "this program runs no IKE daemon; wireguard encrypts, vxlan would send the packets unencrypted"),
    ("tencent-vpc", "this program calls no cloud APIs; alloc leases subnets and leaves the routes to other programs"),
];

/// The kind of data in leases of this type; `None` when no backend has the type.
pub fn data_of(lease_type: &str) -> Option<Data> {
    KINDS.iter().find(|kind| kind.lease_type == lease_type).map(|kind| kind.data)
}

/// All tunnels.
pub fn tunnels() -> impl Iterator<Item = Tunnel> {
    KINDS.iter().filter_map(|kind| kind.tunnel)
}

/// The backend that a link with our mark belongs to.
pub fn left(name: &IfName, link: &Link) -> Option<Backend> {
    KINDS.iter().find_map(|kind| (kind.left)(name, link))
}

/// This host's WireGuard key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardKeys {
    /// The private key, clamped as the kernel stores it.
    pub private: Secret,
    /// The public key, which the lease publishes.
    pub public: PublicKey,
}

/// What identifies this host to its peers. Each part is found or made once, and then kept. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The MAC addresses of its VTEPs, the same for every VNI. `None` leaves the choice to the kernel.
    pub vtep_macs: ByFamily<Option<Mac>>,
    /// Its WireGuard keys.
    pub wireguard: Option<WireguardKeys>,
    /// The output of the extension backend's first command.
    pub text: Option<String>,
}

/// The properties of a host that the devices of a backend depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The networks of the enabled families.
    pub networks: ByFamily<Option<ipnetwork::IpNetwork>>,
    /// The subnets of its lease.
    pub own: Subnets,
    /// What identifies it to its peers.
    pub identity: Identity,
    /// The link to the other hosts.
    pub underlay: Underlay,
}

impl Host {
    /// The alias of its devices, which names the networks that they serve.
    pub fn mark(&self) -> String {
        ownership::mark(Family::ALL.into_iter().filter_map(|family| *self.networks.get(family)))
    }
}

/// Which backend's devices to make, and under which names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Those of the current backend.
    Current,
    /// Those of a previous backend, under upstream's names.
    Kept,
    /// Those of a previous backend whose names the current backend uses.
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

/// This host's end of a tunnel: its devices, and how they reach peers.
pub(crate) trait End: fmt::Debug + Send + Sync {
    /// Writes the devices.
    fn write(&self, state: &mut State);

    /// The tunnel of this end.
    fn tunnel(&self) -> Tunnel;

    /// Checks whether this end reaches one family of a peer.
    ///
    /// # Errors
    /// The reason why it does not.
    fn reaches(&self, peer: &Peer, half: &Half) -> Result<(), Why>;

    /// The reason to use this tunnel for a peer that nothing else reaches; `None` if it must not be used.
    fn last_resort(&self, _peer: &Peer, _half: &Half, _on_link: bool) -> Option<Why> {
        None
    }

    /// Writes the objects that carry packets to one family of a peer that this end reaches.
    fn write_peer(&self, peer: &Peer, half: &Half, state: &mut State);
}

/// The peers' leases, counted by the devices that they tell other hosts to send to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    types: BTreeMap<LeaseType, usize>,
    vtep_vnis: BTreeMap<Option<u32>, usize>,
}

/// The behaviour of a backend with its configuration.
pub(crate) trait Conf {
    fn kind(&self) -> &'static Kind;

    /// When packets go to a peer without a tunnel; `None` if the backend leaves routes to others.
    fn mode(&self) -> Option<Mode>;

    /// The MTU of a pod's interface. As upstream, both families share one number.
    fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        underlay
    }

    /// The lease data for a family.
    fn lease_data(&self, _identity: &Identity, _family: Family) -> Option<Json> {
        None
    }

    /// The device whose MAC address the leases publish, if any.
    fn mac_device(&self, _family: Family) -> Option<IfName> {
        None
    }

    /// Whether the leases publish a WireGuard key.
    fn needs_key(&self) -> bool {
        false
    }

    /// The names of all its devices, including those that this host does not need.
    fn names(&self, _role: Role) -> Vec<IfName> {
        Vec::new()
    }

    /// Whether a device that is only kept is neither compared nor changed.
    fn stays_as_it_is(&self) -> bool {
        false
    }

    /// This host's end of the tunnel; `None` when the backend has no devices.
    fn end(&self, _host: &Host, _role: Role) -> Option<Box<dyn End>> {
        None
    }

    /// Identifies the devices: two configurations with equal values have the same devices. `None`: it has none.
    fn devices(&self) -> Option<Devices> {
        None
    }

    /// Whether its device works beside that of `current`. If not, only one of them can exist.
    fn can_stay_beside(&self, _current: &Backend) -> bool {
        true
    }

    /// Whether a lease makes its readers send to the devices of this configuration.
    fn is_named_in(&self, attrs: &LeaseAttrs) -> bool {
        self.kind().lease_type == attrs.backend_type
    }

    /// Whether a peer's lease says that its host may send to the devices of this configuration.
    fn may_be_sent_to(&self, census: &Census) -> bool {
        census.of_type(self.kind().lease_type)
    }

    /// Whether leases of the two configurations look the same, so that a lease does not tell which one its host runs.
    fn looks_like(&self, current: &Backend) -> bool {
        self.kind().lease_type == current.kind().lease_type
    }

    fn companion(&self) -> Option<Companion> {
        None
    }

    /// The warning for a host that publishes an address that its underlay link does not have.
    fn behind_nat(&self) -> Option<&'static str> {
        None
    }

    /// Whether two hosts behind one address can both be reached.
    fn shares_addresses(&self) -> bool {
        false
    }
}

/// Identifies the devices of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Devices {
    /// `Kind::name`
    kind: &'static str,
    /// The part of the configuration that the device names depend on.
    name: u32,
    /// Further properties that cannot change while the devices exist.
    fixed: u32,
}

impl Backend {
    /// Reads the value of `Backend`, an object. `ipv6`: IPv6 is enabled. Returns `None` only together with a mistake.
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

    /// The backend when there is no `Backend` key: udp.
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

    /// The properties that all configurations of this backend share.
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

    /// When packets go to a peer without a tunnel; `None` for backends that leave routes to others.
    pub fn mode(&self) -> Option<Mode> {
        self.conf().mode()
    }

    /// The MTU of a pod's interface, when the underlay link has the MTU `underlay`.
    pub fn pod_mtu(&self, underlay: Mtu) -> Mtu {
        self.conf().pod_mtu(underlay)
    }

    /// The device whose MAC address this host's lease publishes for a family, if any.
    pub fn mac_device(&self, family: Family) -> Option<IfName> {
        self.conf().mac_device(family)
    }

    /// Whether this host's lease publishes a WireGuard key.
    pub fn needs_key(&self) -> bool {
        self.conf().needs_key()
    }

    /// The warning for a host that publishes an address that its underlay link does not have.
    pub fn behind_nat(&self) -> Option<&'static str> {
        self.conf().behind_nat()
    }

    /// Whether two hosts behind one address can both be reached.
    pub fn shares_addresses(&self) -> bool {
        self.conf().shares_addresses()
    }

    /// The program that works beside the kernel, if any.
    pub fn companion(&self) -> Option<Companion> {
        self.conf().companion()
    }

    /// How one family of a peer is reached by a backend that leaves routes to others.
    pub(crate) fn left_to_others(&self, peer: &Peer) -> Option<(Reach, Why)> {
        let tunnel = self.kind().tunnel?;
        Some(match peer.backend_type() == self.lease_type() {
            true => (Reach::Through(tunnel), Why::ByMode(tunnel)),
            false => (Reach::Unreachable(Why::NotIn(tunnel)), Why::NotIn(tunnel)),
        })
    }

    /// Whether the two configurations have the same devices.
    pub(crate) fn has_devices_of(&self, other: &Self) -> bool {
        self.conf().devices().is_some_and(|devices| Some(devices) == other.conf().devices())
    }

    /// Whether the devices of the two configurations have the same names but differ.
    pub(crate) fn has_names_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.conf().devices(), other.conf().devices());
        ours.zip(theirs).is_some_and(|(ours, theirs)| {
            (ours.kind, ours.name) == (theirs.kind, theirs.name) && ours.fixed != theirs.fixed
        })
    }
}

/// A `Backend.Type` that no backend has. The other keys may belong to that type, so they are not reported as unknown.
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
    /// Counts the leases of `peers`.
    pub fn of<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Self {
        let mut census = Self::default();
        peers.into_iter().for_each(|peer| census.add(peer));
        census
    }

    /// Adds one peer.
    pub fn add(&mut self, peer: &Peer) {
        *self.types.entry(peer.backend_type()).or_default() += 1;
        for vni in sent_to(peer) {
            *self.vtep_vnis.entry(vni).or_default() += 1;
        }
    }

    /// Removes one peer.
    pub fn remove(&mut self, peer: &Peer) {
        take_one(&mut self.types, &peer.backend_type());
        for vni in sent_to(peer) {
            take_one(&mut self.vtep_vnis, &vni);
        }
    }

    fn of_type(&self, lease_type: &str) -> bool {
        self.types.contains_key(&LeaseType::new(lease_type))
    }

    /// Whether a vxlan host's lease names a VTEP of this VNI.
    fn speaks(&self, vni: kernel::types::Vni) -> bool {
        self.vtep_vnis.keys().any(|theirs| theirs.is_none_or(|theirs| theirs == vni.get() & 0xffff))
    }
}

/// The VNIs that a peer sends with. A lease has only the low 16 bits ([`crate::lease::VxlanData::to_json`]).
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
