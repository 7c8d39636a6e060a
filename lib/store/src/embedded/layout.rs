//! The embedded store's files: `config`, `subnets/<key>` with exactly the value that etcd would hold, `ttl/<key>` with
//! the second at which that lease ends.
//!
//! Every change is made under one exclusive lock, and a lease's content is complete before its name exists. So
//! whatever a killed daemon leaves behind, a reader sees leases that are whole, and what lies in `tmp` is nobody's as
//! soon as the lock is free.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::lock;
use super::ttl::{Now, Seen, Ttl};
use crate::clock::Moment;
use crate::files::{Draft, FileError, READABLE, at, make_dirs, read_own};
use crate::halves::is_half_of_another;
use crate::{Outcome, StoreError, View};

/// A lease is some 200 bytes and a configuration some 500; more than this is somebody else's file.
const LARGEST: u64 = 64 * 1024;

/// The directories of one store.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    boot_id: Arc<str>,
    seen: Mutex<Seen>,
}

type Garbage = BTreeMap<String, String>;

/// The characters of `10.5.1.0-24` and `10.5.1.0-24&fd05:0:0:1::-64`, and nothing that a path or a shell would read.
pub(crate) fn is_key(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b".-&:".contains(&b))
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { root, boot_id: boot_id.trim().into(), seen: Mutex::default() }
    }

    /// All clocks, now.
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

    fn temps(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Makes the directories that are missing.
    pub(super) fn prepare(&self) -> Result<(), FileError> {
        for dir in [self.subnets(), self.ttls(), self.temps()] {
            make_dirs(&dir)?;
        }
        Ok(())
    }

    fn lock(&self, exclusive: bool) -> Result<File, FileError> {
        lock::take(&self.root.join("lock"), exclusive)
    }

    /// Everything, at one moment.
    pub(super) fn read(&self, now: &Now) -> Result<View, FileError> {
        let _lock = self.lock(false)?;
        let mut garbage = Garbage::new();
        let config = self.root.join("config");
        let config = match read_small(&config) {
            Ok(content) => Some(content.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                garbage.insert("config".into(), error.to_string());
                None
            }
            Err(error) => return Err(at("read", &config)(error)),
        };
        let leases = self.read_leases(&mut garbage)?;
        let ends = self.ends(self.read_ttls(&leases)?, now);
        let expires = Arc::new(ends.into_iter().map(|(key, end)| (key, Some(end))).collect());
        let (leases, ignored) = (Arc::new(leases), Arc::new(garbage));
        Ok(View { config, leases, expires, ignored, complete: true, ..View::default() })
    }

    fn read_leases(&self, garbage: &mut Garbage) -> Result<BTreeMap<String, Arc<[u8]>>, FileError> {
        let dir = self.subnets();
        let mut leases = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(at("list", &dir))? {
            let name = entry.map_err(at("list", &dir))?.file_name();
            let Some(key) = name.to_str().filter(|name| is_key(name)) else {
                garbage.insert(name.to_string_lossy().into_owned(), "its name is not a lease's key".into());
                continue;
            };
            let path = dir.join(key);
            match read_small(&path) {
                Ok(value) => {
                    leases.insert(key.to_owned(), value.into());
                }
                // removed by hand since it was listed
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    garbage.insert(key.into(), error.to_string());
                }
                // a lease that cannot be read is not a lease that is gone
                Err(error) => return Err(at("read", &path)(error)),
            }
        }
        Ok(leases)
    }

    fn ends(&self, ttls: BTreeMap<String, Ttl>, now: &Now) -> BTreeMap<String, Moment> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).ends(ttls, now)
    }

    fn read_ttls(&self, leases: &BTreeMap<String, Arc<[u8]>>) -> Result<BTreeMap<String, Ttl>, FileError> {
        let mut ttls = BTreeMap::new();
        for key in leases.keys() {
            let path = self.ttls().join(key);
            match read_small(&path) {
                // a file that does not read as a time was not written by a daemon: the lease stays
                Ok(text) => ttls.extend(Ttl::parse(&text).map(|ttl| (key.clone(), ttl))),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {}
                Err(error) => return Err(at("read", &path)(error)),
            }
        }
        Ok(ttls)
    }

    /// Writes a lease under a name that does not exist, and of which no other host holds a half: two hosts that chose at
    /// once may agree in one family and not in the other, and so in no name.
    pub(super) fn create(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Outcome, StoreError> {
        let path = self.lease(key)?;
        let _lock = self.exclusive()?;
        if path.symlink_metadata().is_ok() || self.is_half_taken(key, value)? {
            return Ok(Outcome::Conflict);
        }
        // first the time of expiry: a lease that lost it would never end
        self.set_ttl(key, ttl)?;
        match self.draft(&path, value)?.link() {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Outcome::Conflict),
            Err(error) => Err(at("create", &path)(error).into()),
        }
    }

    fn is_half_taken(&self, key: &str, value: &[u8]) -> Result<bool, FileError> {
        let dir = self.subnets();
        for entry in std::fs::read_dir(&dir).map_err(at("list", &dir))? {
            let entry = entry.map_err(at("list", &dir))?;
            let Some(theirs) = entry.file_name().to_str().map(str::to_owned) else { continue };
            // what cannot be read is no lease
            let their_value = || read_small(&entry.path()).unwrap_or_default();
            if is_key(&theirs) && is_half_of_another(key, value, &theirs, their_value) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces the value `old` and its time of expiry.
    pub(super) fn renew(
        &self,
        key: &str,
        old: &[u8],
        new: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Outcome, StoreError> {
        let path = self.lease(key)?;
        let _lock = self.exclusive()?;
        if !holds(&path, old)? {
            return Ok(Outcome::Conflict);
        }
        self.set_ttl(key, ttl)?;
        if old != new {
            self.draft(&path, new)?.replace().map_err(at("replace", &path))?;
        }
        Ok(Outcome::Done)
    }

    /// Removes the lease if its value is `old`.
    pub(super) fn delete(&self, key: &str, old: &[u8]) -> Result<Outcome, StoreError> {
        let path = self.lease(key)?;
        let _lock = self.exclusive()?;
        if !holds(&path, old)? {
            return Ok(Outcome::Conflict);
        }
        self.remove(key)?;
        Ok(Outcome::Done)
    }

    /// Removes the leases whose time is over, and returns their keys.
    pub(super) fn expire(&self, now: &Now) -> Result<Vec<String>, FileError> {
        let _lock = self.exclusive()?;
        let leases = self.read_leases(&mut Garbage::new())?;
        let ends = self.ends(self.read_ttls(&leases)?, now);
        let over: Vec<String> = ends.into_iter().filter(|(_, end)| *end <= now.moment).map(|(key, _)| key).collect();
        for key in &over {
            self.remove(key)?;
        }
        Ok(over)
    }

    fn lease(&self, key: &str) -> Result<PathBuf, StoreError> {
        if is_key(key) { Ok(self.subnets().join(key)) } else { Err(StoreError::Key(key.to_owned())) }
    }

    /// The lock for a change, once what a killed holder left is gone.
    fn exclusive(&self) -> Result<File, FileError> {
        self.prepare()?;
        let lock = self.lock(true)?;
        for entry in std::fs::read_dir(self.temps()).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        Ok(lock)
    }

    fn set_ttl(&self, key: &str, ttl: Option<Duration>) -> Result<(), FileError> {
        let path = self.ttls().join(key);
        match ttl {
            None => remove_if_there(&path),
            Some(ttl) => {
                let text = Ttl::lasting(ttl, &self.now()).to_text();
                self.draft(&path, text.as_bytes())?.replace().map_err(at("replace", &path))
            }
        }
    }

    /// A file that is whole and has no name yet.
    fn draft(&self, target: &Path, content: &[u8]) -> Result<Draft, FileError> {
        let draft = Draft::new(&self.temps(), target, READABLE)?;
        draft.fill(content).map(|()| draft)
    }

    fn remove(&self, key: &str) -> Result<(), FileError> {
        remove_if_there(&self.subnets().join(key))?;
        // a lease gone and its time left is harmless; the other way round it would never end
        remove_if_there(&self.ttls().join(key))
    }
}

fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn holds(path: &Path, value: &[u8]) -> Result<bool, FileError> {
    match read_small(path) {
        Ok(content) => Ok(content == value),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(false),
        Err(error) => Err(at("read", path)(error)),
    }
}

fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    read_own(path, LARGEST)
}
