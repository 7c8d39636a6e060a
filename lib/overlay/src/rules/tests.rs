use kernel::diff::{Step, diff};
use kernel::nft::{Base, ChainKind, Hook, Is, Policy, Rule, RuleBuilder, Side, ct};
use kernel::state::{NftChain, NftRule, NftTable};

use super::*;

const NETWORK: &str = "10.244.0.0/16";

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// What a test changes of the facts.
struct Host {
    options: Options,
    nftables: bool,
    networks: ByFamily<Option<IpNetwork>>,
    own: Subnets,
    former: BTreeSet<IpNetwork>,
    flows: Vec<Flow>,
    found: State,
}

impl Host {
    fn new() -> Self {
        let masquerade = Some(Masquerade { fully_random: true, exclude: Vec::new() });
        Self {
            options: Options { masquerade, forward: true },
            nftables: false,
            networks: ByFamily { v4: Some(net(NETWORK)), v6: None },
            own: "10.244.1.0-24".parse().unwrap(),
            former: BTreeSet::new(),
            flows: Vec::new(),
            found: State::default(),
        }
    }

    fn dual_stack() -> Self {
        let own = "10.244.1.0-24&fd10:244:0:1::-64".parse().unwrap();
        Self { networks: ByFamily { v4: Some(net(NETWORK)), v6: Some(net("fd10:244::/48")) }, own, ..Self::new() }
    }

    fn plan(&self) -> Rules {
        plan(&Facts {
            options: &self.options,
            nftables: self.nftables,
            networks: self.networks,
            own: self.own,
            former: &self.former,
            flows: &self.flows,
            found: &self.found,
        })
    }

    /// The steps from what is found to what is planned.
    fn steps(&self) -> Vec<String> {
        let rules = self.plan();
        let plan = diff(&rules.state, &self.found, &rules.scope);
        assert_eq!(plan.conflicts, []);
        plan.steps.iter().map(Step::to_string).collect()
    }

    fn drops(&self) -> Vec<String> {
        self.plan().drops.iter().map(ToString::to_string).collect()
    }

