//! Written objects are listed by `nft` and read back the same.

use std::time::Duration;

use super::super::cases;
use super::{addr, key, namespace, net, nft, ruleset};
use crate::nft::*;
use crate::types::{Family, IfName};

pub fn sets() -> Vec<(Set, Vec<Element>)> {
    let name = |n: &str| Value::from(IfName::new(n).unwrap());
    let port_key = [Type::InetProto, Type::InetService];
    let target = DataType::Values(vec![Type::Ipv4Addr, Type::InetService]);
    let to = |a: &str, port| Data::Values(vec![addr(a), Value::Port(port)]);
    vec![
        (
            Set { comment: Some("pods".into()), ..Set::new("nets", [Type::Ipv4Addr]).interval() },
            vec![
                net("10.0.0.0/8").comment("a"),
                net("11.0.0.0/8"),
                net("12.1.2.3/32"),
                net("240.0.0.0/4").comment("z"),
            ],
        ),
        (Set::new("nets6", [Type::Ipv6Addr]).interval(), vec![net("::/64"), net("fd00::/8")]),
        (
            Set { timeout: Timeout::Default(Duration::from_secs(300)), ..Set::new("short", [Type::Mark]) },
            vec![Element { timeout: Some(Duration::from_secs(7200)), ..Element::new([Value::Word(0x2000)]) }],
        ),
        (
            Set::map("ports", port_key, target),
            vec![Element::new([Value::Proto(6), Value::Port(80)]).data(to("10.0.0.1", 8080)).comment("web")],
        ),
        (
            Set::map("links", [Type::IfName], DataType::Verdict),
            vec![
                Element::new([name("eth0")]).data(Data::Verdict(Verdict::Accept)),
                Element::new([name("veth0123456789a")]).data(Data::Verdict(Verdict::Jump("sub".into()))),
            ],
        ),
        (
            Set::new("both", [Type::Ipv4Addr, Type::InetService]).interval(),
            vec![Element {
                last: Some(vec![addr("10.0.0.255"), Value::Port(90)]),
                ..Element::new([addr("10.0.0.0"), Value::Port(80)])
            }],
        ),
    ]
}

/// `inet t` with an object of every kind.
pub fn full() -> Batch {
    let mut batch = Batch::new();
    batch.add_table(&Table { key: key(), comment: Some("a \u{fc} table".into()), dormant: false });
    batch.add_chain(&key(), &Chain::regular("sub").comment("jumped to"));
    let input = Base { policy: Policy::Drop, ..Base::new(ChainKind::Filter, Hook::Input, -5) };
    batch.add_chain(&key(), &Chain::base("in", input).comment("from outside"));
    batch.add_chain(&key(), &Chain::base("post", Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT)));
    for (set, elements) in sets() {
        batch.add_set(&key(), &set);
        batch.add_elements(&key(), &set, &elements);
    }
    let rule = || RuleBuilder::new(NftFamily::Inet);
    let saddr = Field::Addr(Family::V4, Side::Source);
    batch.add_rule(&key(), "in", &rule().ct_state(Is::Eq, ct::ESTABLISHED).counter().accept().comment("known"));
    batch.add_rule(&key(), "in", &rule().in_set(&[saddr], Is::Eq, "nets").jump("sub").done());
    batch.add_rule(
        &key(),
        "in",
        &rule().in_set(&[saddr, Field::Port(Side::Destination)], Is::Eq, "both").accept().done(),
    );
    batch.add_rule(&key(), "in", &rule().vmap(&[Field::IifName], "links").done());
    batch.add_rule(&key(), "post", &rule().masquerade(true).comment("x".repeat(200)));
    batch
}

