//! Packet rules of an attachment: masquerade, in nf_tables or in the tables of iptables, and the check of the source MAC
//! address in nf_tables.

use attachment::Key;
use attachment::firewalld::FirewalldError;
use attachment::record::Record;
use attachment::rules::iptables::{self, IptablesError, Part, RemovalError};
use attachment::rules::{Rules, macspoof, masquerade, support};
use cni::error::{Error, code};
use cni::plugin::Request;
use cni::result::AddResult;
use ipnetwork::IpNetwork;
use kernel::Kernel;
use kernel::child::leave_to_child;

use super::del::Extent;
use super::{Common, Ends, Masquerade, MasqueradeBackend, runtimes};
use crate::traces;

/// Rules of an attachment.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// In nf_tables.
    pub(super) nft: Vec<Rules>,
    /// In the tables of iptables.
    pub(super) iptables: Vec<Part>,
}

/// The rules that the configuration requests.
pub(super) fn wanted(request: &Request<'_>, common: &Common<'_>, ends: &Ends, result: &AddResult) -> Wanted {
    let key = traces::key(request);
    let mut wanted = Wanted::default();
    if let Some(Masquerade { exclude, backend }) = requested(common) {
        let nets = nets(result);
        match backend {
            MasqueradeBackend::Nftables => wanted.nft.push(masquerade::rules(key, &nets, exclude)),
            MasqueradeBackend::Iptables => wanted.iptables = iptables::masquerade::parts(key, &nets, exclude),
        }
    }
    if common.spoof_check {
        wanted.nft.push(macspoof::rules(key, Some((&ends.host, ends.pod_mac))));
    }
    wanted
}

/// Without IPAM there is no address to masquerade.
fn requested<'c>(common: &Common<'c>) -> Option<&'c Masquerade> {
    common.masquerade.filter(|_| common.ipam.is_some())
}

fn nets(result: &AddResult) -> Vec<IpNetwork> {
    result.ips.iter().map(|ip| ip.address).collect()
}

/// Whether ADD writes rules by the programs of iptables.
pub(super) fn uses_iptables(common: &Common<'_>) -> bool {
    requested(common).is_some_and(|masquerade| masquerade.backend == MasqueradeBackend::Iptables)
}

/// Makes the masquerade rules in the tables of iptables.
pub(super) fn put(parts: &[Part]) -> Result<(), Error> {
    iptables::put(parts).map_err(|error| refused(&error).context("failed to set up masquerade (iptables)"))
}

/// The error of a program of iptables. A lock that another program holds is temporary.
pub fn refused(error: &IptablesError) -> Error {
    Error::new(if error.is_temporary() { code::TRY_AGAIN } else { code::INTERNAL }, error.to_string())
}

/// The error of firewalld. No answer in time is temporary.
pub fn by_firewalld(error: &FirewalldError) -> Error {
    let code = if error.is_temporary() { code::TRY_AGAIN } else { code::INTERNAL };
    let plain = Error::new(code, error.to_string());
    let advice = "start firewalld, or configure another \"backend\"";
    if error.is_absent() { plain.with_details(advice) } else { plain }
}

/// The error of a removal that failed.
pub fn not_removed(error: RemovalError) -> Error {
    match error {
        RemovalError::Kernel(error) => Error::internal(error),
        RemovalError::Program(error) => refused(&error),
    }
}

/// The rules that an ADD may have made in nf_tables, from the attachment's names alone.
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
    if extent == Extent::Recorded && record.is_none_or(|record| record.rules.is_empty() && !record.iptables) {
        return Ok(());
    }
    match host {
        Some(host) => remove_by(host, key, record, extent),
        None => {
            let mut host = Kernel::open().map_err(Error::internal)?;
            let removed = remove_by(&mut host, key, record, extent);
            leave(&mut host);
            removed
        }
    }
}

