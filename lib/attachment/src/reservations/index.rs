//! An index of reservations. It makes the cost of an allocation independent of the number of addresses in use. It is a
//! copy of the directory's content in a file beside it, of which a call reads only a part.
//!
//! The directory remains the truth. The index is valid only while the directory's time of change equals the time in the
//! index to the nanosecond. The last writer *set* that time (`utimensat`). Any other change to a file, by an operator's
//! `rm` or by a Go plugin, sets the time from the kernel's clock, and the next caller reads the directory again. So
//! does the first caller after a boot, because a crash may have kept some blocks and lost others. All of this happens
//! under upstream's lock.
//!
//! An index that matches the directory but is from another boot says more: every reservation outlived its container,
//! because no network namespace survives a boot. Such reservations are remembered as long as nobody else writes.
//!
//! An owner found here is read from disk before anything is done to the reservation. An address that is free here is
//! still taken by exclusive creation. So a wrong index costs time, but never an address.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::ReservationError;
use super::backing::Backing;
use super::directory::{self, Content, Directory};
use super::layout::{BUCKET, Header, MAX_BUCKETS, MAX_RANGES, SLOT, SLOTS, Slot, hash};
use super::span::{Number, Span};
use super::sys::{self, Stamp};

/// Bytes of bits in the first read, and the most in any read: the bits of a whole /16. Each read is as long as all
/// reads before it.
const PIECES: (usize, usize) = (512, 8192);

pub(super) struct Index {
    header: Header,
    backing: Backing,
    /// Whether it differs from the file's header, or the directory was changed.
    changed: bool,
    /// Whether the disk contradicted it. It then serves this call but is not signed.
    doubted: bool,
    /// Whether it was read from the directory in this call.
    pub fresh: bool,
}

/// The index file `<dataDir>/.<network>.index`. No network's name starts with a dot, and no reader of reservations
/// looks there.
pub(super) fn path_of(directory: &Path, network: &str) -> PathBuf {
    directory.with_file_name(format!(".{network}.index"))
}

