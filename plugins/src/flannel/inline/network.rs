//! The network in a configuration, parsed and checked completely before the host is inspected. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gojson::Json;
use ipnetwork::IpNetwork;
use kernel::types::{Family, Mac, Mtu, Vni};
use overlay::backend::vxlan::{VxlanConf, mtu_in_range, port_in_range, vni_in_range};
use overlay::backend::{Backend, Identity};
use overlay::keep::publish;
use overlay::lease::{LeaseAttrs, StoredAttrs, StoredLease, Subnets};
use overlay::net::ByFamily;
use overlay::netconf::{Allocation, FamilyConf, NetConf};
use overlay::peers::{self, Own, Peer, Peers, Reason};
use overlay::subnet_env::SubnetEnv;

use super::super::host::DataPath;
use super::fields::Fields;
use super::mac;

/// The names of a family's keys.
struct Keys {
    network: &'static str,
    subnet: &'static str,
    public: &'static str,
    mac: &'static str,
}

impl Keys {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self { network: "network", subnet: "subnet", public: "publicIP", mac: "vtepMAC" },
            Family::V6 => Self { network: "ipv6Network", subnet: "ipv6Subnet", public: "publicIPv6", mac: "vtepMACv6" },
        }
    }
}

/// One host, as described by its own file or by a list of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub subnets: Subnets,
    pub public: ByFamily<Option<IpAddr>>,
    pub macs: ByFamily<Option<Mac>>,
}

/// A network without a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub(super) conf: NetConf,
    pub(super) own: Host,
    pub(super) peers: Vec<Host>,
    pub(super) iface: Option<String>,
}

/// Whether a configuration contains a network, or a part of one.
pub(in crate::flannel) fn given(tree: &Json) -> bool {
    ["network", "subnet", "ipv6Network", "ipv6Subnet", "peers"].iter().any(|key| tree.get(key).is_some())
}

impl Network {
    /// # Errors
    /// All mistakes that can be found without the host.
    pub(in crate::flannel) fn read(path: DataPath, tree: &Json) -> Result<Self, Vec<String>> {
        let mut fields = Fields::of(tree, String::new()).map_err(|wrong| vec![wrong.to_string()])?;
        let [v4, v6] = Family::ALL.map(|family| read_family(&mut fields, family));
        if v4.is_none() && v6.is_none() && !fields.has("network") && !fields.has("ipv6Network") {
            fields.wrong("network", "is missing: this configuration carries a network, so it needs network and subnet, or ipv6Network and ipv6Subnet");
        }
        let backend = read_backend(path, &mut fields, v6.is_some());
        let mut own = Host::default();
        for (family, read) in [(Family::V4, &v4), (Family::V6, &v6)] {
            read_host(&mut fields, &mut own, family, read.map(|(_, subnet)| subnet));
        }
        let iface = fields.text("iface");
        let conf = NetConf {
            v4: v4.map(|(network, subnet)| family_conf(network, subnet)),
            v6: v6.map(|(network, subnet)| family_conf(network, subnet)),
            enable_nftables: false,
            backend,
        };
        let (peers, mut wrong) = read_peers(&mut fields, tree);
        let (mut mistakes, _) = fields.finish();
        mistakes.append(&mut wrong);
        let network = Self { conf, own, peers, iface };
        // With half of the network missing, everything would seem to be outside.
        if network.conf.families().next().is_some() {
            let published = network.own.public;
            mistakes.extend(network.judge(&network.own_by(&published), &published).err().unwrap_or_default());
        }
        if mistakes.is_empty() { Ok(network) } else { Err(mistakes) }
    }

    /// The subnets for a delegate that only undoes an ADD; the host is not consulted.
    pub(in crate::flannel) fn env_for_del(&self) -> SubnetEnv {
        SubnetEnv { networks: self.conf.networks(), subnets: self.own.subnets, mtu: Mtu(0), ipmasq: false }
    }

