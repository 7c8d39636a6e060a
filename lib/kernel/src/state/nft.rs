//! Tables of nf_tables as state: what a table holds, and which part of it is ours.

use std::collections::BTreeMap;

use crate::nft::{Base, Data, Element, Rule, Set, TableView, Value};

/// What one table holds (`nft list table`); its key is a [`TableKey`](crate::nft::TableKey).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftTable {
    /// `comment "…"`. Written when the table is made; no difference afterwards.
    pub comment: Option<String>,
    /// Chains by name.
    pub chains: BTreeMap<String, NftChain>,
    /// Sets and maps by name; no anonymous ones.
    pub sets: BTreeMap<String, NftSet>,
}

/// A chain and its rules, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftChain {
    /// Where packets enter it; none: by jumps only.
    pub base: Option<Base>,
    /// `comment "…"`. Written when the chain is made; no difference afterwards.
    pub comment: Option<String>,
    /// The rules. In a chain that is shared with others, ours alone are compared.
    pub rules: Vec<NftRule>,
}

/// A rule of a chain.
#[derive(Debug, Clone, Default)]
pub struct NftRule {
    /// Matches, statements and comment.
    pub rule: Rule,
    /// What names it for deletion. Known of observed rules alone; no difference.
    pub handle: Option<u64>,
}

impl PartialEq for NftRule {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule
    }
}

impl Eq for NftRule {}

impl From<Rule> for NftRule {
    fn from(rule: Rule) -> Self {
        Self { rule, handle: None }
    }
}

/// A set or map and its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftSet {
    /// Name, types and flags. A difference in these makes the whole table anew.
    pub set: Set,
    /// The elements by key.
    pub elements: BTreeMap<ElementKey, Element>,
}

/// Which element: its key, or the ends of its range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElementKey {
    /// A value per type of the set's key; with `last`, the first key of a range.
    pub first: Vec<Value>,
    /// The last key of a range, included.
    pub last: Option<Vec<Value>>,
}

impl NftSet {
    /// `set` with these elements.
    pub fn new(set: Set, elements: impl IntoIterator<Item = Element>) -> Self {
        let key = |element: &Element| ElementKey { first: element.key.clone(), last: element.last.clone() };
        Self { set, elements: elements.into_iter().map(|element| (key(&element), element)).collect() }
    }

    /// What a map has for `key`.
    pub fn data(&self, key: &ElementKey) -> Option<&Data> {
        self.elements.get(key)?.data.as_ref()
    }
}

impl NftChain {
    /// A chain that is reached by jumps, with these rules.
    pub fn regular(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// A chain that packets enter at a hook, with these rules.
    pub fn at(base: Base, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { base: Some(base), ..Self::regular(rules) }
    }
}

impl From<TableView> for NftTable {
    fn from(view: TableView) -> Self {
        let mut table = Self { comment: view.table.and_then(|table| table.comment), ..Self::default() };
        for chain in view.chains {
            let state = NftChain { base: chain.base, comment: chain.comment, rules: Vec::new() };
            table.chains.insert(chain.name, state);
        }
        for listed in view.rules {
            let rule = NftRule { rule: listed.rule, handle: Some(listed.handle) };
            table.chains.entry(listed.chain).or_default().rules.push(rule);
        }
        let sets = view.sets.into_iter().map(|(set, elements)| (set.name.clone(), NftSet::new(set, elements)));
        table.sets.extend(sets);
        table
    }
}

/// Which part of a table is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftScope {
    /// The table, with all that is in it. When nobody wants it, it is deleted.
    Whole,
    /// A table that others use too: of these chains, the parts that are named; of all else nothing. The table stays.
    Shared(BTreeMap<String, NftChainScope>),
}

/// Which part of a chain in a shared table is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftChainScope {
    /// The chain with all its rules. When nobody wants it, it is deleted.
    Whole,
    /// The chain's rules are fixed by convention: whoever finds others writes them anew, and nobody deletes the chain.
    Frame,
    /// Rules whose comment begins with this text. The chain stays.
    Commented(String),
    /// Rules that jump to this chain. The chain that they are in stays.
    JumpsTo(String),
    /// Rules that equal one of these. The chain that they are in stays.
    Rules(Vec<Rule>),
}

impl NftChainScope {
    /// Whether `rule` of such a chain is ours.
    pub fn owns(&self, rule: &Rule) -> bool {
        match self {
            Self::Whole | Self::Frame => true,
            Self::Commented(prefix) => rule.comment.as_deref().is_some_and(|comment| comment.starts_with(prefix)),
            Self::JumpsTo(chain) => rule.jumps_to(chain),
            Self::Rules(ours) => ours.contains(rule),
        }
    }

    /// Whether the chain itself goes when nobody wants it.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// Whether all of the chain's rules are ours, so that their order counts.
    pub fn owns_all(&self) -> bool {
        matches!(self, Self::Whole | Self::Frame)
    }
}
