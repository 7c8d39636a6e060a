//! What an interface had before ADD, in upstream's file `<dataDir>/<container>_<interface>.json`, which either suite
//! restores. It also names the network, for GC, and the namespace, for an ADD that is repeated.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use attachment::Key;
use gojson::Json;
use kernel::state::Link;
use kernel::types::Mtu;
use rustix::fs::OFlags;
use serde::Deserialize;

use super::conf::Tuned;

/// Bytes. The file has five short fields.
const LONGEST: u64 = 4096;

/// The settings that ADD changes, as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Backup {
    mac: String,
    promisc: Option<bool>,
    mtu: u32,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    queue_len: Option<u32>,
    network: String,
    /// The inode of the pod's network namespace; 0 if it is not known.
    netns: u64,
}

impl Backup {
    /// The settings of an interface in this namespace.
    pub fn of_netns(self, netns: u64) -> Self {
        Self { netns, ..self }
    }

    /// What an earlier ADD in the same namespace stored comes first: by now the interface has what that one set.
    pub fn after(self, earlier: Self) -> Self {
        if earlier.netns == 0 || earlier.netns != self.netns {
            return self;
        }
        Self {
            mac: if earlier.mac.is_empty() { self.mac } else { earlier.mac },
            promisc: earlier.promisc.or(self.promisc),
            mtu: if earlier.mtu == 0 { self.mtu } else { earlier.mtu },
            allmulti: earlier.allmulti.or(self.allmulti),
            queue_len: earlier.queue_len.or(self.queue_len),
            ..self
        }
    }

    /// The settings of `link` that `wanted` changes; `None` if it changes none.
    pub fn of(link: &Link, wanted: &Tuned, network: &str) -> Option<Self> {
        let of_link = Self {
            mac: link.mac.filter(|_| wanted.mac.is_some()).map(|mac| mac.to_string()).unwrap_or_default(),
            promisc: link.promisc.filter(|_| wanted.promisc == Some(true)),
            mtu: link.mtu.filter(|_| wanted.mtu.is_some()).map_or(0, |mtu| mtu.0),
            allmulti: link.allmulti.filter(|_| wanted.allmulti.is_some()),
            queue_len: link.queue_len.filter(|_| wanted.queue_len.is_some()),
            ..Self::default()
        };
        (of_link != Self::default()).then(|| Self { network: network.to_owned(), ..of_link })
    }

    /// The link with each of the settings, apart from the others.
    pub fn links(&self, link: &Link) -> Vec<Link> {
        let mtu = Some(Mtu(self.mtu)).filter(|mtu| mtu.0 != 0);
        let Self { promisc, allmulti, queue_len, .. } = *self;
        let as_it_is = || unchanged(link);
        [
            mtu.map(|mtu| Link { mtu: Some(mtu), ..as_it_is() }),
            self.mac.parse().ok().map(|mac| Link { mac: Some(mac), ..as_it_is() }),
            promisc.map(|promisc| Link { promisc: Some(promisc), ..as_it_is() }),
            allmulti.map(|allmulti| Link { allmulti: Some(allmulti), ..as_it_is() }),
            queue_len.map(|queue_len| Link { queue_len: Some(queue_len), ..as_it_is() }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A link of which nothing is changed.
pub fn unchanged(link: &Link) -> Link {
    Link { birth: link.birth.clone(), up: link.up, ..Link::up(link.kind.clone()) }
}

/// The file of an attachment.
pub fn file(folder: &Path, key: Key<'_>) -> PathBuf {
    folder.join(format!("{}_{}.json", key.container, key.ifname))
}

/// Writes the file. Whoever reads it finds the old or the new content.
pub fn write(file: &Path, backup: &Backup) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let draft = draft(file);
    let mut options = OpenOptions::new();
    let open = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    open.open(&draft)?.write_all(text(backup).as_bytes())?;
    fs::rename(&draft, file)
}

fn draft(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}"))
}

/// As Go's encoder indents by one space.
fn text(backup: &Backup) -> String {
    let Backup { mac, promisc, mtu, allmulti, queue_len, network, netns } = backup;
    let text = |text: &String| Some(Json::from(text.as_str())).filter(|_| !text.is_empty());
    let members = [
        ("mac", text(mac)),
        ("promisc", promisc.map(Json::from)),
        ("mtu", Some(*mtu).filter(|mtu| *mtu != 0).map(Json::from)),
        ("allmulti", allmulti.map(Json::from)),
        ("txQLen", queue_len.map(Json::from)),
        ("network", text(network)),
        ("netns", Some(*netns).filter(|netns| *netns != 0).and_then(|netns| i64::try_from(netns).ok()).map(Json::from)),
    ];
    let known = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Json::from_iter(known).pretty4().replace("\n    ", "\n ")
}

/// The content; `None` if there is no file, or it is not of this form.
pub fn read(file: &Path) -> io::Result<Option<Backup>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(file);
    match opened {
        Err(cause) if is_gone(&cause) || is_link(&cause) => Ok(None),
        opened => content(&opened?),
    }
}

fn content(file: &File) -> io::Result<Option<Backup>> {
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(LONGEST).read_to_end(&mut bytes)?;
    }
    Ok(gojson::decode(&bytes).ok())
}

