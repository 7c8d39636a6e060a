//! The portmap plugin's host ports, in a table of our own. An attachment has one element per host port that says where
//! its packets go, and one that says whose packets are masqueraded.
//!
//! ```text
//! table inet cni_portmap {
//!     map ports4 {
//!         type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "<hash>-<hash>, net: n, if: eth0, id: c" : 10.1.2.3 . 80 }
//!     }
//!     map masq_ports4 {
//!         type inet_proto . inet_service : verdict
//!         elements = { tcp . 8080 comment "…" : jump masq_10.1.2.0-24_13 }
//!     }
//!     # … the same for ports of one address (addr_ports4, masq_addr_ports4) and for IPv6
//!     chain masq_10.1.2.0-24_13 {
//!         ip saddr 10.1.2.0/24 meta mark set mark or 0x2000
//!         ip saddr 127.0.0.0/8 meta mark set mark or 0x2000
//!     }
//!     chain hostports {
//!         ip6 daddr ::1 return
//!         ip daddr . meta l4proto . th dport vmap @masq_addr_ports4
//!         dnat ip to ip daddr . meta l4proto . th dport map @addr_ports4
//!         meta nfproto ipv4 meta l4proto . th dport vmap @masq_ports4
//!         meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4
//!         # … the same for IPv6
//!     }
//!     chain prerouting {
//!         type nat hook prerouting priority dstnat + 1; policy accept;
//!         fib daddr type local jump hostports
//!     }
//!     chain output {
//!         type nat hook output priority dstnat + 1; policy accept;
//!         fib daddr type local jump hostports
//!     }
//!     chain postrouting_13 {
//!         type nat hook postrouting priority srcnat + 1; policy accept;
//!         meta mark & 0x2000 == 0x2000 ct status dnat masquerade
//!     }
//! }
//! ```
//!
//! The chains come one priority after those of the reference plugins and of kube-proxy. The first translation of a
//! connection counts, so services win, and a rule of the reference plugins wins over an element that is out of date.
//! Only packets to an address of this host are translated (CVE-2025-67499).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::nft::{
    Base, Batch, ChainKind, Data, DataType, Element, ElementHandle, Field, Hook, Is, MapData, NatKind, NftFamily, Rule,
    RuleBuilder, Set, Side, TableKey, TableView, Type, Value, Verdict, ct,
};
use kernel::state::{NftChain, NftSet, NftTable};
use kernel::types::{Family, host_net, masked};
use kernel::{Kernel, KernelError};
use serde::{Deserialize, Serialize};

mod conditions;
pub mod upstream;

pub use conditions::{Conditions, are_of_iptables};

use super::{Rules, delete_elements, digest, owner};
use crate::Key;

/// The priority of translation of destinations after upstream's chains (`dstnat + 1`).
const AFTER_DSTNAT: i32 = Base::DSTNAT + 1;
/// The priority of masquerading after upstream's chains (`srcnat + 1`).
const AFTER_SRCNAT: i32 = Base::SRCNAT + 1;
const HOSTPORTS: &str = "hostports";
/// The prefix of the names of chains that mark the packets to masquerade.
const MARKS: &str = "masq_";

/// The protocols that have ports, with their numbers.
pub const PROTOCOLS: [(&str, u8); 3] = [("tcp", 6), ("udp", 17), ("sctp", 132)];

/// The name of a protocol, or its number if it is none of [`PROTOCOLS`].
pub fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.into_iter().find(|(_, of)| *of == number);
    known.map_or_else(|| number.to_string(), |(name, _)| name.to_owned())
}

/// The host ports of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Portmap {
    /// The ports.
    pub ports: Vec<HostPort>,
    /// Ports that the same container has on another network. They are this attachment's when the other one goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<HostPort>,
    /// Which connections to these ports are masqueraded; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
    /// Conditions on the packets, beside the port.
    #[serde(skip_serializing_if = "Conditions::is_empty")]
    pub conditions: Conditions,
    /// Where the rules are.
    #[serde(skip_serializing_if = "Backend::is_nftables")]
    pub backend: Backend,
}

/// Where the rules of host ports are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// In our table of nf_tables.
    #[default]
    Nftables,
    /// In upstream's chains of iptables.
    #[serde(rename_all = "camelCase")]
    Iptables {
        /// The chain that marks packets to be masqueraded, if it is another program's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        set_mark_chain: Option<String>,
    },
}

impl Backend {
    /// Whether it is nf_tables.
    pub fn is_nftables(&self) -> bool {
        *self == Self::Nftables
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The IP protocol: 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// The host's address; `None`: any of the pod address's family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The pod's address, with the prefix length of its network.
    pub pod: IpNetwork,
    /// The pod's port.
    pub pod_port: u16,
}

/// Which connections are masqueraded, so that the pod's replies return through the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Masquerade {
    /// The bit of the packet mark that carries the decision from one hook to the other: 0 to 31.
    pub mark_bit: u8,
    /// Whether all connections are, and not only those from the pod's network and from the host's loopback addresses.
    pub all: bool,
}

impl Masquerade {
    /// The bit as a mark.
    pub(crate) fn mark(self) -> u32 {
        1 << (self.mark_bit & 31)
    }
}

