//! Compares the texts with those that were typed for the same objects.

use std::time::Duration;

use super::cases;
use crate::nft::*;
use crate::types::{Family, IfName};

fn inet() -> RuleBuilder {
    RuleBuilder::new(NftFamily::Inet)
}

#[test]
fn each_kind_of_expression_has_the_text_it_was_made_of() {
    for case in cases::all() {
        assert_eq!(text::rule(case.family, &case.rule), case.text, "{}", case.family);
    }
}

#[test]
fn what_the_recipes_write_is_told_as_a_whole() {
    let rule = inet()
        .addr(Side::Source, Is::Eq, "fd00::3".parse().unwrap())
        .addr(Side::Destination, Is::Not, "fd00::/64".parse().unwrap())
        .masquerade(false)
        .comment("a-b, net: \"n\"\n, if: eth0");
    assert_eq!(
        text::rule(NftFamily::Inet, &rule),
        "ip6 saddr fd00::3 ip6 daddr != fd00::/64 masquerade comment \"a-b, net: n, if: eth0\""
    );
    assert_eq!(text::rule(NftFamily::Inet, &Rule::default()), "");
}

/// What `nft` adds by itself is left out only if it would add it.
#[test]
fn a_dependency_that_stands_elsewhere_is_told() {
    let rule = inet().nfproto(Family::V4).mark(Is::Eq, 1).addr(Side::Source, Is::Eq, "10.0.0.1".parse().unwrap());
    assert_eq!(
        text::rule(NftFamily::Inet, &rule.accept().done()),
        "meta nfproto ipv4 meta mark 0x1 ip saddr 10.0.0.1 accept"
    );
    let fields = [Field::L4Proto, Field::Addr(Family::V6, Side::Destination), Field::Port(Side::Destination)];
    let rule = inet().in_set(&fields, Is::Not, "s").drop().done();
    assert_eq!(text::rule(NftFamily::Inet, &rule), "meta l4proto . ip6 daddr . th dport != @s drop");
}

#[test]
fn what_is_not_known_is_named_in_parentheses() {
    let reg = Reg(0);
    let quota = Expr::Other { name: "quota".into(), data: vec![1, 2, 3] };
    let skgid = Expr::Meta { key: MetaKey(11), dreg: reg };
    let cmp = |data: &[u8]| Expr::Cmp { sreg: reg, is: Is::Not, data: data.into() };
    let header = Expr::Payload { dreg: reg, base: PayloadBase::TRANSPORT, offset: 13, len: 1 };
    let masked = Expr::Bitwise { sreg: reg, dreg: reg, mask: vec![2], xor: vec![0] };
    let shown = |exprs: &[Expr]| text::rule(NftFamily::Inet, &Rule { exprs: exprs.into(), comment: None });
    assert_eq!(shown(std::slice::from_ref(&quota)), "(quota)");
    assert_eq!(shown(&[skgid.clone(), cmp(&[1, 0, 0, 0]), Expr::Counter]), "(meta) != 0x01000000 counter");
    assert_eq!(shown(&[header, masked, cmp(&[0])]), "(bitwise) != 0x00");
    assert_eq!(shown(&[cmp(&[0]), skgid.clone()]), "(cmp) (meta)");
    assert_eq!(shown(&[skgid.clone(), quota.clone()]), "(meta) (quota)");
    let lookup = Expr::Lookup { set: "s".into(), sreg: reg, is: Is::Eq };
    let nat = |port| Expr::Nat { kind: NatKind::Destination, family: Family::V4, addr: None, port, flags: 0 };
    assert_eq!(shown(&[quota, lookup, nat(None)]), "(quota) (lookup) (nat)");
    let port = Expr::Immediate { dreg: reg, data: vec![0, 80] };
    assert_eq!(shown(&[port, nat(Some(reg))]), "dnat ip to :80");
    assert_eq!(shown(&[skgid, Expr::Counter, cmp(&[0])]), "counter (meta) != 0x00");
}

