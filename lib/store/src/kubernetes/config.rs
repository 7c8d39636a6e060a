//! The network's configuration: a file of the ConfigMap, which the kubelet replaces when the ConfigMap changes.

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use overlay::net::ByFamily;
use overlay::netconf::NetConf;

use crate::error::StoreError;
use crate::files::{at, dir_of, read_configured};
use crate::snapshot::LARGEST;

/// Watches the folder of the file: the file itself is a link to a folder that is replaced.
pub(super) struct ConfigFile {
    stream: EventStream<Vec<u8>>,
}

impl ConfigFile {
    /// Starts to watch; every later change is noticed.
    pub(super) fn watch(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Watch { path: dir_of(path).to_owned(), source };
        let inotify = Inotify::init().map_err(failed)?;
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(dir_of(path), mask).map_err(failed)?;
        Ok(Self { stream: inotify.into_event_stream(vec![0; 4096]).map_err(failed)? })
    }

    /// Waits until something in the folder changes. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Result<(), StoreError> {
        match self.stream.next().await {
            Some(Ok(_)) => Ok(()),
            Some(Err(source)) => Err(StoreError::Watch { path: "the configuration's folder".into(), source }),
            None => Err(StoreError::Stopped),
        }
    }
}

/// The content of the file; `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Arc<[u8]>>, StoreError> {
    match read_configured(path, LARGEST as u64) {
        Ok(text) => Ok(Some(text.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error).into()),
    }
}

/// The families that a configuration turns on. One that cannot be read turns on both: it is refused elsewhere.
pub(super) fn families(text: Option<&Arc<[u8]>>) -> ByFamily<bool> {
    match text.and_then(|text| NetConf::parse(text).ok()) {
        Some(parsed) => ByFamily { v4: parsed.conf.v4.is_some(), v6: parsed.conf.v6.is_some() },
        None => ByFamily { v4: true, v6: true },
    }
}
