//! Removes rules that either suite wrote by iptables, without a valid configuration.
//!
//! What `iptables-nft` wrote is removed over netlink. Only where the kernel has a table of `iptables-legacy`, the programs
//! of that variant are run: one reads, and one writes. Reading is necessary because `iptables-restore` fails as a whole for
//! a rule that is gone, and DEL must succeed then.

use std::collections::{BTreeMap, BTreeSet};

use kernel::nft::TableKey;
use kernel::state::{NftChainScope, NftScope, Scope, State};
use kernel::types::Family;
use kernel::{Kernel, KernelError};

use super::plan::{Removal, Saved, input};
use super::rule::{Rule, nft_family};
use super::run::{IptablesError, Variant, has_legacy_table, restore, save};
use super::{TURNS, support};
use crate::rules::delete_rules;

/// Rules could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A program refused it.
    #[error(transparent)]
    Program(#[from] IptablesError),
}

/// The chains of one kind of rules, by which those of dead attachments are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// The table: `nat`, `filter`.
    pub table: &'static str,
    /// The chain whose rules jump to the attachments' chains.
    pub parent: &'static str,
    /// The start of the names of the attachments' chains, such as `CNI-DN-`.
    pub prefix: &'static str,
    /// The start of the comments of the network's rules in `parent`.
    pub network: String,
    /// The comments of the rules of attachments that are valid.
    pub valid: BTreeSet<String>,
}

/// Removes everything of `removal` in both families, whichever variant of iptables wrote it. What is gone is no error, nor is
/// a host without iptables.
///
/// # Errors
/// The kernel or the program of `iptables-legacy` refused it.
pub fn remove(kernel: &mut Kernel, removal: &Removal) -> Result<(), RemovalError> {
    let mut outcomes = Vec::new();
    for family in Family::ALL {
        outcomes.push(remove_nft(kernel, family, removal).map_err(RemovalError::from));
        outcomes.push(remove_legacy(family, removal).map_err(RemovalError::from));
    }
    match outcomes.into_iter().find_map(Result::err) {
        Some(RemovalError::Kernel(_)) if support(kernel).is_err_and(|error| error.is_unsupported()) => Ok(()),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn remove_nft(kernel: &mut Kernel, family: Family, removal: &Removal) -> Result<(), KernelError> {
    let table = TableKey::new(nft_family(family), removal.table);
    for own in &removal.own {
        let parents = removal.parents.iter().map(|parent| ((*parent).to_owned(), NftChainScope::JumpsTo(own.clone())));
        let chains: BTreeMap<_, _> = parents.chain([(own.clone(), NftChainScope::Whole)]).collect();
        let scope = Scope { nft: [(table.clone(), NftScope::Shared(chains.into()))].into(), ..Scope::default() };
        let outcome = kernel.converge(&State::default(), &scope, None)?;
        outcome.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))?;
    }
    let entries = removal.entries.iter().filter(|(of, ..)| *of == family);
    let mut by_chain: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    entries.for_each(|(_, chain, rule)| by_chain.entry(chain).or_default().push(rule));
    for (chain, rules) in by_chain {
        delete_rules(kernel, &table, chain, |listed| rules.iter().any(|rule| rule.is_stored_as(table.family, listed)))?;
    }
    Ok(())
}

fn remove_legacy(family: Family, removal: &Removal) -> Result<(), IptablesError> {
    if !has_legacy_table(family, removal.table) {
        return Ok(());
    }
    for turn in 1.. {
        let Some(found) = save_legacy(family, removal.table)? else { return Ok(()) };
        let Some(text) = input(removal.table, &removal.take(family, &found)) else { return Ok(()) };
        match restore(Variant::Legacy, family, &text) {
            // others changed the chains in between
            Err(error) if error.is_refused() && turn < TURNS => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

/// `None`: the host has no program for this variant, so nothing can have been written by it.
fn save_legacy(family: Family, table: &str) -> Result<Option<Saved>, IptablesError> {
    match save(Variant::Legacy, family, table) {
        Err(error) if error.is_missing() => Ok(None),
        found => found.map(Some),
    }
}

/// Whether something of `removal` may be in a table: one of its chains, or of those with its rules, is in the tables of
/// `iptables-nft`, or the kernel has the table of `iptables-legacy`.
pub fn may_hold(kernel: &mut Kernel, removal: &Removal) -> bool {
    Family::ALL.into_iter().any(|family| {
        let table = TableKey::new(nft_family(family), removal.table);
        let mut has = |chain: &String| matches!(kernel.nft().and_then(|nft| nft.chain(&table, chain)), Ok(Some(_)));
        let mut chains = removal.own.iter().chain(removal.entries.iter().map(|(_, chain, _)| chain));
        has_legacy_table(family, removal.table) || chains.any(&mut has)
    })
}

/// Removes the chains of the network's attachments that are not valid, whichever suite and variant wrote them.
///
/// # Errors
/// As [`remove`].
pub fn collect(kernel: &mut Kernel, collection: &Collection) -> Result<(), RemovalError> {
    let Collection { table, parent, .. } = collection;
    let mut own = BTreeSet::new();
    for family in Family::ALL {
        let key = TableKey::new(nft_family(family), *table);
        let what = format!("list the rules of {key} {parent}");
        match kernel.nft().and_then(|nft| nft.rules(&key, Some(parent))) {
            Ok(listed) => own.extend(listed.iter().filter_map(|listed| collection.stale_nft(&listed.rule))),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error.about(&what).into()),
        }
        if has_legacy_table(family, table)
            && let Some(found) = save_legacy(family, table)?
        {
            own.extend(found.0.get(*parent).into_iter().flatten().filter_map(|rule| collection.stale(rule)));
        }
    }
    if own.is_empty() {
        return Ok(());
    }
    remove(kernel, &Removal { table, own, parents: vec![parent], entries: Vec::new() })
}

impl Collection {
    pub(super) fn stale(&self, rule: &Rule) -> Option<String> {
        self.is_stale(rule.comment()?, rule.target()?).then(|| rule.target().map(str::to_owned)).flatten()
    }

    fn stale_nft(&self, rule: &kernel::nft::Rule) -> Option<String> {
        let target = rule.exprs.iter().find_map(|expr| match expr {
            kernel::nft::Expr::Verdict(kernel::nft::Verdict::Jump(chain)) => Some(chain),
            _ => None,
        })?;
        self.is_stale(rule.comment.as_deref()?, target).then(|| target.clone())
    }

    fn is_stale(&self, comment: &str, chain: &str) -> bool {
        chain.starts_with(self.prefix) && comment.starts_with(&self.network) && !self.valid.contains(comment)
    }
}