    pub(super) fn vni(&self) -> Option<Vni> {
        if let Backend::Vxlan(vxlan) = self.conf.backend { Some(vxlan.vni) } else { None }
    }

    /// The MAC addresses of this host's VTEPs, when peers send to `public`.
    pub(super) fn own_macs(&self, public: &ByFamily<Option<IpAddr>>) -> ByFamily<Option<Mac>> {
        self.macs(&self.own, public)
    }

    fn macs(&self, host: &Host, public: &ByFamily<Option<IpAddr>>) -> ByFamily<Option<Mac>> {
        let mut macs = ByFamily::default();
        for family in Family::ALL {
            let derived = || Some(mac::derived(self.vni()?, (*public.get(family))?));
            *macs.get_mut(family) = host.macs.get(family).or_else(derived);
        }
        macs
    }

    fn own_by(&self, public: &ByFamily<Option<IpAddr>>) -> Own {
        self.own_at(public, std::iter::empty())
    }

    /// The same with all addresses of this host.
    pub(super) fn own_at(&self, public: &ByFamily<Option<IpAddr>>, addresses: impl Iterator<Item = IpAddr>) -> Own {
        let public_ones = Family::ALL.into_iter().filter_map(|family| *public.get(family));
        let addresses: BTreeSet<IpAddr> = public_ones.chain(addresses).collect();
        let macs = self.own_macs(public);
        let macs = Family::ALL.into_iter().filter_map(|family| *macs.get(family)).collect();
        Own { subnets: self.own.subnets, addresses: addresses.into(), macs, ..Own::default() }
    }

    /// The peers, if all of them are valid. `public` are the known addresses that peers send to.
    ///
    /// The list may contain this host, so that one list fits all files.
    pub(super) fn judge(&self, own: &Own, public: &ByFamily<Option<IpAddr>>) -> Result<Vec<Peer>, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut leases: BTreeMap<Subnets, (usize, StoredLease)> = BTreeMap::new();
        // An entry that could not be read has been reported.
        for (index, peer) in self.peers.iter().enumerate().filter(|(_, peer)| !peer.subnets.is_empty()) {
            let subnets = peer.subnets;
            if self.is_self(peer) {
                mistakes.extend(self.wrong_self(index, peer, own, public));
            } else if let Entry::Vacant(place) = leases.entry(subnets) {
                let attrs = StoredAttrs::from(&self.attributes(peer));
                place.insert((index, StoredLease { subnets, attrs, created: 0 }));
            } else {
                let twice = subnets.iter().map(|subnet| Reason::Overlaps { subnet, winner: subnets });
                mistakes.extend(twice.map(|reason| of_peer(index, &reason)));
            }
        }
        let places: BTreeMap<String, usize> =
            leases.iter().map(|(key, (index, _))| (key.to_string(), *index)).collect();
        let Peers { good, rejected, .. } = peers::judge(&self.conf, own, leases.into_values().map(|(_, lease)| lease));
        let rejected = rejected.iter();
        mistakes.extend(rejected.map(|r| of_peer(places.get(&r.key).copied().unwrap_or_default(), &r.reason)));
        if mistakes.is_empty() { Ok(good) } else { Err(mistakes) }
    }

    fn is_self(&self, peer: &Host) -> bool {
        peer.subnets.iter().any(|subnet| self.own.subnets.get(subnet.into()) == Some(subnet))
    }

    /// The mistakes in an entry that describes this host itself.
    fn wrong_self(&self, index: usize, peer: &Host, own: &Own, public: &ByFamily<Option<IpAddr>>) -> Vec<String> {
        let mut wrong = Vec::new();
        let macs = self.own_macs(public);
        for family in Family::ALL {
            let keys = Keys::of(family);
            let (theirs, ours) = (*peer.public.get(family), *public.get(family));
            if let (Some(theirs), Some(ours)) = (theirs, ours)
                && theirs != ours
                && !own.addresses.contains(&theirs)
            {
                wrong.push(format!(
                    "peers[{index}].{} {theirs} is not this host's, which is {ours}, but the subnet is this host's own: two hosts cannot share a subnet",
                    keys.public
                ));
            }
            if let (Some(theirs), Some(ours), Some(_)) = (*peer.macs.get(family), *macs.get(family), self.vni())
                && theirs != ours
            {
                wrong.push(format!("peers[{index}].{} {theirs} is this host's, which has {ours}", keys.mac));
            }
        }
        wrong
    }

    /// The lease that the peer's daemon would publish.
    fn attributes(&self, peer: &Host) -> LeaseAttrs {
        let vtep_macs = self.macs(peer, &peer.public);
        publish(&self.conf.backend, &[], peer.public, &Identity { vtep_macs, ..Identity::default() })
    }
}