/// The table `inet cni_portmap`.
pub fn table() -> TableKey {
    TableKey::new(NftFamily::Inet, "cni_portmap")
}

/// The elements of an attachment. Without ports: its part of the table, whatever it may have there.
pub fn rules(key: Key<'_>, portmap: &Portmap) -> Rules {
    let suffix = suffix(&portmap.conditions);
    let elements = portmap.ports.iter().flat_map(|port| {
        let name = |kind: &str| format!("{kind}{}{suffix}", map_name(port.address.is_some(), port.family()));
        let marks = portmap.masquerade.map(|how| (name("masq_"), port.element(Data::Verdict(jump(port.pod, how)))));
        [Some((name(""), port.element(port.target()))), marks]
    });
    Rules::of_elements(table(), frame(portmap), key, elements.flatten())
}

impl Portmap {
    /// The same, but the ports whose elements are among `taken` only stand by.
    pub fn without(&self, taken: &[ElementHandle]) -> Self {
        let suffix = suffix(&self.conditions);
        let is_taken = |port: &HostPort| {
            let (map, key) = (map_name(port.address.is_some(), port.family()), port.key());
            let maps = ["", "masq_"].map(|kind| format!("{kind}{map}{suffix}"));
            taken.iter().any(|handle| maps.contains(&handle.set.name) && handle.element.key == key)
        };
        let (taken, ports) = self.ports.iter().cloned().partition::<Vec<_>, _>(is_taken);
        let standby = self.standby.iter().cloned().chain(taken).collect();
        Self { ports, standby, ..self.clone() }
    }

    /// The same with the ports that stand by. `None` if there are none.
    pub fn with_standby(&self) -> Option<Self> {
        let ports = self.ports.iter().chain(&self.standby).cloned().collect();
        (!self.standby.is_empty()).then(|| Self { ports, standby: Vec::new(), ..self.clone() })
    }
}

impl HostPort {
    fn family(&self) -> Family {
        self.pod.into()
    }

    fn key(&self) -> Vec<Value> {
        let address = self.address.map(Value::Addr);
        address.into_iter().chain([Value::Proto(self.protocol), Value::Port(self.port)]).collect()
    }

    fn element(&self, data: Data) -> Element {
        Element::new(self.key()).data(data)
    }

    fn target(&self) -> Data {
        Data::Values(vec![Value::Addr(self.pod.ip()), Value::Port(self.pod_port)])
    }
}

/// The digit of a family in the names of maps.
fn digit(family: Family) -> char {
    if family == Family::V4 { '4' } else { '6' }
}

fn map_name(of_address: bool, family: Family) -> String {
    format!("{}ports{}", if of_address { "addr_" } else { "" }, digit(family))
}

/// Ports under conditions have maps and chains of their own, with this at the end of their names.
fn suffix(conditions: &Conditions) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let mut hash = digest(&format!("{}\n{}", conditions.v4.join(" "), conditions.v6.join(" ")));
    hash.truncate(8);
    format!("_{hash}")
}

/// The chain that marks packets to be masqueraded. Colons are not allowed in names.
fn mark_chain(pod: IpNetwork, how: Masquerade) -> String {
    match how.all {
        true => format!("{MARKS}all_{}", how.mark_bit),
        false => {
            let net = masked(pod);
            let network = net.network().to_string().replace(':', "_");
            format!("{MARKS}{network}-{}_{}", net.prefix(), how.mark_bit)
        }
    }
}

fn jump(pod: IpNetwork, how: Masquerade) -> Verdict {
    Verdict::Jump(mark_chain(pod, how))
}

/// The table without elements. Chains that only some attachments need are left out unless `portmap` needs them.
fn frame(portmap: &Portmap) -> NftTable {
    let suffix = suffix(&portmap.conditions);
    let mut frame = NftTable { comment: Some("Host ports of containers".into()), ..NftTable::default() };
    let mut look_ups = Vec::new();
    for (family, of_address) in Family::ALL.into_iter().flat_map(|family| [(family, true), (family, false)]) {
        let name = format!("{}{suffix}", map_name(of_address, family));
        for (name, data) in [(name.clone(), targets(family)), (format!("masq_{name}"), DataType::Verdict)] {
            frame.sets.insert(name.clone(), NftSet::new(Set::map(name, key_types(of_address, family), data), []));
        }
        look_ups.extend(look_up(&name, of_address, family));
    }
    let hostports = format!("{HOSTPORTS}{suffix}");
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let chain = NftChain::at(Base::new(ChainKind::Nat, hook, AFTER_DSTNAT), enter(&portmap.conditions, &hostports));
        frame.chains.insert(format!("{name}{suffix}"), chain);
    }
    frame.chains.insert(hostports, NftChain::regular(std::iter::once(not_loopback()).chain(look_ups)));
    for (pod, how) in portmap.masquerade.iter().flat_map(|how| portmap.ports.iter().map(move |port| (port.pod, *how))) {
        let (name, chain) = postrouting(how);
        frame.chains.insert(name, chain);
        frame.chains.insert(mark_chain(pod, how), NftChain::regular(mark_rules(pod, how)));
    }
    frame
}

