//! `host-local` gives addresses of this host's ranges, and stores them on this host's disk.

mod config;
mod resolv;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use attachment::reservations::{Owner, Range, RangeSet, Reservation, Reservations};
use cni::conf::Attachment;
use cni::error::{Error, code};
use cni::plugin::Request;
use cni::result::{AddResult, Dns, IpConfig};
use ipnetwork::IpNetwork;
use rustix::fs::OFlags;

use config::Conf;

use crate::attach::Ipam;
use crate::traces;

/// The plugin.
pub struct HostLocal;

impl Ipam for HostLocal {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        "host-local"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        Conf::read(&request.conf, &request.env.args)
    }

    fn reserve(&self, conf: &Conf, request: &Request<'_>) -> Result<AddResult, Error> {
        let wanted = assign(&conf.sets, &conf.requested)?;
        let dns = read_dns(conf)?;
        let mut reservations = Reservations::open(&conf.data_dir, &request.conf.name, &conf.sets).map_err(failed)?;
        let ips = allocate_all(&mut reservations, &conf.sets, &wanted, owner(request))?;
        reservations.close();
        Ok(AddResult { ips, routes: conf.routes.clone(), dns, ..AddResult::default() })
    }

    fn release(&self, request: &Request<'_>) -> Result<(), Error> {
        let Some(mut reservations) = existing(request)? else { return Ok(()) };
        reservations.release_all(owner(request)).map_err(failed)?;
        reservations.close();
        Ok(())
    }

    fn retain(&self, request: &Request<'_>, valid: &[Attachment]) -> Result<(), Error> {
        let Some(mut reservations) = existing(request)? else { return Ok(()) };
        let containers: BTreeSet<&str> = valid.iter().map(|a| a.container_id.as_str()).collect();
        let owners: BTreeSet<(&str, &str)> =
            valid.iter().map(|a| (a.container_id.as_str(), a.ifname.as_str())).collect();
        let is_valid = |reservation: &Reservation| match &reservation.ifname {
            Some(ifname) => owners.contains(&(reservation.container.as_str(), ifname.as_str())),
            None => containers.contains(reservation.container.as_str()),
        };
        reservations.retain(is_valid).map_err(failed)?;
        reservations.close();
        Ok(())
    }

    fn differences(&self, conf: &Conf, request: &Request<'_>) -> Result<Vec<String>, Error> {
        let mut reserved = Vec::new();
        if let Some(mut reservations) = existing(request)? {
            reserved = reservations.all_of(owner(request)).map_err(failed)?;
            reservations.close();
        }
        let container = &request.env.container_id;
        if reserved.is_empty() {
            return Ok(vec![format!("Failed to find address added by container {container}")]);
        }
        let previous = request.conf.prev_result.iter().flat_map(|result| &result.ips).map(|ip| ip.address.ip());
        let lost = not_reserved(previous, &conf.sets, &reserved);
        let said = || format!("not reserved for container {container}: {}", join(&lost));
        Ok((!lost.is_empty()).then(said).into_iter().collect())
    }

    fn obstacles(&self, conf: &Conf, request: &Request<'_>) -> Result<Vec<String>, Error> {
        let mut reservations = Reservations::open(&conf.data_dir, &request.conf.name, &conf.sets).map_err(failed)?;
        reservations.probe_writable().map_err(failed)?;
        let mut full = Vec::new();
        for set in &conf.sets {
            if !reservations.has_free(set).map_err(failed)? {
                full.push(exhausted(set));
            }
        }
        reservations.close();
        Ok(full)
    }
}

/// An error of the disk: code 5.
fn failed(error: impl Display) -> Error {
    Error::new(code::IO, format!("host-local: {error}"))
}

fn owner<'a>(request: &'a Request<'_>) -> Owner<'a> {
    traces::key(request).into()
}

/// The network's reservations, if it has any; the configuration may have mistakes elsewhere.
fn existing(request: &Request<'_>) -> Result<Option<Reservations>, Error> {
    Reservations::existing(&config::data_dir(&request.conf), &request.conf.name).map_err(failed)
}

