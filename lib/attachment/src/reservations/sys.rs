//! All system calls of the reservations. They are in one place so that a test can count them.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// Counts the calls of this thread by name, in tests.
#[cfg(test)]
pub(super) mod calls {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local!(static COUNTS: RefCell<BTreeMap<&'static str, usize>> = RefCell::default());

    pub(super) fn count(name: &'static str) {
        COUNTS.with_borrow_mut(|counts| *counts.entry(name).or_default() += 1);
    }

    /// Returns the counts since the last `take`.
    pub fn take() -> BTreeMap<&'static str, usize> {
        COUNTS.take()
    }
}

#[cfg(not(test))]
mod calls {
    pub(super) fn count(_: &'static str) {}
}

pub(super) const FILE: Mode = Mode::RUSR.union(Mode::WUSR);
// the mode of upstream's lock file
pub(super) const LOCK: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);

pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    calls::count("open");
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

pub(super) fn make_dirs(path: &Path) -> io::Result<()> {
    calls::count("mkdir");
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Opens a file. Does not wait for the writer of a FIFO.
pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    calls::count("open");
    Ok(fs::open(path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, FILE)?)
}

pub(super) fn open_at(dir: &OwnedFd, name: impl AsRef<OsStr>, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    calls::count("open");
    Ok(fs::openat(dir, name.as_ref(), flags | OFlags::CLOEXEC | OFlags::NONBLOCK, mode)?)
}

/// Waits for upstream's lock: flock(2), not fcntl(2).
pub(super) fn lock(file: &OwnedFd) -> io::Result<()> {
    calls::count("flock");
    retry(|| fs::flock(file, FlockOperation::LockExclusive))
}

/// Reads up to `most` bytes in one call. Fewer bytes mean the end of the file, because only regular files are read
/// here. Does not touch memory that the file does not fill.
pub(super) fn read_at(file: &OwnedFd, most: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(most);
    loop {
        calls::count("read");
        match rustix::io::pread(file, spare_capacity(&mut bytes), offset) {
            Err(Errno::INTR) => {}
            done => return done.map(|_| bytes).map_err(io::Error::from),
        }
    }
}

pub(super) fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        calls::count("write");
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(())
}

/// The length in bytes.
pub(super) fn length(file: &OwnedFd) -> io::Result<u64> {
    calls::count("stat");
    let stat = fs::fstat(file)?;
    Ok(u64::try_from(stat.st_size).unwrap_or_default())
}

pub(super) fn truncate(file: &OwnedFd, length: u64) -> io::Result<()> {
    calls::count("truncate");
    retry(|| fs::ftruncate(file, length))
}

/// Gives an unnamed file a name in `dir`. The error is AlreadyExists if the name is taken.
pub(super) fn link(file: &OwnedFd, dir: &OwnedFd, name: &str) -> io::Result<()> {
    calls::count("link");
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(fs::linkat(fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)?)
}

pub(super) fn rename_exclusive(dir: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    calls::count("rename");
    Ok(fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE)?)
}

pub(super) fn link_name(dir: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    calls::count("link");
    Ok(fs::linkat(dir, from, dir, to, AtFlags::empty())?)
}

/// Removes a file. Returns whether it existed.
pub(super) fn unlink(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    calls::count("unlink");
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

/// The names in the directory, except `.` and `..`. Names that are not UTF-8 are skipped: they belong to others.
pub(super) fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    calls::count("list");
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Distinguishes two states of a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub seconds: i64,
    pub nanoseconds: u32,
}

pub(super) fn stamp(dir: &OwnedFd) -> io::Result<Stamp> {
    calls::count("stat");
    let stat = fs::fstat(dir)?;
    Ok(Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    })
}

/// Sets the directory's time of change one nanosecond later and returns it. The kernel's own times are those of its
/// clock ticks, and are later.
pub(super) fn touch(dir: &OwnedFd) -> io::Result<(i64, u32)> {
    let Stamp { seconds, nanoseconds, .. } = stamp(dir)?;
    let (seconds, nanoseconds) = if nanoseconds < 999_999_999 { (seconds, nanoseconds + 1) } else { (seconds + 1, 0) };
    calls::count("utime");
    let omit = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    let changed = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    fs::futimens(dir, &Timestamps { last_access: omit, last_modification: changed })?;
    Ok((seconds, nanoseconds))
}

/// The ID of this boot; `None` if it cannot be had, for instance because /proc is not mounted.
pub(super) fn boot_id() -> Option<[u8; 36]> {
    kernel::sysctl::boot_id().ok()??.as_bytes().try_into().ok()
}

fn retry(call: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}
