//! The bytes of the index: in its file, or in memory if there can be no file.

use std::io;
use std::os::fd::OwnedFd;

use super::sys;

/// Bytes of the read on opening: a page, which contains the whole index of a /24.
const HEAD: usize = 4096;

pub(super) enum Backing {
    File {
        file: OwnedFd,
        head: Part,
        /// The part after the head that was last read: an owner is looked up and stored in one bucket.
        last: Part,
    },
    Memory(Vec<u8>),
}

/// A part of the file's content.
#[derive(Default)]
pub(super) struct Part {
    start: usize,
    bytes: Vec<u8>,
}

impl Part {
    fn read(file: &OwnedFd, start: usize, most: usize) -> io::Result<Self> {
        Ok(Self { start, bytes: sys::read_at(file, most, start as u64)? })
    }

    fn get(&self, start: usize, end: usize) -> Option<&[u8]> {
        self.bytes.get(start.checked_sub(self.start)?..end.checked_sub(self.start)?)
    }

    fn has(&self, start: usize, end: usize) -> bool {
        self.get(start, end).is_some()
    }

    /// Applies a write at `start` to the bytes of this part.
    fn follow(&mut self, start: usize, written: &[u8]) {
        let (first, end) = (start.max(self.start), (start + written.len()).min(self.start + self.bytes.len()));
        if first < end {
            self.bytes[first - self.start..end - self.start].copy_from_slice(&written[first - start..end - start]);
        }
    }
}

impl Backing {
    pub(super) fn open(file: OwnedFd) -> io::Result<Self> {
        let head = Part::read(&file, 0, HEAD)?;
        Ok(Self::File { file, head, last: Part::default() })
    }

    pub(super) fn memory(length: u64) -> Self {
        Self::Memory(vec![0; usize::try_from(length).unwrap_or(0)])
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// The first bytes of the file.
    pub(super) fn head(&self) -> &[u8] {
        match self {
            Self::File { head, .. } => &head.bytes,
            Self::Memory(bytes) => bytes,
        }
    }

    /// Writes all bytes to the file and continues there. If the write fails, continues in memory.
    pub(super) fn into_file(self, file: OwnedFd) -> Self {
        let Self::Memory(mut bytes) = self else { return self };
        let written = sys::truncate(&file, 0).and_then(|()| sys::write_at(&file, &bytes, 0));
        if written.is_err() {
            // the rest is not a valid index, and the space may be needed
            let _ = sys::truncate(&file, 0);
            return Self::Memory(bytes);
        }
        bytes.truncate(HEAD);
        Self::File { file, head: Part { start: 0, bytes }, last: Part::default() }
    }

    /// Exactly `length` bytes; the error is UnexpectedEof if there are fewer.
    pub(super) fn read(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(offset).map_err(|_| ended())?;
        let end = start.checked_add(length).ok_or_else(ended)?;
        let found = match self {
            Self::Memory(bytes) => bytes.get(start..end),
            Self::File { head, .. } if head.has(start, end) => head.get(start, end),
            Self::File { file, last, .. } => {
                if !last.has(start, end) {
                    *last = Part::read(file, start, length)?;
                }
                last.get(start, end)
            }
        };
        found.ok_or_else(ended)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        match self {
            Self::Memory(memory) => {
                let end = start + bytes.len();
                if memory.len() < end {
                    memory.resize(end, 0);
                }
                memory[start..end].copy_from_slice(bytes);
                Ok(())
            }
            Self::File { file, head, last } => {
                [head, last].into_iter().for_each(|part| part.follow(start, bytes));
                sys::write_at(file, bytes, offset)
            }
        }
    }
}
