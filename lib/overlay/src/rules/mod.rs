//! flanneld's packet rules: masquerade for pods, and accepts for their forwarded packets. Pure.
//!
//! Its own rules are in the tables that upstream's nftables mode uses, `ip flannel-ipv4` and `ip6 flannel-ipv6`, whether
//! `EnableNFTables` is set or not (`tables`). No rule there can keep another table from dropping a packet. Where the
//! table of `iptables-nft` would drop it, the accept is in that table, as upstream's iptables mode writes it
//! (`iptables`). Chains that drop what no accept of ours can save are found and reported (`drops`).
//!
//! The plan depends on what is in the kernel: what upstream left goes in the transaction that brings ours, and a table or
//! chain that another flannel network uses is left alone.

mod drops;
mod iptables;
mod packet;
mod source;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use kernel::state::nft::{Chain, NftFamily, TableKey};
use kernel::state::{NftChainScope, NftParts, NftScope, Scope, State};
use kernel::types::Family;

use crate::lease::Subnets;
use crate::net::ByFamily;

pub use drops::{Dropped, Drops, Flow, What, dropped};
pub use packet::Packet;

/// What the operator asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `--ip-masq`: pods' packets to addresses outside the network get this host's address.
    pub masquerade: Option<Masquerade>,
    /// `--iptables-forward-rules`: forwarded packets of pods are accepted.
    pub forward: bool,
}

/// How pods' packets are masqueraded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// The source port is chosen at random for each connection (`--ip-masq-fully-random-disable` turns this off).
    pub fully_random: bool,
    /// `--ip-masq-exclude`: packets of pods to these networks keep their source.
    pub exclude: Vec<IpNetwork>,
}

/// What the rules are planned from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What the operator asks for.
    pub options: &'a Options,
    /// `EnableNFTables`: the rules are those of upstream's nftables mode; without it those of its iptables mode.
    pub nftables: bool,
    /// The network of each family that is on.
    pub networks: ByFamily<Option<IpNetwork>>,
    /// This host's subnets.
    pub own: Subnets,
    /// Networks of this host before: rules about them are ours to remove.
    pub former: &'a BTreeSet<IpNetwork>,
    /// Packets that must pass.
    pub flows: &'a [Flow],
    /// What is in the kernel, as far as [`reads`] names it.
    pub found: &'a State,
}

/// The rules as they are planned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The tables.
    pub state: State,
    /// Which parts of the kernel's tables are ours.
    pub scope: Scope,
    /// Chains of other programs that drop what must pass.
    pub drops: Vec<Drops>,
}

impl Facts<'_> {
    /// Whether rules about `net` are this network's.
    fn is_ours(&self, net: IpNetwork) -> bool {
        let now = [self.networks.v4, self.networks.v6];
        now.iter().flatten().chain(self.former).any(|ours| crate::net::within(net, *ours))
    }

    /// All networks of a family that rules of ours can be about.
    fn networks_of(&self, family: Family) -> BTreeSet<IpNetwork> {
        let of_family = |net: &&IpNetwork| Family::from(**net) == family;
        self.networks.get(family).iter().chain(self.former.iter().filter(of_family)).copied().collect()
    }
}

/// nftables' name for a family.
fn nft_family(family: Family) -> NftFamily {
    match family {
        Family::V4 => NftFamily::Ip,
        Family::V6 => NftFamily::Ip6,
    }
}

/// What has to be read before the rules are planned. `networks` are those of now and before; `filters` are all base chains
/// of the type `filter`, of which those that may drop are read.
pub fn reads<'a>(networks: impl Iterator<Item = &'a IpNetwork>, filters: &[(TableKey, Chain)]) -> Scope {
    let mut nft = BTreeMap::new();
    let mut chains = |table: TableKey, names: &[&str]| {
        let NftScope::Shared(parts) = nft.entry(table).or_insert_with(|| NftScope::Shared(NftParts::default())) else {
            return;
        };
        parts.chains.extend(names.iter().map(|name| ((*name).to_owned(), NftChainScope::Frame)));
    };
    for family in Family::ALL {
        chains(iptables::filter(family), &iptables::FILTER_CHAINS);
        chains(iptables::nat(family), &iptables::NAT_CHAINS);
    }
    for (table, chain) in filters.iter().filter(|(table, chain)| drops::may_drop(table, chain)) {
        chains(table.clone(), &[&chain.name]);
    }
    let of_network = networks.map(|net| tables::of_network(*net));
    let ours = Family::ALL.into_iter().map(tables::usual).chain(of_network);
    nft.extend(ours.map(|table| (table, NftScope::Whole)));
    Scope { nft, ..Scope::default() }
}

/// The tables whose changes are a reason to plan again: those that were read and are there, and those that are planned.
pub fn watched(found: &State, rules: &Rules) -> BTreeSet<TableKey> {
    let usual = Family::ALL.into_iter().flat_map(|family| [tables::usual(family), iptables::filter(family)]);
    let nat: Vec<TableKey> = Family::ALL.into_iter().map(iptables::nat).collect();
    let there = found.nft.keys().chain(rules.state.nft.keys()).cloned();
    // other programs change their NAT rules often, and what upstream left there does not come back
    usual.chain(there).filter(|table| !nat.contains(table)).collect()
}

/// Plans the rules.
pub fn plan(facts: &Facts<'_>) -> Rules {
    let mut rules = Rules::default();
    for family in Family::ALL {
        tables::plan(facts, family, &mut rules);
        iptables::plan_filter(facts, family, &mut rules);
        iptables::plan_nat(facts, family, &mut rules);
    }
    rules.drops = drops::find(facts, &rules.state);
    rules
}
