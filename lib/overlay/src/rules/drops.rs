//! Chains of other programs that drop packets of pods, or the packets between hosts that carry them.

use std::collections::BTreeMap;
use std::fmt;

use ipnetwork::IpNetwork;
use kernel::state::nft::{Base, Chain, ChainKind, Hook, NftFamily, Policy, Rule, TableKey};
use kernel::state::{NftChain, NftRule, NftTable, State};
use kernel::types::Family;

use super::Facts;
use super::iptables::leads_to_accepts;
use super::packet::{Does, Packet};

/// A kind of packets that must pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// What they are.
    pub what: What,
    /// One of them.
    pub packet: Packet,
}

/// What packets are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Those between pods of this network, one of which is on this host.
    Pods(IpNetwork),
    /// Those by which other hosts send pods' packets here, as nft matches them: `udp dport 8472`.
    FromHosts(String),
    /// The same the other way.
    ToHosts(String),
}

/// A chain that drops packets which must pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops {
    /// The chain's table.
    pub table: TableKey,
    /// The chain.
    pub chain: String,
    /// Where it sees the packets.
    pub hook: Hook,
    /// The packets.
    pub what: What,
    /// No rule of the chain can accept these packets. If false, a rule may do so.
    pub certain: bool,
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, hook, what, certain } = self;
        let may = if *certain { "drops" } else { "may drop" };
        write!(f, "chain {chain} of table {table} {may} ")?;
        let accept =
            |f: &mut fmt::Formatter<'_>, words: &str| write!(f, "nft insert rule {table} {chain} {words} accept");
        match what {
            What::Pods(network) => {
                let ip = if network.is_ipv4() { "ip" } else { "ip6" };
                let forwarded = if *hook == Hook::Forward { "forwarded packets of pods" } else { "packets of pods" };
                write!(f, "{forwarded} ({network}): accept them there (")?;
                accept(f, &format!("{ip} saddr {network}"))?;
                f.write_str("; ")?;
                accept(f, &format!("{ip} daddr {network}"))?;
            }
            What::FromHosts(words) => {
                write!(f, "what other hosts send for pods here ({words}): accept it there (")?;
                accept(f, words)?;
            }
            What::ToHosts(words) => {
                write!(f, "what this host sends for pods of others ({words}): accept it there (")?;
                accept(f, words)?;
            }
        }
        f.write_str(")")
    }
}

/// Whether a base chain has to be read: it may drop something that must pass.
pub(super) fn may_drop(table: &TableKey, chain: &Chain) -> bool {
    table.family != NftFamily::Arp && chain.base.as_ref().is_some_and(|base| base.kind == ChainKind::Filter)
}

/// Whether the chain sees such packets. `Forward` and the like of a bridge see the frames of pods.
fn sees(family: NftFamily, base: &Base, flow: &Flow) -> bool {
    let of_family = match family {
        NftFamily::Inet | NftFamily::Bridge | NftFamily::Netdev => true,
        NftFamily::Ip => flow.packet.src.is_ipv4(),
        NftFamily::Ip6 => flow.packet.src.is_ipv6(),
        NftFamily::Arp => false,
    };
    let on = |dev: &Option<kernel::types::IfName>| base.device.is_some() && base.device == *dev;
    let pods = matches!(flow.what, What::Pods(_));
    let at_hook = match (base.hook, &flow.what) {
        (Hook::Ingress, What::Pods(_) | What::FromHosts(_)) => on(&flow.packet.iif),
        (Hook::Egress, What::Pods(_) | What::ToHosts(_)) => on(&flow.packet.oif),
        _ if family == NftFamily::Bridge => pods && base.hook == Hook::Prerouting,
        (Hook::Prerouting, What::Pods(_) | What::FromHosts(_)) => true,
        (Hook::Forward, What::Pods(_)) => true,
        (Hook::Input, What::FromHosts(_)) => true,
        (Hook::Output, What::ToHosts(_)) => true,
        (Hook::Postrouting, What::Pods(_) | What::ToHosts(_)) => true,
        _ => false,
    };
    of_family && at_hook
}

