//! Reads objects from the kernel, as the types that also describe them when they are written.

use std::collections::BTreeSet;
use std::time::Duration;

use super::apply::RuleHandle;
use super::batch::{Batch, DATA_VERDICT, attr, msg, set_flag};
use super::element;
use super::error::NftError;
use super::expr::Expr;
use super::socket::{Answer, Nft};
use super::types::{
    Base, Chain, ChainKind, DataType, Element, Hook, ListedRule, NftFamily, Policy, Rule, Set, Table, TableKey, Timeout,
};
use super::userdata;
use super::value::Type;
use crate::netlink::wire::{Attributes, Incoming};
use crate::state::NftParts;
use crate::types::IfName;

/// How often a read or an update is tried while others change the rule set. One of several competitors wins each round,
/// so this many may start at once. A round takes about 0.1 ms.
const TRIES: u32 = 200;
/// As [`TRIES`], for deleting rules by handle, where a short-lived caller would have to try again itself. Beside a
/// program that commits without a pause, it takes hundreds of rounds. A round takes about 0.05 ms.
pub(super) const DELETE_TRIES: u32 = 20_000;

/// A consistent snapshot of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableView {
    /// The generation of the rule set at that moment.
    pub generation: u32,
    /// The table. `None` if it does not exist; all other fields are then empty.
    pub table: Option<Table>,
    /// The chains, in the kernel's order.
    pub chains: Vec<Chain>,
    /// The rules. Those of a chain are in its order.
    pub rules: Vec<ListedRule>,
    /// The sets and maps with their elements, except anonymous ones.
    pub sets: Vec<(Set, Vec<Element>)>,
}

/// Which objects of a table to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Chains.
    pub chains: BTreeSet<&'a str>,
    /// Sets and maps.
    pub sets: BTreeSet<&'a str>,
}

impl<'a> Selection<'a> {
    /// Adds the chains and sets of `parts`.
    pub fn extend(&mut self, parts: &'a NftParts) {
        self.chains.extend(parts.chains.keys().map(String::as_str));
        self.sets.extend(parts.sets.keys().map(String::as_str));
    }
}

impl TableView {
    /// The rules of one chain, in order.
    pub fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a ListedRule> {
        self.rules.iter().filter(move |r| r.chain == chain)
    }

    /// Whether the chain exists.
    pub fn has_chain(&self, chain: &str) -> bool {
        self.chains.iter().any(|c| c.name == chain)
    }
}

