//! Tables of nf_tables: the steps that bring an observed table into the desired state.
//!
//! Everything new comes before every removal. A chain whose rules have another order is rewritten in one transaction,
//! so that no packet meets a half of it.

#[cfg(test)]
mod tests;

use std::fmt;

use super::{Conflict, Plan, Step};
use crate::nft::{Chain, Element, TableKey, clip, text};
use crate::state::{NftChain, NftChainScope, NftRule, NftScope, NftSet, NftTable, Scope, State};

/// A change to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftStep {
    /// Add the table, with its comment. An existing table is unchanged.
    AddTable(Option<String>),
    /// Let packets meet the table's chains again.
    WakeTable,
    /// Delete the table with its contents.
    DeleteTable,
    /// Add a chain, which must not exist.
    AddChain(Chain),
    /// Set the policy of an existing base chain.
    SetPolicy(Chain),
    /// Delete a chain with its rules.
    DeleteChain(String),
    /// Delete all rules of a chain.
    FlushChain(String),
    /// Add a rule after a chain's other rules.
    AddRule(String, NftRule),
    /// Add a rule before a chain's other rules.
    InsertRule(String, NftRule),
    /// Delete a rule by its handle.
    DeleteRule(String, NftRule),
    /// Add a set or map.
    AddSet(crate::nft::Set),
    /// Delete a set or map with its elements.
    DeleteSet(String),
    /// Add elements to a set. Existing ones are unchanged.
    AddElements(crate::nft::Set, Vec<Element>),
    /// Add elements to a set, none of which may exist.
    CreateElements(crate::nft::Set, Vec<Element>),
    /// Delete elements of a set.
    DeleteElements(crate::nft::Set, Vec<Element>),
}

impl NftStep {
    /// Whether the step removes something.
    pub fn is_delete(&self) -> bool {
        matches!(
            self,
            Self::DeleteTable
                | Self::DeleteChain(_)
                | Self::FlushChain(_)
                | Self::DeleteRule(..)
                | Self::DeleteSet(_)
                | Self::DeleteElements(..)
        )
    }
}

impl NftStep {
    /// Prints the equivalent command for the table `key`.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, key: &TableKey) -> fmt::Result {
        let kind = |set: &crate::nft::Set| if set.data.is_some() { "map" } else { "set" };
        match self {
            Self::AddTable(None) => write!(f, "nft add table {key}"),
            Self::AddTable(Some(comment)) => write!(f, "nft add table {key} {{ comment \"{comment}\"; }}"),
            Self::WakeTable => write!(f, "nft add table {key}"),
            Self::DeleteTable => write!(f, "nft delete table {key}"),
            Self::AddChain(chain) => write!(f, "nft create chain {key} {}", text::chain(chain)),
            Self::SetPolicy(chain) => write!(f, "nft add chain {key} {}", text::chain(chain)),
            Self::DeleteChain(name) => write!(f, "nft delete chain {key} {name}"),
            Self::FlushChain(name) => write!(f, "nft flush chain {key} {name}"),
            Self::AddRule(chain, rule) => {
                write!(f, "nft add rule {key} {chain} {}", text::rule(key.family, &rule.rule))
            }
            Self::InsertRule(chain, rule) => {
                write!(f, "nft insert rule {key} {chain} {}", text::rule(key.family, &rule.rule))
            }
            Self::DeleteRule(chain, rule) => {
                write!(f, "nft delete rule {key} {chain} handle {}", rule.handle.unwrap_or_default())
            }
            Self::AddSet(set) => write!(f, "nft add {} {key} {}", kind(set), text::set(set)),
            Self::DeleteSet(name) => write!(f, "nft delete set {key} {name}"),
            Self::AddElements(set, elements) => {
                write!(f, "nft add element {key} {} {}", set.name, text::elements(elements))
            }
            Self::CreateElements(set, elements) => {
                write!(f, "nft create element {key} {} {}", set.name, text::elements(elements))
            }
            Self::DeleteElements(set, elements) => {
                write!(f, "nft delete element {key} {} {}", set.name, text::elements(elements))
            }
        }
    }
}

