//! Converges tables on a real kernel.

use std::time::Duration;

use super::{key, namespace, ruleset as lines};
use crate::Kernel;
use crate::converge::Assumed;
use crate::nft::*;
use crate::state::{NftChain, NftChainScope, NftParts, NftScope, NftSet, NftTable, Scope, State};

/// Runs `nft -f` with this text.
fn run_nft(text: &str) {
    super::nft(&["-f", "-"], text);
}

fn ruleset() -> String {
    lines().join("\n")
}

fn of(table: Option<NftTable>, scope: NftScope) -> (State, Scope) {
    let state = State { nft: table.into_iter().map(|table| (key(), table)).collect(), ..State::default() };
    (state, Scope { nft: [(key(), scope)].into(), ..Scope::default() })
}

/// A base chain that looks up ports in a verdict map, which leads to a chain.
fn table(priority: i32, ports: &[u16]) -> NftTable {
    let map = Set::map("ports", [Type::InetService], DataType::Verdict);
    let element = |port: &u16| Element::new([Value::Port(*port)]).data(Data::Verdict(Verdict::Jump("open".into())));
    let look_up =
        RuleBuilder::new(NftFamily::Inet).l4proto(Is::Eq, 6).vmap(&[Field::Port(Side::Destination)], "ports").done();
    let accept = RuleBuilder::new(NftFamily::Inet).accept().comment("ours");
    let base = Base::new(ChainKind::Filter, Hook::Input, priority);
    NftTable {
        comment: Some("a test".into()),
        chains: [("in".to_owned(), NftChain::at(base, [look_up])), ("open".to_owned(), NftChain::regular([accept]))]
            .into(),
        sets: [("ports".to_owned(), NftSet::new(map, ports.iter().map(element)))].into(),
        dormant: false,
    }
}

#[track_caller]
fn becomes(kernel: &mut Kernel, (state, scope): &(State, Scope)) -> usize {
    let outcome = kernel.converge(state, scope, None).unwrap();
    assert!(outcome.is_whole(), "{outcome:#?}");
    let again = kernel.plan(state, scope, None).unwrap();
    assert!(again.is_empty(), "{again:#?}");
    outcome.done.len()
}

#[test]
fn a_table_is_made_changed_and_removed() {
    namespace();
    let mut kernel = Kernel::open().unwrap();
    becomes(&mut kernel, &of(Some(table(0, &[80, 443])), NftScope::Whole));
    assert!(ruleset().contains("443 : jump open"), "{}", ruleset());
    assert_eq!(becomes(&mut kernel, &of(Some(table(0, &[80, 8080])), NftScope::Whole)), 2, "one element for another");
    // another priority requires a new chain
    becomes(&mut kernel, &of(Some(table(5, &[80])), NftScope::Whole));
    let smaller = NftTable { chains: [("open".to_owned(), NftChain::default())].into(), ..NftTable::default() };
    becomes(&mut kernel, &of(Some(smaller), NftScope::Whole));
    becomes(&mut kernel, &of(None, NftScope::Whole));
    assert_eq!(ruleset(), "");
}

#[test]
fn what_others_did_to_a_table_of_ours_is_mended() {
    namespace();
    let mut kernel = Kernel::open().unwrap();
    let desired = of(Some(table(0, &[80])), NftScope::Whole);
    for damage in [
        "flush chain inet t in",
        "add rule inet t open drop",
        "insert rule inet t open drop",
        "add chain inet t x; add rule inet t x jump open; add rule inet t open counter",
        "delete element inet t ports { 80 }",
        "add element inet t ports { 81 : accept }",
        "add chain inet t in { policy drop; }",
        "delete table inet t",
        "flush ruleset",
    ] {
        becomes(&mut kernel, &desired);
        run_nft(damage);
        assert!(becomes(&mut kernel, &desired) > 0, "{damage}");
    }
}

#[test]
fn in_a_shared_table_ours_alone_changes() {
    namespace();
    run_nft(
        "table inet t { chain c { tcp dport 1 accept comment \"theirs\"; }; set s { type mark; elements = { 1 }; }; }",
    );
    let before = ruleset();
    let mut kernel = Kernel::open().unwrap();
    let scope = NftScope::Shared([("c".to_owned(), NftChainScope::Commented("ours".into()))].into());
    let rule = |mark| RuleBuilder::new(NftFamily::Inet).mark(Is::Eq, mark).drop().comment("ours, of pod 1");
    let chain = |rules: Vec<Rule>| NftTable {
        chains: [("c".to_owned(), NftChain::regular(rules))].into(),
        ..NftTable::default()
    };
    becomes(&mut kernel, &of(Some(chain(vec![rule(1), rule(2)])), scope.clone()));
    assert!(ruleset().contains("theirs") && ruleset().contains("0x00000002 drop"), "{}", ruleset());
    becomes(&mut kernel, &of(Some(chain(vec![rule(2)])), scope.clone()));
    becomes(&mut kernel, &of(None, scope));
    assert_eq!(ruleset(), before);
}

