//! The record of an attachment: the objects that ADD made on the host, for DEL, GC and the daemon.
//!
//! The record is the file `/run/cni-attachments/NETWORK/ID@IF`, one line of JSON. ADD and DEL of the attachment hold
//! the file's lock. The file is written in one call, so that a killed program leaves either the old or the new content.

mod links;

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use kernel::nft::{RuleHandle, TableKey};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

pub use links::{HostLink, MADE, PodLink, SharedLink, VlanRecord};

use crate::section::{Kept, PodNetns};
use crate::{Key, is_absent};

/// The folder of all records. Like the kernel's objects, `/run` is empty after a boot.
pub const DIRECTORY: &str = "/run/cni-attachments";

/// The number of the format. A record of another format counts as missing.
const SCHEMA: u32 = 1;

/// The largest size in bytes. A record names only a few objects.
const LONGEST: u64 = 64 * 1024;

/// The objects that ADD made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The number of the format.
    pub schema: u32,
    /// The boot that the objects belong to (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The inode of the host's network namespace, in which the objects are; 0 if it is unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_netns: u64,
    /// Whether ADD succeeded. Otherwise ADD or DEL is running, or was killed. Chained plugins have their own in
    /// [`Record::sections`].
    pub committed: bool,
    /// Who attached the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Attacher>,
    /// The host's link that leads to the pod, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostLink>,
    /// The pod's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodLink>,
    /// The `type` of the IPAM plugin that ADD called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<String>,
    /// The IPAM configuration's `dataDir`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The links that the attachment needs and shares with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedLink>,
    /// The networks to which the attachment's packets are not masqueraded, beside those of its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masquerade_exclude: Vec<IpNetwork>,
    /// Whether the masquerade rules are in the tables of iptables rather than in nf_tables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub iptables: bool,
    /// The rules in chains that others also use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleRecord>,
    /// What chained plugins made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Kept>,
}

/// The program that called ADD, and the pod that it was for: another runtime's GC leaves that pod alone while it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attacher {
    /// The path of the program.
    pub program: String,
    /// The pod's network namespace.
    pub netns: PodNetns,
}

/// A rule of nf_tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRecord {
    /// The table's family as `nft` prints it, such as `inet` or `bridge`.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// The rule's handle. Another rule may have it by now.
    pub handle: u64,
}

impl From<RuleHandle> for RuleRecord {
    fn from(rule: RuleHandle) -> Self {
        let RuleHandle { table, chain, handle } = rule;
        Self { family: table.family.to_string(), table: table.name, chain, handle }
    }
}

impl Record {
    /// A new record of this boot that names no object.
    ///
    /// # Errors
    /// The ID of the boot cannot be read.
    pub fn begun() -> io::Result<Self> {
        let host_netns = kernel::netns::own_inode();
        Ok(Self { schema: SCHEMA, boot: boot_id()?.to_owned(), host_netns, ..Self::default() })
    }

    /// The recorded rules in one table.
    pub fn rules_of(&self, table: &TableKey) -> Vec<RuleHandle> {
        let of_table = |rule: &&RuleRecord| rule.family == table.family.to_string() && rule.table == table.name;
        let handle =
            |rule: &RuleRecord| RuleHandle { table: table.clone(), chain: rule.chain.clone(), handle: rule.handle };
        self.rules.iter().filter(of_table).map(handle).collect()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn boot_id() -> io::Result<&'static str> {
    Ok(kernel::sysctl::boot_id().map_err(io::Error::other)?.unwrap_or_default())
}

/// A record's file, open and locked.
#[derive(Debug)]
pub struct Locked {
    file: File,
    path: PathBuf,
    /// The length of the file in bytes.
    length: usize,
    /// The content; `None` if the file is new or damaged, or from another boot or format.
    pub record: Option<Record>,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} the record {path}: {cause}")]
pub struct RecordError {
    /// The operation: `lock`, `read`, `write`, `delete`, `list`.
    pub doing: &'static str,
    /// The record's file.
    pub path: PathBuf,
    /// The operating system's error.
    pub cause: io::Error,
}

impl Locked {
    /// Opens and locks the record of `key` below `directory`. Creates the file if there is none. Waits for the lock.
    ///
    /// # Errors
    /// A name that no file can have, or an error of the file system.
    pub fn make(directory: &Path, key: Key<'_>) -> Result<Self, RecordError> {
        let path = path(directory, key);
        let failed = |cause| RecordError { doing: "lock", path: path.clone(), cause };
        loop {
            let file = match open(&path, OFlags::CREATE) {
                Err(cause) if cause.kind() == ErrorKind::NotFound => {
                    let folder = path.parent().unwrap_or(directory);
                    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
                    continue;
                }
                file => file.map_err(failed)?,
            };
            if let Some(locked) = Self::lock(file, &path).map_err(failed)? {
                return Ok(locked);
            }
        }
    }

    /// As [`Locked::make`], but creates no file: `None` if there is no record.
    pub fn existing(directory: &Path, key: Key<'_>) -> Result<Option<Self>, RecordError> {
        let path = path(directory, key);
        let failed = |cause| RecordError { doing: "lock", path: path.clone(), cause };
        loop {
            let file = match open(&path, OFlags::empty()) {
                Err(cause) if is_absent(&cause) => return Ok(None),
                file => file.map_err(failed)?,
            };
            if let Some(locked) = Self::lock(file, &path).map_err(failed)? {
                return Ok(Some(locked));
            }
        }
    }

