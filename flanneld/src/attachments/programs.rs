//! What other programs keep for pods: rules in the tables of iptables, and sources of firewalld's zones.
//!
//! Their changes are not announced in one way, so what they have is read once per period: by one `iptables-save` per family
//! and table, and by one question to firewalld per zone. A program may take seconds, and a bus may be silent, so this
//! happens beside the controller's other work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use attachment::firewalld;
use attachment::record::{Locked, Record};
use attachment::rules::iptables::{self, IptablesError, Part, Saved};
use kernel::types::Family;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::records::Name;
use super::work::{Done, Healed};

/// What other programs keep for one attachment, on behalf of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct ByProgram {
    /// The attachment.
    pub owner: Name,
    /// The chained plugin that made it; `None`: the plugin with the interface.
    pub chained: Option<&'static str>,
    /// The rules in the tables of iptables.
    pub parts: Vec<Part>,
    /// A zone of firewalld, and the sources that it must have.
    pub sources: Option<(String, Vec<String>)>,
}

impl ByProgram {
    /// Its name in a report.
    pub fn label(&self) -> String {
        match (&self.sources, self.chained) {
            (Some(_), _) => format!("firewalld's sources of {}", self.owner),
            (None, Some(plugin)) => format!("{plugin}'s iptables rules of {}", self.owner),
            (None, None) => format!("iptables rules of {}", self.owner),
        }
    }

    /// Whether the plugin's ADD has finished and no DEL of it has started.
    fn is_finished(&self, record: &Record) -> bool {
        match self.chained {
            Some(plugin) => record.section(plugin).is_some_and(|kept| kept.committed),
            None => record.committed && record.iptables,
        }
    }
}

/// Reads and repairs, once per period.
#[derive(Debug)]
pub struct Programs {
    directory: PathBuf,
    every: Duration,
    due: Instant,
    desired: Arc<Vec<ByProgram>>,
    running: Option<JoinHandle<Done>>,
}

impl Programs {
    /// Starts without anything to check. `directory` has the records.
    pub fn new(directory: &Path, every: Duration) -> Self {
        let due = Instant::now() + every;
        Self { directory: directory.to_owned(), every, due, desired: Arc::default(), running: None }
    }

    /// Replaces what is checked.
    pub fn set_desired(&mut self, desired: &[ByProgram]) {
        if *self.desired != desired {
            self.desired = Arc::new(desired.to_vec());
        }
    }

    /// Waits for the end of the next check. Cancel-safe. Needs a tokio runtime.
    ///
    /// # Errors
    /// The check has panicked, which is a bug.
    pub async fn checked(&mut self) -> Result<Done, String> {
        if self.running.is_none() {
            if self.desired.is_empty() {
                return std::future::pending().await;
            }
            tokio::time::sleep_until(self.due).await;
            self.due = Instant::now() + self.every;
            let (directory, desired) = (self.directory.clone(), self.desired.clone());
            self.running = Some(tokio::task::spawn_blocking(move || check(&directory, &desired)));
        }
        let Some(running) = &mut self.running else { return Ok(Done::default()) };
        let done = running.await;
        self.running = None;
        done.map_err(|error| error.to_string())
    }
}

/// Checks everything, and repairs what differs.
fn check(directory: &Path, desired: &[ByProgram]) -> Done {
    let mut done = Done::default();
    let tables = read_tables(desired, &mut done);
    for one in desired.iter().filter(|one| !one.parts.is_empty()) {
        let differs = |part: &Part| {
            let table = tables.get(&(part.family, part.table));
            table.is_some_and(|found| !part.differences(found).is_empty())
        };
        if one.parts.iter().any(differs) {
            repair(directory, one, &mut done, || repair_rules(&one.parts));
        }
    }
    let lost = lost_sources(desired, &mut done);
    for one in desired {
        let Some((zone, sources)) = &one.sources else { continue };
        let lost: Vec<String> =
            sources.iter().filter(|source| lost.contains(&(zone.clone(), (*source).clone()))).cloned().collect();
        if !lost.is_empty() {
            repair(directory, one, &mut done, || firewalld::restore(zone, &lost).map_err(|error| error.to_string()));
        }
    }
    done
}