/// A rule is added without a read, and its handle is reported.
#[test]
fn a_rule_is_appended_by_what_is_assumed() {
    namespace();
    run_nft("table inet t { chain c { }; }");
    let mut kernel = Kernel::open().unwrap();
    let scope = NftScope::Shared([("c".to_owned(), NftChainScope::Commented("ours".into()))].into());
    let rule = RuleBuilder::new(NftFamily::Inet).accept().comment("ours");
    let (state, scope) = of(
        Some(NftTable { chains: [("c".to_owned(), NftChain::regular([rule.clone()]))].into(), ..NftTable::default() }),
        scope,
    );
    let empty = NftTable { chains: [("c".to_owned(), NftChain::default())].into(), ..NftTable::default() };
    let assumed = || {
        let state = State { nft: [(key(), empty.clone())].into(), ..State::default() };
        Some(Assumed::from(state))
    };
    let outcome = kernel.converge(&state, &scope, assumed()).unwrap();
    let [handle] = &outcome.handles[..] else { panic!("{outcome:?}") };
    let listed = kernel.nft().unwrap().rule(&key(), "c", handle.handle).unwrap().unwrap();
    assert_eq!(listed.rule, rule);
    assert_eq!(kernel.nft().unwrap().rule(&key(), "c", 4711).unwrap(), None);
    run_nft("delete table inet t");
    let (_, error) = kernel.converge(&state, &scope, assumed()).unwrap().failed.remove(0);
    assert!(error.is_absent() && error.what.starts_with("nft add rule inet t c"), "{error}");
    assert_eq!(kernel.nft().unwrap().rule(&key(), "c", 1).unwrap(), None);
}

#[test]
fn a_refused_transaction_names_its_step_and_cancels_the_others() {
    namespace();
    let mut kernel = Kernel::open().unwrap();
    let lost = RuleBuilder::new(NftFamily::Inet).jump("nowhere").done();
    let bad = NftTable { chains: [("c".to_owned(), NftChain::regular([lost]))].into(), ..NftTable::default() };
    let (state, scope) = of(Some(bad), NftScope::Whole);
    let outcome = kernel.converge(&state, &scope, None).unwrap();
    let texts: Vec<String> = outcome.failed.iter().map(|(_, error)| error.to_string()).collect();
    assert!(outcome.done.is_empty() && texts.len() == 3, "{texts:?}");
    assert!(texts[0].starts_with("nft add table inet t") && texts[0].contains("ECANCELED"), "{texts:?}");
    assert!(texts[2].contains("jump nowhere") && texts[2].contains("ENOENT"), "{texts:?}");
    assert_eq!(ruleset(), "");
}

#[test]
fn a_change_to_a_watched_table_is_reported() {
    namespace();
    let mut watch = NftWatch::open([key()]).unwrap();
    run_nft("add table inet other; add chain inet other c");
    assert!(watch.wait(Duration::from_millis(50)).unwrap().is_empty());
    for change in ["add table inet t", "add chain inet t c", "add rule inet t c accept", "flush ruleset"] {
        run_nft(change);
        assert_eq!(watch.wait(Duration::from_secs(5)).unwrap().into_iter().collect::<Vec<_>>(), [key()], "{change}");
    }
}

/// A lost announcement is not a lost change: all watched tables count as changed.
#[test]
fn a_change_among_many_others_is_reported() {
    namespace();
    let mut watch = NftWatch::open([key()]).unwrap();
    let elements: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    run_nft("add table inet other; add set inet other s { type mark; }");
    run_nft(&format!("add element inet other s {{ {} }}", elements.join(", ")));
    run_nft("add table inet t");
    assert_eq!(watch.wait(Duration::from_secs(5)).unwrap().into_iter().collect::<Vec<_>>(), [key()]);
}

#[test]
fn new_base_chains_of_any_table_are_announced_where_asked_for() {
    namespace();
    let wait = Duration::from_millis(300);
    let mut watch = NftWatch::open([key()]).unwrap().with_base_chains(ChainKind::Filter);
    let other = TableKey::new(NftFamily::Ip, "other");
    run_nft("table ip other {\nchain in { type nat hook input priority 0; }\nchain plain { }\n}");
    assert_eq!(watch.wait(wait).unwrap(), [].into(), "no chain of this type");
    run_nft("table ip other {\nchain f { type filter hook forward priority 0; policy drop; }\n}");
    assert_eq!(watch.wait(wait).unwrap(), [other.clone()].into());
    run_nft("add rule ip other plain accept");
    assert_eq!(watch.wait(wait).unwrap(), [].into());
    watch.set_tables([other.clone()]);
    run_nft("add rule ip other plain drop");
    assert_eq!(watch.wait(wait).unwrap(), [other.clone()].into());
    let chains = Nft::open().unwrap().base_chains(ChainKind::Filter).unwrap();
    let base = Base { policy: Policy::Drop, ..Base::new(ChainKind::Filter, Hook::Forward, 0) };
    assert_eq!(chains, [(other, Chain::base("f", base))]);
}

