//! Writes files so that they appear complete or not at all, and reads them within limits.
//!
//! A process that may write in our directories, or was killed there, must not decide where we write. So a file has no
//! name before it is complete, and no temporary name that can be guessed. The umask does not change the modes given
//! here.

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

/// The mode of upstream's files.
pub const READABLE: u32 = 0o644;

/// Attempts of [`replace`]: another process that writes the same file may take our draft for an abandoned one.
const ATTEMPTS: usize = 5;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {op}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    /// The operation, a verb: "write", "lock", "list".
    pub op: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (free some space; retrying)",
        io::ErrorKind::ReadOnlyFilesystem => " (mount it writable; retrying)",
        io::ErrorKind::PermissionDenied => " (the daemon's user needs write access)",
        _ => "",
    }
}

/// Adds the operation and the path to an I/O error.
pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { op, path, source }
}

/// The directory that contains `path`.
pub fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates `dir` and its missing parents, each with mode 0755 whatever the umask is. Existing directories keep their
/// mode.
pub fn make_dirs(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = dir_of(dir);
    if above != dir {
        make_dirs(above)?;
    }
    match DirBuilder::new().mode(0o755).create(dir) {
        // Another process created it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made.and_then(|()| open_up(dir)).map_err(at("create", dir)),
    }
}

/// Restores the rights that the umask took from a new directory. It uses the descriptor, because another directory
/// may have the name by now.
fn open_up(dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?)
}

/// Writes `content` to `path` with mode 0644: a reader sees the old content or the new one. Creates missing
/// directories, and removes what a killed writer left of an earlier attempt.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace_by(path, &|file| file.write_all(content))
}

/// What writes a file's content. It may be called again, for another attempt.
pub type Content<'a> = dyn Fn(&mut dyn io::Write) -> io::Result<()> + 'a;

/// [`replace`] for a content that is not in memory.
pub fn replace_by(path: &Path, content: &Content<'_>) -> Result<(), FileError> {
    let dir = dir_of(path);
    make_dirs(dir)?;
    sweep(path);
    for attempt in 1.. {
        let draft = Draft::new(dir, path, READABLE)?;
        draft.fill_by(content)?;
        match draft.replace() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            done => return done.map_err(at("replace", path)),
        }
    }
    Ok(())
}
