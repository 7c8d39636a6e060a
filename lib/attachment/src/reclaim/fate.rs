//! Whether the pod of an attachment is gone. Pure, but for [`look`].

use std::collections::BTreeSet;
use std::fmt;

use kernel::netns::Netns;

use crate::record::Record;
use crate::section::PodNetns;

/// What the path of a namespace leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The network namespace with this inode.
    Namespace(u64),
    /// Nothing: the path does not exist.
    Nothing,
    /// What proves nothing: a file of another kind, as a namespace whose mount is not seen is, or a path that cannot be read.
    Unclear,
}

/// Looks at a path.
pub fn look(path: &str) -> Sight {
    match Netns::open(path) {
        Ok(netns) => netns.id().map_or(Sight::Unclear, |(_, inode)| Sight::Namespace(inode)),
        Err(error) if error.is_absent() => Sight::Nothing,
        Err(_) => Sight::Unclear,
    }
}

/// Where this process sees paths of namespaces as the runtime sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Whether this process sees the host's processes, so that paths below /proc mean what they mean to the runtime.
    pub processes: bool,
    /// The folders in which it saw the namespace of a living pod.
    pub folders: BTreeSet<String>,
}

impl View {
    /// Whether a path that leads nowhere proves that nothing is there.
    fn covers(&self, path: &str) -> bool {
        if path.starts_with("/proc/") { self.processes } else { self.folders.contains(folder_of(path)) }
    }
}

/// The folder of a path; pods' namespaces are files beside each other.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The namespace exists.
    Lives,
    /// The namespace does not exist, or is no longer where the runtime had it.
    Gone,
    /// Neither is proven.
    Unproven(Doubt),
}

/// Why neither is proven.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The record names no namespace.
    Unnamed,
    /// The path leads to something else than a namespace, or cannot be read.
    Unclear(String),
    /// No living pod's namespace is seen in this folder.
    Hidden(String),
    /// The path leads nowhere, but the pod's interface exists: something keeps the namespace.
    Kept,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => write!(f, "the record does not name the pod's namespace"),
            Self::Unclear(path) => write!(f, "{path} is not a network namespace that can be read"),
            Self::Hidden(folder) => write!(f, "no living pod's namespace is visible in {folder}"),
            Self::Kept => write!(f, "the namespace has no path any more, but its interface exists"),
        }
    }
}

/// The namespaces that a record names. Each is the pod's.
pub fn namespaces(record: &Record) -> impl Iterator<Item = &PodNetns> {
    let by = record.by.iter().map(|by| &by.netns);
    let named = |netns: &&PodNetns| netns.path.starts_with('/') && netns.inode != 0;
    by.chain(record.sections.iter().map(|kept| &kept.netns)).filter(named)
}

impl Fate {
    /// The fate of a record's pod. `look` says what a path leads to.
    pub fn of(record: &Record, view: &View, look: &dyn Fn(&str) -> Sight) -> Self {
        let mut doubt = Some(Doubt::Unnamed);
        for netns in namespaces(record) {
            match look(&netns.path) {
                Sight::Namespace(inode) if inode == netns.inode => return Self::Lives,
                Sight::Unclear => return Self::Unproven(Doubt::Unclear(netns.path.clone())),
                Sight::Namespace(_) | Sight::Nothing if !view.covers(&netns.path) => {
                    return Self::Unproven(Doubt::Hidden(folder_of(&netns.path).to_owned()));
                }
                Sight::Namespace(_) | Sight::Nothing => doubt = None,
            }
        }
        doubt.map_or(Self::Gone, Self::Unproven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Attacher;
    use crate::rules::portmap::Portmap;
    use crate::section::{Kept, Section};

    const PATH: &str = "/var/run/netns/cni-1";

    fn netns(path: &str, inode: u64) -> PodNetns {
        PodNetns { path: path.into(), inode }
    }

    fn record(path: &str, inode: u64) -> Record {
        let by = Attacher { program: "/usr/bin/containerd".into(), netns: netns(path, inode) };
        Record { by: Some(by), ..Record::default() }
    }

    fn seen(folders: &[&str]) -> View {
        View { processes: false, folders: folders.iter().map(|folder| (*folder).to_owned()).collect() }
    }

    #[test]
    fn a_pod_is_gone_when_its_path_is_and_others_are_seen() {
        let (record, view) = (record(PATH, 7), seen(&["/var/run/netns"]));
        let fate = |view: &View, sight: Sight| {
            Fate::of(&record, view, &|path| if path == PATH { sight } else { panic!("{path}") })
        };
        assert_eq!(fate(&view, Sight::Namespace(7)), Fate::Lives);
        assert_eq!(fate(&view, Sight::Nothing), Fate::Gone);
        assert_eq!(fate(&view, Sight::Namespace(8)), Fate::Gone, "another pod has the path by now");
        assert_eq!(fate(&view, Sight::Unclear), Fate::Unproven(Doubt::Unclear(PATH.into())));
        // a container without the mount sees nothing, and one without propagation sees an empty file
        for view in [View::default(), seen(&["/run/netns"]), View { processes: true, ..View::default() }] {
            for sight in [Sight::Nothing, Sight::Namespace(8)] {
                assert_eq!(fate(&view, sight), Fate::Unproven(Doubt::Hidden("/var/run/netns".into())), "{view:?}");
            }
            assert_eq!(fate(&view, Sight::Namespace(7)), Fate::Lives);
        }
    }

    #[test]
    fn paths_of_processes_need_the_hosts_processes() {
        let record = record("/proc/12/ns/net", 7);
        let mut view = seen(&["/proc/12/ns"]);
        let fate = |view: &View| Fate::of(&record, view, &|_| Sight::Nothing);
        assert_eq!(fate(&view), Fate::Unproven(Doubt::Hidden("/proc/12/ns".into())));
        view.processes = true;
        assert_eq!(fate(&view), Fate::Gone);
    }

    #[test]
    fn one_living_namespace_is_enough_to_live() {
        let mut record = record(PATH, 7);
        let section = Section::Portmap(Portmap::default());
        record.sections.push(Kept { committed: true, netns: netns("/var/run/netns/cni-2", 9), section });
        let view = seen(&["/var/run/netns"]);
        let second = |sight: Sight| move |path: &str| if path == PATH { Sight::Nothing } else { sight };
        assert_eq!(Fate::of(&record, &view, &second(Sight::Namespace(9))), Fate::Lives);
        assert_eq!(Fate::of(&record, &view, &second(Sight::Nothing)), Fate::Gone);
    }

    #[test]
    fn a_record_without_a_namespace_proves_nothing() {
        let view = View { processes: true, ..seen(&["", "/"]) };
        for record in [Record::default(), record("", 7), record("relative/path", 7), record(PATH, 0)] {
            assert_eq!(Fate::of(&record, &view, &|_| Sight::Nothing), Fate::Unproven(Doubt::Unnamed));
        }
    }

    #[test]
    fn paths_are_looked_at() {
        let own = Netns::current().unwrap().id().unwrap().1;
        assert_eq!(look("/proc/self/ns/net"), Sight::Namespace(own));
        assert_eq!(look("/proc/self/ns/none"), Sight::Nothing);
        assert_eq!(look("/proc/self/status/none"), Sight::Unclear);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(look(file.path().to_str().unwrap()), Sight::Unclear, "the place of a mount that is not seen");
    }
}
