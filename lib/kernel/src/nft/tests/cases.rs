//! One rule per kind of expression: its `nft` text, how it is built here, and the bytes that nft 1.0.6 sends for the
//! text (NFTA_RULE_EXPRESSIONS, captured from its sendmsg on a little-endian machine).

use crate::nft::{Field, Is, MapData, NatKind, NftFamily, Rule, RuleBuilder, Side, ct};
use crate::types::{Family, IfName};

const CAPTURED: &str = include_str!("golden.txt");

/// The objects that the rules refer to, in the syntax of `nft -f`: sets, maps and a chain to jump to.
pub const SURROUNDINGS: &str = "
    set s { type ipv4_addr; flags interval; }
    set m { type mark; }
    map v { type ifname : verdict; }
    map d { type inet_proto . inet_service : ipv4_addr . inet_service; }
    map d6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
    map a { type inet_service : ipv4_addr; }
    chain o { }
    chain c { }
";

pub struct Case {
    pub family: NftFamily,
    pub text: &'static str,
    pub rule: Rule,
    pub captured: Vec<u8>,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// All cases. Each line of the captured file has its rule here, in the same order.
pub fn all() -> Vec<Case> {
    let lines: Vec<_> = CAPTURED.lines().collect();
    let built = built();
    assert_eq!(lines.len(), built.len());
    let case = |(line, (family, rule)): (&'static str, (NftFamily, RuleBuilder))| {
        let [name, text, hex] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(family.to_string(), name, "{text}");
        let captured = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        Case { family, text, rule: rule.done(), captured }
    };
    lines.into_iter().zip(built).map(case).collect()
}

fn built() -> Vec<(NftFamily, RuleBuilder)> {
    use NftFamily::{Bridge, Inet, Ip, Ip6};
    let rule = |family| (family, RuleBuilder::new(family));
    let eth0 = IfName::new("eth0").unwrap();
    let mac = "02:00:00:00:00:01".parse().unwrap();
    let net = |text: &str| text.parse().unwrap();
    let addr = |text: &str| text.parse().unwrap();
    let (source, destination) = (Side::Source, Side::Destination);
    let port_key = [Field::L4Proto, Field::Port(destination)];
    let (by_port, by_port6, to_addr) = (("d", MapData::AddrPort), ("d6", MapData::AddrPort), ("a", MapData::Addr));
    let dnat = NatKind::Destination;
    let with = |(family, rule): (NftFamily, RuleBuilder), f: &dyn Fn(RuleBuilder) -> RuleBuilder| (family, f(rule));
    vec![
        with(rule(Inet), &|r| r.iifname(Is::Eq, &eth0).accept()),
        with(rule(Inet), &|r| r.oifname(Is::Not, &eth0).drop()),
        with(rule(Inet), &|r| r.mark(Is::Eq, 0x4000).back()),
        with(rule(Inet), &|r| r.mark_masked(Is::Eq, 0x2000, 0x2000).jump("o")),
        with(rule(Inet), &|r| r.l4proto(Is::Eq, 6).goto("o")),
        with(rule(Inet), &|r| r.nfproto(Family::V6).accept()),
        with(rule(Bridge), &|r| r.protocol(Family::V4).accept()),
        with(rule(Inet), &|r| {
            let r = r.addr(source, Is::Eq, net("10.1.2.3"));
            r.addr(destination, Is::Not, net("10.1.2.0/24")).masquerade(false)
        }),
        with(rule(Inet), &|r| r.addr(destination, Is::Eq, net("224.0.0.0/4")).back()),
        with(rule(Inet), &|r| r.addr(destination, Is::Eq, net("ff00::/8")).back()),
        with(rule(Ip6), &|r| r.addr(source, Is::Eq, net("fd00:1:2::/47")).accept()),
        with(rule(Ip), &|r| r.addr(source, Is::Eq, net("10.0.0.0/9")).accept()),
        with(rule(Ip), &|r| r.addr(source, Is::Eq, net("0.0.0.0/0")).accept()),
        with(rule(Bridge), &|r| r.addr(source, Is::Eq, net("10.0.0.1")).accept()),
        with(rule(Bridge), &|r| r.ether(source, Is::Eq, mac).back()),
        with(rule(Inet), &|r| r.ether(destination, Is::Eq, mac).back()),
        with(rule(Inet), &|r| r.l4proto(Is::Eq, 17).port(destination, Is::Eq, 53).accept()),
        with(rule(Inet), &|r| r.ct_state(Is::Eq, ct::ESTABLISHED | ct::RELATED).accept()),
        with(rule(Inet), &|r| r.daddr_is_local(Is::Eq).jump("o")),
        with(rule(Inet), &|r| r.in_set(&[Field::Addr(Family::V4, source)], Is::Eq, "s").accept()),
        with(rule(Inet), &|r| r.in_set(&[Field::Addr(Family::V4, source)], Is::Not, "s").drop()),
        with(rule(Inet), &|r| r.in_set(&[Field::Mark], Is::Eq, "m").accept()),
        with(rule(Inet), &|r| r.vmap(&[Field::IifName], "v")),
        with(rule(Inet), &RuleBuilder::counter),
        with(rule(Inet), &|r| r.set_mark(0x2000, 0x2000)),
        with(rule(Inet), &|r| r.set_mark(u32::MAX, 1)),
        with(rule(Inet), &|r| r.masquerade(true)),
        with(rule(Ip), &|r| r.l4proto(Is::Eq, 6).nat(dnat, addr("10.1.1.1"), Some(8080))),
        with(rule(Inet), &|r| r.l4proto(Is::Eq, 6).nat(dnat, addr("fd00::1"), Some(8080))),
        with(rule(Inet), &|r| r.nat(NatKind::Source, addr("10.1.1.1"), None)),
        with(rule(Inet), &|r| r.nat_map(dnat, Family::V4, &port_key, by_port)),
        with(rule(Inet), &|r| r.nat_map(dnat, Family::V6, &port_key, by_port6)),
        with(rule(Inet), &|r| r.nat_map(dnat, Family::V4, &[Field::Port(destination)], to_addr)),
    ]
}