impl Nft {
    /// The generation of the namespace's rule set. Every transaction increases it.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let what = "get generation";
        let answer = self.ask(what, msg::GETGEN, 0, |_| {})?;
        answer.message().attributes().be32(attr::GEN_ID).ok_or_else(|| malformed(what))
    }

    /// The namespace's tables (`nft list tables`).
    pub fn tables(&mut self) -> Result<Vec<Table>, NftError> {
        let answers = self.dump("list tables", msg::GETTABLE, 0, |_| {})?;
        // a family without a name here comes from a newer kernel and is not ours
        Ok(answers.iter().filter_map(read_table).collect())
    }

    /// One table; `None` if it does not exist.
    pub fn table(&mut self, key: &TableKey) -> Result<Option<Table>, NftError> {
        let what = format!("list table {key}");
        let answer = self.ask(&what, msg::GETTABLE, key.family.number(), |w| w.text(attr::TABLE_NAME, &key.name));
        match answer {
            Ok(answer) => read_table(&answer).map(Some).ok_or_else(|| malformed(&what)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A table's chains.
    pub fn chains(&mut self, table: &TableKey) -> Result<Vec<Chain>, NftError> {
        let what = format!("list chains of {table}");
        let answers =
            self.dump(&what, msg::GETCHAIN, table.family.number(), |w| w.text(attr::CHAIN_TABLE, &table.name))?;
        let read = |a: &Answer| read_chain(table, a).ok_or_else(|| malformed(&what));
        answers.iter().filter(|a| belongs(a, table)).map(read).collect()
    }

    /// The base chains of a type in all tables of the namespace, without their rules.
    ///
    /// # Errors
    /// The kernel refused to list the chains. Chains of a kind that this module does not know are left out.
    pub fn base_chains(&mut self, kind: ChainKind) -> Result<Vec<(TableKey, Chain)>, NftError> {
        let read = |answer: &Answer| {
            let message = answer.message();
            let family = NftFamily::from_number(message.family())?;
            let table = TableKey { family, name: message.attributes().text(attr::CHAIN_TABLE)? };
            let chain = read_chain(&table, answer)?;
            let there = chain.base.as_ref().is_some_and(|base| base.kind == kind);
            there.then_some((table, chain))
        };
        let answers = self.dump("list chains", msg::GETCHAIN, 0, |_| {})?;
        Ok(answers.iter().filter_map(read).collect())
    }

    /// One chain without its rules (`nft list chain`); `None` if the table or the chain does not exist.
    pub fn chain(&mut self, table: &TableKey, chain: &str) -> Result<Option<Chain>, NftError> {
        let what = format!("list chain {table} {chain}");
        let answer = self.ask(&what, msg::GETCHAIN, table.family.number(), |w| {
            w.text(attr::CHAIN_TABLE, &table.name);
            w.text(attr::CHAIN_NAME, chain);
        });
        match answer {
            Ok(answer) => read_chain(table, &answer).map(Some).ok_or_else(|| malformed(&what)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The rules of a table or of one chain; empty if the table or the chain does not exist.
    pub fn rules(&mut self, table: &TableKey, chain: Option<&str>) -> Result<Vec<ListedRule>, NftError> {
        let what = format!("list rules of {table}");
        let answers = self.dump(&what, msg::GETRULE, table.family.number(), |w| {
            w.text(attr::RULE_TABLE, &table.name);
            if let Some(chain) = chain {
                w.text(attr::RULE_CHAIN, chain);
            }
        })?;
        let read = |a: &Answer| read_rule(a).ok_or_else(|| malformed(&what));
        let wanted = |r: &ListedRule| chain.is_none_or(|c| c == r.chain);
        let rules: Result<Vec<_>, _> = answers.iter().filter(|a| belongs(a, table)).map(read).collect();
        Ok(rules?.into_iter().filter(wanted).collect())
    }

    /// One rule by its handle (`nft -a list chain`); `None` if it does not exist.
    pub fn rule(&mut self, table: &TableKey, chain: &str, handle: u64) -> Result<Option<ListedRule>, NftError> {
        let what = format!("list rule {table} {chain} handle {handle}");
        let answer = self.ask(&what, msg::GETRULE, table.family.number(), |w| {
            w.text(attr::RULE_TABLE, &table.name);
            w.text(attr::RULE_CHAIN, chain);
            w.be64(attr::RULE_HANDLE, handle);
        });
        match answer {
            Ok(answer) => read_rule(&answer).map(Some).ok_or_else(|| malformed(&what)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes rules by handle, and the chains `whole` of their table with everything in them. Each rule is fetched
    /// first and must be `ours`, because handles start anew with a table. The batch fails if anything changes in
    /// between. Returns false, and deletes nothing, if one of the handles is not a rule of ours.
    pub fn delete_rules(
        &mut self,
        rules: &[RuleHandle],
        whole: &[&str],
        ours: impl Fn(&str, &Rule) -> bool,
    ) -> Result<bool, NftError> {
        for _ in 0..DELETE_TRIES {
            let generation = self.generation()?;
            let mut batch = Batch::new().at_generation(generation);
            for RuleHandle { table, chain, handle } in rules {
                match self.rule(table, chain, *handle)? {
                    Some(listed) if ours(chain, &listed.rule) => batch.delete_rule(table, chain, *handle),
                    _ => return Ok(false),
                }
            }
            for (RuleHandle { table, .. }, chain) in
                rules.first().into_iter().flat_map(|r| whole.iter().map(move |c| (r, c)))
            {
                batch.destroy_chain(table, chain);
            }
            match self.commit(&batch) {
                Err(error) if error.is_outdated() => {}
                other => return other.map(|_| true),
            }
        }
        Err(NftError::Busy { what: "delete rules by their handles".into(), tries: DELETE_TRIES })
    }

    /// A table's sets and maps, without the anonymous ones of rules. Fails if the table does not exist.
    pub fn sets(&mut self, table: &TableKey) -> Result<Vec<Set>, NftError> {
        const ANONYMOUS: u32 = 1;
        let what = format!("list sets of {table}");
        let answers = self.dump(&what, msg::GETSET, table.family.number(), |w| w.text(attr::SET_TABLE, &table.name))?;
        let named = |a: &&Answer| {
            a.message().attributes().be32(attr::SET_FLAGS).unwrap_or_default() & ANONYMOUS == 0 && belongs(a, table)
        };
        answers.iter().filter(named).map(|a| read_set(a).ok_or_else(|| malformed(&what))).collect()
    }

    /// A set's elements, for a set of ranges in the order of keys, otherwise in the kernel's order. Fails if the set
    /// does not exist.
    pub fn elements(&mut self, table: &TableKey, set: &Set) -> Result<Vec<Element>, NftError> {
        let what = format!("list elements of {table} {}", set.name);
        let answers = self.dump(&what, msg::GETSETELEM, table.family.number(), |w| {
            w.text(attr::ELEMENTS_TABLE, &table.name);
            w.text(attr::ELEMENTS_SET, &set.name);
        })?;
        let list = |a: &Answer| a.message().attributes().get(attr::ELEMENTS_LIST).map(<[u8]>::to_vec);
        let lists: Vec<_> = answers.iter().filter_map(list).collect();
        element::decode(set, &lists).ok_or_else(|| malformed(&what))
    }

    /// A snapshot of a table (`nft list table`). It is read again if others change the rule set meanwhile.
    pub fn view(&mut self, table: &TableKey) -> Result<TableView, NftError> {
        self.at_one_moment(table, Self::view_once)
    }

    /// A snapshot of those of the named chains and sets that exist, with their rules and elements.
    pub fn view_of(&mut self, table: &TableKey, names: &Selection<'_>) -> Result<TableView, NftError> {
        self.at_one_moment(table, |nft, key, generation| {
            let Some(table) = nft.table(key)? else {
                return Ok(TableView { generation, ..TableView::default() });
            };
            let mut chains = nft.chains(key)?;
            chains.retain(|chain| names.chains.contains(chain.name.as_str()));
            let mut rules = Vec::new();
            for chain in &chains {
                rules.append(&mut nft.rules(key, Some(&chain.name))?);
            }
            let mut sets = if names.sets.is_empty() { Vec::new() } else { nft.sets(key)? };
            sets.retain(|set| names.sets.contains(set.name.as_str()));
            let read = |set: Set| nft.elements(key, &set).map(|elements| (set, elements));
            let sets = sets.into_iter().map(read).collect::<Result<_, _>>()?;
            Ok(TableView { generation, table: Some(table), chains, rules, sets })
        })
    }

    fn at_one_moment(
        &mut self,
        table: &TableKey,
        look: impl Fn(&mut Self, &TableKey, u32) -> Result<TableView, NftError>,
    ) -> Result<TableView, NftError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            let view = match look(self, table, before) {
                Err(error) if was_overtaken(&error) => continue,
                other => other?,
            };
            if self.generation()? == before {
                return Ok(view);
            }
        }
        Err(NftError::Busy { what: format!("list table {table}"), tries: TRIES })
    }

    fn view_once(&mut self, key: &TableKey, generation: u32) -> Result<TableView, NftError> {
        let Some(table) = self.table(key)? else {
            return Ok(TableView { generation, ..TableView::default() });
        };
        let (chains, rules) = (self.chains(key)?, self.rules(key, None)?);
        let mut sets = Vec::new();
        for set in self.sets(key)? {
            let elements = self.elements(key, &set)?;
            sets.push((set, elements));
        }
        Ok(TableView { generation, table: Some(table), chains, rules, sets })
    }

    /// Reads a table, lets `decide` choose the changes, and commits them. If others changed the rule set in between,
    /// everything is repeated. Returns the committed batch, which is empty if there was nothing to do.
    pub fn update(&mut self, table: &TableKey, decide: impl Fn(&TableView) -> Batch) -> Result<Batch, NftError> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let view = match self.view_once(table, generation) {
                Err(error) if was_overtaken(&error) => continue,
                other => other?,
            };
            let batch = decide(&view).at_generation(generation);
            // a transaction fails if the view is outdated; without one, the generation must be compared here
            let current = if batch.is_empty() {
                self.generation()? == generation
            } else {
                match self.commit(&batch) {
                    Err(error) if error.is_outdated() => false,
                    other => other.map(|_| true)?,
                }
            };
            if current {
                return Ok(batch);
            }
        }
        Err(NftError::Busy { what: format!("update table {table}"), tries: TRIES })
    }
}

/// Decodes what a datagram of the kernel says about one table, for callers without a socket. Elements belong to the set
/// before them. What cannot be decoded is left out.
pub fn read_datagram(datagram: &[u8], key: &TableKey) -> TableView {
    let mut view = TableView::default();
    for message in Incoming::all(datagram) {
        let answer = Answer { bytes: message.body.to_vec(), kind: message.kind, flags: message.flags };
        match message.kind & 0xff {
            msg::NEWTABLE => view.table = read_table(&answer).or(view.table),
            msg::NEWCHAIN => view.chains.extend(read_chain(key, &answer)),
            msg::NEWRULE => view.rules.extend(read_rule(&answer)),
            msg::NEWSET => view.sets.extend(read_set(&answer).map(|set| (set, Vec::new()))),
            msg::NEWSETELEM => {
                let list = message.attributes().get(attr::ELEMENTS_LIST).map(<[u8]>::to_vec);
                if let (Some((set, elements)), Some(list)) = (view.sets.last_mut(), list) {
                    elements.extend(element::decode(set, &[list]).unwrap_or_default());
                }
            }
            _ => {}
        }
    }
    view
}

/// Whether another's change made the reading fail: each dump was interrupted, or the table was deleted in between.
fn was_overtaken(error: &NftError) -> bool {
    error.is_absent() || matches!(error, NftError::Busy { .. })
}

/// Whether the object is in the table: the first attribute of chains, rules and sets is the table's name.
fn belongs(answer: &Answer, table: &TableKey) -> bool {
    let message = answer.message();
    message.family() == table.family.number() && message.attributes().is_text(1, &table.name)
}

/// NFT_TABLE_F_DORMANT (linux/netfilter/nf_tables.h).
const DORMANT: u32 = 1;

fn read_table(answer: &Answer) -> Option<Table> {
    let message = answer.message();
    let a = message.attributes();
    let key = TableKey { family: NftFamily::from_number(message.family())?, name: a.text(attr::TABLE_NAME)? };
    let dormant = a.be32(attr::TABLE_FLAGS).is_some_and(|flags| flags & DORMANT != 0);
    Some(Table { key, comment: comment(&a, attr::TABLE_USERDATA), dormant })
}

pub(super) fn read_chain(table: &TableKey, answer: &Answer) -> Option<Chain> {
    let a = answer.message().attributes();
    let base = match a.nested(attr::CHAIN_HOOK) {
        Some(hook) => Some(read_base(table.family, &a, &hook)?),
        None => None,
    };
    Some(Chain { name: a.text(attr::CHAIN_NAME)?, base, comment: comment(&a, attr::CHAIN_USERDATA) })
}

fn read_base(family: NftFamily, a: &Attributes<'_>, hook: &Attributes<'_>) -> Option<Base> {
    Some(Base {
        kind: ChainKind::from_name(&a.text(attr::CHAIN_TYPE)?)?,
        hook: Hook::from_number(hook.be32(attr::HOOK_NUMBER)?, family)?,
        priority: hook.be32(attr::HOOK_PRIORITY)? as i32,
        policy: if a.be32(attr::CHAIN_POLICY)? == 0 { Policy::Drop } else { Policy::Accept },
        device: hook.text(attr::HOOK_DEVICE).and_then(|name| IfName::new(&name).ok()),
    })
}

fn read_rule(answer: &Answer) -> Option<ListedRule> {
    let a = answer.message().attributes();
    let mut exprs = a.get(attr::RULE_EXPRESSIONS).map(Expr::decode_all).unwrap_or_default();
    let of_match = take_comment(&mut exprs);
    let rule = Rule { exprs, comment: comment(&a, attr::RULE_USERDATA).or(of_match) };
    Some(ListedRule { chain: a.text(attr::RULE_CHAIN)?, handle: a.be64(attr::RULE_HANDLE)?, rule })
}

fn read_set(answer: &Answer) -> Option<Set> {
    let a = answer.message().attributes();
    let flags = a.be32(attr::SET_FLAGS).unwrap_or_default();
    let has = |flag| flags & flag != 0;
    let types = |id, len| Some(Type::split(a.be32(id)?, a.be32(len)?));
    let data = match a.be32(attr::SET_DATA_TYPE) {
        Some(DATA_VERDICT) => Some(DataType::Verdict),
        Some(_) if has(set_flag::MAP) => Some(DataType::Values(types(attr::SET_DATA_TYPE, attr::SET_DATA_LEN)?)),
        _ => None,
    };
    let timeout = match a.be64(attr::SET_TIMEOUT) {
        _ if !has(set_flag::TIMEOUT) => Timeout::Never,
        Some(time) if time > 0 => Timeout::Default(Duration::from_millis(time)),
        _ => Timeout::PerElement,
    };
    Some(Set {
        name: a.text(attr::SET_NAME)?,
        key: types(attr::SET_KEY_TYPE, attr::SET_KEY_LEN)?,
        data,
        interval: has(set_flag::INTERVAL),
        timeout,
        comment: a.get(attr::SET_USERDATA).and_then(userdata::read_set_comment),
    })
}

fn comment(a: &Attributes<'_>, kind: u16) -> Option<String> {
    a.get(kind).and_then(userdata::read_comment)
}

/// Removes the matches that only carry a comment, as `iptables -m comment` writes them, and returns the first comment.
fn take_comment(exprs: &mut Vec<Expr>) -> Option<String> {
    let comment = exprs.iter().find_map(Expr::match_comment);
    exprs.retain(|expr| expr.match_comment().is_none());
    comment
}

fn malformed(what: &str) -> NftError {
    NftError::Malformed { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::Verdict;

    /// An attribute in the byte order of this machine.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(value.len() as u16 + 4).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn xt_match(name: &str, info: &[u8]) -> Expr {
        let data = [attribute(1, name.as_bytes()), attribute(2, &0u32.to_be_bytes()), attribute(3, info)].concat();
        Expr::Other { name: "match".into(), data }
    }

    /// struct xt_comment_info has 256 bytes.
    #[test]
    fn the_comment_of_iptables_is_the_rules_comment() {
        let mut info = b"flanneld forward".to_vec();
        info.resize(256, 0);
        let accept = Expr::Verdict(Verdict::Accept);
        let mut exprs = vec![xt_match("comment\0", &info), Expr::Counter, accept.clone()];
        assert_eq!(take_comment(&mut exprs).as_deref(), Some("flanneld forward"));
        assert_eq!(exprs, [Expr::Counter, accept.clone()]);
        let mut exprs = vec![xt_match("mark\0", &info), accept];
        assert_eq!(take_comment(&mut exprs), None);
        assert_eq!(exprs.len(), 2);
    }
}
