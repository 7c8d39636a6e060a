//! The reservations of a network on disk: upstream's files, upstream's lock, so that Go's plugin and this one can share
//! a directory; and beside it an index of ours (see [`index`]).
//!
//! `<dataDir>/<network>/` holds a file per address (its name the address, its content the container id, CR LF, the
//! interface name), `last_reserved_ip.<set>` and `lock`.

mod backing;
mod directory;
mod index;
mod layout;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::range::{Range, RangeSet};
use super::span::{Key, Span};
use directory::{Content, Directory};
use index::Index;
use layout::Slot;

/// A disk that does not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {cause}{}", path.display(), advice(cause))]
pub(super) struct StoreError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl StoreError {
    fn new(operation: &'static str, path: &Path, cause: io::Error) -> Self {
        Self { operation, path: path.to_owned(), cause }
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => "; free some space (or inodes) on that disk: nothing was reserved",
        io::ErrorKind::ReadOnlyFilesystem => "; 'ipam.dataDir' must be on a writable file system",
        io::ErrorKind::PermissionDenied => "; the plugin must run as the owner of 'ipam.dataDir'",
        io::ErrorKind::NotADirectory => "; 'ipam.dataDir' and what is above it must be directories",
        _ => "",
    }
}

/// To whom an address is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner<'a> {
    pub id: &'a str,
    pub ifname: &'a str,
}

impl Owner<'_> {
    /// The content of its files.
    pub(super) fn content(self) -> String {
        format!("{}\r\n{}", self.id, self.ifname)
    }
}

/// The store of a network, locked.
pub(super) struct Store {
    directory: Directory,
    index: Kept,
    // released last
    _lock: OwnedFd,
}

/// The index and where it is kept.
struct Kept {
    index: Index,
    path: PathBuf,
}

impl Kept {
    /// Asks the index, and a new one when this one's file turns out to be damaged.
    fn ask<T>(&mut self, directory: &Directory, ask: impl Fn(&mut Index) -> io::Result<T>) -> Result<T, StoreError> {
        if let Ok(answer) = ask(&mut self.index) {
            return Ok(answer);
        }
        self.reread(directory)?;
        ask(&mut self.index).map_err(|cause| StoreError::new("index", &self.path, cause))
    }

    fn reread(&mut self, directory: &Directory) -> Result<(), StoreError> {
        self.index = self.index.reread(directory, &self.path)?;
        Ok(())
    }

    /// The next address that may be free; the gateway never is.
    fn candidate(&mut self, directory: &Directory, range: &Range, mut span: Span) -> Result<Option<Key>, StoreError> {
        let gateway = Key::from(range.gateway);
        loop {
            match self.ask(directory, |index| index.next_free(span))? {
                Some(key) if key == gateway && key == span.last => return Ok(None),
                Some(key) if key == gateway => span.first = key.next(),
                found => return Ok(found),
            }
        }
    }
}

/// The shape of a reservation's file name, for what the store is asked to touch.
fn name(key: Key) -> String {
    IpAddr::from(key).to_string()
}

impl Store {
    /// Creates what is missing. `sets` are those that will be asked for a free address.
    pub(super) fn open(data_dir: &Path, network: &str, sets: &[RangeSet]) -> Result<Self, StoreError> {
        let path = directory::path_of(data_dir, network);
        match Self::open_at(path.clone(), true, network, sets)? {
            Some(store) => Ok(store),
            None => Err(StoreError::new("create", &path, io::ErrorKind::NotFound.into())),
        }
    }

    /// None when nothing was ever reserved.
    pub(super) fn open_existing(data_dir: &Path, network: &str) -> Result<Option<Self>, StoreError> {
        Self::open_at(directory::path_of(data_dir, network), false, network, &[])
    }

    fn open_at(path: PathBuf, create: bool, network: &str, sets: &[RangeSet]) -> Result<Option<Self>, StoreError> {
        let Some(directory) = Directory::open(path, create)? else { return Ok(None) };
        let lock = directory.lock()?;
        let wanted: Vec<Span> = sets.iter().flat_map(RangeSet::ranges).map(|range| range.span).collect();
        let index_path = index::path_of(&directory.path, network);
        let index = Index::open(&directory, &index_path, &wanted)?;
        Ok(Some(Self { directory, index: Kept { index, path: index_path }, _lock: lock }))
    }