fn read_dns(conf: &Conf) -> Result<Dns, Error> {
    let Some(path) = &conf.resolv_conf else { return Ok(Dns::default()) };
    let text = read_regular(path).map_err(|cause| {
        Error::new(code::IO, format!("host-local: cannot read 'ipam.resolvConf' {}: {cause}", path.display()))
    })?;
    Ok(resolv::parse(&String::from_utf8_lossy(&text)))
}

/// The largest resolv.conf(5) in bytes.
const LONGEST: u64 = 1024 * 1024;

/// Reads a regular file. It neither waits for the writer of a FIFO nor reads an endless device.
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

/// The first requested address in each set. An address that is in no set is an error.
fn assign(sets: &[RangeSet], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>, Error> {
    let mut left: Vec<IpAddr> = requested.to_vec();
    let mut take = |set: &RangeSet| {
        let at = left.iter().position(|ip| set.range_of(*ip).is_some())?;
        Some(left.remove(at))
    };
    let wanted = sets.iter().map(&mut take).collect();
    if left.is_empty() {
        return Ok(wanted);
    }
    Err(Error::internal(format_args!("failed to allocate all requested IPs: {}", join(&left))))
}

/// Reserves one address from each set, or none at all.
fn allocate_all(
    reservations: &mut Reservations,
    sets: &[RangeSet],
    wanted: &[Option<IpAddr>],
    owner: Owner<'_>,
) -> Result<Vec<IpConfig>, Error> {
    reservations.release_outlived(owner).map_err(failed)?;
    let earlier = reservations.of(owner).map_err(failed)?;
    let mut got: Vec<IpConfig> = Vec::with_capacity(sets.len());
    for (index, (set, wanted)) in sets.iter().zip(wanted).enumerate() {
        let outcome = refuse_second(set, &earlier, owner.container)
            .and_then(|()| allocate(reservations, (index, set), *wanted, owner))
            .and_then(|(ip, range)| {
                got.push(ip_config(ip, range)?);
                reservations.set_last_reserved(index, ip).map_err(failed)
            });
        if let Err(error) = outcome {
            for config in &got {
                // The first failure is reported; GC finds what could not be removed.
                let _ = reservations.release(config.address.ip(), owner);
            }
            return Err(error.context(format_args!("failed to allocate for range {index}")));
        }
    }
    Ok(got)
}

fn refuse_second(set: &RangeSet, earlier: &[IpAddr], container: &str) -> Result<(), Error> {
    match earlier.iter().find(|ip| set.range_of(**ip).is_some()) {
        None => Ok(()),
        Some(ip) => Err(Error::internal(format_args!(
            "{ip} has been allocated to {container}, duplicate allocation is not allowed"
        ))),
    }
}

fn allocate<'s>(
    reservations: &mut Reservations,
    (index, set): (usize, &'s RangeSet),
    wanted: Option<IpAddr>,
    owner: Owner<'_>,
) -> Result<(IpAddr, &'s Range), Error> {
    let Some(ip) = wanted else {
        let last = reservations.last_reserved(index).map_err(failed)?;
        let found = reservations.reserve_next(set, last, owner).map_err(failed)?;
        return found.ok_or_else(|| Error::internal(exhausted(set)));
    };
    let unavailable = || Error::internal(format_args!("requested IP address {ip} is not available in range set {set}"));
    let range = set.range_of(ip).ok_or_else(unavailable)?;
    if ip == range.gateway {
        return Err(Error::internal(format_args!("requested ip {ip} is subnet's gateway")));
    }
    if reservations.reserve(ip, owner).map_err(failed)? { Ok((ip, range)) } else { Err(unavailable()) }
}

fn ip_config(ip: IpAddr, range: &Range) -> Result<IpConfig, Error> {
    let address = IpNetwork::new(ip, range.subnet.prefix()).map_err(Error::internal)?;
    Ok(IpConfig { interface: None, address, gateway: Some(range.gateway) })
}

fn exhausted(set: &RangeSet) -> String {
    format!("no IP addresses available in range set: {set}")
}

/// The addresses that are in a set, but not reserved.
fn not_reserved(ips: impl Iterator<Item = IpAddr>, sets: &[RangeSet], reserved: &[IpAddr]) -> Vec<IpAddr> {
    let ours = |ip: IpAddr| sets.iter().any(|set| set.range_of(ip).is_some());
    ips.filter(|ip| ours(*ip) && !reserved.contains(ip)).collect()
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
