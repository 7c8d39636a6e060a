//! A network's file beside the states of its attachments. It is the lock for all changes of the host for this
//! network, and records the prefixes with routes, so that those that leave the configuration are still found. It
//! stays when the network is removed, because others may wait for its lock.
//!
//! `<dataDir>/.network.<name>` has one prefix per line. States and drafts of states have an `@` in their names, so
//! the names never clash.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gojson::parse_cidr;
use ipnetwork::IpNetwork;
use rustix::fs::{FlockOperation, OFlags, flock};

use super::states::{StateError, is_gone};

/// The file, open and locked until it is dropped.
pub(super) struct Prefixes {
    path: PathBuf,
    file: File,
    /// The length of the file in bytes.
    length: usize,
    /// The prefixes in the file.
    pub(super) all: Vec<IpNetwork>,
}

/// The longest valid file in bytes: a line for each prefix whose route is not yet removed.
const LONGEST: u64 = 64 * 1024;

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    options
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".network.{name}"))
}

/// Parses the prefixes; skips other lines.
fn parse(text: &str) -> Vec<IpNetwork> {
    text.lines().filter_map(|line| parse_cidr(line.trim())).map(kernel::types::masked).collect()
}

impl Prefixes {
    /// Waits for the lock. Creates the file and its folder if they are missing.
    pub(super) fn lock(dir: &Path, name: &str) -> Result<Self, StateError> {
        let path = path(dir, name);
        let failed = |cause| StateError::new("lock", &path, cause);
        let file = open(dir, &path).map_err(failed)?;
        Self::read(path.clone(), file).map_err(failed)
    }

    /// Like [`Self::lock`], but returns `None` when the file does not exist.
    pub(super) fn lock_existing(dir: &Path, name: &str) -> Result<Option<Self>, StateError> {
        let path = path(dir, name);
        let failed = |cause| StateError::new("lock", &path, cause);
        match options().open(&path) {
            Err(cause) if is_gone(&cause) => Ok(None),
            file => Self::read(path.clone(), file.map_err(failed)?).map(Some).map_err(failed),
        }
    }

    fn read(path: PathBuf, mut file: File) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file: delete it"));
        }
        flock(&file, FlockOperation::LockExclusive)?;
        let mut text = Vec::new();
        (&mut file).take(LONGEST).read_to_end(&mut text)?;
        // Content that is not text has no prefixes, and is overwritten.
        let all = std::str::from_utf8(&text).map(parse).unwrap_or_default();
        Ok(Self { path, file, all, length: text.len() })
    }

    /// Writes `prefixes`. One call replaces everything, so that a killed program leaves the old or the new content; a
    /// shorter content is padded with empty lines.
    pub(super) fn write(&mut self, prefixes: &[IpNetwork]) -> Result<(), StateError> {
        if self.all == prefixes {
            return Ok(());
        }
        let mut text: String = prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
        text.extend(std::iter::repeat_n('\n', self.length.saturating_sub(text.len())));
        let failed = |path: &Path, cause| StateError::new("write", path, cause);
        let written = self.file.write_at(text.as_bytes(), 0).map_err(|cause| failed(&self.path, cause))?;
        if written != text.len() {
            return Err(failed(&self.path, ErrorKind::StorageFull.into()));
        }
        self.length = text.len();
        self.all = prefixes.to_vec();
        Ok(())
    }
}

fn open(dir: &Path, path: &Path) -> io::Result<File> {
    let open = || options().create(true).truncate(false).mode(0o600).open(path);
    match open() {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            open()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_kept_under_their_lock() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not/yet");
        assert!(Prefixes::lock_existing(&folder, "net").unwrap().is_none());
        let prefixes = vec!["10.244.0.0/16".parse().unwrap(), "fd10::/48".parse().unwrap()];
        Prefixes::lock(&folder, "net").unwrap().write(&prefixes).unwrap();
        let mut again = Prefixes::lock_existing(&folder, "net").unwrap().unwrap();
        assert_eq!(again.all, prefixes);
        again.write(&prefixes[..1]).unwrap();
        drop(again);
        let text = std::fs::read_to_string(folder.join(".network.net")).unwrap();
        assert_eq!(text.trim_end(), "10.244.0.0/16", "what is shorter is filled up");
        assert_eq!(parse("x\n10.1.2.3/8\n\u{fffd}\n"), ["10.0.0.0/8".parse().unwrap()]);
    }
}
