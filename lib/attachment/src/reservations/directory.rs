//! The directory of a network: reservations as files, in upstream's format.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::span::Number;
use super::{ReservationError, sys};
use crate::is_absent;

/// The file in which a reservation is written before it is published, on file systems without O_TMPFILE. Only the
/// holder of the lock writes it. Upstream ignores names that are not addresses. The next writer replaces it.
const DRAFT: &str = ".host-local.tmp";

/// Bytes. An ID and an interface name are never longer; a longer file is not a reservation.
const MAX_CONTENT: usize = 4096;

/// The content of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Missing,
    /// Empty: its writer died after creating it, so it belongs to nobody.
    Empty,
    /// The text without surrounding white space.
    Text(String),
    /// Not readable as text: a directory, a link or binary data. It stays, and its name is taken.
    Foreign,
}

/// The open directory `<dataDir>/<network>`.
pub(super) struct Directory {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

impl Directory {
    /// Opens the directory. Returns `None` if it does not exist and `create` is false.
    pub(super) fn open(path: PathBuf, create: bool) -> Result<Option<Self>, ReservationError> {
        match sys::open_dir(&path) {
            Ok(fd) => return Ok(Some(Self { fd, path })),
            Err(cause) if !create && is_absent(&cause) => return Ok(None),
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(ReservationError::new("open", &path, cause)),
        }
        sys::make_dirs(&path).map_err(|cause| ReservationError::new("create", &path, cause))?;
        let fd = sys::open_dir(&path).map_err(|cause| ReservationError::new("open", &path, cause))?;
        Ok(Some(Self { fd, path }))
    }

    /// Takes upstream's lock, which is released when the file is closed.
    pub(super) fn lock(&self) -> Result<OwnedFd, ReservationError> {
        let failed = |cause| self.failed("lock", "lock", cause);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let file = match sys::open_at(&self.fd, "lock", flags, Mode::empty()) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                sys::open_at(&self.fd, "lock", flags | OFlags::CREATE, sys::LOCK)
            }
            other => other,
        };
        let file = file.map_err(failed)?;
        sys::lock(&file).map_err(failed)?;
        Ok(file)
    }

    pub(super) fn read(&self, name: &str) -> Result<Content, ReservationError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match sys::open_at(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(cause) => return self.unreadable(name, cause),
        };
        match sys::read_at(&file, MAX_CONTENT, 0) {
            Ok(bytes) if bytes.len() >= MAX_CONTENT => Ok(Content::Foreign),
            Ok(bytes) => Ok(content(&bytes)),
            Err(cause) => self.unreadable(name, cause),
        }
    }

    fn unreadable(&self, name: &str, cause: io::Error) -> Result<Content, ReservationError> {
        match Errno::from_io_error(&cause) {
            Some(Errno::NOENT) => Ok(Content::Missing),
            Some(Errno::ISDIR | Errno::LOOP | Errno::SPIPE | Errno::NXIO) => Ok(Content::Foreign),
            _ => Err(self.failed("read", name, cause)),
        }
    }

    /// Removes a file. Returns whether it existed.
    pub(super) fn remove(&self, name: &str) -> Result<bool, ReservationError> {
        sys::unlink(&self.fd, name).map_err(|cause| self.failed("remove", name, cause))
    }

    pub(super) fn names(&self) -> Result<Vec<String>, ReservationError> {
        sys::names(&self.fd).map_err(|cause| ReservationError::new("list", &self.path, cause))
    }

    /// Writes a reservation's content to disk, without a name.
    pub(super) fn draft(&self, content: &str) -> Result<Draft<'_>, ReservationError> {
        let failed = |cause| self.failed("write a reservation in", "", cause);
        let flags = OFlags::WRONLY | OFlags::TMPFILE;
        let unnamed = match sys::open_at(&self.fd, ".", flags, sys::FILE) {
            Ok(file) => Some(file),
            Err(cause) if no_unnamed_files(&cause) => None,
            Err(cause) => return Err(failed(cause)),
        };
        let draft = Draft { directory: self, content: content.to_owned(), unnamed };
        if let Some(file) = &draft.unnamed {
            sys::write_at(file, content.as_bytes(), 0).map_err(failed)?;
        }
        Ok(draft)
    }

    pub(super) fn failed(&self, operation: &'static str, name: &str, cause: io::Error) -> ReservationError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        ReservationError::new(operation, &path, cause)
    }
}

fn content(bytes: &[u8]) -> Content {
    match std::str::from_utf8(bytes).map(str::trim) {
        Ok("") => Content::Empty,
        Ok(text) => Content::Text(text.to_owned()),
        Err(_) => Content::Foreign,
    }
}

fn no_unnamed_files(cause: &io::Error) -> bool {
    matches!(Errno::from_io_error(cause), Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT))
}

/// A reservation without a name, so that no name ever leads to incomplete content.
pub(super) struct Draft<'a> {
    directory: &'a Directory,
    content: String,
    unnamed: Option<OwnedFd>,
}

impl Draft<'_> {
    /// Publishes the draft under `name`. Returns false if the name is taken. After true the draft is used up.
    pub(super) fn publish(&mut self, name: &str) -> Result<bool, ReservationError> {
        let Some(file) = &self.unnamed else { return self.publish_named(name) };
        match sys::link(file, &self.directory.fd, name) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(false),
            // without /proc, or on a file system that creates unnamed files but cannot link them
            Err(cause) if no_unnamed_files(&cause) || Errno::from_io_error(&cause) == Some(Errno::PERM) => {
                self.unnamed = None;
                self.publish_named(name)
            }
            Err(cause) => Err(self.directory.failed("create", name, cause)),
        }
    }

    fn publish_named(&self, name: &str) -> Result<bool, ReservationError> {
        let outcome = self.write_named().and_then(|()| self.rename(name));
        match outcome {
            Ok(()) => Ok(true),
            Err(cause) => {
                // the cause matters; a left-over draft does no harm
                let _ = sys::unlink(&self.directory.fd, DRAFT);
                let taken = cause.kind() == ErrorKind::AlreadyExists;
                if taken { Ok(false) } else { Err(self.directory.failed("create", name, cause)) }
            }
        }
    }

    fn write_named(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let file = sys::open_at(&self.directory.fd, DRAFT, flags, sys::FILE)?;
        sys::write_at(&file, self.content.as_bytes(), 0)
    }

    fn rename(&self, name: &str) -> io::Result<()> {
        let dir = &self.directory.fd;
        match sys::rename_exclusive(dir, DRAFT, name) {
            Err(cause) if matches!(Errno::from_io_error(&cause), Some(Errno::INVAL | Errno::NOSYS)) => {
                sys::link_name(dir, DRAFT, name)?;
                sys::unlink(dir, DRAFT).map(drop)
            }
            outcome => outcome,
        }
    }

    #[cfg(test)]
    pub(super) fn without_unnamed_files(mut self) -> Self {
        self.unnamed = None;
        self
    }
}

/// The names that are reservations, among the names in a directory.
pub(super) fn addresses(names: Vec<String>) -> impl Iterator<Item = (String, Number)> {
    names.into_iter().filter_map(|name| Number::from_file_name(&name).map(|number| (name, number)))
}