/// A reason, in the words of a list of peers.
fn of_peer(index: usize, reason: &Reason) -> String {
    format!("peers[{index}]: {}", reason.to_string().replace("the lease ", "the peer "))
}

/// A family's network and this host's subnet; `None` when the family is disabled or has mistakes.
fn read_family(fields: &mut Fields<'_>, family: Family) -> Option<(IpNetwork, IpNetwork)> {
    let keys = Keys::of(family);
    let pair = (fields.has(keys.network), fields.has(keys.subnet));
    let (network, subnet) = (fields.prefix(keys.network, family), fields.prefix(keys.subnet, family));
    match pair {
        (true, false) => fields.wrong(keys.subnet, format_args!("is missing: this host's part of {}", keys.network)),
        // If no network is given at all, one message covers both families.
        (false, true) if family == Family::V6 || fields.has("ipv6Network") => {
            fields.wrong(keys.network, format_args!("is missing: what {} is a part of", keys.subnet));
        }
        _ => {}
    }
    let (network, subnet) = (network?, subnet?);
    let small = check_size(fields, keys.subnet, subnet);
    if let Err(reason) = peers::shape(subnet, network) {
        fields.wrong(keys.subnet, reason.to_string().trim_start_matches("its subnet "));
        return None;
    }
    small.then_some((network, subnet))
}

/// Checks that a subnet has addresses for a bridge and a pod.
fn check_size(fields: &mut Fields<'_>, key: &str, subnet: IpNetwork) -> bool {
    let longest = Family::from(subnet).bits() - 2;
    let room = subnet.prefix() <= longest;
    if !room {
        fields.wrong(key, format_args!("{subnet} has no room for pods: the longest is /{longest}"));
    }
    room
}

fn family_conf(network: IpNetwork, subnet: IpNetwork) -> FamilyConf {
    let end = |number| overlay::net::address(Family::from(network), number);
    let (first, last) = overlay::net::bounds(network);
    FamilyConf { network, allocation: Allocation { len: subnet.prefix(), min: end(first), max: end(last) } }
}

fn read_backend(path: DataPath, fields: &mut Fields<'_>, ipv6: bool) -> Backend {
    let default = VxlanConf::default();
    let conf = VxlanConf {
        vni: fields.number("vni", |n| vni_in_range(n, ipv6)).unwrap_or(default.vni),
        port: fields.number("port", port_in_range).filter(|port| *port != 0),
        mtu: fields.number("mtu", |n| mtu_in_range(n, ipv6)).filter(|mtu| *mtu != Mtu(0)),
        gbp: fields.flag("gbp").unwrap_or(default.gbp),
        learning: fields.flag("learning").unwrap_or(default.learning),
        direct_routing: path == DataPath::DirectRouting,
    };
    if path != DataPath::HostGw {
        return Backend::Vxlan(conf);
    }
    for key in ["vni", "port", "gbp", "learning"] {
        if fields.has(key) {
            fields.wrong(key, "is for VXLAN, and host-gw has none: remove it, or use the type vxlan");
        }
    }
    if fields.has("mtu") {
        fields.wrong(
            "mtu",
            "is for VXLAN: host-gw uses the underlay's MTU, and delegate.mtu sets a smaller one for pods",
        );
    }
    Backend::HostGw
}

