//! Tables reach the desired state in few steps, and nothing of other programs changes.

use proptest::prelude::*;

use super::NftStep;
use crate::diff::{Conflict, Step, diff};
use crate::nft::{
    Base, ChainKind, Data, DataType, Element, Hook, Is, NftFamily, Policy, RuleBuilder, Set, TableKey, Type, Value,
    Verdict,
};
use crate::state::{NftChain, NftChainScope, NftParts, NftRule, NftScope, NftSet, NftTable, Scope, State};

fn key() -> TableKey {
    TableKey::new(NftFamily::Inet, "t")
}

/// A rule with a mark and a comment.
fn rule(mark: u32, comment: &str) -> NftRule {
    RuleBuilder::new(NftFamily::Inet).mark(Is::Eq, mark).accept().comment(comment).into()
}

fn with(table: NftTable) -> State {
    State { nft: [(key(), table)].into(), ..State::default() }
}

fn ours() -> Scope {
    Scope { nft: [(key(), NftScope::Whole)].into(), ..Scope::default() }
}

fn shared() -> Scope {
    let chains = [
        ("checks".to_owned(), NftChainScope::Commented("me".into())),
        ("frame".to_owned(), NftChainScope::Frame),
        ("mine".to_owned(), NftChainScope::Whole),
    ];
    let parts = NftParts { sets: [("s".to_owned(), "me".to_owned())].into(), ..chains.into() };
    Scope { nft: [(key(), NftScope::Shared(parts))].into(), ..Scope::default() }
}

/// The effect of a step on the kernel.
fn take(state: &mut State, step: &Step, next: &mut u64) {
    let Step::Nft(key, change) = step else { panic!("{step}") };
    match change {
        NftStep::AddTable(_) => drop(state.nft.entry(key.clone()).or_default()),
        NftStep::WakeTable => state.nft.get_mut(key).unwrap().dormant = false,
        NftStep::DeleteTable => drop(state.nft.remove(key).unwrap()),
        change => within(state.nft.get_mut(key).unwrap(), change, next),
    }
}

fn within(table: &mut NftTable, change: &NftStep, next: &mut u64) {
    match change {
        NftStep::AddChain(chain) => {
            let state = NftChain { base: chain.base.clone(), ..NftChain::default() };
            assert!(table.chains.insert(chain.name.clone(), state).is_none(), "{}", chain.name);
        }
        NftStep::SetPolicy(chain) => table.chains.get_mut(&chain.name).unwrap().base = chain.base.clone(),
        NftStep::DeleteChain(name) => drop(table.chains.remove(name).unwrap()),
        NftStep::FlushChain(name) => table.chains.get_mut(name).unwrap().rules.clear(),
        NftStep::AddRule(chain, rule) => {
            *next += 1;
            table.chains.get_mut(chain).unwrap().rules.push(NftRule { handle: Some(*next), ..rule.clone() });
        }
        NftStep::InsertRule(chain, rule) => {
            *next += 1;
            table.chains.get_mut(chain).unwrap().rules.insert(0, NftRule { handle: Some(*next), ..rule.clone() });
        }
        NftStep::DeleteRule(chain, rule) => {
            let rules = &mut table.chains.get_mut(chain).unwrap().rules;
            let before = rules.len();
            rules.retain(|there| there.handle != rule.handle);
            assert_eq!(rules.len() + 1, before, "{rule:?}");
        }
        NftStep::AddSet(set) => {
            assert!(table.sets.insert(set.name.clone(), NftSet::new(set.clone(), [])).is_none());
        }
        NftStep::DeleteSet(name) => drop(table.sets.remove(name).unwrap()),
        NftStep::AddElements(set, elements) | NftStep::CreateElements(set, elements) => {
            let added = NftSet::new(set.clone(), elements.clone()).elements;
            let there = &mut table.sets.get_mut(&set.name).unwrap().elements;
            added.into_iter().for_each(|(key, element)| assert!(there.insert(key, element).is_none()));
        }
        NftStep::DeleteElements(set, elements) => {
            let gone = NftSet::new(set.clone(), elements.clone()).elements;
            let there = &mut table.sets.get_mut(&set.name).unwrap().elements;
            gone.keys().for_each(|key| drop(there.remove(key).unwrap()));
        }
        NftStep::AddTable(_) | NftStep::WakeTable | NftStep::DeleteTable => unreachable!(),
    }
}

fn base(priority: i32, policy: Policy) -> Base {
    Base { policy, ..Base::new(ChainKind::Filter, Hook::Forward, priority) }
}

prop_compose! {
    fn chain()(
        base in prop::option::of((0..2i32, any::<bool>())),
        rules in prop::collection::vec((0..3u32, prop::sample::select(COMMENTS.to_vec())), 0..5),
    ) -> NftChain {
        let policy = |drop| if drop { Policy::Drop } else { Policy::Accept };
        NftChain {
            base: base.map(|(priority, drop)| self::base(priority, policy(drop))),
            rules: rules.into_iter().map(|(mark, comment)| rule(mark, comment)).collect(),
            ..NftChain::default()
        }
    }
}

