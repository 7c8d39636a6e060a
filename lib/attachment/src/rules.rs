//! Packet rules of attachments, with the tables and names of the reference plugins, so that either suite can delete the
//! other's rules.
//!
//! ADD checks whether its chain exists. If so it appends its rules; otherwise it creates the tables and chains too. It
//! checks first because a transaction that the kernel refuses costs 10 ms and more. It reads no rule. DEL fetches the
//! rules by the handles that ADD recorded. Without a valid handle it reads the chain.

pub mod iptables;
pub mod macspoof;
pub mod masquerade;

use std::collections::BTreeMap;

use kernel::converge::Failure;
use kernel::nft::{NftError, RuleHandle, TableKey};
use kernel::state::{NftChainScope, NftScope, NftTable, Scope, State};
use kernel::{Errno, Kernel, KernelError, Outcome};
use sha2::{Digest, Sha512};

/// How often ADD checks and tries again, because others may create or delete the chains in between.
const TURNS: usize = 3;

/// The rules of one attachment in one table that others also use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The table.
    pub table: TableKey,
    /// The rules of this attachment and what all attachments share: the base chains, and the rules in them that jump to
    /// our chains.
    pub wanted: NftTable,
    /// Only what all attachments share.
    shared: NftTable,
    /// The attachment's part of each chain, the shared part included.
    chains: BTreeMap<String, NftChainScope>,
}

impl Rules {
    /// What the attachment wants of its table, and which part of the table that is.
    pub fn desired(&self) -> (State, Scope) {
        (self.state(self.wanted.clone()), self.scope(self.chains.clone()))
    }

    /// The chains that the attachment's rules are in.
    pub fn chains(&self) -> &BTreeMap<String, NftChainScope> {
        &self.chains
    }

    /// How many rules the attachment has in chains that others use too.
    fn own(&self) -> usize {
        self.among_others().map(|(name, _)| self.wanted.chains.get(name).map_or(0, |chain| chain.rules.len())).sum()
    }

    /// Makes the rules as they are desired. The handles of those that were added to chains that others use too: all, where
    /// there was none.
    ///
    /// # Errors
    /// What the kernel refuses, and chains of these names that are something else.
    pub fn repair(&self, kernel: &mut Kernel) -> Result<Repaired, Failure> {
        let (state, scope) = self.desired();
        let outcome = kernel.converge(&state, &scope, None)?.ok()?;
        let handles = self.shared_handles(outcome.handles);
        Ok(Repaired { steps: outcome.done.len(), all: handles.len() == self.own(), handles })
    }

    fn state(&self, table: NftTable) -> State {
        State { nft: [(self.table.clone(), table)].into(), ..State::default() }
    }

    fn scope(&self, chains: BTreeMap<String, NftChainScope>) -> Scope {
        Scope { nft: [(self.table.clone(), NftScope::Shared(chains))].into(), ..Scope::default() }
    }

    /// The parts of chains that belong to this attachment alone.
    fn own_chains(&self) -> BTreeMap<String, NftChainScope> {
        let own = |(_, scope): &(&String, &NftChainScope)| **scope != NftChainScope::Frame;
        self.chains.iter().filter(own).map(|(name, scope)| (name.clone(), scope.clone())).collect()
    }

    /// The chain that others also use, and the scope of the attachment's rules in it.
    fn among_others(&self) -> impl Iterator<Item = (&String, &NftChainScope)> {
        self.chains.iter().filter(|(_, scope)| !scope.owns_all())
    }

    /// Adds the rules of an attachment that has none. Returns the handles of the rules in chains that others also use.
    ///
    /// # Errors
    /// The kernel refused the transaction, or a chain of this name has another type.
    pub fn add(&self, kernel: &mut Kernel) -> Result<Vec<RuleHandle>, Failure> {
        let (state, scope) = (self.state(self.wanted.clone()), self.scope(self.chains.clone()));
        for _ in 0..TURNS {
            let there = match self.look(kernel) {
                Shared::Absent => false,
                Shared::Stands => true,
                Shared::Differs => break,
            };
            let assumed = if there { self.state(self.shared.clone()) } else { State::default() };
            let outcome = kernel.converge(&state, &scope, Some(assumed.into()))?;
            match obstacle(outcome) {
                Ok(handles) => return Ok(self.shared_handles(handles)),
                // the chain has another type: reading it finds out which
                Err(error) if there && (error.is_already() || error.errno == Errno::OPNOTSUPP) => break,
                // meanwhile somebody has deleted the chains, or another ADD has created them
                Err(error) if error.is_absent() || error.is_already() => {}
                Err(error) => return Err(error.into()),
            }
        }
        // a part of the shared chains is missing or different
        let outcome = kernel.converge(&state, &scope, None)?.ok()?;
        Ok(self.shared_handles(outcome.handles))
    }

