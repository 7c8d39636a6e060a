//! Checks the kernel, and repairs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use attachment::record::{Locked, Record, RuleRecord};
use kernel::diff::{Conflict, Step};
use kernel::nft::{Selection, TableKey};
use kernel::state::{NftTable, State};
use kernel::types::IfName;
use kernel::{Kernel, KernelError, Outcome};

use super::plan::{Finding, Object, Plan, Ruled, limits, limits_of};
use super::records::Name;

/// The kind of [`Plan::limits`].
const LIMITS: &str = "limits";

/// Which objects to check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Bridges and ports.
    pub links: bool,
    /// Packet rules.
    pub rules: bool,
}

impl Look {
    /// All objects.
    pub fn all() -> Self {
        Self { links: true, rules: true }
    }
}

/// A repaired object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healed {
    /// `bridge`, `port`, `pair`, `limits` or `rules`.
    pub kind: &'static str,
    /// The object's name.
    pub object: String,
    /// The repair, as commands.
    pub steps: Vec<String>,
}

/// The result of executing a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The repaired objects.
    pub healed: Vec<Healed>,
    /// The objects that could not be repaired, each with the reason.
    pub failed: Vec<(String, String)>,
    /// The problems that are confirmed.
    pub findings: BTreeSet<Finding>,
    /// Whether an object was skipped because an ADD or a DEL works on it.
    pub busy: bool,
}

/// Checks the plan's objects one by one, bridges first, and repairs those that differ.
///
/// # Errors
/// The kernel could not be read; nothing else was changed.
pub fn execute(kernel: &mut Kernel, plan: &Plan, directory: &Path, look: Look) -> Result<Done, KernelError> {
    let mut work = Work { kernel, directory, done: Done::default() };
    work.confirm(&plan.findings);
    let kinds = [("bridge", &plan.shared), ("port", &plan.ports), ("pair", &plan.ends), (LIMITS, &plan.limits)];
    for (kind, objects) in kinds.into_iter().filter(|_| look.links) {
        for dev in work.differing(objects)? {
            if let Some(object) = objects.get(&dev) {
                work.repair(kind, &dev, object)?;
            }
        }
    }
    if look.rules {
        work.repair_rules(&plan.rules)?;
    }
    Ok(work.done)
}

struct Work<'a> {
    kernel: &'a mut Kernel,
    directory: &'a Path,
    done: Done,
}

