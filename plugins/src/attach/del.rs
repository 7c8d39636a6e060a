//! DEL removes an attachment. It needs no valid configuration, namespace, prevResult or nf_tables, can be repeated,
//! continues after a failure, and reports all failures.

use std::path::Path;

use attachment::Key;
use attachment::record::{DIRECTORY, HostLink, Locked, PodLink, Record};
use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface};
use gojson::Json;
use kernel::Kernel;
use kernel::message::link::SeenLink;
use kernel::removal::{delete_and_wait, delete_link, delete_seen};
use kernel::state::LinkKind;
use kernel::types::{IfName, Mac};

use super::{join, rules, sections};
use crate::{netns, traces};

/// How complete a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The record is complete.
    Recorded,
    /// There may be more objects, with names that follow from the attachment's names.
    Possible,
}

impl Extent {
    fn of(record: &Record) -> Self {
        if record.committed { Self::Recorded } else { Self::Possible }
    }
}

/// Detaches the pod. The address is released only when no link uses it any more.
pub(super) fn del(request: &Request<'_>) -> Result<(), Error> {
    let (mut locked, refused) = match Locked::existing(Path::new(DIRECTORY), traces::key(request)) {
        Ok(locked) => (locked, Ok(())),
        Err(cause) => (None, Err(Error::internal(cause))),
    };
    if let Some(locked) = &mut locked {
        // A record that cannot be written can still be deleted.
        let _ = locked.mark();
    }
    let record = locked.as_ref().and_then(|locked| locked.record.as_ref());
    let links = remove_links(request, record);
    let kind = record.map_or_else(|| ipam_kind(request), |record| record.ipam.as_deref());
    let ipam = links.as_ref().map_or(Ok(()), |()| release(request, kind));
    let rules = rules::remove(traces::key(request), None, record, record.map_or(Extent::Possible, Extent::of));
    let sections = sections::remove_all(traces::key(request), record);
    join([refused, links, ipam, rules, sections])?;
    locked.map_or(Ok(()), Locked::delete).map_err(Error::internal)
}

/// `ipam.type` of a configuration that may have mistakes elsewhere.
pub(super) fn ipam_kind<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let kind = request.conf.tree().get("ipam").and_then(|ipam| ipam.get("type")).and_then(Json::as_str);
    kind.filter(|kind| !kind.is_empty())
}

/// `ipam.dataDir`, as [`ipam_kind`].
pub(super) fn ipam_dir<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let dir = request.conf.tree().get("ipam").and_then(|ipam| ipam.get("dataDir")).and_then(Json::as_str);
    dir.filter(|dir| !dir.is_empty())
}

fn release(request: &Request<'_>, kind: Option<&str>) -> Result<(), Error> {
    kind.map_or(Ok(()), |kind| request.delegates.del(kind, &request.conf.bytes, request.env))
}

/// Removes the links: by the pod's end, else by the host's end, else in the recorded namespace.
fn remove_links(request: &Request<'_>, record: Option<&Record>) -> Result<(), Error> {
    let ifname = IfName::new(&request.env.ifname).map_err(Error::internal)?;
    if let Some(mut pod) = netns::remaining(request)?
        && remove_pod_end(&mut pod, &ifname, record)?
    {
        return Ok(());
    }
    match (record, &request.conf.prev_result) {
        (Some(record), _) => remove_by_record(record),
        (None, Some(previous)) => remove_named_ends(&mut Kernel::open().map_err(Error::internal)?, previous),
        (None, None) => Ok(()),
    }
}

/// Removes the links without the request's namespace: by the host's end, or else in the recorded namespace.
fn remove_by_record(record: &Record) -> Result<(), Error> {
    match (&record.host, &record.pod) {
        (Some(end), _) => remove_host_end(&mut Kernel::open().map_err(Error::internal)?, end),
        (None, Some(end)) => match netns::recorded(&end.netns)? {
            Some(mut pod) => remove_recorded_end(&mut pod, end).map(drop),
            None => Ok(()),
        },
        (None, None) => Ok(()),
    }
}

/// Removes the pod's end. Returns whether it existed. The path may by now lead to another pod's namespace, which has
/// no link with the recorded MAC address.
fn remove_pod_end(pod: &mut Kernel, ifname: &IfName, record: Option<&Record>) -> Result<bool, Error> {
    match record.and_then(|record| record.pod.as_ref()) {
        Some(end) => remove_recorded_end(pod, end),
        None => delete_link(pod, ifname).map_err(Error::internal),
    }
}

