//! Packet rules of attachments.
//!
//! Where the reference plugins have such rules in nf_tables, the tables and names are theirs, so that either suite can
//! delete the other's. Tables of our own have one element per attachment in sets and maps, so that two ADDs never
//! change the same object.
//!
//! ADD checks whether its chains exist. If so it appends its rules and elements; otherwise it creates the tables, chains
//! and sets too. It checks first because a transaction that the kernel refuses costs 10 ms and more. It reads no rule
//! and no element. DEL fetches rules by the handles that ADD recorded, and elements by their keys. Without these it
//! reads the chains and sets.

pub mod firewall;
pub mod iptables;
pub mod macspoof;
pub mod masquerade;
pub mod owner;
pub mod portmap;

use kernel::converge::Failure;
use kernel::diff::{NftStep, Step};
use kernel::nft::{Chain, Element, ElementHandle, ListedRule, NftError, Rule, RuleHandle, Set, TableKey};
use kernel::state::{NftChain, NftChainScope, NftParts, NftScope, NftSet, NftTable, Scope, State};
use kernel::{Errno, Kernel, KernelError, Outcome};
use sha2::{Digest, Sha512};

use crate::Key;

/// How often ADD checks and tries again, because others may create or delete the chains in between.
const TURNS: usize = 3;

/// The rules and elements of one attachment in one table that others also use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The table.
    pub table: TableKey,
    /// The rules and elements of this attachment, and what all attachments share: the base chains, the rules in them
    /// that jump to our chains, and the sets.
    pub wanted: NftTable,
    /// Only what all attachments share.
    shared: NftTable,
    /// The attachment's part of each chain and set, the shared part included.
    parts: NftParts,
}

/// Why an attachment's rules cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Other owners have elements with the desired keys.
    #[error("{}", .0.iter().map(|taken| format!("an element of {} belongs to another owner", taken.set.name)).collect::<Vec<_>>().join("; "))]
    Taken(Vec<ElementHandle>),
    /// The kernel refused the transaction, or a chain or set of this name is of another type.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<KernelError> for AddError {
    fn from(error: KernelError) -> Self {
        Self::Failed(error.into())
    }
}

impl Rules {
    /// An attachment's elements in a table of our own: `frame` is the table without elements; `elements` are by the
    /// name of their set. Their comments are those of `key`.
    pub fn of_elements(
        table: TableKey,
        frame: NftTable,
        key: Key<'_>,
        elements: impl IntoIterator<Item = (String, Element)>,
    ) -> Self {
        let chains = frame.chains.keys().map(|name| (name.clone(), NftChainScope::Frame)).collect();
        let sets = frame.sets.keys().map(|name| (name.clone(), owner::mark(key))).collect();
        let (mut wanted, comment) = (frame.clone(), owner::comment(key));
        for (set, element) in elements {
            if let Some(set) = wanted.sets.get_mut(&set) {
                set.insert(element.comment(comment.clone()));
            }
        }
        Self { table, wanted, shared: frame, parts: NftParts { chains, sets } }
    }

    /// What the attachment wants of its table, and which part of the table that is.
    pub fn desired(&self) -> (State, Scope) {
        (self.state(self.wanted.clone()), self.scope(self.parts.clone()))
    }

    /// The chains and sets that the attachment's rules and elements are in.
    pub fn parts(&self) -> &NftParts {
        &self.parts
    }

    /// How many rules the attachment has in chains that others use too.
    fn own(&self) -> usize {
        self.among_others().map(|(name, _)| self.wanted.chains.get(name).map_or(0, |chain| chain.rules.len())).sum()
    }

    /// The attachment's elements.
    fn handles(&self) -> Vec<ElementHandle> {
        let of_set = |set: &NftSet| {
            let handle = |element: &Element| ElementHandle { set: set.set.clone(), element: element.clone() };
            set.elements.values().map(handle).collect::<Vec<_>>()
        };
        self.wanted.sets.values().flat_map(of_set).collect()
    }

    fn owns(&self, set: &Set, element: &Element) -> bool {
        self.parts.owns(&set.name, element)
    }

