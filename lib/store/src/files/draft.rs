//! A file that does not have its final name yet.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use super::{Content, FileError, at, dir_of};

/// Bytes: what is written in small parts becomes few system calls, and a large file is never in memory.
const BUFFER: usize = 16 * 1024;

/// A file without a name where the file system supports that, elsewhere with a name that nobody can guess. Dropping
/// it removes the file, unless it has its final name.
#[derive(Debug)]
pub struct Draft {
    file: File,
    /// The temporary name, if the file has one.
    name: Option<PathBuf>,
    /// The directory for a temporary name.
    dir: PathBuf,
    target: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // After a rename this name no longer exists.
            let _ = std::fs::remove_file(name);
        }
    }
}

impl Draft {
    /// Creates an empty file in `dir` that will become `target` with mode `mode`. Both must be on one file system.
    pub fn new(dir: &Path, target: &Path, mode: u32) -> Result<Self, FileError> {
        match unnamed(dir) {
            // A kernel without O_TMPFILE returns EISDIR.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => Self::with_name(dir, target, mode),
            Ok(file) => Self::of(file, None, dir, target, mode),
            Err(error) => Err(at("create", target)(error.into())),
        }
    }

    /// The same with a temporary name, for file systems where every file has a name.
    pub(super) fn with_name(dir: &Path, target: &Path, mode: u32) -> Result<Self, FileError> {
        let (file, name) = named(dir, target).map_err(|error| at("create", target)(error.into()))?;
        Self::of(file, Some(name), dir, target, mode)
    }

    fn of(file: File, name: Option<PathBuf>, dir: &Path, target: &Path, mode: u32) -> Result<Self, FileError> {
        let draft = Self { file, name, dir: dir.to_owned(), target: target.to_owned() };
        let set = rustix::fs::fchmod(&draft.file, Mode::from_raw_mode(mode));
        set.map(|()| draft).map_err(|error| at("create", target)(error.into()))
    }

    /// The open file, to write it in parts.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes `content`, and syncs it to the disk.
    pub fn fill(&self, content: &[u8]) -> Result<(), FileError> {
        self.fill_by(&|file| file.write_all(content))
    }

    /// Has the content written, onto the disk.
    pub(super) fn fill_by(&self, content: &Content<'_>) -> Result<(), FileError> {
        let mut file = BufWriter::with_capacity(BUFFER, &self.file);
        let done = content(&mut file).and_then(|()| file.flush()).and_then(|()| self.file.sync_all());
        done.map_err(at("write", &self.target))
    }

    /// Gives the file its final name, which must be free.
    pub fn link(self) -> io::Result<()> {
        self.link_to(&self.target)
    }

    /// Gives the file its final name, and replaces a file that has it.
    pub fn replace(mut self) -> io::Result<()> {
        if self.name.is_none() {
            let name = self.dir.join(draft_name(&self.target)?);
            self.link_to(&name)?;
            self.name = Some(name);
        }
        self.name.as_ref().map_or(Ok(()), |name| std::fs::rename(name, &self.target))
    }

    /// Links the file to `path`. This replaces nothing, and follows no symbolic link.
    fn link_to(&self, path: &Path) -> io::Result<()> {
        match &self.name {
            Some(name) => linkat(CWD, name, CWD, path, AtFlags::empty())?,
            None => {
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
            }
        }
        Ok(())
    }
}

fn unnamed(dir: &Path) -> Result<File, Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    open(dir, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn named(dir: &Path, target: &Path) -> Result<(File, PathBuf), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let name = dir.join(draft_name(target)?);
    let file = open(&name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok((file.into(), name))
}

/// The prefix of all temporary names for `target`.
fn prefix(target: &Path) -> Vec<u8> {
    let name = target.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    [b".", name, b".draft-"].concat()
}

/// A unique name that nobody can guess.
fn draft_name(target: &Path) -> Result<OsString, Errno> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let mut name = prefix(target);
    name.extend(format!("{:016x}", u64::from_ne_bytes(bytes)).bytes());
    Ok(OsString::from_vec(name))
}

/// Removes the drafts of `target` that killed writers left. A live writer whose draft this removes tries again.
pub fn sweep(target: &Path) {
    let prefix = prefix(target);
    for entry in std::fs::read_dir(dir_of(target)).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
