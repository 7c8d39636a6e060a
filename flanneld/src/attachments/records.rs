//! The records of this host's attachments, as last read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use attachment::Key;
use attachment::record::{Locked, Record, RecordError, list, networks, quarantined};
use kernel::types::{IfName, Mac};

/// Identifies an attachment: one interface of one container in one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The network's name.
    pub network: String,
    /// CNI_CONTAINERID
    pub container: String,
    /// CNI_IFNAME
    pub ifname: String,
}

impl Name {
    /// The key for functions of the record library.
    pub fn key(&self) -> Key<'_> {
        Key { network: &self.network, container: &self.container, ifname: &self.ifname }
    }
}

/// The path of its record: `NETWORK/ID@IF`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.network, self.container, self.ifname)
    }
}

/// Which records must be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// These records.
    Some(BTreeSet<Name>),
    /// All records, and the list of exempted attachments.
    All,
}

impl Default for Stale {
    /// No record.
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Stale {
    /// Whether no record is stale.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds those of `other`.
    pub fn extend(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Some(ours), Self::Some(theirs)) => ours.extend(theirs),
            _ => *self = Self::All,
        }
    }
}

/// All records below one directory.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
    known: BTreeMap<Name, Record>,
    exempted: BTreeSet<Name>,
}

/// The path of a link's `arp_ignore`, or of that of all links: the larger counts.
pub(super) fn arp_ignore(link: &str) -> String {
    format!("net/ipv4/conf/{link}/arp_ignore")
}

impl Records {
    /// Settings of bridges that the kernel does not announce: whether the host answers ARP requests of pods for their gateways,
    /// and whether it takes routes from routers.
    pub fn silent_settings(&self) -> BTreeSet<String> {
        let links = || self.committed().flat_map(|(_, record)| &record.shared).map(|link| link.name.as_str());
        let routers = links().map(|link| format!("net/ipv6/conf/{link}/accept_ra"));
        links().chain(["all"]).map(arp_ignore).chain(routers).collect()
    }

    /// The links that pods' ports are attached to.
    pub fn bridges(&self) -> BTreeSet<IfName> {
        let masters = self.committed().filter_map(|(_, record)| record.host.as_ref()?.master.as_ref());
        masters.filter_map(|name| IfName::new(name).ok()).collect()
    }

    /// The MAC addresses of pods.
    pub fn macs(&self) -> BTreeSet<Mac> {
        self.committed().filter_map(|(_, record)| record.pod.as_ref()?.mac.parse().ok()).collect()
    }

    /// Starts without any record.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), known: BTreeMap::new(), exempted: BTreeSet::new() }
    }

    /// The directory of the records.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The attachments of which some plugin's ADD has finished, and no DEL of it has started.
    pub fn committed(&self) -> impl Iterator<Item = (&Name, &Record)> {
        let any = |record: &Record| record.committed || record.sections.iter().any(|kept| kept.committed);
        self.known.iter().filter(move |(_, record)| any(record))
    }

    /// Whether an operator has exempted it from repair.
    pub fn is_exempted(&self, name: &Name) -> bool {
        self.exempted.contains(name)
    }

    /// Reads the `stale` records. Skips a record that cannot be read, and returns the reason.
    pub fn read(&mut self, stale: &Stale) -> Vec<String> {
        let mut troubles = Vec::new();
        let mut note = |error: RecordError| troubles.push(error.to_string());
        let names = match stale {
            Stale::Some(names) => names.clone(),
            Stale::All => {
                self.known.clear();
                self.exempted = self.everywhere(quarantined).unwrap_or_else(|error| {
                    note(error);
                    BTreeSet::new()
                });
                self.everywhere(list).unwrap_or_else(|error| {
                    note(error);
                    BTreeSet::new()
                })
            }
        };
        for name in names {
            match Locked::glance(&self.directory, name.key()) {
                Ok(Some(record)) => drop(self.known.insert(name, record)),
                Ok(None) => drop(self.known.remove(&name)),
                Err(error) => {
                    self.known.remove(&name);
                    note(error);
                }
            }
        }
        troubles
    }

    /// The results of `list` for the folders of all networks.
    fn everywhere(&self, list: List) -> Result<BTreeSet<Name>, RecordError> {
        let mut all = BTreeSet::new();
        for network in networks(&self.directory)? {
            let found = list(&self.directory, &network)?;
            let name = |(container, ifname)| Name { network: network.clone(), container, ifname };
            all.extend(found.into_iter().map(name));
        }
        Ok(all)
    }
}

/// Lists the container and interface of each attachment in a network's folder.
type List = fn(&Path, &str) -> Result<Vec<(String, String)>, RecordError>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn name(container: &str) -> Name {
        Name { network: "net".into(), container: container.into(), ifname: "eth0".into() }
    }

    fn known(records: &Records) -> Vec<String> {
        records.committed().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn what_is_stale_is_read_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::new(dir.path());
        let commit = |container: &str| {
            let record = Record { committed: true, ..Record::begun().unwrap() };
            Locked::make(dir.path(), name(container).key()).unwrap().write(&record).unwrap();
        };
        assert_eq!(records.read(&Stale::All), Vec::<String>::new());
        commit("a");
        commit("b");
        records.read(&Stale::Some([name("a")].into()));
        assert_eq!(known(&records), ["net/a@eth0"]);
        fs::create_dir(dir.path().join("net/quarantine")).unwrap();
        fs::write(dir.path().join("net/quarantine/b@eth0"), "").unwrap();
        records.read(&Stale::All);
        assert_eq!(known(&records), ["net/a@eth0", "net/b@eth0"]);
        assert!(records.is_exempted(&name("b")) && !records.is_exempted(&name("a")));
        // DEL marks the record, and deletes it.
        Locked::existing(dir.path(), name("a").key()).unwrap().unwrap().mark().unwrap();
        records.read(&Stale::Some([name("a")].into()));
        assert_eq!(known(&records), ["net/b@eth0"]);
        fs::remove_file(dir.path().join("net/b@eth0")).unwrap();
        records.read(&Stale::Some([name("b")].into()));
        assert_eq!(known(&records), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("net/c@eth0")).unwrap();
        let mut records = Records::new(dir.path());
        let said = records.read(&Stale::All);
        assert!(said.len() == 1 && said[0].contains("net/c@eth0"), "{said:?}");
    }

    #[test]
    fn stale_records_add_up() {
        let mut stale = Stale::default();
        assert!(stale.is_empty());
        stale.extend(Stale::Some([name("a")].into()));
        stale.extend(Stale::Some([name("b")].into()));
        assert_eq!(stale, Stale::Some([name("a"), name("b")].into()));
        stale.extend(Stale::All);
        stale.extend(Stale::Some([name("a")].into()));
        assert_eq!(stale, Stale::All);
    }
}
