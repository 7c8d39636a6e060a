//! Allows one daemon per subnet.env, because two that write the same file would overwrite each other.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use store::files;

/// How long the start waits for another daemon that may be about to end.
pub const PATIENCE: Duration = Duration::from_secs(3);

const PAUSE: Duration = Duration::from_millis(20);

/// Another daemon writes this file.
#[derive(Debug, thiserror::Error)]
#[error(
    "another flanneld (process {pid}) writes {}; stop it, or give this one a different --subnet-file and --store-dir or \
     --etcd-prefix", file.display()
)]
pub struct Taken {
    file: PathBuf,
    pid: String,
}

/// The lock on subnet.env. The kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Instance {
    _lock: Option<File>,
}

fn lock_file(subnet_file: &Path) -> PathBuf {
    let name = subnet_file.file_name().unwrap_or_default().to_string_lossy();
    subnet_file.with_file_name(format!(".{name}.lock"))
}

impl Instance {
    /// Takes the lock of `subnet_file`. If no lock can be made, for example in a read-only directory, there is none:
    /// the attempt to write subnet.env then reports the error.
    ///
    /// # Errors
    /// Another daemon still holds the lock after `patience`; one that was killed may take a moment to end.
    pub fn claim(subnet_file: &Path, patience: Duration) -> Result<Self, Taken> {
        let Ok(mut file) = open(&lock_file(subnet_file)) else { return Ok(Self { _lock: None }) };
        match lock(&file, patience) {
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // The process ID is only for the message.
                let _ = Read::take(&file, 16).read_to_string(&mut pid);
                Err(Taken { file: subnet_file.to_owned(), pid: pid.trim().to_owned() })
            }
            Err(_) => Ok(Self { _lock: None }),
            Ok(()) => {
                let written = file.set_len(0).and_then(|()| file.rewind());
                let _ = written.and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Self { _lock: Some(file) })
            }
        }
    }
}

fn lock(file: &File, patience: Duration) -> Result<(), Errno> {
    let started = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if started.elapsed() < patience => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    files::make_dirs(files::dir_of(path)).map_err(|error| error.source)?;
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_comes_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run/subnet.env");
        let first = Instance::claim(&file, PAUSE).unwrap();
        let other = Instance::claim(&dir.path().join("run/other.env"), PAUSE).unwrap();
        let error = Instance::claim(&file, PAUSE).unwrap_err().to_string();
        assert!(
            error.contains(&format!("(process {})", std::process::id())) && error.contains("subnet.env"),
            "{error}"
        );
        drop(first);
        Instance::claim(&file, PAUSE).unwrap();
        drop(other);
        let nowhere = Instance::claim(Path::new("/proc/none/subnet.env"), PAUSE).unwrap();
        assert!(nowhere._lock.is_none(), "there is nothing to lock");
    }
}
