//! Files: written so that they appear whole or not at all, and read within bounds.
//!
//! Whoever may write where our files are, or was killed while writing there, must not decide what we write to: a file
//! has no name before it is whole, and no name in between that can be guessed. Modes are the ones that are given,
//! whatever the umask is.

mod draft;
mod read;
#[cfg(test)]
mod tests;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

pub use draft::{Draft, sweep};
pub use read::{read_configured, read_own};

/// As upstream's files.
pub const READABLE: u32 = 0o644;

/// Attempts of [`replace`]: another process that writes the same file takes our draft for a killed one's.
const ATTEMPTS: usize = 5;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {op}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    /// A verb: "write", "lock", "list".
    pub op: &'static str,
    /// What it was done to.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (free some space; this is tried again)",
        io::ErrorKind::ReadOnlyFilesystem => " (mount it writable; this is tried again)",
        io::ErrorKind::PermissionDenied => " (the daemon's user needs write access)",
        _ => "",
    }
}

/// Names the operation and the object of an I/O error.
pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { op, path, source }
}

/// The directory that `path` lies in.
pub fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes `dir` and what is missing above it, each with mode 0755 whatever the umask is. What is there stays as it is.
pub fn make_dirs(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = dir_of(dir);
    if above != dir {
        make_dirs(above)?;
    }
    match DirBuilder::new().mode(0o755).create(dir) {
        // another was faster
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made.and_then(|()| open_up(dir)).map_err(at("create", dir)),
    }
}

/// The umask may have taken rights away from a directory that was just made. By its descriptor: its name may be another's
/// by now.
fn open_up(dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?)
}

/// Puts `content` under `path` with mode 0644: a reader sees the old content or the new one. Missing directories are made, and what a
/// killed writer left of an earlier attempt is removed.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let dir = dir_of(path);
    make_dirs(dir)?;
    sweep(path);
    for attempt in 1.. {
        let draft = Draft::new(dir, path, READABLE)?;
        draft.fill(content)?;
        match draft.replace() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            done => return done.map_err(at("replace", path)),
        }
    }
    Ok(())
}