    /// Signs the index and gives the lock back. Dropping the store gives the lock back and leaves the index unsigned,
    /// which is right after a failure.
    pub(super) fn close(self) {
        self.index.index.sign(&self.directory);
    }

    /// What the owner has: files with its id and interface or, when there are none, with its id alone.
    pub(super) fn owned(&mut self, owner: Owner<'_>) -> Result<Vec<Key>, StoreError> {
        let exact = self.holding(&owner.content())?;
        if exact.is_empty() && self.index.index.has_legacy() { self.holding(owner.id) } else { Ok(exact) }
    }

    /// Removes all of it.
    pub(super) fn release_all(&mut self, owner: Owner<'_>) -> Result<(), StoreError> {
        let mut first_error = None;
        for key in self.owned(owner)? {
            if let Err(error) = self.release(key, owner) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Removes one that the owner has.
    pub(super) fn release(&mut self, key: Key, owner: Owner<'_>) -> Result<(), StoreError> {
        self.directory.remove(&name(key))?;
        let content = owner.content();
        self.index.ask(&self.directory, |index| {
            index.remove(key, &content)?;
            if index.has_legacy() { index.remove(key, owner.id) } else { Ok(()) }
        })
    }

    fn holding(&mut self, text: &str) -> Result<Vec<Key>, StoreError> {
        let slots = self.index.ask(&self.directory, |index| index.find(text))?;
        let mut keys: Vec<Key> = slots.into_iter().map(|slot| slot.key).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            if self.directory.read(&name(key))? == Content::Text(text.to_owned()) {
                held.push(key);
            }
        }
        Ok(held)
    }

    /// Removes what the owner had before this boot: a container that is started again under its old id.
    pub(super) fn release_outlived(&mut self, owner: Owner<'_>) -> Result<(), StoreError> {
        if !self.index.index.has_outlived() {
            return Ok(());
        }
        let content = owner.content();
        let slots = self.index.ask(&self.directory, |index| index.find(&content))?;
        self.reclaim(slots.into_iter().filter(|slot| slot.outlived)).map(drop)
    }

    /// Removes reservations, unless their files say something else by now. True when there was one.
    fn reclaim(&mut self, slots: impl Iterator<Item = Slot>) -> Result<bool, StoreError> {
        let mut any = false;
        for Slot { hash, key, .. } in slots {
            let file_name = name(key);
            match self.directory.read(&file_name)? {
                Content::Text(text) if layout::hash(&text) == hash => {
                    self.directory.remove(&file_name)?;
                    self.index.ask(&self.directory, |index| index.remove(key, &text))?;
                    any = true;
                }
                _ => {}
            }
        }
        Ok(any)
    }

    /// Reserves this address. False when it is taken.
    pub(super) fn reserve(&mut self, key: Key, owner: Owner<'_>) -> Result<bool, StoreError> {
        let content = owner.content();
        if !take(&self.directory, key, &mut self.directory.draft(&content)?)? {
            return Ok(false);
        }
        self.index.ask(&self.directory, |index| index.insert(key, &content))?;
        Ok(true)
    }

    /// Reserves the next free address of the set after `last`, and gives it with its range; when all are taken, one
    /// whose reservation outlived its container. None is never said on the index's word.
    pub(super) fn reserve_next<'s>(
        &mut self,
        set: &'s RangeSet,
        last: Option<Key>,
        owner: Owner<'_>,
    ) -> Result<Option<(Key, &'s Range)>, StoreError> {
        let found = self.search(set, last, &owner.content())?;
        if found.is_some() {
            return Ok(found);
        }
        let outlived = self.index.ask(&self.directory, |index| index.outlived())?;
        if self.reclaim(outlived.into_iter().filter(|slot| set.range_of(slot.key).is_some()))? {
            return self.search(set, last, &owner.content());
        }
        if self.index.index.fresh {
            return Ok(None);
        }
        self.index.reread(&self.directory)?;
        self.search(set, last, &owner.content())
    }

