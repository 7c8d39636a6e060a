//! The firewall plugin's rules.
//!
//! By nftables, an attachment has one element per address in sets of our own tables:
//!
//! ```text
//! table inet cni_firewall {
//!     set pods4 { type ipv4_addr; elements = { 10.1.2.3 comment "<hash>-<hash>, net: n, if: eth0, id: c" } }
//!     set policy4 { … }      # pods with an ingress policy
//!     set isolated4 { … }    # pods with the ingress policy isolated
//!     # … the same for IPv6
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         ip daddr @pods4 ct state established,related accept
//!         ip daddr @pods4 ct status dnat accept
//!         ip saddr @pods4 accept
//!     }
//!     chain bridge_cni0 {
//!         type filter hook forward priority filter; policy accept;
//!         iifname "cni0" oifname != "cni0" ip daddr @policy4 drop
//!         iifname "cni0" oifname "cni0" ip daddr @isolated4 drop
//!     }
//! }
//! table bridge cni_firewall {
//!     set isolated4 { … }
//!     chain forward {
//!         type filter hook forward priority -200; policy accept;
//!         ip daddr @isolated4 drop
//!     }
//! }
//! ```
//!
//! An ingress policy means what it means in the reference plugin: packets from a bridge with such pods do not reach pods of
//! another such bridge and, if isolated, of the same bridge. Packets between two ports of a bridge do not pass the first
//! table unless the module `br_netfilter` sends them there; the second one sees them always.
//!
//! No accept there keeps another chain from dropping a packet. Where `FORWARD` of `iptables-nft` may drop, the accepts are in
//! that table too, in the reference plugin's chains and in the form that `iptables -S` prints (`in_forward`):
//!
//! ```text
//! -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
//! -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
//! -A CNI-FORWARD -d 10.1.2.3/32 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
//! -A CNI-FORWARD -s 10.1.2.3/32 -j ACCEPT
//! ```
//!
//! Unlike the reference plugin's, they accept connections to published ports.

use std::net::IpAddr;

use kernel::nft::{
    Base, ChainKind, Element, Field, Hook, Is, NftFamily, Rule, RuleBuilder, Set, Side, TableKey, Type, ct, xt_ct,
};
use kernel::state::{NftChain, NftChainScope, NftParts, NftSet, NftTable};
use kernel::types::{Family, IfName, host_net};
use serde::{Deserialize, Serialize};

use super::Rules;
use super::iptables::{Line, Part, Place, Removal, Rule as TextRule, host};
use crate::Key;

/// The chain of accepts, in the reference plugin's words.
const ACCEPTS: &str = "CNI-FORWARD";
const FORWARD: &str = "FORWARD";
const FILTER: &str = "filter";
const RULES: &str = "CNI firewall plugin rules";
const OVERRIDES: &str = "CNI firewall plugin admin overrides";
/// The chain of an administrator's own rules, unless the configuration names another.
pub const ADMIN: &str = "CNI-ADMIN";
/// The priority `filter` in bridges (NF_BR_PRI_FILTER_BRIDGED, linux/netfilter_bridge.h).
const BRIDGED: i32 = -200;
const PODS: &str = "pods";
const POLICY: &str = "policy";
const ISOLATED: &str = "isolated";

/// What the firewall plugin makes for an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Firewall {
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// What writes the rules.
    pub backend: Backend,
    /// Which packets of other pods reach the pod.
    pub policy: IngressPolicy,
    /// The pod's bridge, if there is a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The chain of an administrator's own rules.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub admin: String,
    /// nftables: whether the accepts are also in the table of `iptables-nft`, as its `FORWARD` may drop, of IPv4 and IPv6.
    pub in_forward: [bool; 2],
    /// firewalld: the zone that the addresses are sources of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// What writes the firewall's rules (`backend`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nf_tables, over netlink.
    #[default]
    Nftables,
    /// The programs of iptables.
    Iptables,
    /// firewalld, over D-Bus. A policy is made by nftables.
    Firewalld,
}

/// Which packets of other pods reach the pod (`ingressPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IngressPolicy {
    /// All.
    #[default]
    Open,
    /// Those of pods on the same bridge, and of bridges without a policy.
    SameBridge,
    /// Those of bridges without a policy.
    Isolated,
}

/// The table `inet cni_firewall`.
pub fn table() -> TableKey {
    TableKey::new(NftFamily::Inet, "cni_firewall")
}

/// The table `bridge cni_firewall`, for packets that do not leave their bridge.
pub fn bridge_table() -> TableKey {
    TableKey::new(NftFamily::Bridge, "cni_firewall")
}