    /// Makes the rules and elements as they are desired, and returns the handles of the rules that were added to chains
    /// that others use too.
    ///
    /// # Errors
    /// What the kernel refuses, chains and sets of these names that are of another type, and elements of others.
    pub fn repair(&self, kernel: &mut Kernel) -> Result<Repaired, Failure> {
        let (state, scope) = self.desired();
        let outcome = kernel.converge(&state, &scope, None)?.ok()?;
        let handles = self.shared_handles(outcome.handles);
        Ok(Repaired { steps: outcome.done.len(), all: handles.len() == self.own(), handles })
    }

    fn state(&self, table: NftTable) -> State {
        State { nft: [(self.table.clone(), table)].into(), ..State::default() }
    }

    fn scope(&self, parts: NftParts) -> Scope {
        Scope { nft: [(self.table.clone(), NftScope::Shared(parts))].into(), ..Scope::default() }
    }

    /// The parts of chains and sets that belong to this attachment alone.
    fn own_parts(&self) -> NftParts {
        let mut parts = self.parts.clone();
        let is_foreign = |name: &String| self.shared.chains.get(name).is_some_and(|chain| chain.foreign);
        parts.chains.retain(|name, scope| *scope != NftChainScope::Frame && !is_foreign(name));
        for (name, scope) in &mut parts.chains {
            if let (NftChainScope::Rules(rules), Some(shared)) = (scope, self.shared.chains.get(name)) {
                rules.retain(|rule| !shared.rules.iter().any(|shared| shared.rule == *rule));
            }
        }
        parts
    }

    /// The chains that others also use, and the scope of the attachment's rules in each.
    fn among_others(&self) -> impl Iterator<Item = (&String, &NftChainScope)> {
        self.parts.chains.iter().filter(|(_, scope)| !scope.owns_all())
    }