    fn search<'s>(
        &mut self,
        set: &'s RangeSet,
        last: Option<Key>,
        content: &str,
    ) -> Result<Option<(Key, &'s Range)>, StoreError> {
        let mut draft = None;
        for (range, mut span) in set.search_order(last) {
            while let Some(key) = self.index.candidate(&self.directory, range, span)? {
                let draft = match &mut draft {
                    Some(draft) => draft,
                    none => none.insert(self.directory.draft(content)?),
                };
                if take(&self.directory, key, draft)? {
                    self.index.ask(&self.directory, |index| index.insert(key, content))?;
                    return Ok(Some((key, range)));
                }
                self.index.ask(&self.directory, |index| index.doubt(key))?;
                if key == span.last {
                    break;
                }
                span.first = key.next();
            }
        }
        Ok(None)
    }

    /// Whether an address of the set could be reserved now.
    pub(super) fn has_free(&mut self, set: &RangeSet) -> Result<bool, StoreError> {
        for (range, span) in set.search_order(None) {
            if self.index.candidate(&self.directory, range, span)?.is_some() {
                return Ok(true);
            }
        }
        let outlived = self.index.ask(&self.directory, |index| index.outlived())?;
        Ok(outlived.iter().any(|slot| set.range_of(slot.key).is_some()))
    }

    /// What the set gave last; None when that is not known.
    pub(super) fn last_reserved(&self, set: usize) -> Result<Option<Key>, StoreError> {
        let content = self.directory.read(&last_reserved_name(set))?;
        let ip = if let Content::Text(text) = content { gojson::parse_ip(&text) } else { None };
        Ok(ip.map(Key::from))
    }

    /// Written in place, as upstream does: half of it would be a wrong place to start from, nothing worse.
    pub(super) fn set_last_reserved(&self, set: usize, key: Key) -> Result<(), StoreError> {
        let file_name = last_reserved_name(set);
        self.overwrite(&file_name, name(key).as_bytes())
            .map_err(|cause| self.directory.failed("write", &file_name, cause))
    }

    /// Without O_TRUNC: ext4 takes a file that was emptied and written for one that is replaced, and starts to write it
    /// to disk when it is closed (auto_da_alloc), which costs more than the rest of an allocation.
    fn overwrite(&self, file_name: &str, content: &[u8]) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW;
        let file = sys::open_at(&self.directory.fd, file_name, flags, sys::FILE)?;
        sys::write_at(&file, content, 0)?;
        let length = content.len() as u64;
        if sys::length(&file)? > length { sys::truncate(&file, length) } else { Ok(()) }
    }

    /// Every reservation that `keep` refuses goes, and so does what a dead writer left. Reads every file; goes on after
    /// a failure and returns the first.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let mut first_error = None;
        for file_name in self.directory.names()? {
            if Key::from_file_name(&file_name).is_none() {
                continue;
            }
            let stale = match self.directory.read(&file_name) {
                Ok(Content::Text(text)) => Ok(!keep(&text)),
                Ok(content) => Ok(content == Content::Empty),
                Err(error) => Err(error),
            };
            let outcome = stale.and_then(|stale| if stale { self.directory.remove(&file_name) } else { Ok(false) });
            if let Err(error) = outcome {
                first_error.get_or_insert(error);
            }
        }
        self.index.reread(&self.directory)?;
        first_error.map_or(Ok(()), Err)
    }

    /// That a file can be made, without leaving one.
    pub(super) fn probe_writable(&self) -> Result<(), StoreError> {
        self.directory.draft("").map(drop)
    }
}

/// Gives the draft the address's name. An empty file under that name is nobody's and makes way.
fn take(directory: &Directory, key: Key, draft: &mut directory::Draft<'_>) -> Result<bool, StoreError> {
    let name = name(key);
    if draft.publish(&name)? {
        return Ok(true);
    }
    if directory.read(&name)? != Content::Empty {
        return Ok(false);
    }
    directory.remove(&name)?;
    draft.publish(&name)
}

/// An index file's header, read and written again.
pub(super) fn recode_index(bytes: &[u8]) -> Option<Vec<u8>> {
    layout::Header::decode(bytes).map(|header| header.encode())
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}
