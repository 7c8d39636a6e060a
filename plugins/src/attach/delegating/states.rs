//! Stores the delegate's configuration in a file, from ADD for DEL.
//!
//! `<dataDir>/<container id>@<interface>` is our name (an id has no `@`), so two interfaces of a container do not
//! overwrite each other. The same file is also linked as `<dataDir>/<container id>`, upstream's only name: a Go
//! plugin that takes over finds it there, and this plugin finds what a Go plugin left.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cni::env::Env;
use rustix::fs::{AtFlags, CWD, OFlags, linkat};

use super::Delegate;

/// An operation on a state file failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {cause}", path.display())]
pub(super) struct StateError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl StateError {
    pub(super) fn new(operation: &'static str, path: &Path, cause: io::Error) -> Self {
        Self { operation, path: path.to_owned(), cause }
    }
}

/// The directory of the states.
pub(super) struct States {
    dir: PathBuf,
}

/// The files of one attachment.
pub(super) struct State {
    own: PathBuf,
    upstream: PathBuf,
    draft: PathBuf,
}

/// A file in the directory, and its attachment.
pub(super) struct Found {
    pub path: PathBuf,
    pub id: String,
    /// `None` for a file with upstream's name.
    pub ifname: Option<String>,
}

/// Whether a state existed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    New,
    Replaced,
}

/// The content of a file in the directory.
pub(super) enum Content {
    Of(Delegate),
    /// The file is empty or incomplete.
    Damaged,
    /// No plugin wrote the file.
    Foreign,
}

impl Found {
    /// Reads the file. A file that has disappeared counts as damaged, because nothing is lost.
    pub(super) fn read(&self) -> Result<Content, StateError> {
        let bytes = match fs::read(&self.path) {
            Err(cause) if is_gone(&cause) => return Ok(Content::Damaged),
            read => read.map_err(|cause| StateError::new("read", &self.path, cause))?,
        };
        let ours = self.ifname.is_some() || bytes.is_empty() || bytes.starts_with(b"{");
        Ok(match Delegate::from_state(&bytes) {
            Some(delegate) => Content::Of(delegate),
            None if ours => Content::Damaged,
            None => Content::Foreign,
        })
    }
}

impl States {
    pub(super) fn of(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn state(&self, env: &Env) -> State {
        let name = format!("{}@{}", env.container_id, env.ifname);
        State {
            draft: self.dir.join(format!(".{name}")),
            own: self.dir.join(name),
            upstream: self.dir.join(&env.container_id),
        }
    }

    /// All states, without drafts.
    pub(super) fn all(&self) -> Result<Vec<Found>, StateError> {
        let failed = |cause| StateError { operation: "list", path: self.dir.clone(), cause };
        let entries = match fs::read_dir(&self.dir) {
            Err(cause) if is_gone(&cause) => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let (id, ifname) = match name.split_once('@') {
                Some((id, ifname)) => (id.to_owned(), Some(ifname.to_owned())),
                None => (name, None),
            };
            found.push(Found { path: entry.path(), id, ifname });
        }
        Ok(found)
    }
}

impl State {
    /// Writes `bytes` under both names, each of which is complete or absent at any moment.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<Left, StateError> {
        let failed = |cause| StateError { operation: "write", path: self.own.clone(), cause };
        match self.write_unnamed(bytes) {
            Err(cause) if has_no_unnamed(&cause) => {}
            outcome => return outcome.map_err(failed),
        }
        let outcome = self.write_draft(bytes);
        if outcome.is_err() {
            // The caller needs the cause, not a failure to remove the draft.
            let _ = fs::remove_file(&self.draft);
        }
        outcome.map_err(failed)
    }

    /// Writes a file that has no name until it is complete, so that a killed program leaves nothing.
    fn write_unnamed(&self, bytes: &[u8]) -> io::Result<Left> {
        let dir = self.own.parent().unwrap_or(Path::new("/"));
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(OFlags::TMPFILE.bits() as i32);
        let mut file = in_folder(dir, || options.open(dir))?;
        file.write_all(bytes)?;
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        let left = link(&unnamed, &self.own)?;
        link(&unnamed, &self.upstream)?;
        Ok(left)
    }

    /// The same for a file system without unnamed files.
    fn write_draft(&self, bytes: &[u8]) -> io::Result<Left> {
        let dir = self.own.parent().unwrap_or(Path::new("/"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        in_folder(dir, || options.open(&self.draft))?.write_all(bytes)?;
        let left = if self.own.try_exists()? { Left::Replaced } else { Left::New };
        fs::rename(&self.draft, &self.own)?;
        fs::hard_link(&self.own, &self.draft)?;
        fs::rename(&self.draft, &self.upstream)?;
        Ok(left)
    }

    /// Reads the state under our name, or under upstream's unless it belongs to another interface.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, StateError> {
        let own = read(&self.own)?;
        if own.is_some() || self.upstream_is_anothers()? { Ok(own) } else { read(&self.upstream) }
    }

    /// Removes the files that [`State::read`] finds. Another interface's file under upstream's name stays.
    pub(super) fn remove(&self) -> Result<(), StateError> {
        let own = metadata(&self.own)?.is_some();
        if !self.upstream_is_anothers()? {
            remove(&self.upstream)?;
        }
        // The draft of an ADD that was killed.
        remove(&self.draft)?;
        if own { remove(&self.own) } else { Ok(()) }
    }
}

impl State {
    /// Whether upstream's name is a second name of another interface's state. A file that a Go plugin left has one
    /// name.
    fn upstream_is_anothers(&self) -> Result<bool, StateError> {
        let inode = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let Some(upstream) = metadata(&self.upstream)? else { return Ok(false) };
        let own = metadata(&self.own)?;
        Ok(own.map_or(upstream.nlink() > 1, |own| inode(&own) != inode(&upstream)))
    }
}

/// The metadata of a file; `None` when it does not exist.
fn metadata(path: &Path) -> Result<Option<Metadata>, StateError> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(cause) if is_gone(&cause) => Ok(None),
        Err(cause) => Err(StateError::new("look at", path, cause)),
    }
}

/// The content of a file; `None` when it does not exist.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if is_gone(&cause) => Ok(None),
        Err(cause) => Err(StateError { operation: "read", path: path.to_owned(), cause }),
    }
}

/// Opens a file, and creates its folder if that is missing.
fn in_folder(dir: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    match open() {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            open()
        }
        opened => opened,
    }
}

/// Whether the file system has no O_TMPFILE, or /proc is missing, which names the file (open(2)).
fn has_no_unnamed(cause: &io::Error) -> bool {
    let errno = cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::NOENT))
}

/// Gives the open file a name, and replaces a file that has it.
fn link(unnamed: &str, path: &Path) -> io::Result<Left> {
    let link = || linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW);
    match link() {
        Err(rustix::io::Errno::EXIST) => {
            remove(path).map_err(|error| error.cause)?;
            link()?;
            Ok(Left::Replaced)
        }
        linked => Ok(linked.map(|()| Left::New)?),
    }
}

/// Whether the file does not exist, and cannot exist.
pub(super) fn is_gone(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// Removes a file. A missing file is not an error.
pub(super) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(cause) if !is_gone(&cause) => Err(StateError { operation: "remove", path: path.to_owned(), cause }),
        _ => Ok(()),
    }
}
