//! Notices when somebody changes our files.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

/// Distinguishes a file that we wrote from one that somebody replaced or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    mode: u32,
    owner: (u32, u32),
}

impl Fingerprint {
    /// The fingerprint of the file at `path`. `None` if there is none or it cannot be read.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let seen = path.symlink_metadata().ok()?;
        Some(Self {
            file: (seen.dev(), seen.ino()),
            size: seen.size(),
            modified: (seen.mtime(), seen.mtime_nsec()),
            mode: seen.mode(),
            owner: (seen.uid(), seen.gid()),
        })
    }
}

/// A watch of one directory.
pub(super) struct Watch {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    armed: Option<WatchDescriptor>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        Ok(Self { stream: inotify.into_event_stream(vec![0; 4096])?, watches, armed: None })
    }

    /// Starts to watch `dir`. Returns true if that is a new watch, because another directory may have the name by now.
    /// Earlier changes in it are not announced.
    pub(super) fn arm(&mut self, dir: &Path) -> io::Result<bool> {
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let now = self.watches.add(dir, mask)?;
        let before = self.armed.replace(now.clone());
        if before.as_ref() == Some(&now) {
            return Ok(false);
        }
        if let Some(before) = before {
            // it may be gone with its directory
            let _ = self.watches.remove(before);
        }
        Ok(true)
    }

    /// Waits for a change of one of `names` or of the directory. Cancel-safe.
    pub(super) async fn changed(&mut self, names: &[&OsStr]) -> io::Result<()> {
        const DIRECTORY: EventMask = EventMask::Q_OVERFLOW
            .union(EventMask::IGNORED)
            .union(EventMask::DELETE_SELF)
            .union(EventMask::MOVE_SELF)
            .union(EventMask::UNMOUNT);
        while let Some(event) = self.stream.next().await {
            let event = event?;
            if event.mask.intersects(DIRECTORY) || event.name.as_deref().is_some_and(|name| names.contains(&name)) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