/// The attachment's rules and elements in nf_tables: none for the backend iptables.
pub fn rules(key: Key<'_>, firewall: &Firewall) -> Vec<Rules> {
    let Firewall { addresses, policy, backend, .. } = firewall;
    let mut all = Vec::new();
    let (accepts, isolated) = (*backend == Backend::Nftables, *policy == IngressPolicy::Isolated);
    if *backend != Backend::Iptables && (accepts || *policy != IngressPolicy::Open) {
        let sets = [(PODS, accepts), (POLICY, *policy != IngressPolicy::Open), (ISOLATED, isolated)];
        let elements = sets.into_iter().filter(|(_, needed)| *needed).flat_map(|(set, _)| elements(set, addresses));
        all.push(Rules::of_elements(table(), frame(firewall), key, elements));
    }
    if *backend != Backend::Iptables && isolated {
        all.push(Rules::of_elements(bridge_table(), bridge_frame(), key, elements(ISOLATED, addresses)));
    }
    if accepts {
        let families = Family::ALL.into_iter().zip(firewall.in_forward).filter(|(_, needed)| *needed);
        all.extend(families.map(|(family, _)| in_forward(firewall, family)));
    }
    all
}

fn digit(family: Family) -> char {
    if family == Family::V4 { '4' } else { '6' }
}

fn set_name(kind: &str, family: Family) -> String {
    format!("{kind}{}", digit(family))
}

fn elements<'a>(set: &'a str, addresses: &'a [IpAddr]) -> impl Iterator<Item = (String, Element)> + 'a {
    addresses.iter().map(move |address| (set_name(set, (*address).into()), Element::new([(*address).into()])))
}

fn empty_set(kind: &str, family: Family) -> (String, NftSet) {
    let name = set_name(kind, family);
    (name.clone(), NftSet::new(Set::new(name, [Type::addr(family)]), []))
}

/// A rule about addresses in a set.
fn of_set(rule: RuleBuilder, side: Side, kind: &str, family: Family) -> RuleBuilder {
    rule.in_set(&[Field::Addr(family, side)], Is::Eq, &set_name(kind, family))
}

/// The table without elements, with the chain of the attachment's bridge.
fn frame(firewall: &Firewall) -> NftTable {
    let rule = || RuleBuilder::new(NftFamily::Inet);
    let forward = Base::new(ChainKind::Filter, Hook::Forward, Base::FILTER);
    let accepts = Family::ALL.into_iter().flat_map(|family| {
        let to_pod = || of_set(rule(), Side::Destination, PODS, family);
        [
            to_pod().ct_state(Is::Eq, ct::ESTABLISHED | ct::RELATED).accept().done(),
            to_pod().ct_status(Is::Eq, ct::DNAT).accept().done(),
            of_set(rule(), Side::Source, PODS, family).accept().done(),
        ]
    });
    let mut frame = NftTable { comment: Some("Firewall of containers".into()), ..NftTable::default() };
    frame.chains.insert("forward".into(), NftChain::at(forward.clone(), accepts));
    for kind in [PODS, POLICY, ISOLATED] {
        frame.sets.extend(Family::ALL.map(|family| empty_set(kind, family)));
    }
    if let Some(bridge) = firewall.bridge.as_deref().and_then(|name| IfName::new(name).ok()) {
        let leaves = |is| rule().iifname(Is::Eq, &bridge).oifname(is, &bridge);
        let drops = Family::ALL.into_iter().flat_map(|family| {
            [
                of_set(leaves(Is::Not), Side::Destination, POLICY, family).drop().done(),
                of_set(leaves(Is::Eq), Side::Destination, ISOLATED, family).drop().done(),
            ]
        });
        frame.chains.insert(format!("bridge_{bridge}"), NftChain::at(forward, drops));
    }
    frame
}

fn bridge_frame() -> NftTable {
    let rule = || RuleBuilder::new(NftFamily::Bridge);
    let drops = Family::ALL.map(|family| of_set(rule(), Side::Destination, ISOLATED, family).drop().done());
    let base = Base::new(ChainKind::Filter, Hook::Forward, BRIDGED);
    NftTable {
        comment: Some("Firewall of containers".into()),
        chains: [("forward".to_owned(), NftChain::at(base, drops))].into(),
        sets: Family::ALL.map(|family| empty_set(ISOLATED, family)).into(),
        ..NftTable::default()
    }
}

fn filter(family: Family) -> TableKey {
    TableKey::new(if family == Family::V4 { NftFamily::Ip } else { NftFamily::Ip6 }, FILTER)
}

/// Whether the rule of `FORWARD` leads to the accepts.
pub fn leads_to_accepts(rule: &Rule) -> bool {
    rule.jumps_to(ACCEPTS)
}

/// The accepts in the table of `iptables-nft`.
fn in_forward(firewall: &Firewall, family: Family) -> Rules {
    let table = filter(family);
    let jump = |to: &str, comment: &str| RuleBuilder::new(table.family).counter().jump(to).comment(comment);
    let admin = firewall.admin_chain();
    let (enter, overrides) = (jump(ACCEPTS, RULES), jump(admin, OVERRIDES));
    let own: Vec<Rule> = firewall.addresses_of(family).flat_map(|address| accepts(table.family, address)).collect();
    let mut shared = NftTable::default();
    shared.chains.insert(FORWARD.into(), NftChain::of_others([enter]));
    shared.chains.insert(admin.to_owned(), NftChain::default());
    shared.chains.insert(ACCEPTS.into(), NftChain::regular([overrides.clone()]));
    let mut wanted = shared.clone();
    if let Some(chain) = wanted.chains.get_mut(ACCEPTS) {
        chain.rules.extend(own.iter().cloned().map(Into::into));
    }
    let scope = NftChainScope::Rules(std::iter::once(overrides).chain(own).collect());
    let chains = [
        (FORWARD.to_owned(), NftChainScope::JumpsTo(ACCEPTS.to_owned())),
        (admin.to_owned(), NftChainScope::Rules(Vec::new())),
        (ACCEPTS.to_owned(), scope),
    ];
    Rules { table, wanted, shared, parts: NftParts::from(chains) }
}

