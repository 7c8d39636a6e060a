//! What is in a table, and which commands bring it to what is desired. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kernel::types::Family;

use super::rule::Rule;

/// Chains that every table of the kernel has, as far as it has them. They cannot be created.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Where a rule is added in a chain that others use, too. A rule that is in the chain stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all others (`-I CHAIN 1`).
    First,
    /// Behind all others (`-A CHAIN`).
    Last,
}

/// A rule in a chain that others use, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The chain. It is created if it is missing.
    pub chain: String,
    /// Where the rule is added.
    pub place: Place,
    /// The rule.
    pub rule: Rule,
}

/// What an attachment desires in one table of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The family: `iptables` or `ip6tables`.
    pub family: Family,
    /// The table: `nat`, `filter`.
    pub table: &'static str,
    /// Chains that are needed even without rules.
    pub chains: Vec<String>,
    /// The rules that all attachments share. They are never removed.
    pub frame: Vec<Line>,
    /// The chains of the attachment alone, with all their rules.
    pub own: BTreeMap<String, Vec<Rule>>,
    /// The attachment's rules in chains that others use, too.
    pub entries: Vec<Line>,
}

/// What is removed from one table of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// The table: `nat`, `filter`.
    pub table: &'static str,
    /// The chains of the attachment alone.
    pub own: BTreeSet<String>,
    /// The chains whose rules may jump to those.
    pub parents: Vec<&'static str>,
    /// The attachment's rules in chains that others use, too: family, chain, rule.
    pub entries: Vec<(Family, String, Rule)>,
}

/// The contents of a table: the rules of each chain, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved(pub BTreeMap<String, Vec<Rule>>);

impl Saved {
    /// Reads what `iptables-save -t TABLE` prints. Lines that are neither a chain nor a rule are left out.
    pub fn parse(text: &str) -> Self {
        let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                chains.entry(chain.to_owned()).or_default();
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                chains.entry(chain.to_owned()).or_default().push(Rule::parse(rule));
            }
        }
        Self(chains)
    }

    fn rules(&self, chain: &str) -> &[Rule] {
        self.0.get(chain).map_or(&[], Vec::as_slice)
    }

    fn has(&self, chain: &str, rule: &Rule) -> bool {
        self.rules(chain).contains(rule)
    }
}

/// One line of `iptables-restore`'s input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `:CHAIN - [0:0]`: creates the chain, or deletes all its rules.
    Empty(String),
    /// `-N CHAIN`: creates the chain. It fails if the chain exists, so that only one of two programs makes the first rules.
    New(String),
    /// `-A CHAIN RULE`
    Append(String, Rule),
    /// `-I CHAIN 1 RULE`
    Insert(String, Rule),
    /// `-D CHAIN RULE`
    Delete(String, Rule),
    /// `-X CHAIN`
    Remove(String),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(chain) => write!(f, ":{chain} - [0:0]"),
            Self::New(chain) => write!(f, "-N {chain}"),
            Self::Append(chain, rule) => write!(f, "-A {chain} {rule}"),
            Self::Insert(chain, rule) => write!(f, "-I {chain} 1 {rule}"),
            Self::Delete(chain, rule) => write!(f, "-D {chain} {rule}"),
            Self::Remove(chain) => write!(f, "-X {chain}"),
        }
    }
}

/// The input of `iptables-restore --noflush` for these commands; `None` if there is none.
pub fn input(table: &str, commands: &[Command]) -> Option<String> {
    if commands.is_empty() {
        return None;
    }
    let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
    Some(format!("*{table}\n{}\nCOMMIT\n", lines.join("\n")))
}

impl Part {
    /// An empty part of a table.
    pub fn new(family: Family, table: &'static str) -> Self {
        Self { family, table, chains: Vec::new(), frame: Vec::new(), own: BTreeMap::new(), entries: Vec::new() }
    }