/// By port: whether the packet is dropped, and the element's comment.
type Elements = std::collections::BTreeMap<u16, (bool, &'static str)>;

fn set(interval: bool, elements: &Elements) -> NftSet {
    let set = Set::map("s", [Type::InetService], DataType::Verdict);
    let verdict = |drop: bool| Data::Verdict(if drop { Verdict::Drop } else { Verdict::Accept });
    let element = |(port, (drop, comment)): (&u16, &(bool, &str))| {
        Element::new([Value::Port(*port)]).data(verdict(*drop)).comment(*comment)
    };
    NftSet::new(if interval { set.interval() } else { set }, elements.iter().map(element))
}

/// Comments of ours and of another owner.
const COMMENTS: [&str; 3] = ["me 1", "me 2", "you"];

prop_compose! {
    fn table()(
        chains in prop::collection::btree_map(
            prop::sample::select(vec!["checks".to_owned(), "frame".into(), "mine".into(), "other".into()]), chain(), 0..4),
        set in prop::option::of((any::<bool>(),
            prop::collection::btree_map(0..6u16, (any::<bool>(), prop::sample::select(COMMENTS.to_vec())), 0..6))),
    ) -> NftTable {
        let sets = set.into_iter().map(|(interval, elements)| ("s".to_owned(), self::set(interval, &elements))).collect();
        NftTable { chains, sets, ..NftTable::default() }
    }
}

/// `table` as the kernel reports it: each rule has a handle.
fn observed(table: &NftTable) -> NftTable {
    let mut table = table.clone();
    let rules = table.chains.values_mut().flat_map(|chain| &mut chain.rules);
    rules.zip(1..).for_each(|(rule, handle)| rule.handle = Some(handle));
    table
}

fn run(desired: &State, observed: &State, scope: &Scope) -> State {
    let mut model = observed.clone();
    let mut next = 1000;
    diff(desired, observed, scope).steps.iter().for_each(|step| take(&mut model, step, &mut next));
    model
}

proptest! {
    #[test]
    fn a_table_of_ours_becomes_what_is_wanted(want in prop::option::of(table()), have in prop::option::of(table())) {
        let desired = want.map(with).unwrap_or_default();
        let observed = have.map(|have| with(observed(&have))).unwrap_or_default();
        let model = run(&desired, &observed, &ours());
        prop_assert_eq!(&model.nft, &desired.nft);
        prop_assert!(diff(&desired, &model, &ours()).is_empty());
    }

    #[test]
    fn an_incomplete_view_deletes_nothing(want in prop::option::of(table()), have in table()) {
        let desired = want.map(with).unwrap_or_default();
        let observed = with(observed(&have));
        let plan = diff(&desired, &observed, &Scope { keep: true, ..ours() });
        let replaced = plan.steps.iter().any(|step| matches!(step, Step::Nft(_, NftStep::DeleteTable)));
        // An unchangeable table is recreated, and a changed element is removed first.
        let deletes = plan.steps.iter().filter(|step| step.is_delete());
        prop_assert!(replaced || deletes.into_iter().all(|step| matches!(step, Step::Nft(_, NftStep::DeleteElements(..)))));
    }

    #[test]
    fn in_a_shared_table_others_rules_stay(want in table(), have in table()) {
        let mut want = want;
        let ours = |comment: Option<&str>| comment.is_some_and(|comment| comment.starts_with("me"));
        for set in want.sets.values_mut() {
            set.elements.retain(|_, element| ours(element.comment.as_deref()));
        }
        want.chains.remove("other");
        if let Some(checks) = want.chains.get_mut("checks") {
            checks.rules.retain(|rule| ours(rule.rule.comment.as_deref()));
        }
        let desired = with(want.clone());
        let observed = with(observed(&have));
        let conflicts = diff(&desired, &observed, &shared()).conflicts;
        if conflicts.iter().any(|conflict| !matches!(conflict, Conflict::Element { .. })) {
            return Ok(());
        }
        let model = &run(&desired, &observed, &shared()).nft[&key()];
        prop_assert_eq!(model.chains.get("other"), have.chains.get("other"));
        let elements = |table: &NftTable| table.sets.get("s").map(|set| set.elements.clone()).unwrap_or_default();
        let (wanted, before, after) = (elements(&want), elements(&have), elements(model));
        let taken = before.iter().filter(|(key, one)| !ours(one.comment.as_deref()) && wanted.contains_key(*key));
        prop_assert_eq!(conflicts.len(), taken.count());
        for (key, element) in &after {
            let stays = before.get(key).filter(|one| !ours(one.comment.as_deref()));
            prop_assert_eq!(Some(element), stays.or(wanted.get(key)));
        }
        prop_assert!(before.iter().all(|(key, one)| ours(one.comment.as_deref()) || after.contains_key(key)));
        prop_assert!(wanted.keys().all(|key| after.contains_key(key)));
        let foreign = |table: &NftTable| {
            let rules = table.chains.get("checks").map(|chain| chain.rules.clone()).unwrap_or_default();
            rules.into_iter().filter(|rule| rule.rule.comment.as_deref() == Some("you")).collect::<Vec<_>>()
        };
        prop_assert_eq!(foreign(model), foreign(&have));
        prop_assert!(diff(&desired, &with(model.clone()), &shared()).steps.is_empty());
        prop_assert_eq!(model.chains.contains_key("mine"), want.chains.contains_key("mine"));
    }
}

#[test]
fn of_ten_thousand_elements_the_one_that_differs_is_sent() {
    let all = |changed: u16| (0..10_000).map(|port| (port, (port == changed, "me"))).collect();
    let desired = with(NftTable { sets: [("s".into(), set(false, &all(7)))].into(), ..NftTable::default() });
    let observed = with(NftTable { sets: [("s".into(), set(false, &all(20_000)))].into(), ..NftTable::default() });
    let steps = diff(&desired, &observed, &ours()).steps;
    let counts: Vec<usize> = steps
        .iter()
        .map(|step| match step {
            Step::Nft(_, NftStep::AddElements(_, all) | NftStep::DeleteElements(_, all)) => all.len(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(counts, [1, 1]);
}

#[test]
fn a_shared_chain_of_another_kind_is_a_conflict() {
    let table = |priority| NftTable {
        chains: [("frame".to_owned(), NftChain::at(base(priority, Policy::Accept), []))].into(),
        ..NftTable::default()
    };
    let plan = diff(&with(table(1)), &with(table(2)), &shared());
    assert!(plan.steps.is_empty());
    let text = plan.conflicts[0].to_string();
    assert!(text.starts_with("chain frame of table inet t is not of the desired kind"), "{text}");
}

#[test]
fn an_element_of_another_owner_is_a_conflict() {
    let table = |comment| {
        let set = set(false, &[(80, (true, comment))].into());
        with(NftTable { sets: [("s".into(), set)].into(), ..NftTable::default() })
    };
    let plan = diff(&table("me"), &table("you"), &shared());
    assert!(plan.steps.is_empty());
    let text = plan.conflicts[0].to_string();
    assert_eq!(text, "{ 80 comment \"you\" : drop } of set s in table inet t belongs to another owner");
    let added = diff(&table("me"), &with(NftTable::default()), &shared()).steps;
    assert!(added[1].to_string().starts_with("nft create element inet t s"), "{}", added[1]);
}

#[test]
fn steps_print_as_commands() {
    let chain = NftChain::at(base(0, Policy::Drop), []);
    let desired = with(NftTable { chains: [("c".to_owned(), chain)].into(), ..NftTable::default() });
    let texts: Vec<String> = diff(&desired, &State::default(), &ours()).steps.iter().map(ToString::to_string).collect();
    assert_eq!(texts[0], "nft add table inet t");
    assert!(texts[1].starts_with("nft create chain inet t c"), "{texts:?}");
    let gone = diff(&State::default(), &desired, &ours()).steps;
    assert_eq!(gone.iter().map(ToString::to_string).collect::<Vec<_>>(), ["nft delete table inet t"]);
}

/// In another program's chain our rules come first; the chain keeps its hook, its policy and its own rules.
#[test]
fn rules_come_first_in_a_chain_of_others() {
    let [one, two] = [1, 2].map(|mark| rule(mark, "me"));
    let wanted = NftChain::of_others([one.rule.clone(), two.rule.clone()]);
    let desired = with(NftTable { chains: [("checks".to_owned(), wanted)].into(), ..NftTable::default() });
    let theirs = NftChain { rules: vec![rule(3, "you")], ..NftChain::at(base(0, Policy::Drop), []) };
    let mut state = with(NftTable { chains: [("checks".to_owned(), theirs)].into(), ..NftTable::default() });
    let plan = diff(&desired, &state, &shared());
    assert_eq!(plan.conflicts, []);
    plan.steps.iter().for_each(|step| take(&mut state, step, &mut 0));
    let chain = &state.nft[&key()].chains["checks"];
    assert_eq!(
        (chain.rules.clone(), chain.base.clone()),
        (vec![one, two, rule(3, "you")], Some(base(0, Policy::Drop)))
    );
    assert_eq!(diff(&desired, &state, &shared()).steps, []);
    // without the chain there is nothing to add a rule to
    assert_eq!(diff(&desired, &with(NftTable::default()), &shared()).steps, []);
}

#[test]
fn a_table_that_sleeps_is_woken() {
    let asleep = NftTable { dormant: true, ..NftTable::default() };
    let of = |table: NftTable| State { nft: [(key(), table)].into(), ..State::default() };
    for scope in [shared(), Scope { nft: [(key(), NftScope::Whole)].into(), ..Scope::default() }] {
        let steps = super::super::diff(&of(NftTable::default()), &of(asleep.clone()), &scope).steps;
        assert_eq!(steps, [Step::Nft(key(), NftStep::WakeTable)]);
    }
}
