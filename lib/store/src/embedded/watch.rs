//! Notice that the store's files have changed. What changed does not matter: all of it is read again.

use std::path::Path;

use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventStream, Inotify, WatchMask, Watches};

use super::layout::Layout;
use crate::StoreError;

/// Watches a store's three directories.
pub(super) struct Watch {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// Begins to watch; what changes from here on is noticed.
    pub(super) fn new(layout: &Layout) -> Result<Self, StoreError> {
        let failed = |source| failed(layout.root(), source);
        let inotify = Inotify::init().map_err(failed)?;
        let watches = inotify.watches();
        let stream = inotify.into_event_stream(vec![0; 16 * 1024]).map_err(failed)?;
        let mut watch = Self { stream, watches };
        watch.arm(layout)?;
        Ok(watch)
    }

    /// Watches the directories that have come since; one that is watched already stays so.
    pub(super) fn arm(&mut self, layout: &Layout) -> Result<(), StoreError> {
        // no MODIFY: a file that is still being written is read when it is closed. A lease comes by link (CREATE) or
        // rename.
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for dir in [layout.root().to_owned(), layout.subnets(), layout.ttls()] {
            self.watches.add(&dir, mask).map_err(|source| failed(&dir, source))?;
        }
        Ok(())
    }

    /// Waits for a change, and then takes all that have come.
    pub(super) async fn changed(&mut self) -> Result<(), StoreError> {
        loop {
            match self.stream.next().await {
                Some(Ok(event)) if matters(event.mask, event.name.as_deref()) => break,
                Some(Ok(_)) => {}
                Some(Err(source)) => return Err(failed(Path::new("the store"), source)),
                None => return Err(StoreError::Stopped),
            }
        }
        while let Some(Some(Ok(_))) = self.stream.next().now_or_never() {}
        Ok(())
    }
}

/// Everything but our own lock file. A full queue of events is one too: it means that something changed.
fn matters(mask: EventMask, name: Option<&std::ffi::OsStr>) -> bool {
    mask.intersects(EventMask::Q_OVERFLOW | EventMask::IGNORED) || name != Some("lock".as_ref())
}

fn failed(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Watch { path: path.display().to_string(), source }
}
