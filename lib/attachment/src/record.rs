//! The record of an attachment: what ADD made on the host, for DEL, GC and the daemon.
//!
//! It is the file `/run/cni-attachments/NETWORK/ID@IF`, a line of JSON. Whoever adds or deletes the attachment holds the
//! file's lock. The file is written in one call, so that a program that is killed leaves the old content or the new.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use kernel::nft::{NftFamily, RuleHandle, TableKey};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

use crate::{Key, is_absent};

/// Where records are. `/run` is empty after a boot, as the kernel's objects are.
pub const DIRECTORY: &str = "/run/cni-attachments";

/// The format. A record of another one is taken for none.
const SCHEMA: u32 = 1;

/// No record is longer: it names a handful of objects.
const LONGEST: u64 = 64 * 1024;

/// What ADD made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The format's number.
    pub schema: u32,
    /// The boot that the objects belong to (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// ADD went through. Otherwise ADD or DEL is at work, or was killed.
    pub committed: bool,
    /// The link of the host that leads to the pod, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostLink>,
    /// The pod's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodLink>,
    /// The IPAM plugin that was asked for addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<String>,
    /// Rules in chains that others use too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleRecord>,
}

/// The link of the host that leads to the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostLink {
    /// Its name. Another link may have it by now.
    pub name: String,
    /// Its MAC, chosen at random: a link of this name that has another one is not the attachment's.
    pub mac: String,
    /// Its index; 0 while it is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub index: u32,
    /// Its kind, as `ip link` has it: `veth`.
    pub kind: String,
    /// The bridge that it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// A frame may leave the bridge by the port it came in by.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hairpin: bool,
    /// It does not reach other isolated ports.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// The VLANs that the port carries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanRecord>,
}

/// A VLAN of a bridge port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VlanRecord {
    /// Its number.
    pub id: u16,
    /// Untagged frames that come in belong to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pvid: bool,
    /// Its frames leave untagged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub untagged: bool,
}

/// The pod's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodLink {
    /// Its name.
    pub name: String,
    /// The MAC that ADD gave it.
    pub mac: String,
    /// The addresses that ADD gave it, with their prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The path of its namespace, when no link of the host leads to it. Another namespace may have it by now.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub netns: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A rule of nf_tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRecord {
    /// The table's family, as `nft` has it: `inet`, `bridge`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The handle that the kernel gave. Another rule may have it by now.
    pub handle: u64,
}

impl From<RuleHandle> for RuleRecord {
    fn from(rule: RuleHandle) -> Self {
        let RuleHandle { table, chain, handle } = rule;
        Self { family: table.family.to_string(), table: table.name, chain, handle }
    }
}

impl Record {
    /// A record of this boot that names nothing yet.
    pub fn begun() -> Self {
        Self { schema: SCHEMA, boot: boot_id(), ..Self::default() }
    }

    /// The recorded rules of one table.
    pub fn rules_of(&self, table: &TableKey) -> Vec<RuleHandle> {
        let of_table = |rule: &&RuleRecord| rule.family == table.family.to_string() && rule.table == table.name;
        let handle =
            |rule: &RuleRecord| RuleHandle { table: table.clone(), chain: rule.chain.clone(), handle: rule.handle };
        self.rules.iter().filter(of_table).map(handle).collect()
    }

    /// Whether rules of `family` are recorded.
    pub fn has_family(&self, family: NftFamily) -> bool {
        self.rules.iter().any(|rule| rule.family == family.to_string())
    }
}

fn boot_id() -> String {
    kernel::sysctl::boot_id().unwrap_or_default().to_owned()
}

/// A record's file that is open and locked.
#[derive(Debug)]
pub struct Locked {
    file: File,
    path: PathBuf,
    /// How many bytes the file has.
    length: usize,
    /// What it said; none: it is new, damaged, or of another boot or format.
    pub record: Option<Record>,
}

/// A failure to read or write a record.
#[derive(Debug, thiserror::Error)]
#[error("{doing} the record {path}: {cause}")]
pub struct RecordError {
    /// `lock`, `write`, `delete`, `list`
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub cause: io::Error,
}

impl Locked {
    /// Opens and locks the record of `key` below `directory`, and makes the file when there is none.
    ///
    /// # Errors
    /// Names that no file can have, and what the file system refuses. A lock that somebody else holds is waited for.
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

    /// The same for a record that is there; `None` when there is none.
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

    /// [`Locked::existing`] without waiting: `None`, too, when somebody else holds the lock.
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

    fn lock(file: File, path: &Path) -> io::Result<Option<Self>> {
        flock(&file, FlockOperation::LockExclusive)?;
        Self::read(file, path)
    }

    /// `None`: whoever held the lock deleted the file.
    fn read(file: File, path: &Path) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            return Ok(None);
        }
        if !metadata.is_file() || metadata.len() > LONGEST {
            return Err(io::Error::other("it is no record: delete it"));
        }
        let mut text = String::new();
        if metadata.len() > 0 {
            // what is not text is no record, and is written anew
            let _ = (&file).take(LONGEST).read_to_string(&mut text);
        }
        let record = serde_json::from_str(&text).ok().filter(|r: &Record| r.schema == SCHEMA && r.boot == boot_id());
        let length = usize::try_from(metadata.len()).unwrap_or_default();
        Ok(Some(Self { file, path: path.to_owned(), length, record }))
    }

    /// Replaces what the file says.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordError> {
        let failed = |path: &Path, cause| RecordError { doing: "write", path: path.to_owned(), cause };
        let mut text = serde_json::to_vec(record).map_err(|error| failed(&self.path, error.into()))?;
        // one call replaces all: what is shorter than before is filled up with spaces
        text.resize(text.len().max(self.length.saturating_sub(1)), b' ');
        text.push(b'\n');
        let written = self.file.write_at(&text, 0).map_err(|cause| failed(&self.path, cause))?;
        if written != text.len() {
            return Err(failed(&self.path, ErrorKind::StorageFull.into()));
        }
        self.length = text.len();
        Ok(())
    }

    /// Says that what the file names is being taken away. A record that says so already is left as it is.
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

    /// Deletes the file: nothing of the attachment is left.
    pub fn delete(self) -> Result<(), RecordError> {
        std::fs::remove_file(&self.path).map_err(|cause| RecordError { doing: "delete", path: self.path, cause })
    }
}

/// The attachments of `network` that have a record below `directory`: container and interface of each.
///
/// # Errors
/// What the file system refuses. Files whose names are none of a record are passed over.
pub fn list(directory: &Path, network: &str) -> Result<Vec<(String, String)>, RecordError> {
    let path = directory.join(network);
    let failed = |cause| RecordError { doing: "list", path: path.clone(), cause };
    let entries = match std::fs::read_dir(&path) {
        Err(cause) if is_absent(&cause) => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().into_string();
        let parts = name.as_deref().ok().and_then(|name| name.split_once('@'));
        found.extend(parts.map(|(container, ifname)| (container.to_owned(), ifname.to_owned())));
    }
    Ok(found)
}

fn path(directory: &Path, key: Key<'_>) -> PathBuf {
    directory.join(key.network).join(format!("{}@{}", key.container, key.ifname))
}

/// musl's open, which std calls, asks for close-on-exec twice.
fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests;
