//! host-local's reservations of a network on disk: upstream's files, upstream's lock, so that Go's plugin and this one
//! can share a directory; and beside it an index of ours (see `index`).
//!
//! `<dataDir>/<network>/` holds a file per address (its name the address, its content the container id, CR LF, the
//! interface name), `last_reserved_ip.<set>` and `lock`.

mod allocate;
mod backing;
mod directory;
mod error;
mod index;
mod layout;
mod range;
mod reservation;
mod span;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use directory::{Content, Directory};
use index::Index;
use layout::Slot;
use span::{Number, Span};

pub use error::{ReservationError, Unreleased};
pub use range::{Range, RangeError, RangeSet, RangeSpec};
pub use reservation::{Owner, Reservation, list};

/// Where upstream keeps reservations, unless a configuration names another folder (`ipam.dataDir`).
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The reservations of a network, locked.
pub struct Reservations {
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
    fn ask<T>(
        &mut self,
        directory: &Directory,
        ask: impl Fn(&mut Index) -> io::Result<T>,
    ) -> Result<T, ReservationError> {
        if let Ok(answer) = ask(&mut self.index) {
            return Ok(answer);
        }
        self.reread(directory)?;
        ask(&mut self.index).map_err(|cause| ReservationError::new("index", &self.path, cause))
    }

    fn reread(&mut self, directory: &Directory) -> Result<(), ReservationError> {
        self.index = self.index.reread(directory, &self.path)?;
        Ok(())
    }
}

/// The file name of a reservation.
fn name(number: Number) -> String {
    IpAddr::from(number).to_string()
}

/// `<dataDir>/<network>`. The name was checked to be one component.
fn directory_of(data_dir: &Path, network: &str) -> PathBuf {
    data_dir.join(network)
}

