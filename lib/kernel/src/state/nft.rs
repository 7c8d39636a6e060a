//! Tables of nf_tables as state: their contents, and which parts are ours.

use std::collections::BTreeMap;

pub use crate::nft::{
    Base, Chain, ChainKind, Data, Element, Expr, Hook, Is, NftFamily, PayloadBase, Policy, Rule, RuleBuilder, Set,
    Side, TableKey, Value, Verdict, ct,
};

use crate::nft::TableView;

/// The contents of one table (`nft list table`); its key is a [`TableKey`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftTable {
    /// `comment "…"`. Written when the table is created; ignored in comparisons.
    pub comment: Option<String>,
    /// No packet meets its chains (`flags dormant`). Observed only.
    pub dormant: bool,
    /// Chains by name.
    pub chains: BTreeMap<String, NftChain>,
    /// Sets and maps by name; no anonymous ones.
    pub sets: BTreeMap<String, NftSet>,
}

/// A chain and its rules, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftChain {
    /// Where packets enter the chain; `None`: by jumps only.
    pub base: Option<Base>,
    /// `comment "…"`. Written when the chain is created; ignored in comparisons.
    pub comment: Option<String>,
    /// The rules. In a shared chain only ours are compared.
    pub rules: Vec<NftRule>,
    /// Another program's chain: it is neither created nor changed, except for rules of ours. Without it, these are left
    /// out. Only a desired chain can say so.
    pub foreign: bool,
}

/// A rule of a chain.
#[derive(Debug, Clone, Default)]
pub struct NftRule {
    /// Matches, statements and comment.
    pub rule: Rule,
    /// The handle, which identifies the rule for deletion. Only observed rules have one; it is ignored in
    /// comparisons.
    pub handle: Option<u64>,
    /// Whether a missing rule is added before the chain's other rules. A rule that exists stays where it is. Ignored in
    /// comparisons.
    pub first: bool,
}

impl PartialEq for NftRule {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule
    }
}

impl Eq for NftRule {}

impl From<Rule> for NftRule {
    fn from(rule: Rule) -> Self {
        Self { rule, ..Self::default() }
    }
}

/// A set or map and its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftSet {
    /// Name, types and flags. A difference in these recreates the whole table.
    pub set: Set,
    /// The elements by key.
    pub elements: BTreeMap<ElementKey, Element>,
}

/// Identifies an element by its key, or by the ends of its range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElementKey {
    /// A value per type of the set's key; if there is a `last`, the first key of a range.
    pub first: Vec<Value>,
    /// The last key of a range, inclusive.
    pub last: Option<Vec<Value>>,
}

impl NftSet {
    /// `set` with these elements.
    pub fn new(set: Set, elements: impl IntoIterator<Item = Element>) -> Self {
        let mut new = Self { set, elements: BTreeMap::new() };
        elements.into_iter().for_each(|element| new.insert(element));
        new
    }

    /// Adds an element, or replaces the one with its key.
    pub fn insert(&mut self, element: Element) {
        let key = ElementKey { first: element.key.clone(), last: element.last.clone() };
        self.elements.insert(key, element);
    }

    /// The data of a map for `key`.
    pub fn data(&self, key: &ElementKey) -> Option<&Data> {
        self.elements.get(key)?.data.as_ref()
    }
}

impl NftChain {
    /// A chain that is entered by jumps, with these rules.
    pub fn regular(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Another program's chain, with rules of ours before its own.
    pub fn of_others(rules: impl IntoIterator<Item = Rule>) -> Self {
        let rules = rules.into_iter().map(|rule| NftRule { first: true, ..rule.into() });
        Self { rules: rules.collect(), foreign: true, ..Self::default() }
    }

    /// A chain that packets enter at a hook, with these rules.
    pub fn at(base: Base, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { base: Some(base), ..Self::regular(rules) }
    }
}

impl From<TableView> for NftTable {
    fn from(view: TableView) -> Self {
        let dormant = view.table.as_ref().is_some_and(|table| table.dormant);
        let mut table = Self { comment: view.table.and_then(|table| table.comment), dormant, ..Self::default() };
        for chain in view.chains {
            let state = NftChain { base: chain.base, comment: chain.comment, ..NftChain::default() };
            table.chains.insert(chain.name, state);
        }
        for listed in view.rules {
            let rule = NftRule { rule: listed.rule, handle: Some(listed.handle), first: false };
            table.chains.entry(listed.chain).or_default().rules.push(rule);
        }
        let sets = view.sets.into_iter().map(|(set, elements)| (set.name.clone(), NftSet::new(set, elements)));
        table.sets.extend(sets);
        table
    }
}

/// Which parts of a table are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftScope {
    /// The table with its contents. It is deleted when it is not desired.
    Whole,
    /// Parts of a table that others use, too. Everything else, and the table itself, stays.
    Shared(NftParts),
}

/// Parts of a table that others use, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftParts {
    /// Chains by name.
    pub chains: BTreeMap<String, NftChainScope>,
    /// Sets and maps by name, each with the text that the comments of our elements start with. The sets stay.
    pub sets: BTreeMap<String, String>,
}

impl NftScope {
    /// The parts of a shared table that are ours; `None` for a table of our own.
    pub fn parts(&self) -> Option<&NftParts> {
        match self {
            Self::Whole => None,
            Self::Shared(parts) => Some(parts),
        }
    }
}

impl NftParts {
    /// Whether an element of the set is ours.
    pub fn owns(&self, set: &str, element: &Element) -> bool {
        let ours = |mark: &String| element.comment.as_deref().is_some_and(|comment| comment.starts_with(mark));
        self.sets.get(set).is_some_and(ours)
    }
}

impl<const N: usize> From<[(String, NftChainScope); N]> for NftParts {
    fn from(chains: [(String, NftChainScope); N]) -> Self {
        BTreeMap::from(chains).into()
    }
}

impl From<BTreeMap<String, NftChainScope>> for NftParts {
    /// Chains only.
    fn from(chains: BTreeMap<String, NftChainScope>) -> Self {
        Self { chains, sets: BTreeMap::new() }
    }
}

/// Which parts of a chain in a shared table are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftChainScope {
    /// The chain with all its rules. It is deleted when it is not desired.
    Whole,
    /// A chain whose rules are fixed by convention: whoever finds other rules rewrites it, and nobody deletes it.
    Frame,
    /// The rules whose comment starts with this text. The chain stays.
    Commented(String),
    /// The rules that jump to this chain. The chain that contains them stays.
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

    /// Whether the chain itself is deleted when it is not desired.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// Whether all of the chain's rules are ours, so that their order matters.
    pub fn owns_all(&self) -> bool {
        matches!(self, Self::Whole | Self::Frame)
    }
}
