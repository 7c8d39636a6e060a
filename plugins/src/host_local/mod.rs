//! `host-local`: addresses of this host's ranges, remembered on this host's disk.

mod config;
mod range;
mod resolv;
mod span;
mod store;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::{AddResult, Dns, IpConfig};
use ipnetwork::IpNetwork;
use rustix::fs::OFlags;

use config::Ipam;
use range::{Range, RangeSet};
use span::Key;
use store::{Owner, Store, StoreError};

use crate::netns;

/// The plugin.
pub struct HostLocal;

/// An index file's header, read and written again; `None` when it is none of ours. The index is rebuilt then.
pub fn recode_index(bytes: &[u8]) -> Option<Vec<u8>> {
    store::recode_index(bytes)
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::new(code::IO, format!("host-local: {error}"))
    }
}

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let ipam = Ipam::read(&request.conf, &request.env.args)?;
        let wanted = assign(&ipam.sets, &ipam.requested)?;
        let dns = read_dns(&ipam)?;
        let mut store = Store::open(&ipam.data_dir, &request.conf.name, &ipam.sets)?;
        let ips = allocate_all(&mut store, &ipam.sets, &wanted, owner(request))?;
        store.close();
        Ok(AddResult { ips, routes: ipam.routes, dns, ..AddResult::default() })
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        let data_dir = config::data_dir(&request.conf);
        let Some(mut store) = Store::open_existing(&data_dir, &request.conf.name)? else { return Ok(()) };
        store.release_all(owner(request))?;
        store.close();
        Ok(())
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let ipam = Ipam::read(&request.conf, &request.env.args)?;
        let mut reserved = Vec::new();
        if let Some(mut store) = Store::open_existing(&ipam.data_dir, &request.conf.name)? {
            reserved = store.owned(owner(request))?;
            store.close();
        }
        let id = &request.env.container_id;
        if reserved.is_empty() {
            return Err(Error::internal(format_args!("host-local: Failed to find address added by container {id}")));
        }
        let previous = request.conf.prev_result.iter().flat_map(|result| &result.ips).map(|ip| ip.address.ip());
        let lost = not_reserved(previous, &ipam.sets, &reserved);
        if lost.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format_args!("host-local: not reserved for container {id}: {}", join(&lost))))
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let data_dir = config::data_dir(&request.conf);
        let Some(mut store) = Store::open_existing(&data_dir, &request.conf.name)? else { return Ok(()) };
        let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
        let owners = valid.iter().map(|a| Owner { id: &a.container_id, ifname: &a.ifname });
        let contents: std::collections::HashSet<String> =
            owners.flat_map(|owner| [owner.content(), owner.id.to_owned()]).collect();
        store.retain(|content| contents.contains(content))?;
        store.close();
        Ok(())
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let unavailable = |cause: String| Error::new(code::NOT_AVAILABLE, cause);
        let ipam = Ipam::read(&request.conf, &request.env.args)?;
        let failed = |error: StoreError| unavailable(format!("host-local: {error}"));
        let mut store = Store::open(&ipam.data_dir, &request.conf.name, &ipam.sets).map_err(failed)?;
        store.probe_writable().map_err(failed)?;
        let mut full = Vec::new();
        for set in &ipam.sets {
            if !store.has_free(set).map_err(failed)? {
                full.push(exhausted(set));
            }
        }
        store.close();
        if full.is_empty() { Ok(()) } else { Err(unavailable(full.join("; "))) }
    }
}

fn owner<'a>(request: &'a Request<'_>) -> Owner<'a> {
    Owner { id: &request.env.container_id, ifname: &request.env.ifname }
}

fn read_dns(ipam: &Ipam) -> Result<Dns, Error> {
    let Some(path) = &ipam.resolv_conf else { return Ok(Dns::default()) };
    let text = read_regular(path).map_err(|cause| {
        Error::new(code::IO, format!("host-local: cannot read 'ipam.resolvConf' {}: {cause}", path.display()))
    })?;
    Ok(resolv::parse(&String::from_utf8_lossy(&text)))
}