/// Collects the steps of one table.
struct Steps<'a> {
    key: &'a TableKey,
    steps: &'a mut Vec<Step>,
}

impl Steps<'_> {
    fn push(&mut self, step: NftStep) {
        self.steps.push(Step::Nft(self.key.clone(), step));
    }
}

/// Adds and replaces. A table of ours that contains something unchangeable is recreated; a shared one is a conflict.
pub(super) fn put(desired: &State, observed: &State, scope: &Scope, plan: &mut Plan) {
    for (key, want) in &desired.nft {
        let (have, of_table) = (observed.nft.get(key), scope.nft.get(key));
        let steps = &mut Steps { key, steps: &mut plan.steps };
        match have.and_then(|have| unchangeable(want, have)) {
            None => {
                put_table(want, have, of_table, scope.keep, steps);
                plan.conflicts.extend(have.into_iter().flat_map(|have| taken(key, want, have, of_table)));
            }
            Some(_) if of_table == Some(&NftScope::Whole) => {
                steps.push(NftStep::DeleteTable);
                put_table(want, None, None, scope.keep, steps);
            }
            Some(object) => plan.conflicts.push(Conflict::Nft { table: key.clone(), object }),
        }
    }
}

/// The elements of other owners with a desired key, in a shared table.
fn taken(key: &TableKey, want: &NftTable, have: &NftTable, scope: Option<&NftScope>) -> Vec<Conflict> {
    let Some(NftScope::Shared(parts)) = scope else { return Vec::new() };
    let mut conflicts = Vec::new();
    for (name, set) in &want.sets {
        let there = |of| have.sets.get(name).and_then(|set| set.elements.get(of));
        for element in set.elements.keys().filter_map(there).filter(|element| !parts.owns(name, element)) {
            let element = text::elements(std::slice::from_ref(element));
            conflicts.push(Conflict::Element { table: key.clone(), set: name.clone(), element });
        }
    }
    conflicts
}

/// The object of `have` that cannot become the one of `want`.
fn unchangeable(want: &NftTable, have: &NftTable) -> Option<String> {
    let moved =
        |(name, chain): &(&String, &NftChain)| have.chains.get(*name).is_some_and(|there| place(chain) != place(there));
    let chain =
        want.chains.iter().filter(|(_, chain)| !chain.foreign).find(moved).map(|(name, _)| format!("chain {name}"));
    let retyped = |(name, set): &(&String, &NftSet)| have.sets.get(*name).is_some_and(|there| !same_type(set, there));
    chain.or_else(|| want.sets.iter().find(retyped).map(|(name, _)| format!("set {name}")))
}

/// Where packets enter a chain, without its policy, which can be changed.
fn place(chain: &NftChain) -> Option<crate::nft::Base> {
    chain.base.clone().map(|base| crate::nft::Base { policy: Default::default(), ..base })
}

fn same_type(one: &NftSet, other: &NftSet) -> bool {
    let plain = |set: &NftSet| crate::nft::Set { comment: None, ..set.set.clone() };
    plain(one) == plain(other)
}

fn put_table(want: &NftTable, have: Option<&NftTable>, scope: Option<&NftScope>, keep: bool, steps: &mut Steps<'_>) {
    let nothing = NftTable::default();
    if have.is_none() {
        steps.push(NftStep::AddTable(want.comment.clone()));
    }
    if have.is_some_and(|have| have.dormant) {
        steps.push(NftStep::WakeTable);
    }
    let have = have.unwrap_or(&nothing);
    for (_, set) in want.sets.iter().filter(|(name, _)| !have.sets.contains_key(*name)) {
        steps.push(NftStep::AddSet(set.set.clone()));
    }
    for (name, chain) in want.chains.iter().filter(|(_, chain)| !chain.foreign) {
        put_chain(name, chain, have.chains.get(name), steps);
    }
    // An element's verdict may refer to a chain, and a rule to all of them.
    for (name, set) in &want.sets {
        put_elements(set, have.sets.get(name), scope, steps);
    }
    for (name, chain) in want.chains.iter().filter(|(name, chain)| !chain.foreign || have.chains.contains_key(*name)) {
        let there = have.chains.get(name).map_or(&[][..], |chain| &chain.rules);
        put_rules(name, &chain.rules, there, (chain_scope(scope, name).as_ref(), keep), steps);
    }
}

