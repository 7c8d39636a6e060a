//! The chains of upstream's iptables mode, in the tables of `iptables-nft` (flannel 0.28.9, pkg/trafficmngr/iptables):
//!
//! ```text
//! *filter
//! -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
//! -A FLANNEL-FWD -s NET -m comment --comment "flanneld forward" -j ACCEPT
//! -A FLANNEL-FWD -d NET -m comment --comment "flanneld forward" -j ACCEPT
//! *nat
//! -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
//! ```
//!
//! The accepts are ours too where `FORWARD` may drop, because an accept in another table would have no effect there. A
//! rule is written with nft's comment, which iptables reads as `-m comment`. `FLANNEL-POSTRTG` is only removed: once our
//! table is there, it does the same. nf_tables cannot reach the rules of `iptables-legacy`, so those remain.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use kernel::state::nft::{Expr, Hook, Policy, Rule, RuleBuilder, Side, TableKey, Verdict};
use kernel::state::{NftChain, NftChainScope, NftScope, NftTable};
use kernel::types::Family;

use super::source::source;
use super::tables::accept;
use super::{Facts, Rules, nft_family};

const FORWARD: &str = "FORWARD";
const ACCEPTS: &str = "FLANNEL-FWD";
const POSTROUTING: &str = "POSTROUTING";
const MASQUERADE: &str = "FLANNEL-POSTRTG";
const COMMENT: &str = "flanneld forward";
/// Chains of Docker begin so. It sets the policy of `FORWARD` to drop.
const DOCKER: &str = "DOCKER";

/// The chains that [`plan_filter`] reads.
pub(super) const FILTER_CHAINS: [&str; 2] = [FORWARD, ACCEPTS];
/// The chains that [`plan_nat`] reads.
pub(super) const NAT_CHAINS: [&str; 2] = [POSTROUTING, MASQUERADE];

/// `iptables -t filter`
pub(super) fn filter(family: Family) -> TableKey {
    TableKey::new(nft_family(family), "filter")
}

/// `iptables -t nat`
pub(super) fn nat(family: Family) -> TableKey {
    TableKey::new(nft_family(family), "nat")
}

/// Whether a rule leads to the accepts.
pub(super) fn leads_to_accepts(rule: &Rule) -> bool {
    rule.jumps_to(ACCEPTS)
}

/// Adds the accepts where they are needed, and removes them where not.
pub(super) fn plan_filter(facts: &Facts<'_>, family: Family, rules: &mut Rules) {
    let Some(table) = facts.found.nft.get(&filter(family)).filter(|_| facts.options.forward) else { return };
    let Some(forward) = table.chains.get(FORWARD).filter(|chain| at_forward(chain)) else { return };
    let ours: Vec<Rule> = facts.networks_of(family).into_iter().flat_map(accepts).collect();
    let is_ours = |chain: &NftChain| chain.rules.iter().all(|rule| ours.contains(&rule.rule));
    let mut scope = BTreeMap::from([(FORWARD.to_owned(), NftChainScope::JumpsTo(ACCEPTS.to_owned()))]);
    match *facts.networks.get(family) {
        Some(network) if may_drop(forward) => {
            let base = forward.base.clone();
            let jump = NftChain { base, ..NftChain::regular([jump(family)]) };
            let chains = [(FORWARD.to_owned(), jump), (ACCEPTS.to_owned(), NftChain::regular(accepts(network)))];
            rules.state.nft.insert(filter(family), NftTable { chains: chains.into(), ..NftTable::default() });
            scope.insert(ACCEPTS.to_owned(), NftChainScope::Rules(ours));
        }
        _ => match table.chains.get(ACCEPTS) {
            Some(chain) if is_ours(chain) => drop(scope.insert(ACCEPTS.to_owned(), NftChainScope::Whole)),
            // another network's accepts stay
            Some(_) => scope = BTreeMap::from([(ACCEPTS.to_owned(), NftChainScope::Rules(ours))]),
            None => return,
        },
    }
    rules.scope.nft.insert(filter(family), NftScope::Shared(scope.into()));
}

/// Removes what upstream's iptables mode left, when our masquerade takes its place.
pub(super) fn plan_nat(facts: &Facts<'_>, family: Family, rules: &mut Rules) {
    let Some(left) = facts.found.nft.get(&nat(family)).and_then(|table| table.chains.get(MASQUERADE)) else { return };
    let about = left.rules.iter().filter_map(|rule| source(family, &rule.rule));
    let replaced = facts.options.masquerade.is_some() && facts.networks.get(family).is_some();
    if replaced && about.into_iter().all(|net| facts.is_ours(net)) {
        let jumps = (POSTROUTING.to_owned(), NftChainScope::JumpsTo(MASQUERADE.to_owned()));
        let chains = [jumps, (MASQUERADE.to_owned(), NftChainScope::Whole)];
        rules.scope.nft.insert(nat(family), NftScope::Shared(chains.into()));
    }
}

fn at_forward(chain: &NftChain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.hook == Hook::Forward)
}

/// The policy is drop, or Docker may set it at any time.
fn may_drop(forward: &NftChain) -> bool {
    let leads_to_docker =
        |expr: &Expr| matches!(expr, Expr::Verdict(Verdict::Jump(chain)) if chain.starts_with(DOCKER));
    forward.base.as_ref().is_some_and(|base| base.policy == Policy::Drop)
        || forward.rules.iter().any(|rule| rule.rule.exprs.iter().any(leads_to_docker))
}

fn jump(family: Family) -> Rule {
    RuleBuilder::new(nft_family(family)).counter().jump(ACCEPTS).comment(COMMENT)
}

fn accepts(network: IpNetwork) -> [Rule; 2] {
    [Side::Source, Side::Destination].map(|side| accept(network, side).counter().accept().comment(COMMENT))
}
