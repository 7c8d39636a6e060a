//! Packet rules of an attachment: masquerade and the check of the source MAC address, both in nf_tables.

use attachment::Key;
use attachment::record::Record;
use attachment::rules::{Rules, iptables, macspoof, masquerade, support};
use cni::error::{Error, code};
use cni::plugin::Request;
use cni::result::AddResult;
use ipnetwork::IpNetwork;
use kernel::Kernel;
use kernel::removal::leave_to_child;

use super::del::Extent;
use super::{Common, Ends};
use crate::traces;

/// The rules that the configuration requests.
pub(super) fn wanted(request: &Request<'_>, common: &Common<'_>, ends: &Ends, result: &AddResult) -> Vec<Rules> {
    let nets: Vec<IpNetwork> = result.ips.iter().map(|ip| ip.address).collect();
    let key = traces::key(request);
    let masquerade = common.masquerade.filter(|_| common.ipam.is_some());
    let masquerade = masquerade.map(|exclude| masquerade::rules(key, &nets, exclude));
    let check = common.spoof_check.then(|| macspoof::rules(key, Some((&ends.host, ends.pod_mac))));
    masquerade.into_iter().chain(check).collect()
}

/// The rules that an ADD may have made, from the attachment's names alone.
fn possible(key: Key<'_>) -> [Rules; 2] {
    [masquerade::rules(key, &[], &[]), macspoof::rules(key, None)]
}

/// Removes the attachment's rules: those in the record and, if it may be incomplete, those with the attachment's
/// names.
pub(super) fn remove(
    key: Key<'_>,
    host: Option<&mut Kernel>,
    record: Option<&Record>,
    extent: Extent,
) -> Result<(), Error> {
    if extent == Extent::Recorded && record.is_none_or(|record| record.rules.is_empty()) {
        return Ok(());
    }
    match host {
        Some(host) => remove_by(host, key, record, extent),
        None => {
            let mut host = Kernel::open().map_err(Error::internal)?;
            let removed = remove_by(&mut host, key, record, extent);
            // When a socket that deleted something is closed, the kernel waits for an RCU grace period.
            host.take_nft().into_iter().for_each(leave_to_child);
            removed
        }
    }
}

fn remove_by(host: &mut Kernel, key: Key<'_>, record: Option<&Record>, extent: Extent) -> Result<(), Error> {
    let mut outcomes = Vec::new();
    for rules in possible(key) {
        let recorded = record.map(|record| record.rules_of(&rules.table)).unwrap_or_default();
        if extent == Extent::Possible || !recorded.is_empty() {
            outcomes.push(rules.remove(host, &recorded).map_err(Error::internal));
        }
    }
    if record.is_none() {
        // Rules from an ADD of the reference plugins.
        outcomes.extend(iptables::rules(key).map(|rules| rules.remove(host, &[]).map_err(Error::internal)));
    }
    super::join(outcomes)
}

/// The rules that ADD would still have to write.
pub(super) fn differences(rules: Vec<Rules>) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    if rules.is_empty() {
        return Ok(missing);
    }
    let mut host = Kernel::open().map_err(Error::internal)?;
    for rules in rules {
        missing.extend(rules.differences(&mut host).map_err(Error::internal)?);
    }
    Ok(missing)
}

/// Removes the network's masquerade rules of attachments that are no longer valid. A kernel without nf_tables has
/// none.
pub(super) fn collect(request: &Request<'_>) -> Result<(), Error> {
    let network = request.conf.name.as_str();
    let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
    let valid: Vec<Key<'_>> =
        valid.iter().map(|a| Key { network, container: &a.container_id, ifname: &a.ifname }).collect();
    let mut host = Kernel::open().map_err(Error::internal)?;
    let outcome = masquerade::collect(&mut host, network, &valid);
    host.take_nft().into_iter().for_each(leave_to_child);
    match outcome {
        Err(_) if support(&mut host).is_err_and(|error| error.is_unsupported()) => Ok(()),
        outcome => outcome.map_err(Error::internal),
    }
}

/// Checks whether the requested rules could be written.
pub(super) fn status(common: &Common<'_>, host: &mut Kernel) -> Result<(), Error> {
    if common.masquerade.is_none() && !common.spoof_check {
        return Ok(());
    }
    support(host)
        .map_err(|cause| Error::new(code::NOT_AVAILABLE, format!("ipMasq and macspoofchk need nf_tables: {cause}")))
}