/// A family's part of a host; `subnet` is the parsed subnet.
fn read_host(fields: &mut Fields<'_>, host: &mut Host, family: Family, subnet: Option<IpNetwork>) {
    let keys = Keys::of(family);
    *host.public.get_mut(family) = fields.address(keys.public, family);
    *host.macs.get_mut(family) = fields.mac(keys.mac);
    if let Some(subnet) = subnet {
        host.subnets.set(subnet);
    }
}

/// The valid peers, and the mistakes in the others.
fn read_peers(fields: &mut Fields<'_>, tree: &Json) -> (Vec<Host>, Vec<String>) {
    let entries = match tree.get("peers") {
        Some(Json::Array(entries)) => entries.as_slice(),
        Some(other) => {
            fields.wrong("peers", format_args!("must be a list of hosts, not {other}"));
            &[]
        }
        None => {
            fields.wrong("peers", "is missing: it lists the other hosts, and is [] when there are none yet");
            &[]
        }
    };
    // The enabled families as intended: mistakes in this host's own part are reported elsewhere.
    let mut on = ByFamily::default();
    for family in Family::ALL {
        let keys = Keys::of(family);
        *on.get_mut(family) = fields.has(keys.network) || fields.has(keys.subnet);
    }
    let (mut peers, mut mistakes) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match read_peer(index, entry, &on) {
            Ok(peer) => peers.push(peer),
            // Invalid entries keep their place, so that later indexes stay right.
            Err(mut wrong) => {
                mistakes.append(&mut wrong);
                peers.push(Host::default());
            }
        }
    }
    (peers, mistakes)
}

fn read_peer(index: usize, entry: &Json, on: &ByFamily<bool>) -> Result<Host, Vec<String>> {
    if entry.as_object().is_none() {
        return Err(vec![format!(
            "peers[{index}] must be an object like {{\"subnet\": \"10.244.2.0/24\", \"publicIP\": \"192.0.2.2\"}}, not {entry}"
        )]);
    }
    let mut fields = Fields::of(entry, format!("peers[{index}]")).map_err(|wrong| vec![wrong.to_string()])?;
    let mut peer = Host::default();
    for family in Family::ALL {
        let keys = Keys::of(family);
        let subnet = fields.prefix(keys.subnet, family);
        let roomy = subnet.filter(|subnet| check_size(&mut fields, keys.subnet, *subnet));
        read_host(&mut fields, &mut peer, family, roomy);
        match (fields.has(keys.subnet), fields.has(keys.public)) {
            (true, _) if !*on.get(family) => {
                let why = format!("has no use: this host has no {} and {}", keys.network, keys.subnet);
                fields.wrong(keys.subnet, why);
            }
            (true, false) => fields
                .wrong(keys.public, format_args!("is missing: it is the address of the host with {}", keys.subnet)),
            (false, true) if *on.get(family) => {
                fields.wrong(keys.subnet, format_args!("is missing: it is the subnet behind {}", keys.public));
            }
            _ => {}
        }
    }
    if !fields.has("subnet") && !fields.has("ipv6Subnet") && !fields.has("publicIP") && !fields.has("publicIPv6") {
        fields.wrong("subnet", "is missing");
    }
    let (mut mistakes, unknown) = fields.finish();
    let known = "subnet, publicIP, vtepMAC, ipv6Subnet, publicIPv6, vtepMACv6";
    mistakes.extend(unknown.iter().map(|key| format!("{key} is not a known key; known keys are {known}")));
    if mistakes.is_empty() { Ok(peer) } else { Err(mistakes) }
}
