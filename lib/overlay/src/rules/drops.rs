//! Chains of other programs that drop forwarded packets of pods.

use std::fmt;

use ipnetwork::IpNetwork;
use kernel::state::nft::{Chain, Expr, Hook, NftFamily, Policy, Rule, TableKey, Verdict, ct};
use kernel::state::{NftChain, NftRule, NftTable, State};
use kernel::types::Family;

use super::Facts;
use super::iptables::leads_to_accepts;

/// A chain at the hook `forward` that drops packets of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops {
    /// The chain's table.
    pub table: TableKey,
    /// The chain.
    pub chain: String,
    /// The pods' network.
    pub network: IpNetwork,
    /// No rule of the chain can accept these packets. If false, a rule may do so.
    pub certain: bool,
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, network, certain } = self;
        let may = if *certain { "drops" } else { "may drop" };
        let ip = if network.is_ipv4() { "ip" } else { "ip6" };
        write!(
            f,
            "chain {chain} of table {table} {may} forwarded packets of pods ({network}): accept them there (nft insert rule \
             {table} {chain} {ip} saddr {network} accept; nft insert rule {table} {chain} {ip} daddr {network} accept)"
        )
    }
}

/// Whether a base chain has to be read: its policy is drop, and it sees packets of pods.
pub(super) fn may_drop(table: &TableKey, chain: &Chain) -> bool {
    let ip = matches!(table.family, NftFamily::Inet | NftFamily::Ip | NftFamily::Ip6);
    ip && chain.base.as_ref().is_some_and(|base| base.hook == Hook::Forward && base.policy == Policy::Drop)
}

/// Why a chain drops the first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// No rule of the chain can accept the packet. If false, a rule may do so.
    pub certain: bool,
    /// The rule that drops it; `None`: the chain's policy.
    pub by: Option<NftRule>,
}

/// The chains that drop, once `planned` is in place.
pub(super) fn find(facts: &Facts<'_>, planned: &State) -> Vec<Drops> {
    let mut all = Vec::new();
    for (table, found) in &facts.found.nft {
        for network in [facts.networks.v4, facts.networks.v6].into_iter().flatten() {
            if !sees(table.family, network.into()) {
                continue;
            }
            for (name, chain) in found.chains.iter().filter(|(_, chain)| at_forward(chain)) {
                let added = added(planned.nft.get(table), name);
                if let Some(Dropped { certain, .. }) = dropped(chain, added, leads_to_accepts) {
                    all.push(Drops { table: table.clone(), chain: name.clone(), network, certain });
                }
            }
        }
    }
    all
}

/// Whether a table sees packets of a family.
pub fn sees(table: NftFamily, family: Family) -> bool {
    table == NftFamily::Inet || table == super::nft_family(family)
}

fn at_forward(chain: &NftChain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.hook == Hook::Forward)
}

/// The rules that are added behind a chain's own.
fn added<'a>(planned: Option<&'a NftTable>, chain: &str) -> impl Iterator<Item = &'a NftRule> {
    planned.and_then(|table| table.chains.get(chain)).into_iter().flat_map(|chain| &chain.rules)
}

/// What a base chain does with the first packet of a connection that its own rules say nothing about; `None`: it passes.
/// `added` are rules behind the chain's own, and `is_ours` is true for a rule that leads to an accept of ours.
pub fn dropped<'a>(
    chain: &'a NftChain,
    added: impl Iterator<Item = &'a NftRule>,
    is_ours: impl Fn(&Rule) -> bool,
) -> Option<Dropped> {
    let mut certain = true;
    for rule in chain.rules.iter().chain(added) {
        match statements(&rule.rule)[..] {
            _ if is_ours(&rule.rule) => return None,
            [Expr::Verdict(Verdict::Accept)] => return None,
            [Expr::Verdict(Verdict::Drop)] => return Some(Dropped { certain, by: Some(rule.clone()) }),
            [Expr::Other { name, .. }] if is_reject(name, &rule.rule) => {
                return Some(Dropped { certain, by: Some(rule.clone()) });
            }
            _ if may_accept(&rule.rule) => certain = false,
            _ => {}
        }
    }
    let drops = chain.base.as_ref().is_some_and(|base| base.policy == Policy::Drop);
    drops.then_some(Dropped { certain, by: None })
}

/// `reject`, or `-j REJECT` of iptables.
fn is_reject(name: &str, rule: &Rule) -> bool {
    name == "reject" || name == "target" && rule.is_target("REJECT")
}

/// The rule without what changes nothing.
fn statements(rule: &Rule) -> Vec<&Expr> {
    rule.exprs.iter().filter(|expr| **expr != Expr::Counter).collect()
}

/// Whether the rule may accept the first packet of a connection, as far as it can be read.
fn may_accept(rule: &Rule) -> bool {
    let accepts = |expr: &Expr| match expr {
        Expr::Verdict(verdict) => matches!(verdict, Verdict::Accept | Verdict::Jump(_) | Verdict::Goto(_)),
        Expr::LookupVerdict { .. } => true,
        Expr::Other { name, .. } => matches!(name.as_str(), "target" | "queue"),
        _ => false,
    };
    rule.exprs.iter().any(accepts) && !is_of_established(rule)
}

/// `ct state established,related`
fn is_of_established(rule: &Rule) -> bool {
    rule.exprs.windows(2).any(|pair| match pair {
        [Expr::Ct { key: ct::STATE, .. }, Expr::Bitwise { mask, .. }] => {
            let states = mask.as_slice().try_into().map(u32::from_ne_bytes).unwrap_or(u32::MAX);
            states & (ct::NEW | ct::UNTRACKED) == 0
        }
        _ => false,
    })
}
