//! The embedded store's files: `config`; `subnets/<key>`, which holds exactly the value that etcd would hold; and
//! `ttl/<key>`, which holds the second at which that lease ends.
//!
//! Every change is made under one exclusive lock, and a lease's content is complete before its name exists. So
//! readers see only whole leases, whatever a killed daemon leaves behind, and files in `tmp` have no owner once the
//! lock is free.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use overlay::lease::{Refusal, Subnets};

use super::lock;
use super::ttl::{Now, Ttl};
use crate::clock::Moment;
use crate::files::{FileError, at, make_dirs, read_own};
use crate::index::Mark;
use crate::snapshot::{CONFIG, Event, LARGEST, Snapshot, canonical};

/// The directories of one store.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    boot_id: Arc<str>,
}

/// The result of a reading: the entries, and the ends of those that are leases, or would be with another value.
#[derive(Debug)]
pub(super) struct Reading<T> {
    pub(super) entries: T,
    pub(super) ends: Vec<Ending>,
}

/// A lease and when it ends; `None` when it does not end.
type Ending = (Subnets, Option<Ttl>);

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { root, boot_id: boot_id.trim().into() }
    }

    /// The current time on all clocks.
    pub(super) fn now(&self) -> Now {
        Now { boot_id: self.boot_id.clone(), moment: Moment::now(), wall: SystemTime::now() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn subnets(&self) -> PathBuf {
        self.root.join("subnets")
    }

    pub(super) fn ttls(&self) -> PathBuf {
        self.root.join("ttl")
    }

    pub(super) fn temps(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Creates the missing directories.
    pub(super) fn prepare(&self) -> Result<(), FileError> {
        for dir in [self.subnets(), self.ttls(), self.temps()] {
            make_dirs(&dir)?;
        }
        Ok(())
    }

    pub(super) fn lock(&self, exclusive: bool) -> Result<File, FileError> {
        lock::take(&self.root.join("lock"), exclusive)
    }

    /// Reads all entries, at one moment.
    pub(super) fn read_all(&self) -> Result<Reading<Snapshot>, FileError> {
        let _lock = self.lock(false)?;
        let mut reading = Reading { entries: Snapshot::default(), ends: Vec::new() };
        reading.entries.add(self.read_config()?);
        let dir = self.subnets();
        for entry in std::fs::read_dir(&dir).map_err(at("list", &dir))? {
            let name = entry.map_err(at("list", &dir))?.file_name();
            let Some(key) = name.to_str() else {
                let shown = name.to_string_lossy();
                reading.entries.add(Event::read(&shown, b"", 0, None));
                continue;
            };
            let (event, end) = self.read_lease(key)?;
            reading.entries.add(event);
            reading.ends.extend(end);
        }
        Ok(reading)
    }

    /// Reads the entries with these names; [`CONFIG`] is one of them.
    pub(super) fn read_these(&self, names: &[String]) -> Result<Reading<Vec<Event>>, FileError> {
        let _lock = self.lock(false)?;
        let mut reading = Reading { entries: Vec::new(), ends: Vec::new() };
        for name in names {
            if name == CONFIG {
                reading.entries.push(self.read_config()?);
                continue;
            }
            let (event, end) = self.read_lease(name)?;
            reading.entries.push(event);
            reading.ends.extend(end);
        }
        Ok(reading)
    }

    fn read_config(&self) -> Result<Event, FileError> {
        let path = self.root.join(CONFIG);
        Ok(match Content::read(&path)? {
            Content::Value(value) => Event::config(value),
            Content::Absent => Event::Config(None),
            Content::Refused(refusal) => Event::refused(CONFIG, refusal),
        })
    }

    /// Reads the entry with this name, and when it ends.
    fn read_lease(&self, name: &str) -> Result<(Event, Option<Ending>), FileError> {
        let key = canonical(name);
        let content = Content::read(&self.subnets().join(name))?;
        let text = match (key, &content) {
            (Some(_), Content::Value(_)) => self.read_ttl(name)?,
            _ => None,
        };
        let ttl = text.as_ref().and_then(|text| self.parse_ttl(text));
        let event = match content {
            Content::Value(value) => {
                let term = ttl.and(text).map(|text| Mark::of(&text).number());
                Event::read(name, &value, 0, term)
            }
            Content::Absent => Event::gone(name),
            // A name that is not a key is the better reason to give.
            Content::Refused(refusal) if key.is_some() => Event::refused(name, refusal),
            Content::Refused(_) => Event::read(name, b"", 0, None),
        };
        Ok((event, key.map(|key| (key, ttl))))
    }

    /// Reads when a lease ends. No daemon writes a file that does not parse as a time, so its lease stays.
    pub(super) fn read_ttl(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        match Content::read(&self.ttls().join(name))? {
            Content::Value(text) => Ok(Some(text)),
            Content::Absent | Content::Refused(_) => Ok(None),
        }
    }

    pub(super) fn parse_ttl(&self, text: &[u8]) -> Option<Ttl> {
        Ttl::parse(text, &self.boot_id)
    }
}

/// The content found where a small file is expected.
pub(super) enum Content {
    Value(Vec<u8>),
    Absent,
    Refused(Refusal),
}

impl Content {
    /// After an error something may still be there: a lease that cannot be read is not a lease that is gone.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        match read_own(path, LARGEST as u64) {
            Ok(value) => Ok(Self::Value(value)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(Self::Absent),
                ErrorKind::FileTooLarge => Ok(Self::Refused(Refusal::TooLarge)),
                ErrorKind::InvalidData => Ok(Self::Refused(Refusal::NotAFile)),
                _ => Err(at("read", path)(error)),
            },
        }
    }
}