/// Removes the file, and what a killed ADD left of it.
pub fn remove(file: &Path) -> io::Result<()> {
    for path in [&draft(file), file] {
        match fs::remove_file(path) {
            Err(cause) if !is_gone(&cause) => return Err(cause),
            _ => {}
        }
    }
    Ok(())
}

fn is_link(cause: &io::Error) -> bool {
    cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn is_gone(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// The files of attachments of `network` that are none of `valid`.
pub fn stale(folder: &Path, network: &str, valid: &[Key<'_>]) -> io::Result<Vec<PathBuf>> {
    let valid: Vec<PathBuf> = valid.iter().map(|key| file(folder, *key)).collect();
    let entries = match fs::read_dir(folder) {
        Err(cause) if is_gone(&cause) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_backup = path.extension().is_some_and(|extension| extension == "json");
        if is_backup && !valid.contains(&path) && read(&path)?.is_some_and(|backup| backup.network == network) {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use kernel::state::LinkKind;
    use kernel::types::Mac;

    use super::*;

    const KEY: Key<'_> = Key { network: "net", container: "cid", ifname: "eth0" };

    fn link() -> Link {
        Link {
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: Some(Mtu(1500)),
            promisc: Some(false),
            allmulti: Some(false),
            queue_len: Some(1000),
            ..Link::up(LinkKind::Dummy)
        }
    }

    fn all() -> Tuned {
        Tuned {
            mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            promisc: Some(true),
            mtu: Some(Mtu(1400)),
            allmulti: Some(true),
            queue_len: Some(0),
        }
    }

    #[test]
    fn the_file_is_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir.path().join("a/b"), KEY);
        write(&file, &Backup::of(&link(), &all(), "net").unwrap()).unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "{\n \"mac\": \"02:00:00:00:00:01\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": false,\n \
             \"txQLen\": 1000,\n \"network\": \"net\"\n}"
        );
        assert_eq!(read(&file).unwrap().unwrap().links(&link()).len(), 5);
        // upstream's has no network
        fs::write(&file, "{\n \"MTU\": 1500\n}").unwrap();
        let links = read(&file).unwrap().unwrap().links(&link());
        assert_eq!(links, [Link { mtu: Some(Mtu(1500)), ..unchanged(&link()) }]);
        for damaged in ["", "{", "[]", r#"{"mtu": "x"}"#] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(read(&file).unwrap(), None, "{damaged}");
        }
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(read(&file).unwrap(), None);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_there_first_is_kept() {
        let first = Backup { mtu: 1500, mac: "02:00:00:00:00:01".into(), netns: 7, ..Backup::default() };
        let second = Backup { mtu: 1400, queue_len: Some(5), netns: 7, ..Backup::default() };
        let both = second.clone().after(first.clone());
        assert_eq!((both.mtu, both.mac, both.queue_len), (1500, first.mac.clone(), Some(5)));
        // another pod, and the reference plugin's file
        for netns in [8, 0] {
            assert_eq!(second.clone().after(first.clone().of_netns(netns)), second);
        }
        let unknown = second.clone().of_netns(0);
        assert_eq!(unknown.clone().after(first.of_netns(0)), unknown);
    }

    #[test]
    fn only_what_changes_is_stored() {
        assert_eq!(Backup::of(&link(), &Tuned::default(), "net"), None);
        assert_eq!(Backup::of(&link(), &Tuned { promisc: Some(false), ..Tuned::default() }, "net"), None);
        let one = Backup::of(&link(), &Tuned { allmulti: Some(false), ..Tuned::default() }, "net").unwrap();
        assert_eq!(one, Backup { allmulti: Some(false), network: "net".into(), ..Backup::default() });
    }

    #[test]
    fn files_of_other_networks_are_not_stale() {
        let dir = tempfile::tempdir().unwrap();
        let of = |network: &str| Backup { mtu: 1, network: network.into(), ..Backup::default() };
        let other = Key { container: "other", ..KEY };
        for (key, network) in [(KEY, "net"), (other, "net"), (Key { container: "third", ..KEY }, "another")] {
            write(&file(dir.path(), key), &of(network)).unwrap();
        }
        fs::write(dir.path().join("go_eth0.json"), "{}").unwrap();
        assert_eq!(stale(dir.path(), "net", &[KEY]).unwrap(), [file(dir.path(), other)]);
        assert_eq!(stale(&dir.path().join("none"), "net", &[]).unwrap(), Vec::<PathBuf>::new());
    }
}
