//! Which runtime an attachment belongs to, when two on one host use a network of one name.
//!
//! The specification wants a network's name to be unique on a host, and lets GC remove whatever its list of valid attachments does
//! not name. A runtime knows its own attachments only, so that its GC would take the addresses and links of another's pods. ADD
//! records the program that called it. GC leaves the attachments of other programs alone for as long as their pods live.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use attachment::Key;
use attachment::record::{Attacher, DIRECTORY, Locked, list};
use attachment::section::PodNetns;
use cni::conf::Attachment;
use cni::error::Error;
use cni::plugin::Request;
use kernel::netns::Netns;

use super::join;

/// What the kernel adds to the path of a program whose file was replaced.
const REPLACED: &[u8] = b" (deleted)";

/// Who attaches the pod with this namespace; `None`: the caller is unknown, as one in another PID namespace is.
pub(super) fn attacher(request: &Request<'_>, netns: Option<&Netns>) -> Option<Attacher> {
    let netns = netns.map(|netns| PodNetns::of(&request.env.netns, netns)).unwrap_or_default();
    Some(Attacher { program: caller()?, netns })
}

/// The program that called this plugin.
fn caller() -> Option<String> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let program = fs::read_link(format!("/proc/{parent}/exe")).ok()?;
    let bytes = program.as_os_str().as_bytes();
    String::from_utf8(bytes.strip_suffix(REPLACED).unwrap_or(bytes).to_vec()).ok()
}

/// The attachments of the network that GC keeps: those of the caller's list, and those of living pods that another program
/// attached. A record that cannot be read is no reason to keep its attachment.
pub(crate) fn kept(request: &Request<'_>) -> Vec<Attachment> {
    let mut kept = request.conf.valid_attachments.clone().unwrap_or_default();
    let (directory, network) = (Path::new(DIRECTORY), request.conf.name.as_str());
    let recorded = list(directory, network).unwrap_or_default();
    let Some(caller) = (!recorded.is_empty()).then(caller).flatten() else { return kept };
    for (container_id, ifname) in recorded {
        let key = Key { network, container: &container_id, ifname: &ifname };
        let by = Locked::glance(directory, key).ok().flatten().and_then(|record| record.by);
        if by.is_some_and(|by| by.program != caller && by.netns.is_there()) {
            kept.push(Attachment { container_id, ifname });
        }
    }
    kept
}

/// Calls `remove` for every recorded attachment of the network that GC does not keep, with its lock. One whose lock another
/// process has is left to the ADD or DEL that works on it. Continues after a failure, and reports all.
pub(super) fn each_stale(
    request: &Request<'_>,
    mut remove: impl FnMut(Key<'_>, Locked) -> Result<(), Error>,
) -> Result<(), Error> {
    let (directory, network) = (Path::new(DIRECTORY), request.conf.name.as_str());
    let valid = kept(request);
    let recorded = list(directory, network).map_err(Error::internal)?;
    let stale = recorded
        .iter()
        .filter(|(container, ifname)| !valid.iter().any(|a| a.container_id == *container && a.ifname == *ifname));
    join(stale.map(|(container, ifname)| {
        let key = Key { network, container, ifname };
        let locked = Locked::at_once(directory, key).map_err(Error::internal)?;
        locked.map_or(Ok(()), |locked| remove(key, locked))
    }))
}