/// The tables that have desired rules. One that cannot be read is noted once, whatever the number of attachments.
fn read_tables(desired: &[ByProgram], done: &mut Done) -> BTreeMap<(Family, &'static str), Saved> {
    let wanted: BTreeSet<(Family, &'static str)> =
        desired.iter().flat_map(|one| &one.parts).map(|part| (part.family, part.table)).collect();
    let mut tables = BTreeMap::new();
    for (family, table) in wanted {
        let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
        match iptables::read(family, table) {
            Ok(found) => drop(tables.insert((family, table), found)),
            Err(error) => done.failed.push((format!("table {table} of {program}"), error.to_string())),
        }
    }
    tables
}

fn lost_sources(desired: &[ByProgram], done: &mut Done) -> BTreeSet<(String, String)> {
    let mut zones: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (zone, sources) in desired.iter().filter_map(|one| one.sources.as_ref()) {
        zones.entry(zone).or_default().extend(sources.iter().cloned());
    }
    if zones.is_empty() {
        return BTreeSet::new();
    }
    firewalld::lost(&zones).unwrap_or_else(|error| {
        done.failed.push(("firewalld's sources of pods".to_owned(), error.to_string()));
        BTreeSet::new()
    })
}

/// Runs `work` while neither ADD nor DEL changes the attachment. What others work on is left for the next check.
fn repair(directory: &Path, one: &ByProgram, done: &mut Done, work: impl FnOnce() -> Result<Vec<String>, String>) {
    let Some(locked) = Locked::at_once(directory, one.owner.key()).ok().flatten() else { return };
    if !locked.record.as_ref().is_some_and(|record| one.is_finished(record)) {
        return;
    }
    match work() {
        Ok(steps) if steps.is_empty() => {}
        Ok(steps) => done.healed.push(Healed { kind: "rules", object: one.label(), steps }),
        Err(error) => done.failed.push((one.label(), error)),
    }
}

fn repair_rules(parts: &[Part]) -> Result<Vec<String>, String> {
    let said = |error: IptablesError| error.to_string();
    let steps = iptables::differences(parts).map_err(said)?;
    iptables::put(parts).map_err(said)?;
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use attachment::section::{Kept, PodNetns, Section};

    fn one() -> ByProgram {
        let owner = Name { network: "net".into(), container: "a".into(), ifname: "eth0".into() };
        ByProgram { owner, chained: Some("firewall"), parts: Vec::new(), sources: None }
    }

    fn kept(committed: bool) -> Kept {
        Kept { committed, netns: PodNetns::default(), section: Section::Firewall(Default::default()) }
    }

    #[test]
    fn what_a_plugin_works_on_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let runs = |one: &ByProgram| {
            let (mut done, mut runs) = (Done::default(), 0);
            repair(dir.path(), one, &mut done, || {
                runs += 1;
                Ok(vec!["iptables -A X".to_owned()])
            });
            (runs, done.healed.len())
        };
        assert_eq!(runs(&one()), (0, 0), "no record");
        let mut locked = Locked::make(dir.path(), one().owner.key()).unwrap();
        let mut record = Record { committed: true, ..Record::begun().unwrap() };
        record.put_section(kept(true));
        locked.write(&record).unwrap();
        assert_eq!(runs(&one()), (0, 0), "its record is in use");
        drop(locked);
        assert_eq!(runs(&one()), (1, 1));
        assert_eq!(runs(&ByProgram { chained: None, ..one() }), (0, 0), "no masquerade by iptables");
        let mut locked = Locked::existing(dir.path(), one().owner.key()).unwrap().unwrap();
        record.put_section(kept(false));
        locked.write(&record).unwrap();
        drop(locked);
        assert_eq!(runs(&one()), (0, 0), "its ADD or DEL has not finished");
    }

    #[test]
    fn a_repair_that_fails_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::begun().unwrap();
        record.put_section(kept(true));
        Locked::make(dir.path(), one().owner.key()).unwrap().write(&record).unwrap();
        let mut done = Done::default();
        repair(dir.path(), &one(), &mut done, || Err("refused".to_owned()));
        repair(dir.path(), &one(), &mut done, || Ok(Vec::new()));
        assert_eq!((done.failed, done.healed), (vec![(one().label(), "refused".to_owned())], vec![]));
        let zone = ByProgram { sources: Some(("pods".into(), vec![])), ..one() };
        assert_eq!(
            (one().label(), zone.label()),
            ("firewall's iptables rules of net/a@eth0".to_owned(), "firewalld's sources of net/a@eth0".to_owned())
        );
    }
}
