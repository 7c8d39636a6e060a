//! The tables of flanneld's own, with the names, chains and rules of upstream's nftables mode (flannel 0.28.9,
//! pkg/trafficmngr/nftables):
//!
//! ```text
//! table ip flannel-ipv4 {
//!     chain postrtg {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         meta mark 0x00004000 return
//!         ip saddr POD ip daddr NET return
//!         ip saddr NET ip daddr POD return
//!         ip saddr != POD ip daddr NET return
//!         ip saddr NET ip daddr != 224.0.0.0/4 masquerade fully-random
//!         ip saddr != NET ip daddr NET masquerade fully-random
//!     }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         ip saddr NET accept
//!         ip daddr NET accept
//!     }
//! }
//! ```
//!
//! Without `EnableNFTables` the rules are those of upstream's iptables mode: the first compares one bit
//! (`meta mark & 0x4000 == 0x4000`), and the fourth is `ip saddr != NET ip daddr POD return`, so that packets from outside
//! the network to another host's pod are masqueraded. The chain `forward` is not there then: it could accept nothing that
//! another chain drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::state::nft::{Base, ChainKind, Hook, Is, Rule, RuleBuilder, Side, TableKey};
use kernel::state::{NftChain, NftScope, NftTable};
use kernel::types::{Family, host_net};

use super::source::source;
use super::{Facts, Masquerade, Rules, nft_family};

const POSTROUTING: &str = "postrtg";
const FORWARD: &str = "forward";
/// The mark of packets that kube-proxy masquerades (`--iptables-masquerade-bit`, 14).
const KUBE_PROXY: u32 = 0x4000;

/// Upstream's table of a family.
pub(super) fn usual(family: Family) -> TableKey {
    let name = match family {
        Family::V4 => "flannel-ipv4",
        Family::V6 => "flannel-ipv6",
    };
    TableKey::new(nft_family(family), name)
}

/// The table of `network`, for a host whose usual table is another network's.
pub(super) fn of_network(network: IpNetwork) -> TableKey {
    let TableKey { family, name } = usual(network.into());
    // what nft takes for a name has no colon
    TableKey::new(family, format!("{name}-{}", network.to_string().replace(':', "_")))
}

/// Adds the table of a family, and the tables that are ours to remove.
pub(super) fn plan(facts: &Facts<'_>, family: Family, rules: &mut Rules) {
    let usual = usual(family);
    let ours = facts.found.nft.get(&usual).is_none_or(|table| is_ours(facts, family, table));
    let key = match *facts.networks.get(family) {
        _ if ours => Some(usual.clone()),
        network => network.map(of_network),
    };
    if let (Some(key), Some(table)) = (key, table(facts, family)) {
        let comment = Some(format!("rules for {}", usual.name));
        rules.state.nft.insert(key, NftTable { comment, ..table });
    }
    let of_networks = facts.networks_of(family).into_iter().map(of_network);
    let tables = of_networks.chain(ours.then_some(usual));
    rules.scope.nft.extend(tables.map(|table| (table, NftScope::Whole)));
}

/// Whether a table of the usual name has no rule about another network.
fn is_ours(facts: &Facts<'_>, family: Family, table: &NftTable) -> bool {
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    rules.filter_map(|rule| source(family, &rule.rule)).all(|net| facts.is_ours(net))
}

/// The chains that are asked for; `None` when none is.
fn table(facts: &Facts<'_>, family: Family) -> Option<NftTable> {
    let network = (*facts.networks.get(family))?;
    let mut table = NftTable::default();
    if let (Some(masquerade), Some(own)) = (&facts.options.masquerade, facts.own.get(family)) {
        table.chains.insert(POSTROUTING.to_owned(), postrouting(masquerade, (network, own), facts.nftables));
    }
    if facts.options.forward && facts.nftables {
        table.chains.insert(FORWARD.to_owned(), forward(network));
    }
    (!table.chains.is_empty()).then_some(table)
}

fn postrouting(masquerade: &Masquerade, (network, own): (IpNetwork, IpNetwork), nftables: bool) -> NftChain {
    let rule = || RuleBuilder::new(nft_family(network.into()));
    let between =
        |from: IpNetwork, to: IpNetwork| rule().addr(Side::Source, Is::Eq, from).addr(Side::Destination, Is::Eq, to);
    let from_outside =
        |of: IpNetwork, to: IpNetwork| rule().addr(Side::Source, Is::Not, of).addr(Side::Destination, Is::Eq, to);
    let marked = match nftables {
        true => rule().mark(Is::Eq, KUBE_PROXY),
        false => rule().mark_masked(Is::Eq, KUBE_PROXY, KUBE_PROXY),
    };
    let inward = if nftables { from_outside(own, network) } else { from_outside(network, own) };
    let kept = [marked, between(own, network), between(network, own), inward].into_iter();
    let excluded = masquerade.exclude.iter().filter(|net| Family::from(**net) == Family::from(network));
    let excluded = excluded.map(|net| between(network, *net));
    let outward =
        rule().addr(Side::Source, Is::Eq, network).addr(Side::Destination, Is::Not, multicast(network.into()));
    let replaced = [outward, from_outside(network, network)].into_iter();
    let rules = kept.chain(excluded).map(|rule| rule.back().done());
    let rules = rules.chain(replaced.map(|rule| rule.masquerade(masquerade.fully_random).done()));
    let base = Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT);
    commented(NftChain::at(base, rules), "chain to manage traffic masquerading by flannel")
}

fn forward(network: IpNetwork) -> NftChain {
    let accept = |side| accept(network, side).accept().done();
    let base = Base::new(ChainKind::Filter, Hook::Forward, Base::FILTER);
    let rules: [Rule; 2] = [Side::Source, Side::Destination].map(accept);
    commented(NftChain::at(base, rules), "chain to accept flannel traffic")
}

/// A rule's match for packets of the network.
pub(super) fn accept(network: IpNetwork, side: Side) -> RuleBuilder {
    RuleBuilder::new(nft_family(network.into())).addr(side, Is::Eq, network)
}

fn commented(chain: NftChain, comment: &str) -> NftChain {
    NftChain { comment: Some(comment.to_owned()), ..chain }
}

/// All multicast addresses (RFC 5771, RFC 4291 §2.7).
fn multicast(family: Family) -> IpNetwork {
    let (group, prefix): (IpAddr, u8) = match family {
        Family::V4 => (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Family::V6 => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    };
    IpNetwork::new(group, prefix).unwrap_or_else(|_| host_net(group))
}