#[test]
fn rules_that_equal_ours_are_ours_among_others() {
    namespace();
    let mut kernel = Kernel::open().unwrap();
    run_nft("table inet t {\nchain c {\nmeta mark 1 accept\nmeta mark 2 accept\nmeta mark 3 accept\n}\n}");
    let rule = |mark| RuleBuilder::new(NftFamily::Inet).mark(Is::Eq, mark).accept().done();
    let scope = NftChainScope::Rules([2, 4].map(rule).to_vec());
    let table = NftTable { chains: [("c".to_owned(), NftChain::regular([rule(4)]))].into(), ..NftTable::default() };
    becomes(&mut kernel, &of(Some(table), NftScope::Shared([("c".to_owned(), scope)].into())));
    let rules: Vec<Rule> = Nft::open().unwrap().rules(&key(), Some("c")).unwrap().into_iter().map(|r| r.rule).collect();
    assert_eq!(rules, [1, 3, 4].map(rule));
}

fn ports(elements: &[(u16, &str)]) -> NftTable {
    let element = |(port, comment): &(u16, &str)| Element::new([Value::Port(*port)]).comment(*comment);
    let set = NftSet::new(Set::new("s", [Type::InetService]), elements.iter().map(element));
    NftTable { sets: [("s".to_owned(), set)].into(), ..NftTable::default() }
}

#[test]
fn in_a_shared_set_only_our_elements_change() {
    namespace();
    run_nft("table inet t { set s { type inet_service; elements = { 1 comment \"theirs\" }; }; }");
    let before = ruleset();
    let mut kernel = Kernel::open().unwrap();
    let scope =
        || NftScope::Shared(NftParts { sets: [("s".to_owned(), "ours".to_owned())].into(), ..NftParts::default() });
    becomes(&mut kernel, &of(Some(ports(&[(2, "ours, 1"), (3, "ours, 1")])), scope()));
    becomes(&mut kernel, &of(Some(ports(&[(3, "ours, 2")])), scope()));
    assert!(ruleset().contains("elements = { 1 comment \"theirs\", 3 comment \"ours, 2\" }"), "{}", ruleset());
    let (state, with_conflict) = of(Some(ports(&[(1, "ours, 2"), (3, "ours, 2")])), scope());
    let outcome = kernel.converge(&state, &with_conflict, None).unwrap();
    assert_eq!((outcome.done.len(), outcome.conflicts.len()), (0, 1));
    // without reading, the kernel refuses what another owner has
    let assumed = State { nft: [(key(), ports(&[]))].into(), ..State::default() };
    let outcome = kernel.converge(&state, &with_conflict, Some(assumed.into())).unwrap();
    assert!(outcome.failed.iter().all(|(_, error)| error.is_already()), "{outcome:?}");
    becomes(&mut kernel, &of(None, scope()));
    assert_eq!(ruleset(), before);
}

#[test]
fn single_elements_and_chains_are_read_and_deleted() {
    namespace();
    run_nft(
        "table inet t { chain a { type filter hook input priority 5; }; chain b { }; \
         map m { type inet_proto . inet_service : ipv4_addr . inet_service; \
         elements = { 6 . 80 comment \"ours\" : 10.0.0.1 . 8080, 17 . 53 comment \"theirs\" : 10.0.0.2 . 53 }; }; }",
    );
    let mut kernel = Kernel::open().unwrap();
    let nft = kernel.nft().unwrap();
    let names: Vec<String> = nft.chains_of(&key(), &["b", "none", "a"]).unwrap().into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(nft.chains_of(&TableKey::new(NftFamily::Ip, "none"), &["a"]).unwrap(), []);
    assert_eq!(nft.chains_of(&key(), &[]).unwrap(), []);
    let types = DataType::Values(vec![Type::Ipv4Addr, Type::InetService]);
    let set = Set::map("m", [Type::InetProto, Type::InetService], types);
    let at = |proto, port| ElementHandle {
        set: set.clone(),
        element: Element::new([Value::Proto(proto), Value::Port(port)]),
    };
    let handles = [at(6, 80), at(6, 81), at(17, 53)];
    let found = nft.elements_at(&key(), &handles).unwrap();
    let comments: Vec<_> = found.iter().map(|one| one.as_ref().and_then(|one| one.comment.as_deref())).collect();
    assert_eq!(comments, [Some("ours"), None, Some("theirs")]);
    let Some(Data::Values(data)) = &found[0].as_ref().unwrap().data else { panic!("{found:?}") };
    assert_eq!(data[1], Value::Port(8080));
    let ours = |_: &Set, element: &Element| element.comment.as_deref() == Some("ours");
    assert_eq!(nft.delete_elements_of(&key(), &handles, ours).unwrap(), 1);
    assert_eq!(nft.delete_elements_of(&key(), &handles, ours).unwrap(), 0);
    assert!(!ruleset().contains("8080") && ruleset().contains("theirs"), "{}", ruleset());
}
