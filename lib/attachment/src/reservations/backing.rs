//! Bytes of the index: in its file, or in memory where no file can be had.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;

use super::sys;

/// Read at once on opening: the header and the bits of a /16 and a /24.
const HEAD: usize = 4096 + 8192 + 1024;

pub(super) enum Backing {
    File { file: OwnedFd, head: Vec<u8> },
    Memory(Vec<u8>),
}

impl Backing {
    pub(super) fn open(file: OwnedFd) -> io::Result<Self> {
        let mut head = vec![0; HEAD];
        let length = sys::read_at(&file, &mut head, 0)?;
        head.truncate(length);
        Ok(Self::File { file, head })
    }

    pub(super) fn memory(length: u64) -> Self {
        Self::Memory(vec![0; usize::try_from(length).unwrap_or(0)])
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// The first bytes.
    pub(super) fn head(&self) -> &[u8] {
        match self {
            Self::File { head, .. } => head,
            Self::Memory(bytes) => bytes,
        }
    }

    /// Writes all bytes to the file and continues there; stays in memory when the file does not take them.
    pub(super) fn into_file(self, file: OwnedFd) -> Self {
        let Self::Memory(bytes) = self else { return self };
        let written = sys::truncate(&file, 0).and_then(|()| sys::write_at(&file, &bytes, 0));
        if written.is_err() {
            // what is left of it is no index, and the space may be needed
            let _ = sys::truncate(&file, 0);
            return Self::Memory(bytes);
        }
        Self::File { file, head: bytes[..bytes.len().min(HEAD)].to_vec() }
    }

    /// Exactly `length` bytes; UnexpectedEof when there are fewer.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Cow<'_, [u8]>> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(offset).map_err(|_| ended())?;
        let end = start.checked_add(length).ok_or_else(ended)?;
        match (self, self.head().get(start..end)) {
            (_, Some(bytes)) => Ok(Cow::Borrowed(bytes)),
            (Self::Memory(_), None) => Err(ended()),
            (Self::File { file, .. }, None) => {
                let mut bytes = vec![0; length];
                let read = sys::read_at(file, &mut bytes, offset)?;
                if read == length { Ok(Cow::Owned(bytes)) } else { Err(ended()) }
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start + bytes.len();
        match self {
            Self::Memory(memory) => {
                if memory.len() < end {
                    memory.resize(end, 0);
                }
                memory[start..end].copy_from_slice(bytes);
                Ok(())
            }
            Self::File { file, head } => {
                if start < head.len() {
                    let inside = head.len().min(end) - start;
                    head[start..start + inside].copy_from_slice(&bytes[..inside]);
                }
                sys::write_at(file, bytes, offset)
            }
        }
    }
}
