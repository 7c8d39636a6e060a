//! One look at all attachments, and the removal of those whose pods are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use attachment::Key;
use attachment::reclaim::{Doubt, Fate, Sight, View, folder_of, has_link, look, namespaces, remove};
use attachment::record::{Locked, Record, RecordError, list, networks};
use kernel::Kernel;
use kernel::netns::own_inode;

use super::processes;

/// An attachment by its names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) network: String,
    pub(super) container: String,
    pub(super) ifname: String,
}

impl Name {
    fn key(&self) -> Key<'_> {
        Key { network: &self.network, container: &self.container, ifname: &self.ifname }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.network, self.container, self.ifname)
    }
}

/// What a pass did.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The attachments that were removed.
    pub(super) reclaimed: Vec<Name>,
    /// Why others stay although their pods seem to be gone.
    pub(super) kept: BTreeMap<String, Vec<Name>>,
}

impl Found {
    fn keep(&mut self, name: &Name, reason: String) {
        self.kept.entry(reason).or_default().push(name.clone());
    }
}

/// What outlives a pass.
#[derive(Debug, Default)]
pub(super) struct Pass {
    directory: PathBuf,
    /// The inode of this network namespace.
    host: u64,
    view: View,
    /// The attachments whose pods were gone at the last pass.
    gone: BTreeSet<Name>,
}

impl Pass {
    pub(super) fn new(directory: &Path) -> Self {
        let view = View { processes: processes::are_the_hosts(), ..View::default() };
        Self { directory: directory.to_owned(), host: own_inode(), view, gone: BTreeSet::new() }
    }

    /// Looks at all attachments, and removes those whose pods were gone already at the last pass.
    pub(super) fn run(&mut self, kernel: &mut Kernel) -> Found {
        let mut found = Found::default();
        let records = match self.records() {
            Ok(records) => records,
            Err(error) => {
                found.kept.insert(error.to_string(), Vec::new());
                return found;
            }
        };
        records.iter().for_each(|(_, record)| self.learn(record));
        let before = std::mem::take(&mut self.gone);
        for (name, record) in records {
            match Fate::of(&record, &self.view, &look) {
                Fate::Lives => {}
                Fate::Gone if !before.contains(&name) => drop(self.gone.insert(name)),
                Fate::Gone => self.reclaim(kernel, name, &mut found),
                Fate::Unproven(doubt) if is_suspect(&record) => found.keep(&name, doubt.to_string()),
                Fate::Unproven(_) => {}
            }
        }
        found
    }

    fn records(&self) -> Result<Vec<(Name, Record)>, RecordError> {
        let mut records = Vec::new();
        for network in networks(&self.directory)? {
            for (container, ifname) in list(&self.directory, &network)? {
                let name = Name { network: network.clone(), container, ifname };
                // one that cannot be read is no proof of anything; the attachments controller reports it
                let record = Locked::glance(&self.directory, name.key()).ok().flatten();
                records.extend(record.filter(|record| self.is_here(record)).map(|record| (name, record)));
            }
        }
        Ok(records)
    }

    /// Whether the attachment's objects are in this network namespace.
    fn is_here(&self, record: &Record) -> bool {
        [0, self.host].contains(&record.host_netns)
    }

    /// Notes the folder in which the namespace of a living pod is seen.
    fn learn(&mut self, record: &Record) {
        for netns in namespaces(record) {
            let folder = folder_of(&netns.path);
            if !self.view.folders.contains(folder) && look(&netns.path) == Sight::Namespace(netns.inode) {
                self.view.folders.insert(folder.to_owned());
            }
        }
    }

    /// Removes the attachment if it is still so under the record's lock. Without the lock, an ADD or a DEL works on it.
    fn reclaim(&mut self, kernel: &mut Kernel, name: Name, found: &mut Found) {
        let locked = match Locked::at_once(&self.directory, name.key()) {
            Ok(Some(locked)) => locked,
            Ok(None) => return,
            Err(error) => return found.keep(&name, error.to_string()),
        };
        let Some(record) = locked.record.clone().filter(|record| Fate::of(record, &self.view, &look) == Fate::Gone)
        else {
            return;
        };
        self.gone.insert(name.clone());
        match self.removed(kernel, &name, &record).and_then(|()| locked.delete().map_err(|error| error.to_string())) {
            Ok(()) => {
                self.gone.remove(&name);
                found.reclaimed.push(name);
            }
            Err(reason) => found.keep(&name, reason),
        }
    }

    fn removed(&self, kernel: &mut Kernel, name: &Name, record: &Record) -> Result<(), String> {
        // links go with their namespace: one that exists may still serve a process
        if has_link(kernel, record).map_err(|error| error.to_string())?.is_some() && !self.is_empty(record) {
            return Err(Doubt::Kept.to_string());
        }
        let errors = remove(kernel, name.key(), record);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if texts.is_empty() { Ok(()) } else { Err(texts.join("; ")) }
    }

    /// Whether it is certain that no process is in the record's namespaces.
    fn is_empty(&self, record: &Record) -> bool {
        let inodes: BTreeSet<u64> = namespaces(record).map(|netns| netns.inode).collect();
        self.view.processes && processes::are_none_in(&inodes)
    }
}

/// Whether the pod seems to be gone: its path leads nowhere.
fn is_suspect(record: &Record) -> bool {
    namespaces(record).any(|netns| look(&netns.path) == Sight::Nothing)
}