fn put_elements(want: &NftSet, have: Option<&NftSet>, scope: Option<&NftScope>, steps: &mut Steps<'_>) {
    let parts = scope.and_then(NftScope::parts);
    let (mut changed, mut added) = (Vec::new(), Vec::new());
    for (key, element) in &want.elements {
        match have.and_then(|have| have.elements.get(key)) {
            None => added.push(element.clone()),
            Some(there) if !differs(element, there) => {}
            // another owner's element stays
            Some(there) if parts.is_some_and(|parts| !parts.owns(&want.set.name, there)) => {}
            Some(there) => {
                changed.push(there.clone());
                added.push(element.clone());
            }
        }
    }
    if !changed.is_empty() {
        steps.push(NftStep::DeleteElements(want.set.clone(), changed));
    }
    match added.is_empty() {
        true => {}
        // in a shared table, another owner may have added one since it was read
        false if parts.is_some() => steps.push(NftStep::CreateElements(want.set.clone(), added)),
        false => steps.push(NftStep::AddElements(want.set.clone(), added)),
    }
}

/// An element's own timeout decreases with time, and is not a difference.
fn differs(want: &Element, have: &Element) -> bool {
    want.data != have.data || want.comment.as_deref().map(clip) != have.comment.as_deref()
}

fn put_chain(name: &str, want: &NftChain, have: Option<&NftChain>, steps: &mut Steps<'_>) {
    let chain = || Chain { name: name.to_owned(), base: want.base.clone(), comment: want.comment.clone() };
    match have {
        None => steps.push(NftStep::AddChain(chain())),
        Some(have) if have.base != want.base => steps.push(NftStep::SetPolicy(chain())),
        Some(_) => {}
    }
}

/// Existing rules in the desired order stay; other desired rules are appended, and rules in between are deleted.
fn put_rules(
    chain: &str,
    want: &[NftRule],
    have: &[NftRule],
    (scope, keep): (Option<&NftChainScope>, bool),
    steps: &mut Steps<'_>,
) {
    let ours = |rule: &&NftRule| scope.is_none_or(|scope| scope.owns(&rule.rule));
    let (missing, surplus) = compare(want, have.iter().filter(ours), scope);
    // the last one that is inserted becomes the first
    for rule in missing.iter().rev().filter(|rule| rule.first) {
        steps.push(NftStep::InsertRule(chain.to_owned(), (*rule).clone()));
    }
    for rule in missing.iter().filter(|rule| !rule.first) {
        steps.push(NftStep::AddRule(chain.to_owned(), (*rule).clone()));
    }
    // A replaced rule is deleted in the transaction that adds the new one.
    if !missing.is_empty() && !keep && scope.is_some() {
        for rule in surplus {
            steps.push(NftStep::DeleteRule(chain.to_owned(), rule.clone()));
        }
    }
}

