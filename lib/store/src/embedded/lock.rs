//! The lock of the embedded store. Only programs of its owner can take it, and nobody waits for it for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::files::{FileError, at};

/// Another daemon normally holds the lock for milliseconds. One that was stopped, or whose disk hangs, may hold it
/// much longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two attempts, short compared with how long a holder needs.
const PAUSE: Duration = Duration::from_millis(2);

/// Whoever may open the lock file may also hold the lock.
const OWNERS: u32 = 0o600;

/// Takes the lock at `path`, and creates the file if it is missing.
pub(super) fn take(path: &Path, exclusive: bool) -> Result<File, FileError> {
    take_within(path, exclusive, PATIENCE)
}

fn take_within(path: &Path, exclusive: bool, patience: Duration) -> Result<File, FileError> {
    let file = open(path).map_err(at("open", path))?;
    let how = if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    let began = Instant::now();
    loop {
        match flock(&file, how) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if began.elapsed() < patience => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => return Err(at("lock", path)(held(&file, patience))),
            Err(error) => return Err(at("lock", path)(error.into())),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let options = |write: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).create(write).mode(OWNERS).custom_flags(flags.bits().cast_signed()).open(path)
    };
    let file = match options(true) {
        // A reader can lock a file that it has opened for reading only.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => options(false)?,
        // The link could point at any of our own files.
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is a symbolic link: remove it"));
        }
        opened => opened?,
    };
    keep_to_owner(&file)?;
    Ok(file)
}

/// Refuses a lock file that others own, and takes other users' access to it away.
fn keep_to_owner(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    let refused = |why: String| Err(io::Error::new(ErrorKind::InvalidData, why));
    if !meta.is_file() {
        return refused("it is not a regular file: remove it".into());
    }
    if meta.uid() != geteuid().as_raw() {
        return refused(format!("user {} owns it and could hold it: remove it", meta.uid()));
    }
    if meta.permissions().mode() & 0o7777 == OWNERS {
        return Ok(());
    }
    match fchmod(file, Mode::from_raw_mode(OWNERS)) {
        // The file system is read-only, so nobody changes anything anyway.
        Err(Errno::ROFS) => Ok(()),
        done => Ok(done?),
    }
}

fn held(file: &File, patience: Duration) -> io::Error {
    let holder = file.metadata().ok().and_then(|meta| {
        let pid = holder(&std::fs::read_to_string("/proc/locks").ok()?, meta.dev(), meta.ino())?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("process {pid} ({})", name.trim()))
    });
    let holder = holder.unwrap_or_else(|| "a process that /proc/locks does not name".into());
    let seconds = patience.as_secs();
    io::Error::new(ErrorKind::WouldBlock, format!("{holder} has held it for {seconds} s; retrying"))
}

/// The process that holds a flock(2) on the file, from /proc/locks: `1: FLOCK  ADVISORY  WRITE 708 00:1a:1234 0 EOF`.
/// Lines with `->` are waiting (proc_locks(5)). On some file systems stat(2) reports another device, so a match of
/// the inode alone is the second choice.
fn holder(locks: &str, dev: u64, inode: u64) -> Option<u32> {
    let device = format!("{:02x}:{:02x}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let holders = locks.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, id, ..] = fields[..] else { return None };
        let (on, ino) = id.rsplit_once(':')?;
        (ino.parse() == Ok(inode)).then_some((on == device, pid.parse().ok()?))
    });
    // `false` sorts before `true`.
    holders.max_by_key(|(same, _)| *same).map(|(_, pid)| pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_holder_is_found() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:4242 0 EOF
2: FLOCK  ADVISORY  WRITE 12 fe:00:4243 0 EOF
3: FLOCK  ADVISORY  READ  13 fe:01:4242 0 EOF
4: FLOCK  ADVISORY  WRITE 14 fe:00:4242 0 EOF
4: -> FLOCK  ADVISORY  WRITE 15 fe:00:4242 0 EOF
5: OFDLCK ADVISORY  READ  -1 00:06:1041 0 EOF
";
        let dev = rustix::fs::makedev(0xfe, 0);
        assert_eq!(holder(locks, dev, 4242), Some(14));
        assert_eq!(holder(locks, dev, 4243), Some(12));
        assert_eq!(holder(locks, dev, 4244), None);
        // btrfs and overlayfs do this.
        assert_eq!(holder(locks, rustix::fs::makedev(0, 0x2a), 4243), Some(12));
        assert_eq!(holder("garbage\n\n1: FLOCK\n", dev, 4242), None);
    }

    #[test]
    fn whoever_holds_it_is_named_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let reader = take_within(&path, false, SHORT).unwrap();
        drop(take_within(&path, false, SHORT).unwrap());
        let error = take_within(&path, true, SHORT).unwrap_err().to_string();
        assert!(error.contains(&format!("lock: cannot lock: process {} (", std::process::id())), "{error}");
        drop(reader);
        take_within(&path, true, SHORT).unwrap();
    }

    #[test]
    fn only_its_owner_can_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for before in [None, Some(0o644), Some(0o666), Some(0o400)] {
            if let Some(mode) = before {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            take(&path, true).unwrap();
            assert_eq!(mode(&path), 0o600, "{before:?}");
        }
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("elsewhere", at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        for (name, why) in [("link", "a symbolic link: remove it"), ("fifo", "not a regular file: remove it")] {
            let error = take(&at(name), true).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}: cannot open: it is {why}")), "{error}");
        }
        assert!(!at("elsewhere").exists(), "the link is not followed");
        if geteuid().is_root() {
            std::fs::write(at("foreign"), "").unwrap();
            std::os::unix::fs::chown(at("foreign"), Some(1), None).unwrap();
            let error = take(&at("foreign"), true).unwrap_err().to_string();
            assert!(error.contains("user 1 owns it and could hold it: remove it"), "{error}");
        }
    }
}