fn accepts(family: NftFamily, address: IpAddr) -> [Rule; 2] {
    let rule = |side| RuleBuilder::new(family).addr(side, Is::Eq, host_net(address));
    let to_pod = rule(Side::Destination).xt_ct_state(xt_ct::RELATED | xt_ct::ESTABLISHED | xt_ct::DNAT);
    [to_pod, rule(Side::Source)].map(|rule| rule.counter().accept().done())
}

impl Firewall {
    fn admin_chain(&self) -> &str {
        if self.admin.is_empty() { ADMIN } else { &self.admin }
    }

    fn addresses_of(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(move |address| Family::from(*address) == family)
    }

    /// The zone and its sources, as firewalld names them.
    pub fn sources(&self) -> Option<(&str, Vec<String>)> {
        let sources = self.addresses.iter().map(|address| host(*address)).collect();
        (self.backend == Backend::Firewalld).then_some((&*self.zone, sources))
    }

    /// The rules in the tables of iptables, and their removal; `None` for another backend.
    pub fn iptables(&self) -> Option<(Vec<Part>, Removal)> {
        (self.backend == Backend::Iptables).then(|| (self.parts(), Self::removal(&self.addresses)))
    }

    /// The rules of each family that has an address.
    fn parts(&self) -> Vec<Part> {
        let has_address = |family: &Family| self.addresses_of(*family).next().is_some();
        Family::ALL.into_iter().filter(has_address).map(|family| self.part(family)).collect()
    }

    fn part(&self, family: Family) -> Part {
        let line = |chain: &str, place, rule| Line { chain: chain.to_owned(), place, rule };
        let commented = |comment, to| TextRule::new(["-m", "comment", "--comment", comment, "-j", to]);
        let mut frame = vec![
            line(FORWARD, Place::First, commented(RULES, ACCEPTS)),
            line(ACCEPTS, Place::First, commented(OVERRIDES, self.admin_chain())),
        ];
        frame.extend(self.isolation());
        let entries = entries(self.addresses_of(family)).into_iter().map(|rule| line(ACCEPTS, Place::Last, rule));
        Part {
            chains: vec![self.admin_chain().to_owned()],
            frame,
            entries: entries.collect(),
            ..Part::new(family, FILTER)
        }
    }

    /// The reference plugin's chains of an ingress policy. They are never removed.
    fn isolation(&self) -> Vec<Line> {
        let (Some(bridge), true) = (&self.bridge, self.policy != IngressPolicy::Open) else { return Vec::new() };
        let (stage_1, stage_2) = ("CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2");
        let name = if self.policy == IngressPolicy::Isolated { "isolated" } else { "same-bridge" };
        let of_policy = |name: &str| format!("{RULES} (ingressPolicy: {name})");
        let (all, one) = (of_policy("same-bridge|isolated"), of_policy(name));
        let rule = |links: &[&str], comment: &str, to: &str| {
            TextRule::new(links.iter().copied().chain(["-m", "comment", "--comment", comment, "-j", to]))
        };
        let line = |chain: &str, place, rule| Line { chain: chain.to_owned(), place, rule };
        let isolated = self.policy == IngressPolicy::Isolated;
        let within = isolated.then(|| line(stage_1, Place::First, rule(&["-i", bridge, "-o", bridge], &one, "DROP")));
        let rest = [
            line(FORWARD, Place::First, rule(&[], &all, stage_1)),
            line(stage_1, Place::First, rule(&["-i", bridge, "!", "-o", bridge], &one, stage_2)),
            line(stage_1, Place::Last, rule(&[], &all, "RETURN")),
            line(stage_2, Place::First, rule(&["-o", bridge], &all, "DROP")),
            line(stage_2, Place::Last, rule(&[], &all, "RETURN")),
        ];
        rest.into_iter().chain(within).collect()
    }

    /// What an attachment may have in the tables of iptables, whichever suite wrote it.
    pub fn removal(addresses: &[IpAddr]) -> Removal {
        let of_address = |address: &IpAddr| {
            let family = Family::from(*address);
            entries(std::iter::once(*address)).into_iter().map(move |rule| (family, ACCEPTS.to_owned(), rule))
        };
        Removal { table: FILTER, entries: addresses.iter().flat_map(of_address).collect(), ..Removal::default() }
    }
}

/// The reference plugin's accepts.
fn entries(addresses: impl Iterator<Item = IpAddr>) -> Vec<TextRule> {
    let rules = addresses.flat_map(|address| {
        let net = host(address);
        let to_pod = ["-d", &net, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
        [TextRule::new(to_pod), TextRule::new(["-s", &net, "-j", "ACCEPT"])]
    });
    rules.collect()
}
