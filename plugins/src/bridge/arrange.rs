//! The host's side after IPAM has answered: which objects exist, and which must be replaced.

use cni::error::Error;
use kernel::state::{AddressKey, Link, Scope, State};
use kernel::types::Mac;

use super::conf::Conf;
use super::desired;
use crate::attach::{Arranged, Ground, Replacement};
use crate::host::forwarding;

/// The part of `wanted` that is known to exist. Removes addresses that replace others from `wanted`: they come last.
pub fn arrange(conf: &Conf, ground: &mut Ground<'_>, wanted: &mut State) -> Result<Arranged, Error> {
    let (known, read) = (known(conf, ground), unknown(conf, ground, wanted));
    let mut arranged = Arranged { known, read, ..Arranged::default() };
    if conf.vlans.as_ref().is_some_and(|vlans| !vlans.keep_default) {
        arranged.scope.vlans.push(ground.ends.host.clone());
    }
    if wanted.addresses.is_empty() {
        return Ok(arranged);
    }
    let index = ground.host.index(&conf.gateway_link()).map_err(Error::internal)?;
    let present = ground.host.addresses_of(index).map_err(Error::internal)?;
    let keys: Vec<_> = present.iter().map(|seen| seen.key.clone()).collect();
    let rivals = desired::conflicting(wanted, &keys);
    may_replace(conf, ground, wanted, &rivals)?;
    let mut there = State::default();
    let ours = |key: &AddressKey| wanted.addresses.contains_key(key) || rivals.contains(key);
    there.addresses = present.into_iter().map(|s| (s.key, s.address)).filter(|(key, _)| ours(key)).collect();
    if wanted.addresses.keys().any(|key| !there.addresses.contains_key(key)) {
        pin_bridge_mac(conf, ground, wanted, &mut arranged.known);
    }
    if rivals.is_empty() {
        arranged.known.addresses = there.addresses;
    } else {
        arranged.last = Some(replacement(conf, wanted, there));
    }
    Ok(arranged)
}

fn replacement(conf: &Conf, wanted: &mut State, known: State) -> Replacement {
    let addresses = std::mem::take(&mut wanted.addresses);
    let scope = Scope { addresses: vec![conf.gateway_link()], ..Scope::default() };
    Replacement { wanted: State { addresses, ..State::default() }, known, scope }
}

/// The links that have just been made.
fn known(conf: &Conf, ground: &Ground<'_>) -> State {
    let mut known = desired::links(conf, ground.ends, None, true);
    if let Some(seen) = &ground.facts.found {
        known.links.insert(conf.bridge.clone(), Link { up: true, ..seen.link.clone() });
    }
    known
}

/// Forwarding, and the VLANs of the new port, must be read.
fn unknown(conf: &Conf, ground: &Ground<'_>, wanted: &State) -> Scope {
    Scope {
        sysctls: forwarding(wanted),
        vlans: conf.vlans.iter().map(|_| ground.ends.host.clone()).collect(),
        ..Scope::default()
    }
}

/// A bridge that was created without a MAC address has that of its lowest port, and loses it with the port. Writing
/// the address makes it stay (`br_stp_recalculate_bridge_id`, net/bridge/br_stp_if.c).
fn pin_bridge_mac(conf: &Conf, ground: &Ground<'_>, wanted: &mut State, known: &mut State) {
    let Some(found) = &ground.facts.found else { return };
    if let Some(link) = wanted.links.get_mut(&conf.bridge) {
        link.mac = found.link.mac.filter(|mac| mac.is_unicast()).or(Some(ground.ends.shared_mac));
    }
    if let Some(link) = known.links.get_mut(&conf.bridge) {
        link.mac = None;
    }
}

/// The bridge's current MAC address. When a port joins, the kernel recomputes that of a bridge that another program
/// made.
pub fn bridge_mac(conf: &Conf, ground: &mut Ground<'_>) -> Result<Option<Mac>, Error> {
    match &ground.facts.found {
        None => Ok(Some(ground.ends.shared_mac)),
        Some(found) if desired::is_ours(&found.link) => Ok(found.link.mac),
        Some(_) => Ok(ground.host.link(&conf.bridge).map_err(Error::internal)?.and_then(|seen| seen.link.mac)),
    }
}

/// Checks whether addresses of another subnet may be replaced: if the configuration forces it, or on a bridge of ours
/// without pods.
fn may_replace(conf: &Conf, ground: &mut Ground<'_>, wanted: &State, rivals: &[AddressKey]) -> Result<(), Error> {
    if rivals.is_empty() || conf.force_address {
        return Ok(());
    }
    let links = ground.host.links().map_err(Error::internal)?;
    let bridge = ground.host.index(&conf.bridge).map_err(Error::internal)?;
    let ports = links.iter().filter(|l| l.master == Some(bridge.0) && l.name != ground.ends.host).count();
    let ours = ground.facts.found.as_ref().is_none_or(|found| desired::is_ours(&found.link));
    if ports == 0 && ours { Ok(()) } else { Err(desired::address_conflict(conf, wanted, rivals, ports)) }
}
