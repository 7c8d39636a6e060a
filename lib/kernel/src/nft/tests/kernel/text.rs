//! `nft` accepts the texts and makes the same objects of them.

use super::objects::sets;
use super::{key, namespace, nft};
use crate::nft::tests::cases;
use crate::nft::*;
use crate::types::{Family, IfName, Mac};

/// Rules in addition to those of the captured file.
fn more() -> Vec<(NftFamily, Rule)> {
    use NftFamily::{Bridge, Inet, Ip6};
    let rule = RuleBuilder::new;
    let net = |text: &str| text.parse().unwrap();
    let (source, destination) = (Side::Source, Side::Destination);
    let fields = [Field::Addr(Family::V4, source), Field::Port(destination)];
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    vec![
        (Inet, rule(Inet).ct_state(Is::Not, ct::NEW | ct::INVALID).drop().done()),
        (Inet, rule(Inet).ct_state(Is::Eq, ct::UNTRACKED).back().done()),
        (Inet, rule(Inet).mark_masked(Is::Eq, 0x2000, 0x2000).ct_status(Is::Eq, ct::DNAT).masquerade(false).done()),
        (Inet, rule(Inet).ct_status(Is::Not, ct::DNAT).back().done()),
        (Inet, rule(Inet).mark_masked(Is::Not, 0xf000, 0x2000).accept().done()),
        (Inet, rule(Inet).set_mark(0xf000, 0x2000).done()),
        (Inet, rule(Inet).set_mark(0xf000, 0).done()),
        (Inet, rule(Inet).set_mark(0xf000, 0x1_2000).done()),
        (Inet, rule(Inet).in_set(&fields, Is::Not, "both").drop().comment("two\" of them")),
        (Inet, rule(Inet).addr(source, Is::Not, net("fd00::/12")).addr(destination, Is::Eq, net("fd00::1")).done()),
        (Inet, rule(Inet).l4proto(Is::Not, 132).port(source, Is::Not, 1).counter().done()),
        (Inet, rule(Inet).l4proto(Is::Eq, 58).daddr_is_local(Is::Not).masquerade(true).done()),
        (Inet, rule(Inet).nfproto(Family::V4).mark(Is::Eq, 1).addr(source, Is::Eq, net("10.0.0.1")).done()),
        (Ip6, rule(Ip6).l4proto(Is::Eq, 17).nat(NatKind::Source, net("fd00::1").ip(), Some(53)).done()),
        (Bridge, rule(Bridge).iifname(Is::Eq, &IfName::new("veth-0.1").unwrap()).ether(source, Is::Not, mac).done()),
    ]
}

#[test]
fn a_rules_text_is_taken_for_the_same_expressions() {
    namespace();
    let mut ours = Nft::open().unwrap();
    let known = cases::all().into_iter().map(|case| (case.family, case.rule));
    for (family, rule) in known.chain(more()) {
        let (table, text) = (TableKey::new(family, "t"), text::rule(family, &rule));
        let both = "set both { type ipv4_addr . inet_service; }\n";
        let script = format!("table {table} {{ {both} {} }}\nadd rule {table} c {text}\n", cases::SURROUNDINGS);
        nft(&["-f", "-"], &script);
        let read = ours.rules(&table, Some("c")).unwrap();
        assert_eq!(read.len(), 1, "{text}");
        assert_eq!(read[0].rule.exprs, rule.exprs, "{text}");
        let plain = rule.comment.map(|comment| comment.replace('"', ""));
        assert_eq!(read[0].rule.comment, plain, "{text}");
        nft(&["delete", "table", &family.to_string(), "t"], "");
    }
}

#[test]
fn a_chains_text_is_taken_for_the_same_chain() {
    namespace();
    let base = |kind, hook, priority| Base::new(kind, hook, priority);
    let chains = [
        Chain::regular("plain"),
        Chain::regular("told").comment("jumped to"),
        Chain::base("post", base(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT)),
        Chain::base("fil", Base { policy: Policy::Drop, ..base(ChainKind::Filter, Hook::Input, -5) }).comment("x"),
        Chain::base("rou", base(ChainKind::Route, Hook::Output, -150)),
    ];
    let device = Some(IfName::new("lo").unwrap());
    let ingress = Chain::base("dev", Base { device, ..base(ChainKind::Filter, Hook::Ingress, -500) });
    for (family, chains) in [(NftFamily::Inet, &chains[..]), (NftFamily::Netdev, &[ingress])] {
        let table = TableKey::new(family, "t");
        nft(&["-f", "-"], &format!("add table {table}"));
        for chain in chains {
            nft(&["-f", "-"], &format!("add chain {table} {}", text::chain(chain)));
        }
        assert_eq!(Nft::open().unwrap().chains(&table).unwrap(), chains);
    }
}

#[test]
fn a_sets_text_and_its_elements_are_taken_for_the_same() {
    namespace();
    nft(&["-f", "-"], &format!("table {} {{ chain sub {{ }}\n}}", key()));
    let mut ours = Nft::open().unwrap();
    let (first, last) = (Value::Proto(6), Value::Proto(17));
    let mut all = sets();
    all.push((Set::new("protocols", [Type::InetProto]).interval(), vec![Element::range(first, last)]));
    for (set, elements) in all {
        let kind = if set.data.is_some() { "map" } else { "set" };
        nft(&["-f", "-"], &format!("add {kind} {} {}", key(), text::set(&set)));
        for element in &elements {
            let text = text::elements(std::slice::from_ref(element));
            nft(&["-f", "-"], &format!("add element {} {} {text}", key(), set.name));
        }
        let read = ours.sets(&key()).unwrap();
        assert!(read.contains(&set), "{}: {read:?}", text::set(&set));
        let mut read = ours.elements(&key(), &set).unwrap();
        let mut wanted = elements;
        [&mut read, &mut wanted].into_iter().for_each(|all| all.sort_by_key(|e| format!("{:?}", e.key)));
        assert_eq!(read, wanted, "{}", text::elements(&wanted));
    }
}