impl Index {
    /// Opens the index of the directory for the spans `wanted`. Reads the directory if the file cannot be used.
    pub(super) fn open(directory: &Directory, path: &Path, wanted: &[Span]) -> Result<Self, ReservationError> {
        let stamp = sys::stamp(&directory.fd).map_err(|cause| directory.failed("stat", "", cause))?;
        let boot = sys::boot_id();
        let file = sys::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW).ok();
        let backing = file.and_then(|file| Backing::open(file).ok());
        let wanted = &wanted[..wanted.len().min(MAX_RANGES)];
        let known = backing.as_ref().and_then(|backing| Header::decode(backing.head()));
        if let (Some(header), Some(boot)) = (&known, boot) {
            let covers = wanted.iter().all(|span| header.ranges.contains(span));
            if let Some(backing) = backing.filter(|_| covers && header.stamp == stamp && header.boot == boot) {
                return Ok(Self { header: header.clone(), backing, changed: false, doubted: false, fresh: false });
            }
            let outlived = header.stamp == stamp && header.boot != boot;
            let blank = Self::blank(with_older(wanted, &header.ranges), boot, stamp);
            return Ok(blank.read_directory(directory, outlived)?.kept_in(path));
        }
        let blank = Self::blank(wanted.to_vec(), boot.unwrap_or([0; 36]), stamp);
        let index = blank.read_directory(directory, false)?;
        // without the boot ID no later call could use the file
        Ok(if boot.is_some() { index.kept_in(path) } else { index })
    }

    /// Reads the directory into an index in memory.
    pub(super) fn reread(&self, directory: &Directory, path: &Path) -> Result<Self, ReservationError> {
        let Header { ranges, boot, stamp, .. } = self.header.clone();
        Ok(Self::blank(ranges, boot, stamp).read_directory(directory, false)?.kept_in(path))
    }

    fn blank(ranges: Vec<Span>, boot: [u8; 36], stamp: Stamp) -> Self {
        let header = Header { boot, stamp, buckets: 1, legacy: 0, outlived: 0, ranges };
        Self { header, backing: Backing::memory(0), changed: true, doubted: false, fresh: true }
    }

    fn read_directory(mut self, directory: &Directory, outlived: bool) -> Result<Self, ReservationError> {
        let mut found = Vec::new();
        for (name, number) in directory::addresses(directory.names()?) {
            match directory.read(&name)? {
                Content::Missing | Content::Empty => {}
                Content::Text(owner) => found.push((number, Some(owner))),
                Content::Foreign => found.push((number, None)),
            }
        }
        let buckets = u32::try_from(found.len() / (SLOTS / 2) + 1).unwrap_or(MAX_BUCKETS);
        self.header.buckets = buckets.next_power_of_two().min(MAX_BUCKETS);
        self.backing = Backing::memory(self.header.file_length());
        for (number, owner) in found {
            // memory takes every write inside its length; a write outside means that the table is too full
            if self.fill(number, owner.as_deref(), outlived).is_err() {
                self.doubted = true;
            }
        }
        Ok(self)
    }

    fn fill(&mut self, number: Number, owner: Option<&str>, outlived: bool) -> io::Result<()> {
        self.set_bit(number, true)?;
        owner.map_or(Ok(()), |owner| self.add_owner(owner, number, outlived))
    }

    /// Moves a fresh index into the file. If that fails (a full or read-only disk), the index stays in memory.
    fn kept_in(mut self, path: &Path) -> Self {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        if let Ok(file) = sys::open(path, flags) {
            self.backing = self.backing.into_file(file);
        }
        self
    }

    /// Reservations that may have this content.
    pub(super) fn find(&mut self, owner: &str) -> io::Result<Vec<Slot>> {
        let hash = hash(owner);
        let bucket = self.bucket(hash)?;
        Ok(slots(bucket).filter_map(|(_, slot)| slot).filter(|slot| slot.hash == hash).collect())
    }

    /// Whether any reservation outlived its container.
    pub(super) fn has_outlived(&self) -> bool {
        self.header.outlived > 0
    }

    /// All reservations that outlived their containers. Reads all owners.
    pub(super) fn outlived(&mut self) -> io::Result<Vec<Slot>> {
        if !self.has_outlived() {
            return Ok(Vec::new());
        }
        let table = self.backing.read(self.header.buckets_at(), self.header.buckets as usize * BUCKET)?;
        let all = table.chunks(BUCKET).flat_map(slots).filter_map(|(_, slot)| slot);
        Ok(all.filter(|slot| slot.outlived).collect())
    }

    /// Whether a reservation may contain only a container ID.
    pub(super) fn has_legacy(&self) -> bool {
        self.header.legacy > 0
    }

    /// The first address of `span` that is not known to be taken. For addresses without a bit only the disk knows.
    pub(super) fn next_free(&mut self, span: Span) -> io::Result<Option<Number>> {
        let mut number = span.first;
        loop {
            let Some(bits) = self.header.bits().find(|bits| bits.span.contains(number)) else {
                return Ok(Some(number));
            };
            let last = bits.span.last.min(span.last);
            if let Some(bit) = self.first_clear(bits.offset, bits.bit(number), bits.bit(last))? {
                return Ok(Some(Number(bits.span.first.0 + u128::from(bit))));
            }
            if last >= span.last {
                return Ok(None);
            }
            number = last.next();
        }
    }

    fn first_clear(&mut self, base: u64, from: u64, to: u64) -> io::Result<Option<u64>> {
        let (mut byte, last_byte) = (from / 8, to / 8);
        // the bits before `from` count as taken
        let mut mask = (1_u8 << (from % 8)) - 1;
        let (mut piece, most) = PIECES;
        while byte <= last_byte {
            let length = usize::try_from(last_byte - byte + 1).map_or(piece, |n| n.min(piece));
            piece = most.min(2 * piece);
            let taken = self.backing.read(base + byte, length)?;
            for (at, bits) in (byte..).zip(taken.iter()) {
                let bits = bits | mask;
                mask = 0;
                if bits != 0xff {
                    let bit = at * 8 + u64::from(bits.trailing_ones());
                    return Ok((bit <= to).then_some(bit));
                }
            }
            byte += length as u64;
        }
        Ok(None)
    }

    /// Adds a reservation that was just made.
    pub(super) fn insert(&mut self, number: Number, owner: &str) -> io::Result<()> {
        self.changed = true;
        self.fill(number, Some(owner), false)
    }

    /// Removes a reservation that was just released.
    pub(super) fn remove(&mut self, number: Number, owner: &str) -> io::Result<()> {
        self.changed = true;
        let hash = hash(owner);
        let at = self.header.bucket_of(hash);
        let is = |slot: &Slot| (slot.hash, slot.number) == (hash, number);
        // before the bits, which are elsewhere in the file: the bucket is still in the cache
        let found = slots(self.bucket(hash)?).find_map(|(offset, slot)| Some((offset, slot.filter(is)?)));
        if let Some((offset, slot)) = found {
            self.backing.write(at + offset, &[0; SLOT])?;
            if is_legacy(owner) {
                self.header.legacy = self.header.legacy.saturating_sub(1);
            }
            if slot.outlived {
                self.header.outlived = self.header.outlived.saturating_sub(1);
            }
        }
        self.set_bit(number, false)
    }

    /// Notes that an address is reserved on disk but free here. Later calls read the directory again.
    pub(super) fn doubt(&mut self, number: Number) -> io::Result<()> {
        if self.header.bits().any(|bits| bits.span.contains(number)) {
            self.doubted = true;
            self.set_bit(number, true)?;
        }
        Ok(())
    }

    /// Signs the index with a time of change that nobody else can have set. An error is ignored: an unsigned index is
    /// not used.
    pub(super) fn sign(mut self, directory: &Directory) {
        if !self.changed || self.doubted || !self.backing.is_file() {
            return;
        }
        let Ok((seconds, nanoseconds)) = sys::touch(&directory.fd) else { return };
        self.header.stamp = Stamp { seconds, nanoseconds, ..self.header.stamp };
        // a failure does no harm: the old header's stamp no longer matches the directory
        let _ = self.backing.write(0, &self.header.encode());
    }

    fn set_bit(&mut self, number: Number, taken: bool) -> io::Result<()> {
        let places: Vec<_> = self.header.bits().filter(|bits| bits.span.contains(number)).collect();
        for bits in places {
            let bit = bits.bit(number);
            let at = bits.offset + bit / 8;
            let [byte] = *self.backing.read(at, 1)? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let mask = 1 << (bit % 8);
            let wanted = if taken { byte | mask } else { byte & !mask };
            if wanted != byte {
                self.backing.write(at, &[wanted])?;
            }
        }
        Ok(())
    }

    fn bucket(&mut self, hash: u64) -> io::Result<&[u8]> {
        self.backing.read(self.header.bucket_of(hash), BUCKET)
    }

    fn add_owner(&mut self, owner: &str, number: Number, outlived: bool) -> io::Result<()> {
        let hash = hash(owner);
        loop {
            let free = slots(self.bucket(hash)?).find(|(_, slot)| slot.is_none()).map(|(offset, _)| offset);
            if let Some(offset) = free {
                let slot = Slot { hash, number, outlived };
                self.backing.write(self.header.bucket_of(hash) + offset, &slot.encode())?;
                if is_legacy(owner) {
                    self.header.legacy += 1;
                }
                self.header.outlived += u32::from(outlived);
                return Ok(());
            }
            self.grow()?;
        }
    }

    /// Doubles the buckets. The stamp no longer matches at this point, so a crash leaves no wrong index.
    fn grow(&mut self) -> io::Result<()> {
        if self.header.buckets >= MAX_BUCKETS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let at = self.header.buckets_at();
        let old = self.backing.read(at, self.header.buckets as usize * BUCKET)?.to_vec();
        self.header.buckets *= 2;
        let mut new = vec![0; old.len() * 2];
        let mut used = vec![0_usize; self.header.buckets as usize];
        for slot in old.chunks(BUCKET).flat_map(slots).filter_map(|(_, slot)| slot) {
            let bucket = (self.header.bucket_of(slot.hash) - at) as usize / BUCKET;
            let start = bucket * BUCKET + used[bucket] * SLOT;
            new[start..start + SLOT].copy_from_slice(&slot.encode());
            used[bucket] += 1;
        }
        self.backing.write(at, &new)
    }
}

/// Whether the content is a container ID alone: an ID has no white space, the two-line form has.
fn is_legacy(owner: &str) -> bool {
    !owner.contains('\n')
}

/// The slots of a bucket, each with its offset.
fn slots(bucket: &[u8]) -> impl Iterator<Item = (u64, Option<Slot>)> {
    (0..).step_by(SLOT).zip(bucket.chunks_exact(SLOT)).map(|(offset, bytes)| (offset, Slot::decode(bytes)))
}

/// `wanted`, and as many of the older ranges as fit, so that two configurations of one network do not reread in turn.
fn with_older(wanted: &[Span], older: &[Span]) -> Vec<Span> {
    let mut ranges = wanted.to_vec();
    ranges.extend(older.iter().filter(|span| !wanted.contains(span)));
    ranges.truncate(MAX_RANGES);
    ranges
}