/// Leaves the closing of the connection to nf_tables to a child. While the kernel releases what anyone deleted, closing
/// it blocks.
pub(super) fn leave(host: &mut Kernel) {
    if let Some(nft) = host.take_nft() {
        leave_to_child(Some(nft), || ());
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
    // Without a record the ADD may have been one of the reference plugins.
    if record.is_none_or(|record| record.iptables) {
        outcomes.push(iptables::remove(host, &iptables::masquerade::removal(key)).map_err(not_removed));
    }
    super::join(outcomes)
}

/// The rules that ADD would still have to write. Masquerade counts in either backend, as either suite writes it: the
/// attachment may be older than the configuration.
pub(super) fn differences(
    request: &Request<'_>,
    common: &Common<'_>,
    ends: &Ends,
    result: &AddResult,
) -> Result<Vec<String>, Error> {
    let wanted = wanted(request, common, ends, result);
    let mut found = Vec::new();
    if wanted.nft.is_empty() && wanted.iptables.is_empty() {
        return Ok(found);
    }
    let mut host = Kernel::open().map_err(Error::internal)?;
    for rules in &wanted.nft {
        let missing = rules.differences(&mut host).map_err(Error::internal)?;
        let is_masquerade = rules.table == masquerade::table();
        if !(missing.is_empty() || is_masquerade && is_in_iptables(&mut host, request, common, result)) {
            found.extend(missing);
        }
    }
    if !wanted.iptables.is_empty() && !is_in_nftables(&mut host, request, common, result)? {
        found.extend(iptables::differences(&wanted.iptables).map_err(|error| refused(&error))?);
    }
    Ok(found)
}

/// Whether all masquerade rules are in the tables of iptables. No program is run unless something of the attachment may be
/// there.
fn is_in_iptables(host: &mut Kernel, request: &Request<'_>, common: &Common<'_>, result: &AddResult) -> bool {
    let key = traces::key(request);
    let exclude = requested(common).map_or(&[][..], |masquerade| &masquerade.exclude);
    let parts = iptables::masquerade::parts(key, &nets(result), exclude);
    let may_be_there = iptables::may_hold(host, &iptables::masquerade::removal(key));
    may_be_there && iptables::differences(&parts).is_ok_and(|missing| missing.is_empty())
}

fn is_in_nftables(
    host: &mut Kernel,
    request: &Request<'_>,
    common: &Common<'_>,
    result: &AddResult,
) -> Result<bool, Error> {
    let exclude = requested(common).map_or(&[][..], |masquerade| &masquerade.exclude);
    let rules = masquerade::rules(traces::key(request), &nets(result), exclude);
    match rules.differences(host) {
        Err(_) if support(host).is_err_and(|error| error.is_unsupported()) => Ok(false),
        missing => Ok(missing.map_err(Error::internal)?.is_empty()),
    }
}

/// Removes the network's masquerade rules of attachments that are no longer valid, in both backends. A kernel without
/// nf_tables has none there.
pub(super) fn collect(request: &Request<'_>) -> Result<(), Error> {
    let network = request.conf.name.as_str();
    let valid = runtimes::kept(request);
    let valid: Vec<Key<'_>> =
        valid.iter().map(|a| Key { network, container: &a.container_id, ifname: &a.ifname }).collect();
    let mut host = Kernel::open().map_err(Error::internal)?;
    let outcome = masquerade::collect(&mut host, network, &valid);
    let of_iptables = iptables::collect(&mut host, &iptables::masquerade::collection(network, &valid));
    leave(&mut host);
    let outcome = match outcome {
        Err(_) if support(&mut host).is_err_and(|error| error.is_unsupported()) => Ok(()),
        outcome => outcome.map_err(Error::internal),
    };
    super::join([outcome, of_iptables.map_err(not_removed)])
}

/// Checks whether the requested rules could be written.
pub(super) fn status(common: &Common<'_>, host: &mut Kernel) -> Result<(), Error> {
    let not_available =
        |words: &str, cause: &dyn std::fmt::Display| Error::new(code::NOT_AVAILABLE, format!("{words}: {cause}"));
    let iptables = match uses_iptables(common) {
        true => iptables::usable("nat").map_err(|cause| not_available("ipMasq needs iptables", &cause)),
        false => Ok(()),
    };
    let of_nft = common.spoof_check || common.masquerade.is_some() && !uses_iptables(common);
    let nft = match of_nft {
        true => support(host).map_err(|cause| not_available("ipMasq and macspoofchk need nf_tables", &cause)),
        false => Ok(()),
    };
    super::join([iptables, nft])
}
