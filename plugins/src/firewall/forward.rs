//! What other programs' chains do with forwarded packets of pods.

use std::fmt;

use attachment::rules::firewall::leads_to_accepts;
use ipnetwork::IpNetwork;
use kernel::diff::{NftStep, Step};
use kernel::nft::{Chain, ChainKind, Expr, Hook, NftFamily, TableKey, Verdict};
use kernel::state::{NftChain, NftRule};
use kernel::types::Family;
use kernel::{Kernel, KernelError};
use overlay::rules::{Dropped, Packet, dropped};

/// The table and the chain of `iptables-nft`, where an accept of ours counts.
const FILTER: &str = "filter";
const FORWARD: &str = "FORWARD";
/// Chains of Docker begin so. It sets the policy of `FORWARD` to drop.
const DOCKER: &str = "DOCKER";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether accepts are needed in `FORWARD` of `iptables-nft`, of IPv4 and IPv6.
    pub in_forward: [bool; 2],
    /// Chains of other programs that drop, or may drop, where no accept of ours counts.
    pub drops: Vec<Drop>,
}

/// A chain that drops packets of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    table: TableKey,
    chain: String,
    dropped: Dropped,
}

impl Drop {
    /// Whether no rule of the chain can accept the packets.
    pub fn is_certain(&self) -> bool {
        self.dropped.certain
    }
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, dropped: Dropped { certain, by } } = self;
        let drops = if *certain { "drops" } else { "may drop" };
        write!(f, "chain {chain} of table {table} {drops} forwarded packets of the pod by its ")?;
        match by {
            Some(rule) => {
                let handle = rule.handle.unwrap_or_default();
                write!(f, "rule \"{}\" (handle {handle})", text(table, chain, rule))?;
            }
            None => f.write_str("policy")?,
        }
        let advice =
            if table.name == "firewalld" { "configure \"backend\": \"firewalld\"" } else { "accept them there" };
        write!(f, ", and no accept of this plugin counts there: {advice}")
    }
}

fn text(table: &TableKey, chain: &str, rule: &NftRule) -> String {
    let command = Step::Nft(table.clone(), NftStep::AddRule(chain.to_owned(), rule.clone())).to_string();
    command.strip_prefix(&format!("nft add rule {table} {chain} ")).unwrap_or(&command).to_owned()
}

/// A packet that opens a connection from a pod's address or network to anywhere.
fn from(source: IpNetwork) -> Packet {
    let dst = Family::from(source).default_net();
    Packet { src: source, dst, iif: None, oif: None, protocol: None, port: None }
}

/// Reads the chains that forwarded packets from these sources pass.
///
/// # Errors
/// The kernel has no nf_tables, or cannot list them.
pub fn look(host: &mut Kernel, sources: &[IpNetwork]) -> Result<Found, KernelError> {
    let what = "list the chains that forwarded packets pass";
    let nft = host.nft().map_err(|error| error.about(what))?;
    let mut found = Found::default();
    let chains = nft.base_chains(ChainKind::Filter).map_err(|error| error.about(what))?;
    let at_forward = |chain: &Chain| chain.base.as_ref().is_some_and(|base| base.hook == Hook::Forward);
    for (table, chain) in chains.into_iter().filter(|(_, chain)| at_forward(chain)) {
        let seen: Vec<Packet> = sources.iter().filter(|net| sees(table.family, **net)).map(|net| from(*net)).collect();
        if seen.is_empty() || table == attachment::rules::firewall::table() {
            continue;
        }
        let rules = nft.rules(&table, Some(&chain.name)).map_err(|error| error.about(what))?;
        let rules = rules.into_iter().map(|listed| NftRule { handle: Some(listed.handle), ..listed.rule.into() });
        found.judge(table, chain.name.clone(), &with_rules(chain, rules.collect()), &seen);
    }
    Ok(found)
}

/// Whether a table of this family sees packets from `source`.
fn sees(family: NftFamily, source: IpNetwork) -> bool {
    match family {
        NftFamily::Inet => true,
        NftFamily::Ip => source.is_ipv4(),
        NftFamily::Ip6 => source.is_ipv6(),
        NftFamily::Arp | NftFamily::Bridge | NftFamily::Netdev => false,
    }
}