impl Work<'_> {
    /// The record that no other process works on, if it `is_finished`.
    fn lock_if(&self, name: &Name, is_finished: impl Fn(&Record) -> bool) -> Option<(Locked, Record)> {
        let locked = Locked::at_once(self.directory, name.key()).ok().flatten()?;
        let record = locked.record.clone().filter(is_finished)?;
        Some((locked, record))
    }

    /// The attachment is finished, nobody is at work on it, and it has this link: the pod may have been attached anew since its
    /// record was read.
    fn still_has(&self, name: &Name, link: &str) -> bool {
        self.lock_if(name, |record| holds("port", link, record) || holds(LIMITS, link, record)).is_some()
    }

    /// Confirms the problems: a missing link is in order while its attachment is being deleted.
    fn confirm(&mut self, findings: &BTreeSet<Finding>) {
        for finding in findings {
            match finding {
                Finding::Gone(name, link) if !self.still_has(name, link) => self.done.busy = true,
                finding => drop(self.done.findings.insert(finding.clone())),
            }
        }
    }

    /// The objects that differ from their desired state.
    fn differing(&mut self, objects: &BTreeMap<IfName, Object>) -> Result<BTreeSet<IfName>, KernelError> {
        let all = Object::merge(objects.values());
        let plan = self.kernel.plan(&all.state, &all.scope, None)?;
        let conflicts = plan.conflicts.iter().filter_map(|conflict| match conflict {
            Conflict::Link { name, .. } => Some(name.clone()),
            Conflict::Route { wanted, .. } => wanted.dev.clone(),
            Conflict::Qdisc { key, .. } => Some(key.dev.clone()),
            Conflict::Filter { key } => Some(key.dev.clone()),
            _ => None,
        });
        let devs = plan.steps.iter().filter_map(subject).chain(conflicts);
        // the device that limits what a pod sends belongs to the object of the pod's link
        let key = |dev: IfName| match objects.contains_key(&dev) {
            true => Some(dev),
            false => {
                objects.iter().find(|(_, object)| object.state.links.contains_key(&dev)).map(|(key, _)| key.clone())
            }
        };
        Ok(devs.filter_map(key).collect())
    }

    fn repair(&mut self, kind: &'static str, dev: &IfName, object: &Object) -> Result<(), KernelError> {
        // As long as this lock is held, neither ADD nor DEL changes this attachment.
        // A record that does not have it is of a pod that was attached anew since it was read.
        let has = |record: &Record| holds(kind, dev.as_str(), record);
        let Some(_lock) = object.owners.iter().find_map(|owner| self.lock_if(owner, has)) else {
            self.done.busy = true;
            return Ok(());
        };
        let outcome = self.kernel.converge(&object.state, &object.scope, None)?;
        let is_gone = outcome.failed.iter().any(|(step, _)| matches!(step, Step::CreateLink(..)));
        if let (true, "port" | "pair", Some(owner)) = (is_gone, kind, object.owners.first()) {
            self.done.findings.insert(Finding::Gone(owner.clone(), dev.to_string()));
            return Ok(());
        }
        let label = if kind == LIMITS { limits_of(dev) } else { dev.to_string() };
        self.count(kind, label, &outcome);
        Ok(())
    }

    fn count(&mut self, kind: &'static str, object: String, outcome: &Outcome) {
        let refused = outcome.failed.iter().map(|(_, error)| error.to_string());
        let wrong: Vec<String> = outcome.conflicts.iter().map(ToString::to_string).chain(refused).collect();
        if !wrong.is_empty() {
            self.done.failed.push((object.clone(), wrong.join("; ")));
        }
        if !outcome.done.is_empty() {
            let steps = outcome.done.iter().map(ToString::to_string).collect();
            self.done.healed.push(Healed { kind, object, steps });
        }
    }

    fn repair_rules(&mut self, rules: &[Ruled]) -> Result<(), KernelError> {
        let mut tables: BTreeMap<&TableKey, Selection<'_>> = BTreeMap::new();
        for ruled in rules {
            tables.entry(&ruled.rules.table).or_default().extend(ruled.rules.parts());
        }
        let mut there = State::default();
        for (table, parts) in tables {
            there.nft.extend(self.read(table, &parts)?.map(|read| (table.clone(), read)));
        }
        for ruled in rules {
            let (state, scope) = ruled.rules.desired();
            if !self.kernel.plan(&state, &scope, Some((&there).into()))?.is_empty() {
                self.repair_ruled(ruled);
            }
        }
        Ok(())
    }

    fn read(&mut self, table: &TableKey, parts: &Selection<'_>) -> Result<Option<NftTable>, KernelError> {
        let what = format!("nft list table {table}");
        let nft = self.kernel.nft().map_err(|error| error.about(&what))?;
        let view = nft.view_of(table, parts).map_err(|error| error.about(&what))?;
        Ok(view.table.is_some().then(|| view.into()))
    }

    fn repair_ruled(&mut self, ruled: &Ruled) {
        let is_finished = |record: &Record| match ruled.chained {
            Some(plugin) => record.section(plugin).is_some_and(|kept| kept.committed),
            None => record.committed,
        };
        let Some((mut locked, record)) = self.lock_if(&ruled.owner, is_finished) else {
            self.done.busy = true;
            return;
        };
        let repaired = match ruled.rules.repair(self.kernel) {
            Ok(repaired) if repaired.steps == 0 => return,
            Ok(repaired) => repaired,
            Err(error) => {
                self.done.failed.push((ruled.label(), error.to_string()));
                return;
            }
        };
        let steps = vec![format!("{} changes of table {}", repaired.steps, ruled.rules.table)];
        self.done.healed.push(Healed { kind: "rules", object: ruled.label(), steps });
        if ruled.chained.is_some() {
            return;
        }
        let record = with_handles(record, &ruled.rules.table, repaired);
        // Without the handles DEL finds the rules by their comments.
        if let Err(error) = locked.write(&record) {
            self.done.failed.push((ruled.label(), error.to_string()));
        }
    }
}

/// Whether the record says that the attachment is finished and has this object of a link.
fn holds(kind: &str, link: &str, record: &Record) -> bool {
    match kind {
        "bridge" => record.committed,
        LIMITS => limits(record).is_some_and(|limits| limits.link == link),
        _ => record.committed && record.host.as_ref().is_some_and(|host| host.name == link),
    }
}

/// The record with the handles of the added rules.
fn with_handles(mut record: Record, table: &TableKey, repaired: attachment::rules::Repaired) -> Record {
    let of_table = |rule: &RuleRecord| rule.family == table.family.to_string() && rule.table == table.name;
    if repaired.all {
        record.rules.retain(|rule| !of_table(rule));
    }
    record.rules.extend(repaired.handles.into_iter().map(RuleRecord::from));
    record
}

/// The link that a step or its object belongs to.
fn subject(step: &Step) -> Option<IfName> {
    match step {
        Step::CreateLink(name, _) | Step::ChangeLink(name, _) | Step::SetPort(name, _) => Some(name.clone()),
        Step::AddQdisc(key, _) | Step::ChangeQdisc(key, _) | Step::DeleteQdisc(key) => Some(key.dev.clone()),
        Step::AddFilter(key, _) | Step::DeleteFilter(key) => Some(key.dev.clone()),
        Step::AddVlan(key, _) | Step::DeleteVlan(key) => Some(key.dev.clone()),
        Step::AddAddress(key, _) | Step::DeleteAddress(key) => Some(key.dev.clone()),
        Step::CreateRoute(_, route) | Step::PutRoute(_, route) => route.dev.clone(),
        Step::RenameLink(_, to) => Some(to.clone()),
        Step::WriteSysctl(path, _) => IfName::new(path.split('/').nth(3)?).ok(),
        _ => None,
    }
}