fn remove_recorded_end(pod: &mut Kernel, end: &PodLink) -> Result<bool, Error> {
    match find(pod, (&end.name, &end.mac))? {
        Some(seen) => delete_seen(pod, &seen).map(|_| true).map_err(Error::internal),
        None => Ok(false),
    }
}

/// The link with this name, if it still has the recorded MAC address.
fn find(kernel: &mut Kernel, (name, mac): (&str, &str)) -> Result<Option<SeenLink>, Error> {
    let (Ok(name), Ok(mac)) = (IfName::new(name), mac.parse::<Mac>()) else { return Ok(None) };
    Ok(kernel.link(&name).map_err(Error::internal)?.filter(|seen| seen.link.mac == Some(mac)))
}

fn remove_host_end(host: &mut Kernel, end: &HostLink) -> Result<(), Error> {
    match find(host, (&end.name, &end.mac))? {
        Some(seen) => delete_seen(host, &seen).map(drop).map_err(Error::internal),
        None => Ok(()),
    }
}

/// Removes the host's end that prevResult names, if there is no record. The name alone may belong to any link of the
/// host, so the link must be a veth and a port of a bridge in prevResult, and have that MAC address.
fn remove_named_ends(host: &mut Kernel, previous: &AddResult) -> Result<(), Error> {
    let of_host: Vec<&Interface> = previous.interfaces.iter().filter(|i| i.sandbox.is_empty()).collect();
    for interface in &of_host {
        if let Some(end) = named_end(host, interface, &of_host)? {
            delete_seen(host, &end).map_err(Error::internal)?;
        }
    }
    Ok(())
}

fn named_end(host: &mut Kernel, interface: &Interface, all: &[&Interface]) -> Result<Option<SeenLink>, Error> {
    let seen = find(host, (&interface.name, &interface.mac))?;
    let Some(seen) = seen.filter(|seen| matches!(seen.link.kind, LinkKind::Veth(_))) else { return Ok(None) };
    let Some(master) = seen.master else { return Ok(None) };
    let master = host.name(master).map_err(Error::internal)?;
    Ok(master.filter(|master| all.iter().any(|i| i.name == master.as_str())).map(|_| seen))
}

/// Removes what a failed ADD made.
pub(super) fn remove_made(
    request: &Request<'_>,
    (host, pod): (&mut Kernel, &mut Kernel),
    record: &Record,
    extent: Extent,
) -> [Result<(), Error>; 4] {
    let links = remove_both_ends(host, pod, record);
    let ipam = links.as_ref().map_or(Ok(()), |()| release(request, record.ipam.as_deref()));
    let key = traces::key(request);
    let rules = rules::remove(key, Some(host), Some(record), extent);
    [links, ipam, rules, sections::remove_all(key, Some(record))]
}

/// Removes what a killed ADD, or an attachment whose pod went without DEL, left behind.
pub(super) fn remove_recorded(
    request: &Request<'_>,
    host: &mut Kernel,
    pod: &mut Kernel,
    record: &Record,
) -> [Result<(), Error>; 4] {
    remove_made(request, (host, pod), record, Extent::of(record))
}

fn remove_both_ends(host: &mut Kernel, pod: &mut Kernel, record: &Record) -> Result<(), Error> {
    let (kernel, end) = match (&record.host, &record.pod) {
        (Some(end), _) => (host, (&*end.name, &*end.mac)),
        (None, Some(end)) => (pod, (&*end.name, &*end.mac)),
        (None, None) => return Ok(()),
    };
    match find(kernel, end)? {
        Some(seen) => delete_and_wait(kernel, &seen).map(drop).map_err(Error::internal),
        None => Ok(()),
    }
}

/// Removes what is left of an attachment that no runtime knows any more.
pub(super) fn collect(key: Key<'_>, locked: Locked) -> Result<(), Error> {
    let record = locked.record.as_ref();
    let link = record.map_or(Ok(()), remove_by_record);
    let rules = rules::remove(key, None, record, record.map_or(Extent::Possible, Extent::of));
    join([link, rules, sections::remove_all(key, record)])?;
    locked.delete().map_err(Error::internal)
}