/// The missing rules, and the existing ones that are not desired.
fn compare<'a>(
    want: &'a [NftRule],
    have: impl Iterator<Item = &'a NftRule>,
    scope: Option<&NftChainScope>,
) -> (Vec<&'a NftRule>, Vec<&'a NftRule>) {
    let mut missing: Vec<&NftRule> = want.iter().collect();
    let mut surplus = Vec::new();
    let ordered = scope.is_none_or(NftChainScope::owns_all);
    let mut kept = 0;
    for rule in have {
        // Among other programs' rules the order does not matter.
        let found = match ordered {
            true => (missing.get(kept) == Some(&rule)).then_some(kept),
            false => missing.iter().position(|wanted| *wanted == rule),
        };
        match found {
            Some(_) if ordered => kept += 1,
            Some(at) => drop(missing.remove(at)),
            None => surplus.push(rule),
        }
    }
    (if ordered { missing.split_off(kept) } else { missing }, surplus)
}

/// The scope of one chain: all of it, in a table of ours.
fn chain_scope(scope: Option<&NftScope>, chain: &str) -> Option<NftChainScope> {
    match scope? {
        NftScope::Whole => Some(NftChainScope::Whole),
        NftScope::Shared(parts) => parts.chains.get(chain).cloned(),
    }
}

/// Removes what is not desired. Elements and rules may refer to chains, and rules to sets, so they are removed first.
pub(super) fn delete(desired: &State, observed: &State, scope: &Scope, plan: &mut Plan) {
    for (key, of_table) in &scope.nft {
        let Some(have) = observed.nft.get(key) else { continue };
        let steps = &mut Steps { key, steps: &mut plan.steps };
        match (desired.nft.get(key), of_table) {
            (None, NftScope::Whole) => steps.push(NftStep::DeleteTable),
            // The whole table is recreated.
            (Some(want), NftScope::Whole) if unchangeable(want, have).is_some() => {}
            (want, _) => delete_within(want.unwrap_or(&NftTable::default()), have, of_table, steps),
        }
    }
}

fn delete_within(want: &NftTable, have: &NftTable, scope: &NftScope, steps: &mut Steps<'_>) {
    delete_elements(want, have, scope, steps);
    let mut chains = Vec::new();
    for (name, chain) in &have.chains {
        let Some(of_chain) = chain_scope(Some(scope), name) else { continue };
        match want.chains.get(name) {
            None if of_chain.is_whole() => chains.push(name),
            None if of_chain == NftChainScope::Frame => {}
            wanted => delete_rules(name, wanted.map_or(&[], |chain| &chain.rules), chain, &of_chain, steps),
        }
    }
    // Chains may refer to one another; without rules none does.
    if chains.len() > 1 {
        chains.iter().for_each(|name| steps.push(NftStep::FlushChain((*name).clone())));
    }
    chains.iter().for_each(|name| steps.push(NftStep::DeleteChain((*name).clone())));
    if *scope == NftScope::Whole {
        let sets = have.sets.keys().filter(|name| !want.sets.contains_key(*name));
        sets.for_each(|name| steps.push(NftStep::DeleteSet(name.clone())));
    }
}

fn delete_rules(name: &str, want: &[NftRule], have: &NftChain, scope: &NftChainScope, steps: &mut Steps<'_>) {
    let (missing, surplus) = compare(want, have.rules.iter().filter(|rule| scope.owns(&rule.rule)), Some(scope));
    // If rules are missing, these are deleted in the transaction that adds them.
    for rule in surplus.into_iter().filter(|_| missing.is_empty()) {
        steps.push(NftStep::DeleteRule(name.to_owned(), rule.clone()));
    }
}

fn delete_elements(want: &NftTable, have: &NftTable, scope: &NftScope, steps: &mut Steps<'_>) {
    for (name, set) in &have.sets {
        let wanted = want.sets.get(name);
        let ours = |element: &Element| scope.parts().is_none_or(|parts| parts.owns(name, element));
        let surplus = set.elements.iter().filter(|(key, _)| wanted.is_none_or(|set| !set.elements.contains_key(*key)));
        let surplus: Vec<Element> = surplus.map(|(_, element)| element).filter(|one| ours(one)).cloned().collect();
        if !surplus.is_empty() {
            steps.push(NftStep::DeleteElements(set.set.clone(), surplus));
        }
    }
}
