//! A network's file beside the states of its attachments: the lock of all who change the host for it, and the networks
//! that it has routes to, so that those of a network that the configuration no longer has are found. It stays when the
//! network is removed: whoever waits for the lock has it open.
//!
//! `<dataDir>/.network.<name>`: a prefix per line. Neither a state nor a draft of one, which have `@`, has this name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gojson::parse_cidr;
use ipnetwork::IpNetwork;
use rustix::fs::{FlockOperation, flock};

use super::super::state::StateError;

/// The file, open and locked until it is dropped.
pub(super) struct Record {
    path: PathBuf,
    file: File,
    pub(super) networks: Vec<IpNetwork>,
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".network.{name}"))
}

/// The networks of a record; lines that are no prefix are left out.
pub(super) fn parse(text: &str) -> Vec<IpNetwork> {
    text.lines().filter_map(|line| parse_cidr(line.trim())).map(kernel::types::masked).collect()
}

impl Record {
    /// Waits for the lock; makes the file and its folder when they are not there.
    pub(super) fn lock(dir: &Path, name: &str) -> Result<Self, StateError> {
        let path = path(dir, name);
        let failed = |cause| StateError::new("lock", &path, cause);
        let file = open(dir, &path).map_err(failed)?;
        Self::read(path.clone(), file).map_err(failed)
    }

    /// The same, but `None` when there is no file.
    pub(super) fn lock_existing(dir: &Path, name: &str) -> Result<Option<Self>, StateError> {
        let path = path(dir, name);
        let failed = |cause| StateError::new("lock", &path, cause);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            file => Self::read(path.clone(), file.map_err(failed)?).map(Some).map_err(failed),
        }
    }

    fn read(path: PathBuf, mut file: File) -> io::Result<Self> {
        flock(&file, FlockOperation::LockExclusive)?;
        let mut text = String::new();
        // what is not text has no network in it, and is written anew
        let networks = file.read_to_string(&mut text).map(|_| parse(&text)).unwrap_or_default();
        Ok(Self { path, file, networks })
    }

    /// Leaves `networks` for the next one.
    pub(super) fn write(&mut self, networks: &[IpNetwork]) -> Result<(), StateError> {
        if self.networks == networks {
            return Ok(());
        }
        let text: String = networks.iter().map(|network| format!("{network}\n")).collect();
        let written =
            self.file.rewind().and_then(|()| self.file.set_len(0)).and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|cause| StateError::new("write", &self.path, cause))?;
        self.networks = networks.to_vec();
        Ok(())
    }
}

fn open(dir: &Path, path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    match open() {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            open()
        }
        other => other,
    }
}