    /// The commands that make what is missing. Rules that lead to a chain of the attachment, and are not desired, go.
    pub fn put(&self, found: &Saved) -> Vec<Command> {
        let changed = self.own.iter().filter(|(chain, rules)| found.0.get(*chain) != Some(rules));
        let (mut emptied, mut filled) = (Vec::new(), Vec::new());
        for (chain, rules) in changed {
            emptied.push(Command::Empty(chain.clone()));
            filled.extend(rules.iter().map(|rule| Command::Append(chain.clone(), rule.clone())));
        }
        let lines = || self.frame.iter().chain(&self.entries);
        let shared: BTreeSet<&String> = self.chains.iter().chain(lines().map(|line| &line.chain)).collect();
        let absent = |chain: &&String| !found.0.contains_key(*chain) && !BUILT_IN.contains(&chain.as_str());
        let new = shared.into_iter().filter(absent).map(|chain| Command::New(chain.clone()));
        let missing = lines().filter(|line| !found.has(&line.chain, &line.rule));
        let added = missing.map(|Line { chain, place, rule }| match place {
            Place::First => Command::Insert(chain.clone(), rule.clone()),
            Place::Last => Command::Append(chain.clone(), rule.clone()),
        });
        emptied.into_iter().chain(new).chain(filled).chain(added).chain(self.surplus(found)).collect()
    }

    /// Whether the part's own chains with their rules, and its shared frame, are there. Entries are not compared: they may have an
    /// operator's conditions, which `iptables-save` prints in other words.
    pub fn is_made(&self, found: &Saved) -> bool {
        let filled = self.own.iter().all(|(chain, rules)| found.0.get(chain) == Some(rules));
        filled && self.frame.iter().all(|line| found.has(&line.chain, &line.rule))
    }

    fn surplus(&self, found: &Saved) -> Vec<Command> {
        let desired =
            |chain: &String, rule: &Rule| self.entries.iter().any(|line| (&line.chain, &line.rule) == (chain, rule));
        let leads = |chain: &String, rule: &Rule| {
            let own = |chain: &str| self.own.contains_key(chain);
            rule.target().is_some_and(own) && !own(chain) && !desired(chain, rule)
        };
        delete(found, leads)
    }

    /// The commands of an administrator that make what is missing.
    pub fn differences(&self, found: &Saved) -> Vec<String> {
        let (program, table) = (if self.family == Family::V4 { "iptables" } else { "ip6tables" }, self.table);
        let command = |command: Command| match command {
            Command::Empty(chain) if found.0.contains_key(&chain) => format!("{program} -t {table} -F {chain}"),
            Command::Empty(chain) => format!("{program} -t {table} -N {chain}"),
            command => format!("{program} -t {table} {command}"),
        };
        self.put(found).into_iter().map(command).collect()
    }
}

impl Removal {
    /// The commands that remove what is there.
    pub fn take(&self, family: Family, found: &Saved) -> Vec<Command> {
        let own: Vec<&String> = self.own.iter().filter(|chain| found.0.contains_key(*chain)).collect();
        let is_entry = |chain: &String, rule: &Rule| {
            self.entries.iter().any(|(of, at, entry)| (*of, at, entry) == (family, chain, rule))
        };
        let leads = |rule: &Rule| rule.target().is_some_and(|target| self.own.contains(target));
        let emptied = own.iter().map(|chain| Command::Empty((*chain).clone()));
        let deleted = delete(found, |chain, rule| !self.own.contains(chain) && (leads(rule) || is_entry(chain, rule)));
        let removed = own.iter().map(|chain| Command::Remove((*chain).clone()));
        emptied.chain(deleted).chain(removed).collect()
    }
}

fn delete(found: &Saved, which: impl Fn(&String, &Rule) -> bool) -> Vec<Command> {
    let rules = found.0.iter().flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)));
    let matching = rules.filter(|(chain, rule)| which(chain, rule));
    matching.map(|(chain, rule)| Command::Delete(chain.clone(), rule.clone())).collect()
}