/// More than a resolv.conf(5) has.
const LONGEST: u64 = 1024 * 1024;

/// Neither waits for the writer of a FIFO nor reads a device that never ends.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(io::Error::other("it is no regular file, or too long"));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// For each set the first requested address that it holds; an address that no set takes is an error.
fn assign(sets: &[RangeSet], requested: &[IpAddr]) -> Result<Vec<Option<Key>>, Error> {
    let mut left: Vec<IpAddr> = requested.to_vec();
    let mut take = |set: &RangeSet| {
        let at = left.iter().position(|ip| set.range_of(Key::from(*ip)).is_some())?;
        Some(Key::from(left.remove(at)))
    };
    let wanted = sets.iter().map(&mut take).collect();
    if left.is_empty() {
        return Ok(wanted);
    }
    Err(Error::internal(format_args!("failed to allocate all requested IPs: {}", join(&left))))
}

/// One address from each set, or none at all.
fn allocate_all(
    store: &mut Store,
    sets: &[RangeSet],
    wanted: &[Option<Key>],
    owner: Owner<'_>,
) -> Result<Vec<IpConfig>, Error> {
    store.release_outlived(owner)?;
    let earlier = store.owned(owner)?;
    let mut got: Vec<(Key, IpConfig)> = Vec::with_capacity(sets.len());
    for (index, (set, wanted)) in sets.iter().zip(wanted).enumerate() {
        let outcome = refuse_second(set, &earlier, owner.id)
            .and_then(|()| allocate(store, set, index, *wanted, owner))
            .and_then(|(key, range)| {
                got.push((key, ip_config(key, range)?));
                Ok(store.set_last_reserved(index, key)?)
            });
        if let Err(error) = outcome {
            for (key, _) in &got {
                // the first failure is the one to report; GC finds what could not be removed
                let _ = store.release(*key, owner);
            }
            return Err(error.context(format_args!("failed to allocate for range {index}")));
        }
    }
    Ok(got.into_iter().map(|(_, config)| config).collect())
}

fn refuse_second(set: &RangeSet, earlier: &[Key], id: &str) -> Result<(), Error> {
    match earlier.iter().find(|key| set.range_of(**key).is_some()) {
        None => Ok(()),
        Some(key) => {
            let ip = IpAddr::from(*key);
            Err(Error::internal(format_args!("{ip} has been allocated to {id}, duplicate allocation is not allowed")))
        }
    }
}

fn allocate<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    index: usize,
    wanted: Option<Key>,
    owner: Owner<'_>,
) -> Result<(Key, &'s Range), Error> {
    let Some(key) = wanted else {
        let last = store.last_reserved(index)?;
        return store.reserve_next(set, last, owner)?.ok_or_else(|| Error::internal(exhausted(set)));
    };
    let ip = IpAddr::from(key);
    let unavailable = || Error::internal(format_args!("requested IP address {ip} is not available in range set {set}"));
    let range = set.range_of(key).ok_or_else(unavailable)?;
    if ip == range.gateway {
        return Err(Error::internal(format_args!("requested ip {ip} is subnet's gateway")));
    }
    if store.reserve(key, owner)? { Ok((key, range)) } else { Err(unavailable()) }
}

fn ip_config(key: Key, range: &Range) -> Result<IpConfig, Error> {
    let address = IpNetwork::new(key.into(), range.subnet.prefix()).map_err(Error::internal)?;
    Ok(IpConfig { interface: None, address, gateway: Some(range.gateway) })
}

fn exhausted(set: &RangeSet) -> String {
    format!("no IP addresses available in range set: {set}")
}

/// Of the addresses that lie in a set, those that are not among the reserved ones.
fn not_reserved(ips: impl Iterator<Item = IpAddr>, sets: &[RangeSet], reserved: &[Key]) -> Vec<IpAddr> {
    let ours = |key: Key| sets.iter().any(|set| set.range_of(key).is_some());
    ips.filter(|ip| ours(Key::from(*ip)) && !reserved.contains(&Key::from(*ip))).collect()
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