    /// Adds the rules and elements of an attachment that has none. Returns the handles of the rules in chains that
    /// others also use.
    pub fn add(&self, kernel: &mut Kernel) -> Result<Vec<RuleHandle>, AddError> {
        let (state, scope) = self.desired();
        for _ in 0..TURNS {
            let Some(there) = self.look(kernel) else { break };
            let is_new = there.nft.is_empty();
            let outcome = kernel.converge(&state, &scope, Some(there.into()))?;
            match obstacle(outcome) {
                Ok(handles) => return Ok(self.shared_handles(handles)),
                Err(Obstacle { is_element: true, .. }) => {
                    self.find_taken(kernel)?;
                    // the elements are the attachment's own, from before
                    break;
                }
                // the chain has another type: reading it finds out which
                Err(Obstacle { error, .. }) if !is_new && (error.is_already() || error.errno == Errno::OPNOTSUPP) => {
                    break;
                }
                // meanwhile somebody has deleted the chains, or another ADD has created them
                Err(Obstacle { error, .. }) if error.is_absent() || error.is_already() => {}
                Err(Obstacle { error, .. }) => return Err(error.into()),
            }
        }
        // a part of what is shared is missing or different
        match kernel.converge(&state, &scope, None)?.ok() {
            Ok(outcome) => Ok(self.shared_handles(outcome.handles)),
            Err(conflict @ Failure::Conflict(_)) => {
                self.find_taken(kernel)?;
                Err(conflict.into())
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// The shared chains, in one message, with everything that belongs to them: all or none. `None` if some are missing, or
    /// one is of another type. A base chain of this name with another hook or type, or with none, would have no effect. Setting its policy
    /// would prove that it is right, but would make the kernel wait for all readers of the rules.
    fn look(&self, kernel: &mut Kernel) -> Option<State> {
        let names: Vec<&str> = self.shared.chains.keys().map(String::as_str).collect();
        // if this fails, the transaction fails too and says why
        let looked = kernel.nft().and_then(|nft| nft.chains_of(&self.table, &names));
        let Ok(found) = looked else { return Some(self.state(self.shared.clone())) };
        let is_right = |want: &NftChain, chain: &Chain| want.foreign || want.base == chain.base;
        if !found.iter().all(|chain| self.shared.chains.get(&chain.name).is_some_and(|want| is_right(want, chain))) {
            return None;
        }
        let mut there = self.shared.clone();
        there.chains.retain(|name, _: &mut NftChain| found.iter().any(|chain| chain.name == *name));
        for (name, chain) in there.chains.iter_mut().filter(|(_, chain)| chain.foreign) {
            // others may have deleted ours from it
            let listed = kernel.nft().and_then(|nft| nft.rules(&self.table, Some(name))).unwrap_or_default();
            chain.rules = listed.into_iter().map(|listed| listed.rule.into()).collect();
        }
        match there.chains.len() {
            0 => Some(State::default()),
            all if all == self.shared.chains.len() => Some(self.state(there)),
            // whoever deleted one may have emptied the others
            _ => None,
        }
    }

    /// Fails if elements of other owners have the desired keys.
    fn find_taken(&self, kernel: &mut Kernel) -> Result<(), AddError> {
        let taken = self.taken(kernel)?;
        if taken.is_empty() { Ok(()) } else { Err(AddError::Taken(taken)) }
    }

    /// The elements of other owners that have the desired keys.
    ///
    /// # Errors
    /// The kernel refused to read elements.
    pub fn taken(&self, kernel: &mut Kernel) -> Result<Vec<ElementHandle>, KernelError> {
        let what = || format!("read elements of table {}", self.table);
        let nft = kernel.nft().map_err(|error| error.about(&what()))?;
        let handles = self.handles();
        let found = nft.elements_at(&self.table, &handles).map_err(|error| error.about(&what()))?;
        let found = handles.into_iter().zip(found).filter_map(|(handle, found)| Some((handle.set, found?)));
        let taken = found.filter(|(set, element)| !self.owns(set, element));
        Ok(taken.map(|(set, element)| ElementHandle { set, element }).collect())
    }

    /// Deletes elements of an owner that is gone, if they are still as they were found.
    ///
    /// # Errors
    /// The kernel refused to read or delete an element.
    pub fn take_over(&self, kernel: &mut Kernel, taken: &[ElementHandle]) -> Result<(), KernelError> {
        let what = || format!("delete elements of table {}", self.table);
        let is_found = |set: &Set, element: &Element| {
            taken.iter().any(|found| found.set.name == set.name && found.element == *element)
        };
        let nft = kernel.nft().map_err(|error| error.about(&what()))?;
        nft.delete_elements_of(&self.table, taken, is_found).map(drop).map_err(|error| error.about(&what()))
    }

    fn shared_handles(&self, handles: Vec<RuleHandle>) -> Vec<RuleHandle> {
        let among: Vec<&String> = self.among_others().map(|(name, _)| name).collect();
        handles.into_iter().filter(|handle| among.contains(&&handle.chain)).collect()
    }

    /// Deletes the attachment's rules and elements, whichever suite wrote them. `recorded` are the handles in the
    /// record.
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

    /// Deletes the rules by their recorded handles and the elements by their keys. Returns false, and deletes nothing,
    /// if these are not known, or if a handle names another rule.
    fn remove_recorded(&self, kernel: &mut Kernel, recorded: &[RuleHandle]) -> Result<bool, KernelError> {
        let what = || format!("delete the rules of an attachment in table {}", self.table);
        let elements = self.handles();
        let has_rules = self.parts.chains.values().any(|scope| *scope != NftChainScope::Frame);
        let rules_known = !recorded.is_empty() && recorded.len() >= self.own();
        if (has_rules && !rules_known) || (!self.parts.sets.is_empty() && elements.is_empty()) {
            return Ok(false);
        }
        let nft = kernel.nft().map_err(|error| error.about(&what()))?;
        let ours = |chain: &str, rule: &Rule| self.parts.chains.get(chain).is_some_and(|scope| scope.owns(rule));
        let whole = self.parts.chains.iter().filter(|(_, scope)| scope.is_whole()).map(|(name, _)| name.as_str());
        let whole: Vec<&str> = whole.collect();
        if has_rules && !nft.delete_rules(recorded, &whole, ours).map_err(|error| error.about(&what()))? {
            return Ok(false);
        }
        let ours = |set: &Set, element: &Element| self.owns(set, element);
        nft.delete_elements_of(&self.table, &elements, ours).map_err(|error| error.about(&what()))?;
        Ok(true)
    }

    fn remove_read(&self, kernel: &mut Kernel) -> Result<(), KernelError> {
        let outcome = kernel.converge(&State::default(), &self.scope(self.own_parts()), None)?;
        outcome.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The steps that would converge the rules, as text. Empty if nothing differs.
    pub fn differences(&self, kernel: &mut Kernel) -> Result<Vec<String>, KernelError> {
        let (state, scope) = self.desired();
        let plan = kernel.plan(&state, &scope, None)?;
        let conflicts = plan.conflicts.iter().map(ToString::to_string);
        Ok(conflicts.chain(plan.steps.iter().map(ToString::to_string)).collect())
    }
}

/// Deletes the elements of all sets and maps of `table` whose comments `which` selects. Without the table, or without
/// nf_tables, there are none.
///
/// # Errors
/// The kernel refused to list or delete elements.
pub fn delete_elements(
    kernel: &mut Kernel,
    table: &TableKey,
    which: impl Fn(Option<&str>) -> bool,
) -> Result<(), KernelError> {
    let what = || format!("delete elements of table {table}");
    let nft = kernel.nft().map_err(|error| error.about(&what()))?;
    let sets = match nft.sets(table) {
        Err(error) if error.is_absent() || error.is_unsupported() => return Ok(()),
        sets => sets.map_err(|error| error.about(&what()))?,
    };
    let mut found = Vec::new();
    for set in sets {
        let elements = nft.elements(table, &set).map_err(|error| error.about(&what()))?;
        let ours = elements.into_iter().filter(|element| which(element.comment.as_deref()));
        found.extend(ours.map(|element| ElementHandle { set: set.clone(), element }));
    }
    if found.is_empty() {
        return Ok(());
    }
    let deleted = nft.delete_elements_of(table, &found, |_, element| which(element.comment.as_deref()));
    deleted.map(drop).map_err(|error| error.about(&what()))
}

/// Deletes the rules of a chain that `which` selects. Without the chain, or without nf_tables, there are none.
///
/// # Errors
/// The kernel refused to list or delete rules.
pub fn delete_rules(
    kernel: &mut Kernel,
    table: &TableKey,
    chain: &str,
    which: impl Fn(&Rule) -> bool,
) -> Result<(), KernelError> {
    let what = format!("delete rules of chain {chain} in table {table}");
    let nft = kernel.nft().map_err(|error| error.about(&what))?;
    loop {
        let listed = match nft.rules(table, Some(chain)) {
            Err(error) if error.is_unsupported() => return Ok(()),
            listed => listed.map_err(|error| error.about(&what))?,
        };
        let handle =
            |rule: &ListedRule| RuleHandle { table: table.clone(), chain: rule.chain.clone(), handle: rule.handle };
        let found: Vec<RuleHandle> = listed.iter().filter(|listed| which(&listed.rule)).map(handle).collect();
        // another caller may have deleted some; then look again
        let delete = |nft: &mut kernel::nft::Nft| nft.delete_rules(&found, &[], |_, rule| which(rule));
        if found.is_empty() || delete(nft).map_err(|error| error.about(&what))? {
            return Ok(());
        }
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

/// Why a transaction was refused.
struct Obstacle {
    /// Whether an element exists.
    is_element: bool,
    error: KernelError,
}

/// The handles, or why the transaction was refused.
fn obstacle(outcome: Outcome) -> Result<Vec<RuleHandle>, Obstacle> {
    // a step that was itself refused has its own reason
    let own = outcome.failed.iter().find(|(_, error)| error.errno != Errno::CANCELED).or(outcome.failed.first());
    let Some((step, error)) = own else { return Ok(outcome.handles) };
    // other data under the same key is EBUSY (nft_add_set_elem, net/netfilter/nf_tables_api.c)
    let exists = error.is_already() || error.errno == Errno::BUSY;
    let is_element = exists && matches!(step, Step::Nft(_, NftStep::CreateElements(..)));
    Err(Obstacle { is_element, error: error.clone() })
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
pub(crate) fn digest(text: &str) -> String {
    Sha512::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