    /// As [`Locked::existing`], but does not wait: also `None` if somebody else holds the lock.
    ///
    /// # Errors
    /// As [`Locked::existing`].
    pub fn at_once(directory: &Path, key: Key<'_>) -> Result<Option<Self>, RecordError> {
        let path = path(directory, key);
        let failed = |cause| RecordError { doing: "lock", path: path.clone(), cause };
        let file = match open(&path, OFlags::empty()) {
            Err(cause) if is_absent(&cause) => return Ok(None),
            file => file.map_err(failed)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(cause) => Err(failed(cause.into())),
            Ok(()) => Self::read(file, &path).map_err(failed),
        }
    }

    /// What a record says, read without its lock: whoever holds that may be about to change it. `None`: there is none.
    ///
    /// # Errors
    /// As [`Locked::existing`].
    pub fn glance(directory: &Path, key: Key<'_>) -> Result<Option<Record>, RecordError> {
        let path = path(directory, key);
        let failed = |cause| RecordError { doing: "read", path: path.clone(), cause };
        match open(&path, OFlags::empty()) {
            Err(cause) if is_absent(&cause) => Ok(None),
            file => Ok(file.and_then(|file| Self::read(file, &path)).map_err(failed)?.and_then(|read| read.record)),
        }
    }

    fn lock(file: File, path: &Path) -> io::Result<Option<Self>> {
        flock(&file, FlockOperation::LockExclusive)?;
        Self::read(file, path)
    }

    /// Returns `None` if the previous holder of the lock deleted the file.
    fn read(file: File, path: &Path) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            return Ok(None);
        }
        if !metadata.is_file() || metadata.len() > LONGEST {
            return Err(io::Error::other("this is not a record: delete it"));
        }
        let mut text = Vec::new();
        if metadata.len() > 0 {
            (&file).take(LONGEST).read_to_end(&mut text)?;
        }
        // a file that cannot be decoded is not a record; it is written anew
        let decoded: Option<Record> = serde_json::from_slice(&text).ok();
        let record = match decoded.filter(|record| record.schema == SCHEMA) {
            // an ID that cannot be read says nothing about the record
            Some(record) if record.boot == boot_id()? => Some(record),
            _ => None,
        };
        let length = usize::try_from(metadata.len()).unwrap_or_default();
        Ok(Some(Self { file, path: path.to_owned(), length, record }))
    }

    /// Whether nothing was ever written to the file.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Replaces the content.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordError> {
        let failed = |path: &Path, cause| RecordError { doing: "write", path: path.to_owned(), cause };
        let mut text = serde_json::to_vec(record).map_err(|error| failed(&self.path, error.into()))?;
        // one write replaces the whole content: a shorter text is padded with spaces
        text.resize(text.len().max(self.length.saturating_sub(1)), b' ');
        text.push(b'\n');
        let written = self.file.write_at(&text, 0).map_err(|cause| failed(&self.path, cause))?;
        if written != text.len() {
            return Err(failed(&self.path, ErrorKind::StorageFull.into()));
        }
        self.length = text.len();
        Ok(())
    }

    /// Marks the record as not committed, because its objects are about to be removed. Writes nothing if it is already
    /// so.
    pub fn mark(&mut self) -> Result<(), RecordError> {
        match self.record.take() {
            Some(mut record) if record.committed => {
                record.committed = false;
                let written = self.write(&record);
                self.record = Some(Record { committed: true, ..record });
                written
            }
            record => {
                self.record = record;
                Ok(())
            }
        }
    }

    /// Deletes the file. Call it when nothing of the attachment is left.
    pub fn delete(self) -> Result<(), RecordError> {
        std::fs::remove_file(&self.path).map_err(|cause| RecordError { doing: "delete", path: self.path, cause })
    }
}

/// The folder beside a network's records for an operator's files `ID@IF`, of any content. Such a file exempts the
/// attachment from repair.
pub const QUARANTINE: &str = "quarantine";

/// The attachments of `network` that have a record below `directory`: container ID and interface of each.
///
/// # Errors
/// The file system refused an operation. Other files are skipped.
pub fn list(directory: &Path, network: &str) -> Result<Vec<(String, String)>, RecordError> {
    named(&directory.join(network))
}

/// The attachments of `network` that an operator has exempted from repair.
///
/// # Errors
/// As [`list`].
pub fn quarantined(directory: &Path, network: &str) -> Result<Vec<(String, String)>, RecordError> {
    named(&directory.join(network).join(QUARANTINE))
}

/// The networks that have a folder for records below `directory`.
///
/// # Errors
/// What the file system refuses.
pub fn networks(directory: &Path) -> Result<Vec<String>, RecordError> {
    names(directory)
}

fn named(folder: &Path) -> Result<Vec<(String, String)>, RecordError> {
    Ok(names(folder)?.iter().filter_map(|name| parse_name(name)).collect())
}

/// Container and interface of a record's file name, `ID@IF`.
pub fn parse_name(name: &str) -> Option<(String, String)> {
    name.split_once('@').map(|(container, ifname)| (container.to_owned(), ifname.to_owned()))
}

fn names(folder: &Path) -> Result<Vec<String>, RecordError> {
    let failed = |cause| RecordError { doing: "list", path: folder.to_owned(), cause };
    let entries = match std::fs::read_dir(folder) {
        Err(cause) if is_absent(&cause) => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(found)
}

fn path(directory: &Path, key: Key<'_>) -> PathBuf {
    directory.join(key.network).join(format!("{}@{}", key.container, key.ifname))
}

// musl's open, which std calls, sets close-on-exec with a second call
fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests;