impl Reservations {
    /// Waits for the lock and creates what is missing. `sets` are those that will be asked for a free address.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn open(data_dir: &Path, network: &str, sets: &[RangeSet]) -> Result<Self, ReservationError> {
        let path = directory_of(data_dir, network);
        match Self::open_at(path.clone(), true, network, sets)? {
            Some(reservations) => Ok(reservations),
            None => Err(ReservationError::new("create", &path, io::ErrorKind::NotFound.into())),
        }
    }

    /// The same, but `None` when nothing was ever reserved, or nothing can have been.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn existing(data_dir: &Path, network: &str) -> Result<Option<Self>, ReservationError> {
        Self::open_at(directory_of(data_dir, network), false, network, &[])
    }

    fn open_at(
        path: PathBuf,
        create: bool,
        network: &str,
        sets: &[RangeSet],
    ) -> Result<Option<Self>, ReservationError> {
        let Some(directory) = Directory::open(path, create)? else { return Ok(None) };
        let lock = directory.lock()?;
        let wanted: Vec<Span> = sets.iter().flat_map(RangeSet::ranges).map(|range| range.span).collect();
        let index_path = index::path_of(&directory.path, network);
        let index = Index::open(&directory, &index_path, &wanted)?;
        Ok(Some(Self { directory, index: Kept { index, path: index_path }, _lock: lock }))
    }

    /// Signs the index and gives the lock back. Dropping gives the lock back and leaves the index unsigned, which is
    /// right after a failure.
    pub fn close(self) {
        self.index.index.sign(&self.directory);
    }

    /// What the owner has: files with its id and interface or, when there are none, with its id alone. A file that
    /// somebody rewrote in place is found under its former owner only, and not counted.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn of(&mut self, owner: Owner<'_>) -> Result<Vec<IpAddr>, ReservationError> {
        Ok(self.owned(owner)?.into_iter().map(IpAddr::from).collect())
    }

    /// The same, but where it is nothing, every file is read.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn all_of(&mut self, owner: Owner<'_>) -> Result<Vec<IpAddr>, ReservationError> {
        let found = self.of(owner)?;
        if !found.is_empty() || self.index.index.fresh {
            return Ok(found);
        }
        self.index.reread(&self.directory)?;
        self.of(owner)
    }

    fn owned(&mut self, owner: Owner<'_>) -> Result<Vec<Number>, ReservationError> {
        let exact = self.holding(&owner.content())?;
        if exact.is_empty() && self.index.index.has_legacy() { self.holding(owner.container) } else { Ok(exact) }
    }

    /// Removes all that the owner has, and goes on behind a failure.
    ///
    /// # Errors
    /// Everything that could not be removed.
    pub fn release_all(&mut self, owner: Owner<'_>) -> Result<(), Unreleased> {
        let owned = self.all_of(owner)?;
        Unreleased::all(owned.into_iter().filter_map(|ip| self.release(ip, owner).err()))
    }

    /// Removes one that the owner has.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn release(&mut self, ip: IpAddr, owner: Owner<'_>) -> Result<(), ReservationError> {
        let number = Number::from(ip);
        self.directory.remove(&name(number))?;
        let content = owner.content();
        self.index.ask(&self.directory, |index| {
            index.remove(number, &content)?;
            if index.has_legacy() { index.remove(number, owner.container) } else { Ok(()) }
        })
    }

    fn holding(&mut self, text: &str) -> Result<Vec<Number>, ReservationError> {
        let slots = self.index.ask(&self.directory, |index| index.find(text))?;
        let mut numbers: Vec<Number> = slots.into_iter().map(|slot| slot.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut held = Vec::with_capacity(numbers.len());
        for number in numbers {
            if self.directory.read(&name(number))? == Content::Text(text.to_owned()) {
                held.push(number);
            }
        }
        Ok(held)
    }

    /// Removes what the owner had before this boot: a container that is started again under its old id.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn release_outlived(&mut self, owner: Owner<'_>) -> Result<(), ReservationError> {
        if !self.index.index.has_outlived() {
            return Ok(());
        }
        let content = owner.content();
        let slots = self.index.ask(&self.directory, |index| index.find(&content))?;
        self.reclaim(slots.into_iter().filter(|slot| slot.outlived)).map(drop)
    }

    /// Removes reservations, unless their files say something else by now. True when there was one.
    fn reclaim(&mut self, slots: impl Iterator<Item = Slot>) -> Result<bool, ReservationError> {
        let mut any = false;
        for Slot { hash, number, .. } in slots {
            let file_name = name(number);
            match self.directory.read(&file_name)? {
                Content::Text(text) if layout::hash(&text) == hash => {
                    self.directory.remove(&file_name)?;
                    self.index.ask(&self.directory, |index| index.remove(number, &text))?;
                    any = true;
                }
                _ => {}
            }
        }
        Ok(any)
    }

    /// Removes every reservation that `keep` refuses, and what a writer that died has left. Reads every file, and goes on
    /// behind a failure.
    ///
    /// # Errors
    /// Everything that could not be read or removed.
    pub fn retain(&mut self, keep: impl Fn(&Reservation) -> bool) -> Result<(), Unreleased> {
        let names: Vec<_> = directory::addresses(self.directory.names()?).collect();
        let remove = |(name, number): &(String, Number)| self.remove_unless(name, *number, &keep).err();
        let failed: Vec<_> = names.iter().filter_map(remove).collect();
        let reread = self.index.reread(&self.directory);
        Unreleased::all(failed.into_iter().chain(reread.err()))
    }

    fn remove_unless(
        &self,
        file_name: &str,
        number: Number,
        keep: &impl Fn(&Reservation) -> bool,
    ) -> Result<(), ReservationError> {
        let stale = match self.directory.read(file_name)? {
            Content::Text(text) => !keep(&Reservation::read(number, &text)),
            content => content == Content::Empty,
        };
        if stale { self.directory.remove(file_name).map(drop) } else { Ok(()) }
    }
}

/// An index file's header, read and written again; `None` when it is none of ours. The index is rebuilt then.
pub fn recode_index(bytes: &[u8]) -> Option<Vec<u8>> {
    layout::Header::decode(bytes).map(|header| header.encode())
}