/// What happens to a packet in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    MayDrop,
    Drops,
}

/// The chains that drop, once `planned` is in place.
pub(super) fn find(facts: &Facts<'_>, planned: &State) -> Vec<Drops> {
    let any = any_pods(facts);
    let flows = || any.iter().chain(facts.flows);
    let mut all: BTreeMap<(&TableKey, &String, &What), Drops> = BTreeMap::new();
    for (table, found) in &facts.found.nft {
        let chains = found.chains.iter().filter_map(|(name, chain)| Some((name, chain, chain.base.as_ref()?)));
        for (name, chain, base) in chains.filter(|(.., base)| base.kind == ChainKind::Filter) {
            for flow in flows().filter(|flow| sees(table.family, base, flow)) {
                let certain = match fate(chain, added(planned.nft.get(table), name), &flow.packet) {
                    Fate::Passes => continue,
                    // a host's own firewall leads to more chains, and these decide
                    Fate::MayDrop if base.hook != Hook::Forward => continue,
                    fate => fate == Fate::Drops,
                };
                let (table_key, chain, hook, what) = (table.clone(), name.clone(), base.hook, flow.what.clone());
                let drops = Drops { table: table_key, chain, hook, what, certain };
                let known = all.entry((table, name, &flow.what)).or_insert(drops);
                known.certain |= certain;
            }
        }
    }
    all.into_values().collect()
}

/// Packets of pods before there is a bridge or a peer.
fn any_pods(facts: &Facts<'_>) -> Vec<Flow> {
    let networks = Family::ALL.into_iter().filter_map(|family| *facts.networks.get(family));
    let flow = |network| {
        let packet = Packet { src: network, dst: network, iif: None, oif: None, protocol: None, port: None };
        Flow { what: What::Pods(network), packet }
    };
    networks.map(flow).collect()
}

/// The rules that are added behind a chain's own.
fn added<'a>(planned: Option<&'a NftTable>, chain: &str) -> impl Iterator<Item = &'a Rule> {
    planned.and_then(|table| table.chains.get(chain)).into_iter().flat_map(|chain| &chain.rules).map(|rule| &rule.rule)
}

/// Why a chain drops a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// No rule of the chain can accept the packet. If false, a rule may do so.
    pub certain: bool,
    /// The rule that drops it; `None`: the chain's policy.
    pub by: Option<NftRule>,
}

/// What a base chain does with a packet that opens a connection; `None`: it passes.
pub fn dropped(chain: &NftChain, packet: &Packet) -> Option<Dropped> {
    let mut certain = true;
    for rule in &chain.rules {
        match packet.meets(&rule.rule) {
            (Does::Accept, true) => return None,
            (Does::Drop, true) => return Some(Dropped { certain, by: Some(rule.clone()) }),
            (Does::Return, true) => break,
            (Does::Accept | Does::Return | Does::Unknown, _) => certain = false,
            (Does::Drop | Does::Nothing, _) => {}
        }
    }
    let drops = chain.base.as_ref().is_some_and(|base| base.policy == Policy::Drop);
    drops.then_some(Dropped { certain, by: None })
}

fn fate<'a>(chain: &'a NftChain, added: impl Iterator<Item = &'a Rule>, packet: &Packet) -> Fate {
    let mut dropped = Fate::Drops;
    for rule in chain.rules.iter().map(|rule| &rule.rule).chain(added) {
        if leads_to_accepts(rule) {
            return Fate::Passes;
        }
        match packet.meets(rule) {
            (Does::Accept, true) => return Fate::Passes,
            (Does::Drop, true) => return dropped,
            (Does::Return, true) => break,
            (Does::Accept | Does::Return | Does::Unknown, _) => dropped = Fate::MayDrop,
            (Does::Drop | Does::Nothing, _) => {}
        }
    }
    match &chain.base {
        Some(base) if base.policy == Policy::Drop => dropped,
        _ => Fate::Passes,
    }
}
