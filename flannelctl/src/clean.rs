//! `flannelctl clean`: what is left on a host of attachments and routes of ours after the host has gone back to Go's programs, and
//! its removal.
//!
//! Go's programs leave what they do not know: the records and the packet rules of attachments that Go's plugins have detached, the
//! second name of a state of `flannel`, and routes of protocol 70 where Go flanneld has its own. Nothing that is in use is removed.

mod all;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use attachment::Key;
use attachment::record::{HostLink, Locked, PodLink, Record, RecordError, list, networks, parse_name};
use attachment::rules::iptables::{self, RemovalError};
use attachment::rules::{macspoof, masquerade};
use attachment::section::Section;
use ipnetwork::IpNetwork;
use kernel::diff::{RouteText, Step};
use kernel::netns::Netns;
use kernel::removal::{clear, delete_link};
use kernel::state::nft::{NftScope, TableKey};
use kernel::state::{Route, RouteKey, Scope};
use kernel::types::{Family, IfName, Mac, RouteProtocol, TableId};
use kernel::{Kernel, KernelError};
use overlay::net::within;

/// Where it is looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// The folder of the records.
    pub records: PathBuf,
    /// The `dataDir` of flannel.
    pub states: PathBuf,
}

/// Something that is left.
#[derive(Debug, Clone, PartialEq)]
pub enum Left {
    /// A route of protocol 70; another program's route leads to its destination, too.
    Route(RouteKey, Route),
    /// The record of an attachment whose interface is gone, with its packet rules.
    Attachment {
        /// The network's name.
        network: String,
        /// CNI_CONTAINERID
        container: String,
        /// CNI_IFNAME
        ifname: String,
    },
    /// The name `ID@IFNAME` of a state whose other name, `ID`, Go's flannel has removed.
    State(PathBuf),
    /// A table of packet rules of flanneld.
    Table(TableKey),
    /// A device of flanneld, or a bridge that a plugin made and no pod uses.
    Link(IfName),
    /// A file of flanneld.
    File(PathBuf),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(key, route) => {
                let family = if Family::from(key.dst) == Family::V6 { " -6" } else { "" };
                write!(f, "ip{family} route del {}", RouteText(key, route))
            }
            Self::Attachment { network, container, ifname } => {
                write!(f, "the record and the packet rules of {network}/{container}@{ifname}, whose interface is gone")
            }
            Self::State(path) | Self::File(path) => write!(f, "rm {}", path.display()),
            Self::Table(table) => write!(f, "nft delete table {table}"),
            Self::Link(name) => write!(f, "ip link del {name}"),
        }
    }
}

/// Why something cannot be found or removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The kernel refused an operation.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
    /// The rules of an attachment.
    #[error("{object}: {cause}")]
    Rules {
        /// The attachment.
        object: String,
        /// Why they cannot be removed.
        cause: String,
    },
}

/// What is left, with a flanneld of ours that does (`running`) or does not run: a running one needs its routes.
///
/// # Errors
/// Links, routes, records or files cannot be read.
pub fn find(kernel: &mut Kernel, places: &Places, running: bool) -> Result<Vec<Left>, CleanError> {
    let mut left = if running { Vec::new() } else { routes(kernel)? };
    left.extend(attachments(kernel, &places.records)?);
    left.extend(states(&places.states)?);
    Ok(left)
}

/// What flanneld and the plugins keep on a host without pods, besides what [`find`] finds. No flanneld of ours or of Go's may run.
///
/// # Errors
/// As [`find`].
pub fn find_all(kernel: &mut Kernel, places: &Places, subnet_file: &Path) -> Result<Vec<Left>, CleanError> {
    let mut left = attachments(kernel, &places.records)?;
    left.extend(states(&places.states)?);
    left.extend(all::find(kernel, subnet_file)?);
    Ok(left)
}

fn routes(kernel: &mut Kernel) -> Result<Vec<Left>, CleanError> {
    kernel.links()?;
    Ok(replaced(&kernel.routes(TableId::MAIN)?))
}

/// The routes of protocol 70 whose destination another program's route leads to, the default route apart.
fn replaced(all: &[(RouteKey, Route)]) -> Vec<Left> {
    let is_ours = |route: &Route| route.protocol == RouteProtocol::FLANNEL;
    let leads_to =
        |dst: IpNetwork| all.iter().any(|(key, route)| !is_ours(route) && key.dst.prefix() > 0 && within(dst, key.dst));
    let ours = all.iter().filter(|(key, route)| is_ours(route) && leads_to(key.dst));
    ours.map(|(key, route)| Left::Route(key.clone(), route.clone())).collect()
}

fn attachments(kernel: &mut Kernel, records: &Path) -> Result<Vec<Left>, CleanError> {
    let mut left = Vec::new();
    for network in networks(records)? {
        for (container, ifname) in list(records, &network)? {
            let key = Key { network: &network, container: &container, ifname: &ifname };
            // one that is locked is being attached or detached
            let locked = Locked::at_once(records, key)?;
            let gone = match locked.as_ref().and_then(|locked| locked.record.as_ref()) {
                Some(record) => is_gone(kernel, record)?,
                None => false,
            };
            if gone {
                left.push(Left::Attachment { network: network.clone(), container, ifname });
            }
        }
    }
    Ok(left)
}