fn with_rules(Chain { base, comment, .. }: Chain, rules: Vec<NftRule>) -> NftChain {
    NftChain { base, comment, rules, foreign: true }
}

impl Found {
    fn judge(&mut self, table: TableKey, name: String, chain: &NftChain, seen: &[Packet]) {
        // ours comes first in the chain, and must not hide what is behind it
        let others = NftChain { rules: without_ours(chain), ..chain.clone() };
        let dropped = seen.iter().find_map(|packet| dropped(&others, packet));
        match (table.family, &*table.name, &*name) {
            (NftFamily::Ip, FILTER, FORWARD) => self.in_forward[0] = dropped.is_some() || leads_to_docker(chain),
            (NftFamily::Ip6, FILTER, FORWARD) => self.in_forward[1] = dropped.is_some() || leads_to_docker(chain),
            _ => self.drops.extend(dropped.map(|dropped| Drop { table, chain: name, dropped })),
        }
    }
}

fn without_ours(chain: &NftChain) -> Vec<NftRule> {
    chain.rules.iter().filter(|rule| !leads_to_accepts(&rule.rule)).cloned().collect()
}

fn leads_to_docker(chain: &NftChain) -> bool {
    let leads = |expr: &Expr| matches!(expr, Expr::Verdict(Verdict::Jump(chain)) if chain.starts_with(DOCKER));
    chain.rules.iter().any(|rule| rule.rule.exprs.iter().any(leads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::nft::{Base, Policy, Rule, RuleBuilder, ct};

    fn at_forward(policy: Policy, rules: impl IntoIterator<Item = Rule>) -> NftChain {
        NftChain::at(Base { policy, ..Base::new(ChainKind::Filter, Hook::Forward, 0) }, rules)
    }

    fn judged(table: TableKey, name: &str, chain: &NftChain) -> Found {
        let mut found = Found::default();
        found.judge(table, name.to_owned(), chain, &[from("10.1.2.3/32".parse().unwrap())]);
        found
    }

    fn rule() -> RuleBuilder {
        RuleBuilder::new(NftFamily::Ip)
    }

    #[test]
    fn forward_of_iptables_needs_accepts_where_it_may_drop() {
        let filter = || TableKey::new(NftFamily::Ip, "filter");
        let jump = |to: &str| rule().counter().jump(to).done();
        for (needed, chain) in [
            (false, at_forward(Policy::Accept, [])),
            (true, at_forward(Policy::Drop, [])),
            (true, at_forward(Policy::Drop, [jump("CNI-FORWARD")])),
            (false, at_forward(Policy::Accept, [jump("CNI-FORWARD"), jump("KUBE-FORWARD")])),
            (true, at_forward(Policy::Accept, [jump("DOCKER-USER")])),
            (true, at_forward(Policy::Accept, [rule().counter().drop().done()])),
        ] {
            let found = judged(filter(), "FORWARD", &chain);
            assert_eq!(found, Found { in_forward: [needed, false], drops: Vec::new() }, "{chain:?}");
        }
    }

    #[test]
    fn a_chain_of_others_is_named_with_its_rule() {
        let firewalld = TableKey::new(NftFamily::Inet, "firewalld");
        let reject = Rule { exprs: vec![Expr::Other { name: "reject".into(), data: Vec::new() }], comment: None };
        let established = rule().ct_state(Is::Eq, ct::ESTABLISHED | ct::RELATED).accept().done();
        let mut chain = at_forward(Policy::Accept, [established, reject]);
        chain.rules[1].handle = Some(7);
        let found = judged(firewalld.clone(), "filter_FORWARD", &chain);
        assert!(found.drops[0].is_certain());
        let text = found.drops[0].to_string();
        assert!(text.contains("chain filter_FORWARD of table inet firewalld drops forwarded packets"), "{text}");
        assert!(text.contains("rule \"(reject)\" (handle 7)") && text.contains("\"firewalld\""), "{text}");
        let ufw = TableKey::new(NftFamily::Inet, "f");
        let chain = at_forward(Policy::Drop, [rule().jump("mine").done()]);
        let text = judged(ufw, "forward", &chain).drops[0].to_string();
        assert!(text.contains("may drop") && text.contains("by its policy"), "{text}");
    }

    use kernel::nft::Is;
}