/// The kernel routes no packet from `::1` to another host, so what is sent to it stays on this host.
fn not_loopback() -> Rule {
    let loopback = host_net(Ipv6Addr::LOCALHOST.into());
    RuleBuilder::new(NftFamily::Inet).addr(Side::Destination, Is::Eq, loopback).back().done()
}

/// The rules that lead packets to an address of this host to the maps.
fn enter(conditions: &Conditions, hostports: &str) -> Vec<Rule> {
    let rule = || RuleBuilder::new(NftFamily::Inet);
    if conditions.is_empty() {
        return vec![rule().daddr_is_local(Is::Eq).jump(hostports).done()];
    }
    let of_family = |family| {
        // conditions are checked before they are stored; a rule without them would take too much
        let rule = conditions::add(rule().nfproto(family), family, conditions.of(family)).ok()?;
        Some(rule.daddr_is_local(Is::Eq).jump(hostports).done())
    };
    Family::ALL.into_iter().filter_map(of_family).collect()
}

/// Checks conditions in the syntax of `nft`.
///
/// # Errors
/// The first condition of the family that cannot be a part of our rules.
pub fn check_conditions(family: Family, words: &[String]) -> Result<(), String> {
    conditions::add(RuleBuilder::new(NftFamily::Inet).nfproto(family), family, words).map(drop)
}

fn key_types(of_address: bool, family: Family) -> Vec<Type> {
    let address = of_address.then(|| Type::addr(family));
    address.into_iter().chain([Type::InetProto, Type::InetService]).collect()
}

fn targets(family: Family) -> DataType {
    DataType::Values(vec![Type::addr(family), Type::InetService])
}

/// The rules that look up a packet's port in the map `name`: first whether to mark it, then where it goes.
fn look_up(name: &str, of_address: bool, family: Family) -> [Rule; 2] {
    let address = of_address.then_some(Field::Addr(family, Side::Destination));
    let fields: Vec<Field> = address.into_iter().chain([Field::L4Proto, Field::Port(Side::Destination)]).collect();
    let rule = || RuleBuilder::new(NftFamily::Inet).nfproto(family);
    [
        rule().vmap(&fields, &format!("masq_{name}")).done(),
        rule().nat_map(NatKind::Destination, family, &fields, (name, MapData::AddrPort)).done(),
    ]
}

fn postrouting(how: Masquerade) -> (String, NftChain) {
    let rule = RuleBuilder::new(NftFamily::Inet).mark_masked(Is::Eq, how.mark(), how.mark());
    let rule = rule.ct_status(Is::Eq, ct::DNAT).masquerade(false).done();
    let base = Base::new(ChainKind::Nat, Hook::Postrouting, AFTER_SRCNAT);
    (format!("postrouting_{}", how.mark_bit), NftChain::at(base, [rule]))
}

fn mark_rules(pod: IpNetwork, how: Masquerade) -> Vec<Rule> {
    let rule = || RuleBuilder::new(NftFamily::Inet);
    let marked = |rule: RuleBuilder| rule.set_mark(how.mark(), how.mark()).done();
    if how.all {
        return vec![marked(rule())];
    }
    let from = |net| marked(rule().addr(Side::Source, Is::Eq, net));
    let loopback = IpNetwork::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8).ok().filter(|_| pod.is_ipv4());
    std::iter::once(masked(pod)).chain(loopback).map(from).collect()
}

/// Removes the elements of an attachment without a record.
///
/// # Errors
/// The kernel refused to read or delete an element.
pub fn remove_unrecorded(kernel: &mut Kernel, key: Key<'_>) -> Result<(), KernelError> {
    delete_elements(kernel, &table(), |comment| comment.is_some_and(|comment| comment.starts_with(&owner::mark(key))))
}

/// Removes the network's elements that belong to none of the `valid` attachments, and the chains of pod networks that no
/// element leads to.
///
/// # Errors
/// As [`remove_unrecorded`].
pub fn collect(kernel: &mut Kernel, network: &str, valid: &[Key<'_>]) -> Result<(), KernelError> {
    delete_elements(kernel, &table(), |comment| owner::is_stale(comment, network, valid))?;
    let what = "delete chains that no host port needs";
    let table = table();
    let nft = kernel.nft().map_err(|error| error.about(what))?;
    let marks = |view: &TableView| {
        let mut batch = Batch::new();
        for chain in view.chains.iter().filter(|chain| chain.name.starts_with(MARKS) && !leads_to(view, &chain.name)) {
            batch.delete_chain(&table, &chain.name);
        }
        batch
    };
    match nft.update(&table, marks) {
        // a kernel without nf_tables has none
        Err(error) if error.is_unsupported() => Ok(()),
        done => done.map(drop).map_err(|error| error.about(what)),
    }
}

/// Whether an element of a map jumps to the chain.
fn leads_to(view: &TableView, chain: &str) -> bool {
    let jump = Data::Verdict(Verdict::Jump(chain.to_owned()));
    view.sets.iter().flat_map(|(_, elements)| elements).any(|element| element.data.as_ref() == Some(&jump))
}