/// Whether neither end of the attachment's link exists, or, where a plugin of another suite made it, the pod's namespace does not.
fn is_gone(kernel: &mut Kernel, record: &Record) -> Result<bool, KernelError> {
    Ok(match (&record.host, &record.pod) {
        (Some(HostLink { name, mac, .. }), _) => !has(kernel, name, mac)?,
        (None, Some(PodLink { name, mac, netns, .. })) => match Netns::open_other(netns) {
            Ok(netns) => !has(&mut Kernel::open_in(netns)?, name, mac)?,
            Err(error) => error.is_absent(),
        },
        // of chained plugins alone
        (None, None) => !record.sections.is_empty() && !record.sections.iter().any(|kept| kept.netns.is_there()),
    })
}

fn has(kernel: &mut Kernel, name: &str, mac: &str) -> Result<bool, KernelError> {
    let (Ok(name), Ok(mac)) = (IfName::new(name), mac.parse::<Mac>()) else { return Ok(false) };
    Ok(kernel.link(&name)?.is_some_and(|seen| seen.link.mac == Some(mac)))
}

fn states(folder: &Path) -> Result<Vec<Left>, CleanError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| CleanError::File { path, cause }
    };
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(folder))?,
    };
    let mut left = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed(folder))?;
        let name = entry.file_name().into_string().ok();
        if name.and_then(|name| parse_name(&name)).is_none() {
            continue;
        }
        let metadata = entry.metadata().map_err(failed(&entry.path()))?;
        if metadata.is_file() && metadata.nlink() == 1 {
            left.push(Left::State(entry.path()));
        }
    }
    left.sort_by_key(ToString::to_string);
    Ok(left)
}

/// Removes it.
///
/// # Errors
/// The kernel or the file system refuses.
pub fn remove(kernel: &mut Kernel, places: &Places, left: &Left) -> Result<(), CleanError> {
    match left {
        Left::Route(key, route) => kernel
            .apply(&[Step::DeleteRoute(key.clone(), route.clone())])
            .ok()
            .map_err(|failure| CleanError::Rules { object: left.to_string(), cause: failure.to_string() }),
        Left::Attachment { network, container, ifname } => {
            remove_attachment(kernel, &places.records, Key { network, container, ifname })
        }
        Left::Table(table) => {
            let scope = Scope { nft: [(table.clone(), NftScope::Whole)].into(), ..Scope::default() };
            clear(kernel, &scope).into_iter().next().map_or(Ok(()), |error| Err(error.into()))
        }
        Left::Link(name) => Ok(delete_link(kernel, name).map(drop)?),
        Left::State(path) | Left::File(path) => {
            fs::remove_file(path).map_err(|cause| CleanError::File { path: path.clone(), cause })
        }
    }
}

fn remove_attachment(kernel: &mut Kernel, records: &Path, key: Key<'_>) -> Result<(), CleanError> {
    let Some(locked) = Locked::at_once(records, key)? else { return Ok(()) };
    let Some(record) = &locked.record else { return Ok(()) };
    for rules in [masquerade::rules(key, &[], &[]), macspoof::rules(key, None)] {
        rules.remove(kernel, &record.rules_of(&rules.table))?;
    }
    for kept in &record.sections {
        remove_section(kernel, key, record, &kept.section)?;
    }
    Ok(locked.delete()?)
}

/// What a chained plugin made. Sources of firewalld's zones end with its next reload.
fn remove_section(kernel: &mut Kernel, key: Key<'_>, record: &Record, section: &Section) -> Result<(), CleanError> {
    for rules in section.rules(key) {
        rules.remove(kernel, &record.rules_of(&rules.table))?;
    }
    let object = || format!("{} of {}/{}", section.plugin(), key.network, key.container);
    if let Some((_, removal)) = section.iptables(key) {
        let failed = |error: RemovalError| CleanError::Rules { object: object(), cause: error.to_string() };
        iptables::remove(kernel, &removal).map_err(failed)?;
    }
    let (_, scope) = section.host();
    if scope != Scope::default() {
        clear(kernel, &scope).into_iter().next().map_or(Ok(()), Err)?;
    }
    Ok(section.forget_after_alone()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str, protocol: RouteProtocol) -> (RouteKey, Route) {
        let dev = IfName::new("flannel-v6.1").unwrap();
        (RouteKey::main(dst.parse().unwrap()), Route { protocol, ..Route::by(&dev) })
    }

    #[test]
    fn a_route_goes_where_another_leads() {
        let (ours, gos) = (RouteProtocol::FLANNEL, RouteProtocol::BOOT);
        let all = [
            route("fd10::1:0/128", ours),
            route("fd10::1:0/112", gos),
            route("fd10::2:0/128", ours),
            route("10.5.2.0/24", ours),
            route("10.5.2.0/24", gos),
            route("10.5.3.0/24", ours),
            route("0.0.0.0/0", gos),
        ];
        let texts: Vec<String> = replaced(&all).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "ip -6 route del fd10::1:0/128 dev flannel-v6.1 proto 70",
                "ip route del 10.5.2.0/24 dev flannel-v6.1 proto 70"
            ]
        );
    }

    #[test]
    fn a_state_goes_that_has_lost_its_other_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["gone@eth0", "there@eth0", "cache"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        fs::hard_link(dir.path().join("there@eth0"), dir.path().join("there")).unwrap();
        assert_eq!(states(dir.path()).unwrap(), [Left::State(dir.path().join("gone@eth0"))]);
        assert_eq!(states(&dir.path().join("none")).unwrap(), []);
    }
}