#[test]
fn chains_and_sets_are_told_with_all_they_are() {
    let nat = Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT);
    assert_eq!(
        text::chain(&Chain::base("c", nat).comment("a \"b\"")),
        "c { type nat hook postrouting priority 100; policy accept; comment \"a b\"; }"
    );
    let device = Some(IfName::new("lo").unwrap());
    let ingress = Base { device, policy: Policy::Drop, ..Base::new(ChainKind::Filter, Hook::Ingress, -500) };
    assert_eq!(
        text::chain(&Chain::base("c", ingress)),
        "c { type filter hook ingress device \"lo\" priority -500; policy drop; }"
    );
    assert_eq!(text::chain(&Chain::regular("c")), "c");
    assert_eq!(text::chain(&Chain::regular("c").comment("x")), "c { comment \"x\"; }");

    assert_eq!(text::set(&Set::new("s", [Type::Ipv4Addr]).interval()), "s { type ipv4_addr; flags interval; }");
    let timed = Set { timeout: Timeout::PerElement, ..Set::new("s", [Type::Mark, Type::IfName]).interval() };
    assert_eq!(text::set(&timed), "s { type mark . ifname; flags interval, timeout; }");
    let to = DataType::Values(vec![Type::Ipv4Addr, Type::InetService]);
    let timeout = Timeout::Default(Duration::from_millis(1500));
    let map = Set { timeout, comment: Some("c".into()), ..Set::map("m", [Type::InetProto, Type::InetService], to) };
    assert_eq!(
        text::set(&map),
        "m { type inet_proto . inet_service : ipv4_addr . inet_service; timeout 1500ms; comment \"c\"; }"
    );
    let verdicts = Set::map("v", [Type::IfName], DataType::Verdict);
    assert_eq!(text::set(&verdicts), "v { type ifname : verdict; }");
}

#[test]
fn elements_are_told_with_all_they_have() {
    let addr = |text: &str| Value::Addr(text.parse().unwrap());
    let net = |text: &str| Element::net(text.parse().unwrap());
    let port = Value::Port;
    for (element, wanted) in [
        (net("10.0.0.0/8"), "{ 10.0.0.0/8 }"),
        (net("0.0.0.0/0"), "{ 0.0.0.0/0 }"),
        (net("10.1.2.3/32"), "{ 10.1.2.3 }"),
        (net("fd00::/9"), "{ fd00::/9 }"),
        (Element::range(addr("10.0.0.1"), addr("10.0.0.6")), "{ 10.0.0.1-10.0.0.6 }"),
        (Element::range(port(80), port(90)), "{ 80 - 90 }"),
        (
            Element { last: Some(vec![addr("10.0.0.255"), port(80)]), ..Element::new([addr("10.0.0.0"), port(80)]) },
            "{ 10.0.0.0/24 . 80 }",
        ),
        (
            Element::new([Value::Proto(6), port(80)])
                .data(Data::Values(vec![addr("fd00::1"), port(8080)]))
                .comment("web"),
            "{ tcp . 80 comment \"web\" : fd00::1 . 8080 }",
        ),
        (
            Element {
                timeout: Some(Duration::from_secs(90)),
                ..Element::new([Value::IfName(IfName::new("eth0").unwrap())]).data(Data::Verdict(Verdict::Return))
            },
            "{ \"eth0\" timeout 90s : return }",
        ),
        (Element::new([Value::Word(0x2000), Value::Bytes(vec![1, 0xab])]), "{ 0x2000 . 0x01ab }"),
    ] {
        assert_eq!(text::elements(&[element]), wanted);
    }
    let many: Vec<_> = (1..=5).map(|n| Element::new([port(n)])).collect();
    assert_eq!(text::elements(&many), "{ 1, 2, 3, … and 2 more }");
    assert_eq!(text::elements(&many[..3]), "{ 1, 2, 3 }");
    assert_eq!(text::elements(&[]), "{ }");
}
