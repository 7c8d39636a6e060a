//! Changes the embedded store's files. Each change holds the exclusive lock and checks its condition first.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay::lease::Subnets;

use super::layout::{Content, Layout};
use super::ttl::Ttl;
use crate::compare::{Raw, Term, Written};
use crate::files::{Draft, FileError, READABLE, at};
use crate::halves;
use crate::index::Mark;

impl Layout {
    /// Reads one lease.
    pub(super) fn get(&self, key: Subnets) -> Result<Option<Raw>, FileError> {
        let name = key.to_string();
        let Content::Value(value) = Content::read(&self.subnets().join(&name))? else { return Ok(None) };
        let text = self.read_ttl(&name)?.filter(|text| self.parse_ttl(text).is_some());
        Ok(Some(Raw { value, term: Term { id: text.map(|text| Mark::of(&text).number()), end: None } }))
    }

    /// Writes a lease under a free name, unless another host holds one of its halves. Two hosts that choose at the
    /// same time may pick the same subnet in one family and different ones in the other, and so different names.
    pub(super) fn create(&self, key: Subnets, value: &[u8], ttl: Option<Duration>) -> Result<Written, FileError> {
        let path = self.lease(key);
        let _lock = self.exclusive()?;
        if path.symlink_metadata().is_ok() || self.is_half_taken(key, value)? {
            return Ok(Written::Conflict);
        }
        // The end is written first: a lease without it would never end.
        let term = self.set_ttl(key, ttl)?;
        match self.draft(&path, value)?.link() {
            Ok(()) => Ok(Written::Done(term)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Written::Conflict),
            Err(error) => Err(at("create", &path)(error)),
        }
    }

    fn is_half_taken(&self, key: Subnets, value: &[u8]) -> Result<bool, FileError> {
        let dir = self.subnets();
        let halves = halves::Halves::of(key);
        for entry in std::fs::read_dir(&dir).map_err(at("list", &dir))? {
            let name = entry.map_err(at("list", &dir))?.file_name();
            if name.to_str().is_none_or(|name| !halves.are_in(name)) {
                continue;
            }
            // An entry that cannot be read is not a lease.
            if let Ok(Content::Value(theirs)) = Content::read(&dir.join(name))
                && halves::is_of_another(key, value, &theirs)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces the value `old` and sets a new end.
    pub(super) fn renew(
        &self,
        key: Subnets,
        old: &[u8],
        new: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Written, FileError> {
        let path = self.lease(key);
        let _lock = self.exclusive()?;
        if !holds(&path, old)? {
            return Ok(Written::Conflict);
        }
        let term = self.set_ttl(key, ttl)?;
        if old != new {
            self.draft(&path, new)?.replace().map_err(at("replace", &path))?;
        }
        Ok(Written::Done(term))
    }

    /// Removes the lease if its value is `old`.
    pub(super) fn delete(&self, key: Subnets, old: &[u8]) -> Result<Written, FileError> {
        let path = self.lease(key);
        let _lock = self.exclusive()?;
        if !holds(&path, old)? {
            return Ok(Written::Conflict);
        }
        self.remove(key)?;
        Ok(Written::Done(Term::default()))
    }

    /// Removes the leases that have ended, provided that their files still say so. Returns their keys.
    pub(super) fn expire(&self, over: &[(Subnets, Ttl)]) -> Result<Vec<Subnets>, FileError> {
        let _lock = self.exclusive()?;
        let mut removed = Vec::new();
        for (key, ttl) in over {
            let now = self.read_ttl(&key.to_string())?.and_then(|text| self.parse_ttl(&text));
            if now == Some(*ttl) {
                self.remove(*key)?;
                removed.push(*key);
            }
        }
        Ok(removed)
    }

    fn lease(&self, key: Subnets) -> PathBuf {
        self.subnets().join(key.to_string())
    }

    /// Takes the lock for a change, and removes what a killed holder left.
    fn exclusive(&self) -> Result<File, FileError> {
        self.prepare()?;
        let lock = self.lock(true)?;
        for entry in std::fs::read_dir(self.temps()).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        Ok(lock)
    }

    fn set_ttl(&self, key: Subnets, ttl: Option<Duration>) -> Result<Term, FileError> {
        let path = self.ttls().join(key.to_string());
        let Some(ttl) = ttl else { return remove_if_there(&path).map(|()| Term::default()) };
        let now = self.now();
        let text = Ttl::lasting(ttl, &now);
        self.draft(&path, text.as_bytes())?.replace().map_err(at("replace", &path))?;
        Ok(Term { id: Some(Mark::of(text.as_bytes()).number()), end: Some(now.moment.after(ttl)) })
    }

    /// A complete file that has no name yet.
    fn draft(&self, target: &Path, content: &[u8]) -> Result<Draft, FileError> {
        let draft = Draft::new(&self.temps(), target, READABLE)?;
        draft.fill(content).map(|()| draft)
    }

    fn remove(&self, key: Subnets) -> Result<(), FileError> {
        remove_if_there(&self.lease(key))?;
        // An end without a lease is harmless; a lease without its end would never end.
        remove_if_there(&self.ttls().join(key.to_string()))
    }
}

fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn holds(path: &Path, value: &[u8]) -> Result<bool, FileError> {
    Ok(matches!(Content::read(path)?, Content::Value(content) if content == value))
}