    /// Adds chains to a table as it is found.
    fn with(mut self, table: &TableKey, chains: impl IntoIterator<Item = (&'static str, NftChain)>) -> Self {
        let found = self.found.nft.entry(table.clone()).or_default();
        let next = &mut found.chains.values().map(|chain| chain.rules.len() as u64).sum::<u64>();
        for (name, mut chain) in chains {
            for NftRule { handle, .. } in &mut chain.rules {
                *next += 1;
                *handle = Some(*next);
            }
            found.chains.insert(name.to_owned(), chain);
        }
        self
    }

    /// The tables as they are planned by `other`, found here.
    fn after(mut self, other: &Self) -> Self {
        for (table, NftTable { chains, .. }) in other.plan().state.nft {
            let chains: Vec<_> = chains.into_iter().map(|(name, chain)| (&*name.leak(), chain)).collect();
            self = self.with(&table, chains);
        }
        self
    }
}

fn filter() -> TableKey {
    iptables::filter(Family::V4)
}

fn at_forward(policy: Policy, rules: impl IntoIterator<Item = Rule>) -> NftChain {
    let base = Base { policy, ..Base::new(ChainKind::Filter, Hook::Forward, Base::FILTER) };
    NftChain::at(base, rules)
}

fn rule() -> RuleBuilder {
    RuleBuilder::new(NftFamily::Ip)
}

/// What `iptables` writes for a network.
fn accepts(network: &str) -> [Rule; 2] {
    let accept = |side| rule().addr(side, Is::Eq, net(network)).counter().accept().comment("flanneld forward");
    [Side::Source, Side::Destination].map(accept)
}

fn jump() -> Rule {
    rule().counter().jump("FLANNEL-FWD").comment("flanneld forward")
}

#[test]
fn the_rules_are_those_of_upstreams_iptables_mode() {
    let add = "nft add rule ip flannel-ipv4 postrtg";
    assert_eq!(
        Host::new().steps(),
        [
            "nft add table ip flannel-ipv4 { comment \"rules for flannel-ipv4\"; }".to_owned(),
            "nft create chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100; policy accept; comment \
             \"chain to manage traffic masquerading by flannel\"; }"
                .to_owned(),
            format!("{add} meta mark & 0x4000 == 0x4000 return"),
            format!("{add} ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return"),
            format!("{add} ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return"),
            format!("{add} ip saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24 return"),
            format!("{add} ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random"),
            format!("{add} ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random"),
        ]
    );
}

#[test]
fn the_rules_are_those_of_upstreams_nftables_mode() {
    let host = Host { nftables: true, ..Host::dual_stack() };
    let steps = host.steps();
    let of = |family: &str| -> Vec<String> {
        let rules = format!("nft add rule {family} ");
        steps.iter().filter_map(|step| step.strip_prefix(&rules).map(str::to_owned)).collect()
    };
    assert_eq!(
        of("ip flannel-ipv4"),
        [
            "forward ip saddr 10.244.0.0/16 accept",
            "forward ip daddr 10.244.0.0/16 accept",
            "postrtg meta mark 0x4000 return",
            "postrtg ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return",
            "postrtg ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return",
            "postrtg ip saddr != 10.244.1.0/24 ip daddr 10.244.0.0/16 return",
            "postrtg ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
            "postrtg ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random",
        ]
    );
    let v6 = of("ip6 flannel-ipv6");
    assert_eq!(v6[0], "forward ip6 saddr fd10:244::/48 accept");
    assert_eq!(v6[6], "postrtg ip6 saddr fd10:244::/48 ip6 daddr != ff00::/8 masquerade fully-random");
    let again = Host { nftables: true, ..Host::dual_stack() }.after(&host);
    assert_eq!(again.steps(), [""; 0], "what is there is not written again");
}

#[test]
fn only_what_is_asked_for_is_there() {
    let none = Options { masquerade: None, forward: true };
    let host = Host { options: none.clone(), ..Host::new() };
    assert_eq!(host.steps(), [""; 0], "an accept in a table of its own would have no effect");
    let host = Host { options: none, nftables: true, ..Host::new() };
    assert!(host.steps().iter().all(|step| !step.contains("masquerade")), "{:?}", host.steps());
    assert_eq!(host.steps().len(), 4);
    let plain = Some(Masquerade { fully_random: false, exclude: vec![net("192.0.2.0/24"), net("fd00::/8")] });
    let host = Host { options: Options { masquerade: plain, forward: false }, nftables: true, ..Host::new() };
    let rules: Vec<String> = host.steps().into_iter().filter(|step| step.contains("add rule")).collect();
    assert_eq!(rules[4], "nft add rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 ip daddr 192.0.2.0/24 return");
    assert!(rules[5].ends_with("ip daddr != 224.0.0.0/4 masquerade") && rules.len() == 7, "{rules:?}");
    // and goes when it is asked for no more
    let off = Host { options: Options::default(), ..Host::new() }.after(&Host::new());
    assert_eq!(off.steps(), ["nft delete table ip flannel-ipv4"]);
}

#[test]
fn a_changed_rule_is_written_again() {
    let mut host = Host::new().after(&Host::new());
    let table = host.found.nft.get_mut(&tables::usual(Family::V4)).unwrap();
    drop(table.chains.get_mut("postrtg").unwrap().rules.remove(4));
    let steps = host.steps();
    let masquerade = "nft add rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade";
    assert!(steps[0].starts_with(masquerade), "{steps:?}");
    assert_eq!(steps[2..], ["nft delete rule ip flannel-ipv4 postrtg handle 6"], "the order is upstream's");
}

#[test]
fn another_networks_table_is_left_alone() {
    let other = Host {
        networks: ByFamily { v4: Some(net("10.9.0.0/16")), v6: None },
        own: "10.9.1.0-24".parse().unwrap(),
        ..Host::new()
    };
    let host = Host::new().after(&other);
    let steps = host.steps();
    assert_eq!(steps[0], "nft add table ip flannel-ipv4-10.244.0.0/16 { comment \"rules for flannel-ipv4\"; }");
    assert!(steps.iter().all(|step| step.contains("flannel-ipv4-10.244.0.0/16")), "{steps:?}");
    // one of a network of this host before is taken over
    let host = Host { former: [net("10.9.0.0/16")].into(), ..host };
    assert!(host.steps().iter().all(|step| step.contains(" ip flannel-ipv4 ")), "{:?}", host.steps());
    // once the usual one is free, ours is there
    let both = Host::new().after(&Host::new().after(&other));
    assert_eq!(both.steps().last().unwrap(), "nft delete table ip flannel-ipv4-10.244.0.0/16");
    assert_eq!(tables::of_network(net("fd10:244::/48")).to_string(), "ip6 flannel-ipv6-fd10_244__/48");
}

#[test]
fn where_forward_drops_the_accept_is_beside_its_rules() {
    let found = |policy, rules: Vec<Rule>| {
        let host = Host { options: Options { masquerade: None, forward: true }, ..Host::new() };
        host.with(&filter(), [("FORWARD", at_forward(policy, rules))])
    };
    let added = [
        "nft create chain ip filter FLANNEL-FWD",
        "nft add rule ip filter FLANNEL-FWD ip saddr 10.244.0.0/16 counter accept comment \"flanneld forward\"",
        "nft add rule ip filter FLANNEL-FWD ip daddr 10.244.0.0/16 counter accept comment \"flanneld forward\"",
        "nft add rule ip filter FORWARD counter jump FLANNEL-FWD comment \"flanneld forward\"",
    ];
    let other = rule().iifname(Is::Eq, &kernel::types::IfName::new("docker0").unwrap()).accept().done();
    let host = found(Policy::Drop, vec![other.clone()]);
    assert_eq!((host.steps(), host.drops().len()), (added.map(str::to_owned).to_vec(), 0));
    assert_eq!(found(Policy::Accept, vec![rule().counter().jump("DOCKER-USER").done()]).steps(), added);
    assert_eq!(found(Policy::Accept, vec![other.clone()]).steps(), [""; 0]);
    // what a Go flanneld left is taken over, and goes where it is of no use
    let left = |policy, all: &[Rule]| {
        let chains = [
            ("FORWARD", at_forward(policy, [other.clone(), jump()])),
            ("FLANNEL-FWD", NftChain::regular(all.to_vec())),
        ];
        Host { options: Options { masquerade: None, forward: true }, ..Host::new() }.with(&filter(), chains)
    };
    assert_eq!(left(Policy::Drop, &accepts(NETWORK)).steps(), [""; 0]);
    assert_eq!(
        left(Policy::Accept, &accepts(NETWORK)).steps(),
        ["nft delete rule ip filter FORWARD handle 2", "nft delete chain ip filter FLANNEL-FWD"]
    );
    // another network's accepts stay
    let both = [accepts("10.9.0.0/16"), accepts(NETWORK)].concat();
    assert_eq!(left(Policy::Drop, &both).steps(), [""; 0]);
    let steps = left(Policy::Accept, &both).steps();
    assert_eq!(steps, ["handle 5", "handle 6"].map(|rule| format!("nft delete rule ip filter FLANNEL-FWD {rule}")));
    let off = Host { options: Options::default(), ..left(Policy::Accept, &accepts(NETWORK)) };
    assert_eq!(off.steps(), [""; 0], "--iptables-forward-rules=false touches none");
}

#[test]
fn what_iptables_mode_left_goes_after_ours_is_there() {
    let base = Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT);
    let left = |network: &str| {
        let masquerade = |rule: RuleBuilder| rule.counter().masquerade(true).comment("flanneld masq");
        let out = rule().addr(Side::Source, Is::Eq, net(network)).addr(Side::Destination, Is::Not, net("224.0.0.0/4"));
        let jump = rule().counter().jump("FLANNEL-POSTRTG").comment("flanneld masq");
        [("POSTROUTING", NftChain::at(base.clone(), [jump])), ("FLANNEL-POSTRTG", NftChain::regular([masquerade(out)]))]
    };
    let nat = iptables::nat(Family::V4);
    let steps = Host::new().with(&nat, left(NETWORK)).steps();
    assert_eq!(steps.len(), 10);
    assert_eq!(steps[8..], ["nft delete rule ip nat POSTROUTING handle 1", "nft delete chain ip nat FLANNEL-POSTRTG"]);
    assert_eq!(Host::new().with(&nat, left("10.9.0.0/16")).steps().len(), 8, "another network's stays");
    let off = Host { options: Options::default(), ..Host::new() };
    assert_eq!(off.with(&nat, left(NETWORK)).steps(), [""; 0], "pods of Go's plugin need it while ours is not there");
}

