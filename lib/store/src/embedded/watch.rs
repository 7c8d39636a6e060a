//! Watches the store's directories for changes.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use futures_util::{FutureExt, StreamExt};
use inotify::{Event, EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

use super::layout::Layout;
use crate::error::StoreError;
use crate::snapshot::CONFIG;

/// With more names than this, reading everything is cheaper.
const LARGEST: usize = 4096;

/// What to read again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The names of leases whose value or end has changed; and [`CONFIG`].
    pub(super) names: BTreeSet<String>,
    /// Read everything: events were lost, or a directory was replaced.
    pub(super) all: bool,
}

/// Watches a store's three directories.
pub(super) struct Watch {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    root: Option<WatchDescriptor>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// Starts to watch; every later change is noticed.
    pub(super) fn new(layout: &Layout) -> Result<Self, StoreError> {
        let failed = |source| failed(layout.root(), source);
        let inotify = Inotify::init().map_err(failed)?;
        let watches = inotify.watches();
        let stream = inotify.into_event_stream(vec![0; 16 * 1024]).map_err(failed)?;
        let mut watch = Self { stream, watches, root: None };
        watch.arm(layout)?;
        Ok(watch)
    }

    /// Watches directories that have appeared since; those that are watched already stay watched.
    pub(super) fn arm(&mut self, layout: &Layout) -> Result<(), StoreError> {
        // Without MODIFY, a file that is still being written is read only when it is closed. A lease appears by link
        // (CREATE) or by rename.
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut add = |dir: &Path| self.watches.add(dir, mask).map_err(|source| failed(dir, source));
        self.root = Some(add(layout.root())?);
        add(&layout.subnets())?;
        add(&layout.ttls())?;
        Ok(())
    }

    /// Waits for a change, and then takes all that have arrived.
    pub(super) async fn changed(&mut self) -> Result<News, StoreError> {
        let mut news = News::default();
        while news == News::default() {
            let event = self.stream.next().await.ok_or(StoreError::Stopped)?;
            news.take(event.map_err(|source| failed(Path::new("the store"), source))?, self.root.as_ref());
        }
        while let Some(Some(Ok(event))) = self.stream.next().now_or_never() {
            news.take(event, self.root.as_ref());
        }
        Ok(news)
    }
}

impl News {
    fn take(&mut self, event: EventOwned, root: Option<&WatchDescriptor>) {
        let Event { wd, mask, name, .. } = event;
        let lost = EventMask::Q_OVERFLOW | EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
        if mask.intersects(lost) {
            self.all = true;
            return;
        }
        let Some(name) = name else { return };
        match name.to_str() {
            // In the root only this file matters; its directories have watches of their own.
            Some(name) if Some(&wd) == root => {
                if name == CONFIG {
                    self.names.insert(name.to_owned());
                }
                self.all |= mask.contains(EventMask::ISDIR);
            }
            Some(CONFIG) => {}
            Some(name) if self.names.len() < LARGEST => drop(self.names.insert(name.to_owned())),
            // The name is not UTF-8, so a full listing must find the text that is shown for it.
            _ => self.all = true,
        }
    }
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::Watch { path: path.to_owned(), source }
}
