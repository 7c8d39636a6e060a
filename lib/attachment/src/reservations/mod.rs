//! host-local's reservations of a network on disk: upstream's files under upstream's lock, so that Go's plugin and this
//! one can share a directory. An index of our own is beside them (see `index`).
//!
//! `<dataDir>/<network>/` contains a file per address (name: the address; content: the container ID, CR LF, the
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

/// Upstream's default for `ipam.dataDir`.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The locked reservations of a network.
pub struct Reservations {
    directory: Directory,
    index: Kept,
    // dropped last
    _lock: OwnedFd,
}

/// The index and its path.
struct Kept {
    index: Index,
    path: PathBuf,
}

impl Kept {
    /// Asks the index. If its file proves to be damaged, asks a new one.
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

/// The name of a reservation's file.
fn name(number: Number) -> String {
    IpAddr::from(number).to_string()
}

/// `<dataDir>/<network>`. The network's name was checked to be a single path component.
fn directory_of(data_dir: &Path, network: &str) -> PathBuf {
    data_dir.join(network)
}

impl Reservations {
    /// Waits for the lock and creates what is missing. `sets` are the sets that the caller allocates from.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn open(data_dir: &Path, network: &str, sets: &[RangeSet]) -> Result<Self, ReservationError> {
        let path = directory_of(data_dir, network);
        match Self::open_at(path.clone(), true, network, sets)? {
            Some(reservations) => Ok(reservations),
            None => Err(ReservationError::new("create", &path, io::ErrorKind::NotFound.into())),
        }
    }

    /// As [`Reservations::open`], but creates nothing: `None` if there has never been a reservation.
    ///
    /// # Errors
    /// An operation on the disk failed.
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

    /// Signs the index and releases the lock. Dropping only releases the lock and leaves the index unsigned, as it must
    /// be after a failure.
    pub fn close(self) {
        self.index.index.sign(&self.directory);
    }

    /// The owner's addresses: files with its ID and interface or, if there are none, with its ID alone. A file that
    /// somebody else rewrote in place is looked up under its former owner only, and left out.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn of(&mut self, owner: Owner<'_>) -> Result<Vec<IpAddr>, ReservationError> {
        Ok(self.owned(owner)?.into_iter().map(IpAddr::from).collect())
    }

    /// As [`Reservations::of`], but reads every file before it answers that there is none.
    ///
    /// # Errors
    /// An operation on the disk failed.
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

    /// Releases all addresses of the owner. Continues after a failure.
    ///
    /// # Errors
    /// Every address that could not be released.
    pub fn release_all(&mut self, owner: Owner<'_>) -> Result<(), Unreleased> {
        let owned = self.all_of(owner)?;
        Unreleased::all(owned.into_iter().filter_map(|ip| self.release(ip, owner).err()))
    }

    /// Releases one address of the owner.
    ///
    /// # Errors
    /// An operation on the disk failed.
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

    /// Releases the owner's addresses from before this boot: a container may start again under its old ID.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn release_outlived(&mut self, owner: Owner<'_>) -> Result<(), ReservationError> {
        if !self.index.index.has_outlived() {
            return Ok(());
        }
        let content = owner.content();
        let slots = self.index.ask(&self.directory, |index| index.find(&content))?;
        self.reclaim(slots.into_iter().filter(|slot| slot.outlived)).map(drop)
    }

    /// Removes reservations whose files still name the same owner. Returns whether there was one.
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

    /// Removes every reservation for which `keep` is false, and the files that dead writers left. Reads every file.
    /// Continues after a failure.
    ///
    /// # Errors
    /// Every file that could not be read or removed.
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

/// Reads an index file's header and writes it again. `None` if it is not ours; the index is then rebuilt.
pub fn recode_index(bytes: &[u8]) -> Option<Vec<u8>> {
    layout::Header::decode(bytes).map(|header| header.encode())
}