#[test]
fn chains_that_drop_are_named() {
    let inet = TableKey::new(NftFamily::Inet, "filter");
    let found = |rules: Vec<Rule>| Host::new().with(&inet, [("forward", at_forward(Policy::Drop, rules))]).drops();
    let inet_rule = || RuleBuilder::new(NftFamily::Inet);
    let established = inet_rule().ct_state(Is::Eq, ct::ESTABLISHED | ct::RELATED).accept().done();
    let text = "chain forward of table inet filter drops forwarded packets of pods (10.244.0.0/16): accept them there (nft \
                insert rule inet filter forward ip saddr 10.244.0.0/16 accept; nft insert rule inet filter forward ip \
                daddr 10.244.0.0/16 accept)";
    assert_eq!(found(vec![]), [text]);
    assert_eq!(found(vec![established.clone()]), [text]);
    let eth0 = kernel::types::IfName::new("eth0").unwrap();
    let may = found(vec![established, inet_rule().iifname(Is::Eq, &eth0).accept().done()]);
    assert!(may[0].starts_with("chain forward of table inet filter may drop"), "{may:?}");
    assert_eq!(found(vec![inet_rule().accept().done()]), [""; 0]);
    // what comes before the accept wins
    let reject = rule().counter().drop().done();
    let host = Host::new().with(&filter(), [("FORWARD", at_forward(Policy::Drop, [reject]))]);
    assert!(host.drops()[0].starts_with("chain FORWARD of table ip filter drops"), "{:?}", host.drops());
    let six = TableKey::new(NftFamily::Ip6, "filter");
    assert_eq!(Host::new().with(&six, [("FORWARD", at_forward(Policy::Drop, []))]).drops(), [""; 0], "no IPv6 pods");
}

