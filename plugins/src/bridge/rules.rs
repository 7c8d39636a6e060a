//! Packet rules of an attachment: masquerade and the check of the source MAC, both by nf_tables, with the record that DEL
//! finds them by.

use std::path::Path;

use attachment::Key;
use attachment::record::{DIRECTORY, Locked, Record, RecordError};
use attachment::rules::{Rules, macspoof, masquerade};
use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use ipnetwork::IpNetwork;
use kernel::Kernel;
use kernel::removal::leave_to_child;

use super::conf::Conf;
use super::desired::Ends;

fn key<'a>(request: &'a Request<'_>) -> Key<'a> {
    Key { network: &request.conf.name, container: &request.env.container_id, ifname: &request.env.ifname }
}

/// What the configuration asks for.
fn wanted(request: &Request, conf: &Conf, ends: &Ends, result: &AddResult) -> Vec<Rules> {
    let nets: Vec<IpNetwork> = result.ips.iter().map(|ip| ip.address).collect();
    let masquerade = (conf.masquerade && conf.ipam.is_some()).then(|| masquerade::rules(key(request), &nets));
    let check = conf.spoof_check.then(|| macspoof::rules(key(request), Some((&ends.veth, ends.pod_mac))));
    masquerade.into_iter().chain(check).collect()
}

/// What an ADD may have made, by the attachment's names alone.
fn possible(request: &Request) -> [Rules; 2] {
    [masquerade::rules(key(request), &[]), macspoof::rules(key(request), None)]
}

/// Writes what the configuration asks for, and the record of it: begun before the first rule, committed behind the last.
pub fn add(
    request: &Request,
    conf: &Conf,
    host: &mut Kernel,
    (ends, result): (&Ends, &AddResult),
) -> Result<(), Error> {
    let mut locked = Locked::make(Path::new(DIRECTORY), key(request)).map_err(Error::internal)?;
    if let Some(left) = locked.record.take() {
        // an ADD of the same name was killed
        remove_recorded(request, host, &left)?;
    }
    let mut record = Record::begun();
    locked.write(&record).map_err(Error::internal)?;
    for rules in wanted(request, conf, ends, result) {
        let added = rules
            .add(host)
            .map_err(|cause| Error::internal(format!("failed to set up table {} (nftables): {cause}", rules.table)))?;
        record.rules.extend(added.into_iter().map(Into::into));
    }
    record.committed = true;
    locked.write(&record).map_err(Error::internal)
}

/// Takes away what this attachment has: what the record says, or else what the configuration asks for.
pub fn remove(request: &Request, conf: &Conf) -> Result<(), Error> {
    let failed = |cause: RecordError| Error::internal(cause);
    let mut locked = Locked::existing(Path::new(DIRECTORY), key(request)).map_err(failed)?;
    let record = locked.as_mut().and_then(|locked| locked.record.take());
    if record.is_none() && !conf.masquerade && !conf.spoof_check {
        return locked.map_or(Ok(()), Locked::delete).map_err(failed);
    }
    let mut host = Kernel::open().map_err(Error::internal)?;
    let removed = match record {
        Some(record) => remove_recorded(request, &mut host, &record),
        None => remove_read(request, conf, &mut host),
    };
    // the kernel waits for an RCU grace period when a socket that deleted something is closed
    host.take_nft().into_iter().for_each(leave_to_child);
    removed?;
    locked.map_or(Ok(()), Locked::delete).map_err(failed)
}

/// A record that is not committed says only that there may be rules.
fn remove_recorded(request: &Request, host: &mut Kernel, record: &Record) -> Result<(), Error> {
    for rules in possible(request) {
        let recorded = record.rules_of(&rules.table);
        if !record.committed || !recorded.is_empty() {
            rules.remove(host, &recorded).map_err(Error::internal)?;
        }
    }
    Ok(())
}

fn remove_read(request: &Request, conf: &Conf, host: &mut Kernel) -> Result<(), Error> {
    for (rules, _) in possible(request).iter().zip([conf.masquerade, conf.spoof_check]).filter(|(_, asked)| *asked) {
        rules.remove(host, &[]).map_err(Error::internal)?;
    }
    Ok(())
}

/// What [`add`] would still have to write.
pub fn differences(request: &Request, conf: &Conf, ends: &Ends, previous: &AddResult) -> Result<Vec<String>, Error> {
    let wanted = wanted(request, conf, ends, previous);
    let mut missing = Vec::new();
    if wanted.is_empty() {
        return Ok(missing);
    }
    let mut host = Kernel::open().map_err(Error::internal)?;
    for rules in wanted {
        missing.extend(rules.differences(&mut host).map_err(Error::internal)?);
    }
    Ok(missing)
}

/// Drops the network's masquerade rules of attachments that are not valid any more.
pub fn gc(request: &Request, conf: &Conf) -> Result<(), Error> {
    if !conf.masquerade {
        return Ok(());
    }
    let network = request.conf.name.as_str();
    let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
    let valid: Vec<Key<'_>> =
        valid.iter().map(|a| Key { network, container: &a.container_id, ifname: &a.ifname }).collect();
    let mut host = Kernel::open().map_err(Error::internal)?;
    let outcome = masquerade::collect(&mut host, network, &valid);
    host.take_nft().into_iter().for_each(leave_to_child);
    outcome.map_err(Error::internal)
}
