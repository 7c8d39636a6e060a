//! The layout of the index file.
//!
//! ```text
//! 0        magic, boot id, directory stamp, counts
//! 160      ranges: first, last (16 bytes each)
//! …        one bit per address of each range, 1 is taken; each range starts at a multiple of 8
//! …        buckets of 1024 bytes from a multiple of 1024: 42 slots of owner hash (8) and address (16); hash 0 is free
//! ```
//! The parts are close together, so that a call reads and touches few pages. Numbers are little-endian: the file never
//! leaves the machine and never outlives its boot.

use super::span::{Number, Span};
use super::sys::Stamp;

pub(super) const BUCKET: usize = 1024;
pub(super) const SLOT: usize = 24;
pub(super) const SLOTS: usize = BUCKET / SLOT;
pub(super) const MAX_BUCKETS: u32 = 1 << 16;
/// Bits per range. In a larger range (an IPv6 subnet) only the first addresses have a bit; the others are tried on
/// disk.
pub(super) const MAX_BITS: u128 = 1 << 20;
pub(super) const MAX_RANGES: usize = 64;

const MAGIC: &[u8; 8] = b"hl-idx\x03\n";
const RANGES_AT: usize = 160;
/// Bytes of a range in the header.
const RANGE: usize = 32;

/// The header of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub boot: [u8; 36],
    /// The directory's stamp when the index was last valid.
    pub stamp: Stamp,
    /// The number of buckets, a power of two.
    pub buckets: u32,
    /// The number of reservations with only a container ID, as releases before 0.8 wrote them.
    pub legacy: u32,
    /// The number of reservations from before this boot.
    pub outlived: u32,
    pub ranges: Vec<Span>,
}

/// The place of a range's bits in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits {
    /// The addresses that have a bit.
    pub span: Span,
    pub offset: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RANGES_AT + RANGE * self.ranges.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.boot);
        for number in [self.stamp.device, self.stamp.inode, self.stamp.seconds.cast_unsigned()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let count = u32::try_from(self.ranges.len()).unwrap_or(0);
        for number in [self.stamp.nanoseconds, self.buckets, self.legacy, self.outlived, count] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.resize(RANGES_AT, 0);
        for range in &self.ranges {
            out.extend_from_slice(&range.first.0.to_le_bytes());
            out.extend_from_slice(&range.last.0.to_le_bytes());
        }
        out
    }

    /// Returns `None` if the bytes are not a header that this code wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        if rest.take::<8>()? != *MAGIC {
            return None;
        }
        let boot = rest.take::<36>()?;
        let [device, inode, seconds] = [rest.u64()?, rest.u64()?, rest.u64()?];
        let [nanoseconds, buckets, legacy] = [rest.u32()?, rest.u32()?, rest.u32()?];
        let [outlived, count] = [rest.u32()?, rest.u32()?];
        let count = usize::try_from(count).ok().filter(|n| *n <= MAX_RANGES)?;
        if !buckets.is_power_of_two() || buckets > MAX_BUCKETS {
            return None;
        }
        rest = Reader(bytes.get(RANGES_AT..)?);
        let mut ranges = Vec::with_capacity(count);
        for _ in 0..count {
            let [first, last] = [rest.number()?, rest.number()?];
            ranges.push((first <= last).then_some(Span { first, last })?);
        }
        let stamp = Stamp { device, inode, seconds: seconds.cast_signed(), nanoseconds };
        Some(Self { boot, stamp, buckets, legacy, outlived, ranges })
    }

    /// The length of the encoded header in bytes.
    fn length(&self) -> u64 {
        (RANGES_AT + RANGE * self.ranges.len()) as u64
    }

    pub(super) fn bits(&self) -> impl Iterator<Item = Bits> {
        let mut offset = self.length();
        self.ranges.iter().map(move |range| {
            let last = Number(range.last.0.min(range.first.0.saturating_add(MAX_BITS - 1)));
            let bits = Bits { span: Span { first: range.first, last }, offset };
            offset = bits.end().next_multiple_of(8);
            bits
        })
    }

    pub(super) fn buckets_at(&self) -> u64 {
        self.bits().last().map_or(self.length(), Bits::end).next_multiple_of(BUCKET as u64)
    }

    pub(super) fn bucket_of(&self, hash: u64) -> u64 {
        self.buckets_at() + (hash & u64::from(self.buckets - 1)) * BUCKET as u64
    }

    pub(super) fn file_length(&self) -> u64 {
        self.buckets_at() + u64::from(self.buckets) * BUCKET as u64
    }
}

impl Bits {
    /// The number of the address's bit in the range. The span has at most MAX_BITS addresses.
    pub(super) fn bit(self, number: Number) -> u64 {
        u64::try_from(number.0 - self.span.first.0).unwrap_or(u64::MAX)
    }

    fn end(self) -> u64 {
        self.offset + self.bit(self.span.last) / 8 + 1
    }
}

/// FNV-1a (64 bits, Fowler/Noll/Vo) with a final mix, because the low bits choose the bucket. Never 0, and never with
/// the bit [`OUTLIVED`].
pub(super) fn hash(owner: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in owner.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((hash ^ (hash >> 32)) & !OUTLIVED).max(1)
}

/// The bit beside a hash that says: the reservation is from before this boot.
const OUTLIVED: u64 = 1 << 63;

/// A reservation in the table of owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub hash: u64,
    pub number: Number,
    /// Whether it is from before this boot, so that its container is gone.
    pub outlived: bool,
}

impl Slot {
    /// Returns `None` if the slot is free.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let word = rest.u64().filter(|word| *word != 0)?;
        Some(Self { hash: word & !OUTLIVED, number: rest.number()?, outlived: word & OUTLIVED != 0 })
    }

    pub(super) fn encode(self) -> [u8; SLOT] {
        let mut out = [0; SLOT];
        let word = if self.outlived { self.hash | OUTLIVED } else { self.hash };
        out[..8].copy_from_slice(&word.to_le_bytes());
        out[8..].copy_from_slice(&self.number.0.to_le_bytes());
        out
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Option<Number> {
        self.take().map(|bytes| Number(u128::from_le_bytes(bytes)))
    }
}