#[test]
fn chains_that_may_drop_are_read() {
    let forward = |table: TableKey, policy| (table, Chain::base("f", at_forward(policy, []).base.unwrap()));
    let inet = TableKey::new(NftFamily::Inet, "filter");
    let arp = TableKey::new(NftFamily::Arp, "filter");
    let chains = [
        forward(inet.clone(), Policy::Drop),
        forward(TableKey::new(NftFamily::Inet, "open"), Policy::Accept),
        forward(arp, Policy::Drop),
        forward(filter(), Policy::Drop),
    ];
    let scope = reads([net(NETWORK)].iter(), &chains);
    let names: Vec<String> = scope.nft.keys().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "inet filter",
            "inet open",
            "ip filter",
            "ip flannel-ipv4",
            "ip flannel-ipv4-10.244.0.0/16",
            "ip nat",
            "ip6 filter",
            "ip6 flannel-ipv6",
            "ip6 nat"
        ]
    );
    let host = Host::new().with(&inet, []).with(&iptables::nat(Family::V4), []);
    let watched: Vec<String> = watched(&host.found, &host.plan()).iter().map(ToString::to_string).collect();
    assert_eq!(watched, ["inet filter", "ip filter", "ip flannel-ipv4", "ip6 filter", "ip6 flannel-ipv6"]);
}

/// A host with a peer, whose packets go by VXLAN.
fn with_peer() -> Host {
    let dev = |text: &str| kernel::types::IfName::new(text).ok();
    let pods = |src: &str, dst: &str, iif: &str, oif: &str| {
        let packet = Packet { src: net(src), dst: net(dst), iif: dev(iif), oif: dev(oif), protocol: None, port: None };
        Flow { what: What::Pods(net("10.244.1.0/24")), packet }
    };
    let tunnel = Packet {
        src: net("192.0.2.2/32"),
        dst: net("192.0.2.1/32"),
        iif: dev("eth0"),
        oif: None,
        protocol: Some(17),
        port: Some(8472),
    };
    let (own, theirs) = ("10.244.1.0/24", "10.244.2.0/24");
    let flows = vec![
        pods(own, theirs, "cni0", "flannel.1"),
        pods(theirs, own, "flannel.1", "cni0"),
        Flow { what: What::FromHosts("udp dport 8472".into()), packet: tunnel },
    ];
    Host { flows, ..Host::new() }
}

#[test]
fn what_drops_at_any_hook_is_named() {
    let chain = |hook, policy, rules: Vec<Rule>| {
        NftChain::at(Base { policy, ..Base::new(ChainKind::Filter, hook, Base::FILTER) }, rules)
    };
    let dev = |text: &str| kernel::types::IfName::new(text).unwrap();
    let drops = |family, hook, policy, rules| {
        with_peer().with(&TableKey::new(family, "t"), [("c", chain(hook, policy, rules))]).drops()
    };
    let accept = Policy::Accept;
    let from_cni0 = || vec![RuleBuilder::new(NftFamily::Inet).iifname(Is::Eq, &dev("cni0")).drop().done()];
    for (family, hook, policy, rules, expected) in [
        (NftFamily::Ip, Hook::Prerouting, accept, from_cni0(), "drops packets of pods (10.244.1.0/24)"),
        (NftFamily::Inet, Hook::Postrouting, accept, from_cni0(), "drops packets of pods (10.244.1.0/24)"),
        (NftFamily::Bridge, Hook::Prerouting, Policy::Drop, vec![], "drops packets of pods"),
        (
            NftFamily::Ip,
            Hook::Input,
            Policy::Drop,
            vec![],
            "drops what other hosts send for pods here (udp dport 8472)",
        ),
        (NftFamily::Ip, Hook::Input, accept, from_cni0(), ""),
        (NftFamily::Ip, Hook::Output, Policy::Drop, vec![], ""),
        (NftFamily::Ip6, Hook::Input, Policy::Drop, vec![], ""),
        (NftFamily::Ip, Hook::Input, Policy::Drop, vec![rule().jump("allowed").done()], ""),
    ] {
        let found = drops(family, hook, policy, rules);
        let right =
            if expected.is_empty() { found.is_empty() } else { found.iter().any(|text| text.contains(expected)) };
        assert!(right, "{family} {hook:?}: {found:?}, not {expected:?}");
    }
}
