//! Watches the folders of records for changes, by inotify.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use attachment::record::{QUARANTINE, networks, parse_name};
use futures_util::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

use super::records::{Name, Stale};

/// A watched folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Folder {
    /// The folder of all networks.
    All,
    /// The records of a network.
    Network(String),
    /// The exempted attachments of a network.
    Quarantine,
}

/// Watches all folders below one directory.
pub struct Folders {
    directory: PathBuf,
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    watched: HashMap<WatchDescriptor, Folder>,
}

impl Folders {
    /// Watches the directory, and creates it if it is missing, as ADD does. Needs a tokio runtime.
    ///
    /// # Errors
    /// The file system or inotify refuses.
    pub fn watch(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let stream = inotify.into_event_stream(vec![0; 16 * 1024])?;
        let mut folders = Self { directory: directory.to_owned(), stream, watches, watched: HashMap::new() };
        folders.arm()?;
        Ok(folders)
    }

    /// Watches all folders. A folder that is watched already is not watched twice.
    fn arm(&mut self) -> io::Result<()> {
        self.add(self.directory.clone(), Folder::All)?;
        for network in networks(&self.directory).map_err(io::Error::other)? {
            let folder = self.directory.join(&network);
            // An entry that is not a folder has no records.
            if self.add(folder.clone(), Folder::Network(network)).is_ok() {
                let _ = self.add(folder.join(QUARANTINE), Folder::Quarantine);
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, folder: Folder) -> io::Result<()> {
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::ONLYDIR;
        let descriptor = self.watches.add(path, mask)?;
        self.watched.insert(descriptor, folder);
        Ok(())
    }

    /// Waits until records may have changed. Cancel-safe.
    ///
    /// # Errors
    /// The folders can no longer be watched.
    pub async fn changed(&mut self) -> io::Result<Stale> {
        while let Some(event) = self.stream.next().await {
            let stale = self.stale(&event?)?;
            if !stale.is_empty() {
                return Ok(stale);
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn stale(&mut self, event: &Event<std::ffi::OsString>) -> io::Result<Stale> {
        if event.mask.contains(EventMask::IGNORED) {
            self.watched.remove(&event.wd);
        }
        let name = event.name.as_deref().and_then(OsStr::to_str).unwrap_or_default();
        match self.watched.get(&event.wd) {
            Some(Folder::Network(network)) if name != QUARANTINE && !event.mask.contains(EventMask::Q_OVERFLOW) => {
                let named =
                    parse_name(name).map(|(container, ifname)| Name { network: network.clone(), container, ifname });
                Ok(Stale::Some(named.into_iter().collect()))
            }
            // A folder has appeared or disappeared, or events were lost.
            _ => self.arm().map(|()| Stale::All),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attachment::record::{Locked, Record};
    use std::fs;
    use std::time::Duration;

    /// Waits until `wanted`, or everything, is stale.
    async fn until(folders: &mut Folders, wanted: Option<&Name>) {
        let wait = async {
            loop {
                match (folders.changed().await.unwrap(), wanted) {
                    (Stale::All, None) => return,
                    (Stale::Some(names), Some(wanted)) if names.contains(wanted) => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }

    #[tokio::test]
    async fn every_change_of_a_record_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("records");
        let mut folders = Folders::watch(&directory).unwrap();
        let name = Name { network: "net".into(), container: "c1".into(), ifname: "eth0".into() };
        // A new network: its folder is watched from now on.
        let mut locked = Locked::make(&directory, name.key()).unwrap();
        until(&mut folders, None).await;
        locked.write(&Record::begun().unwrap()).unwrap();
        until(&mut folders, Some(&name)).await;
        locked.delete().unwrap();
        until(&mut folders, Some(&name)).await;
        fs::create_dir(directory.join("net/quarantine")).unwrap();
        until(&mut folders, None).await;
        fs::write(directory.join("net/quarantine/c1@eth0"), "").unwrap();
        until(&mut folders, None).await;
    }
}