    /// Checks what all attachments share. A base chain of this name with another hook or type, or with none, would have
    /// no effect. Setting its policy would prove that it is right, but would make the kernel wait for all readers of
    /// the rules.
    fn look(&self, kernel: &mut Kernel) -> Shared {
        // if this fails, the transaction fails too and says why
        let Ok(nft) = kernel.nft() else { return Shared::Stands };
        let mut missing = 0;
        for (name, wanted) in &self.shared.chains {
            match nft.chain(&self.table, name) {
                Ok(Some(found)) if found.base != wanted.base => return Shared::Differs,
                Ok(None) => missing += 1,
                Ok(Some(_)) | Err(_) => {}
            }
        }
        match missing {
            0 => Shared::Stands,
            all if all == self.shared.chains.len() => Shared::Absent,
            _ => Shared::Differs,
        }
    }

    fn shared_handles(&self, handles: Vec<RuleHandle>) -> Vec<RuleHandle> {
        let among: Vec<&String> = self.among_others().map(|(name, _)| name).collect();
        handles.into_iter().filter(|handle| among.contains(&&handle.chain)).collect()
    }

    /// Deletes the attachment's rules, whichever suite wrote them. `recorded` are the handles in the record.
    ///
    /// # Errors
    /// The kernel refused to delete a rule. A kernel without nf_tables has no rules to delete.
    pub fn remove(&self, kernel: &mut Kernel, recorded: &[RuleHandle]) -> Result<(), KernelError> {
        let removed = self.remove_recorded(kernel, recorded).and_then(|done| match done {
            true => Ok(()),
            false => self.remove_read(kernel),
        });
        match removed {
            Err(_) if support(kernel).is_err_and(|error| error.is_unsupported()) => Ok(()),
            other => other,
        }
    }

    /// Deletes the rules by their recorded handles. Returns false, and deletes nothing, if the record is incomplete or
    /// a handle names another rule.
    fn remove_recorded(&self, kernel: &mut Kernel, recorded: &[RuleHandle]) -> Result<bool, KernelError> {
        if recorded.is_empty() || recorded.len() < self.own() {
            return Ok(false);
        }
        let what = || format!("delete the rules of an attachment in table {}", self.table);
        let nft = kernel.nft().map_err(|error| error.about(&what()))?;
        let ours = |chain: &str, rule: &kernel::nft::Rule| self.chains.get(chain).is_some_and(|scope| scope.owns(rule));
        let whole = self.chains.iter().filter(|(_, scope)| scope.is_whole()).map(|(name, _)| name.as_str());
        nft.delete_rules(recorded, &whole.collect::<Vec<_>>(), ours).map_err(|error| error.about(&what()))
    }

    fn remove_read(&self, kernel: &mut Kernel) -> Result<(), KernelError> {
        let outcome = kernel.converge(&State::default(), &self.scope(self.own_chains()), None)?;
        outcome.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The steps that would converge the rules, as text. Empty if nothing differs.
    pub fn differences(&self, kernel: &mut Kernel) -> Result<Vec<String>, KernelError> {
        let plan = kernel.plan(&self.state(self.wanted.clone()), &self.scope(self.chains.clone()), None)?;
        let conflicts = plan.conflicts.iter().map(ToString::to_string);
        Ok(conflicts.chain(plan.steps.iter().map(ToString::to_string)).collect())
    }
}

/// The outcome of [`Rules::repair`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The number of changes; 0 if nothing was wrong.
    pub steps: usize,
    /// The rules that were added to chains that others also use.
    pub handles: Vec<RuleHandle>,
    /// Whether `handles` are all rules of the attachment in such chains.
    pub all: bool,
}

/// The state of the chains that all attachments share.
enum Shared {
    Absent,
    Stands,
    /// A part is missing, or something else has the name.
    Differs,
}

/// The handles, or the reason why the transaction was refused.
fn obstacle(outcome: Outcome) -> Result<Vec<RuleHandle>, KernelError> {
    // a step that was itself refused has its own reason
    let own = outcome.failed.iter().find(|(_, error)| error.errno != Errno::CANCELED).or(outcome.failed.first());
    match own {
        Some((_, error)) => Err(error.clone()),
        None => Ok(outcome.handles),
    }
}

/// Checks that the kernel has nf_tables.
///
/// # Errors
/// The kernel has no nf_tables, or that cannot be determined.
pub fn support(kernel: &mut Kernel) -> Result<(), NftError> {
    kernel.nft()?.generation().map(drop)
}

/// Upstream's `H(16, "", text)`: the first 16 hexadecimal digits of the SHA-512.
fn hash(text: &str) -> String {
    let mut all = digest(text);
    all.truncate(16);
    all
}

/// The SHA-512 in hexadecimal digits.
fn digest(text: &str) -> String {
    Sha512::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