#[test]
fn nft_lists_what_was_written() {
    namespace();
    Nft::open().unwrap().commit(&full()).unwrap();
    let listed = ruleset();
    let long = format!("masquerade fully-random comment \"{}\"", "x".repeat(128));
    for line in [
        "table inet t {",
        "comment \"a \u{fc} table\"",
        "comment \"pods\"",
        "type ipv4_addr",
        "flags interval",
        "elements = { 10.0.0.0/8 comment \"a\", 11.0.0.0/8,",
        "12.1.2.3, 240.0.0.0/4 comment \"z\" }",
        "elements = { ::/64,",
        "fd00::/8 }",
        "timeout 5m",
        "type inet_proto . inet_service : ipv4_addr . inet_service",
        "elements = { tcp . 80 comment \"web\" : 10.0.0.1 . 8080 }",
        "type ifname : verdict",
        "elements = { 10.0.0.0/24 . 80-90 }",
        "comment \"jumped to\"",
        "comment \"from outside\"",
        "type filter hook input priority filter - 5; policy drop;",
        "ct state established counter packets 0 bytes 0 accept comment \"known\"",
        "ip saddr @nets jump sub",
        "ip saddr . th dport @both accept",
        "iifname vmap @links",
        "type nat hook postrouting priority srcnat; policy accept;",
        &long,
    ] {
        assert!(listed.iter().any(|l| l == line), "missing {line:?} in\n{}", listed.join("\n"));
    }
    for part in ["0x00002000 timeout 2h expires", "\"eth0\" : accept", "\"veth0123456789a\" : jump sub"] {
        assert!(listed.iter().any(|l| l.contains(part)), "missing {part:?} in\n{}", listed.join("\n"));
    }
    // the JSON reader of `nft` looks at more of it
    assert!(nft(&["-j", "list", "ruleset"], "").contains("\"masquerade\""));
}

#[test]
fn what_is_read_is_what_was_written() {
    namespace();
    let mut nft = Nft::open().unwrap();
    nft.commit(&full()).unwrap();
    let view = nft.view(&key()).unwrap();
    assert_eq!(view.table, Some(Table { key: key(), comment: Some("a \u{fc} table".into()), dormant: false }));
    assert_eq!(nft.tables().unwrap(), [view.table.clone().unwrap()]);
    let chain = |name: &str| view.chains.iter().find(|c| c.name == name).unwrap();
    assert_eq!(*chain("sub"), Chain::regular("sub").comment("jumped to"));
    assert_eq!(chain("in").base.as_ref().map(|b| (b.policy, b.priority)), Some((Policy::Drop, -5)));
    assert_eq!(view.rules_of("post").next().unwrap().rule.comment.as_deref(), Some(&*"x".repeat(128)));
    assert_eq!(view.rules_of("in").count(), 4);

    let mut seen = view.sets.clone();
    let mut wanted = sets();
    let order = |all: &mut Vec<(Set, Vec<Element>)>| {
        all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        all.iter_mut().for_each(|(_, elements)| elements.sort_by_key(|e| format!("{:?}", e.key)));
    };
    order(&mut seen);
    order(&mut wanted);
    assert_eq!(seen, wanted);
}

#[test]
fn every_expression_is_listed_and_read_as_nft_does() {
    namespace();
    let mut ours = Nft::open().unwrap();
    for case in cases::all() {
        let table = TableKey::new(case.family, "t");
        let script = format!("table {table} {{ {} }}\nadd rule {table} c {}\n", cases::SURROUNDINGS, case.text);
        nft(&["-f", "-"], &script);
        let mut batch = Batch::new();
        batch.add_rule(&table, "c", &case.rule);
        ours.commit(&batch).unwrap_or_else(|e| panic!("{}: {e}", case.text));

        let listed = nft(&["list", "chain", &case.family.to_string(), "t", "c"], "");
        let lines: Vec<_> = listed.lines().map(str::trim).collect();
        assert_eq!(lines[2], lines[3], "{listed}");
        let read = ours.rules(&table, Some("c")).unwrap();
        assert_eq!(read.len(), 2, "{}", case.text);
        for listed in read {
            assert_eq!(listed.rule, case.rule, "{}", case.text);
        }
        let mut clean = Batch::new();
        clean.delete_table(&table);
        ours.commit(&clean).unwrap();
    }
}

#[test]
fn a_chain_of_a_device_is_read_back() {
    namespace();
    let table = TableKey::new(NftFamily::Netdev, "n");
    let device = Some(IfName::new("lo").unwrap());
    let chain = Chain::base("c", Base { device, ..Base::new(ChainKind::Filter, Hook::Ingress, -500) });
    let mut batch = Batch::new();
    batch.add_table(&Table { key: table.clone(), comment: None, dormant: false });
    batch.add_chain(&table, &chain);
    let mut ours = Nft::open().unwrap();
    ours.commit(&batch).unwrap();
    assert_eq!(ours.chains(&table).unwrap(), [chain]);
    assert!(ruleset().iter().any(|l| l.starts_with("type filter hook ingress device \"lo\" priority")));
}
