//! Messages for the operator.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::types::Family;

use super::{Facts, PeerView};
use crate::peers::{Book, Rejected, Shared, gateways};
use crate::reach::Reach;
use crate::underlay::{Found, UnderlayError};
use crate::ways;

/// If there are more lines than this at once, one line gives their number.
const LINES: usize = 10;

/// Problems of this host itself, independent of the peers.
pub(super) fn of_host(facts: &Facts<'_>, underlay: &Found, missing: &[UnderlayError]) -> Vec<String> {
    let nat = facts.conf.backend.behind_nat().filter(|_| underlay.public != underlay.underlay.addresses);
    let down = underlay.carries.as_ref().err();
    let missing = missing.iter().map(ToString::to_string);
    missing.chain(down.map(ToString::to_string)).chain(nat.map(str::to_owned)).collect()
}

/// What other programs have made of the link to the other hosts, that may be meant so.
pub(super) fn of_underlay(facts: &Facts<'_>, underlay: &Found, book: &Book) -> Vec<String> {
    let dev = &underlay.underlay.dev;
    let queues = facts.survey.links.iter().filter(|link| link.name == *dev).filter_map(ways::queue);
    let gateways: BTreeSet<IpAddr> =
        gateways(&facts.survey.routes, dev).into_iter().map(|(gateway, _)| gateway).collect();
    let is_used = |addr: IpAddr| gateways.contains(&addr) || book.publishing(addr).next().is_some();
    let fixed = facts.survey.neighbours.iter().filter(|(key, _)| key.dev == *dev && is_used(key.addr));
    let fixed = fixed.map(|(key, mac)| {
        let addr = key.addr;
        format!(
            "{dev} has the permanent neighbour {addr} with {mac}: if {addr} is not there, nothing reaches it: \
             ip neigh del {addr} dev {dev}"
        )
    });
    let fixed = few(fixed.collect(), "permanent neighbours are on the way to peers");
    queues.chain(fixed).chain(shared_addresses(facts, book)).collect()
}

/// The leases that share an address, of which one host alone can be reached.
fn shared_addresses(facts: &Facts<'_>, book: &Book) -> Vec<String> {
    if facts.conf.backend.shares_addresses() {
        return Vec::new();
    }
    few(book.shared().map(|shared| one_address(&shared)).collect(), "leases share an address with another one")
}

fn one_address(shared: &Shared) -> String {
    format!("the leases {} and {} publish the same address {}", shared.key, shared.with, shared.public)
}

/// A peer that publishes this host's address. If the host itself has the address, the lease is rejected. If a router
/// has it, the peer is accepted, but both can be reached only if the backend distinguishes hosts by more than their
/// address.
pub(super) fn same_address(facts: &Facts<'_>, underlay: &Found, book: &Book) -> Option<String> {
    if facts.conf.backend.shares_addresses() {
        return None;
    }
    let publics = Family::ALL.into_iter().filter_map(|family| *underlay.public.get(family));
    let (public, peer) = publics.into_iter().find_map(|public| Some((public, book.publishing(public).next()?)))?;
    Some(format!(
        "the lease {} publishes this host's public address {public}, too: one of the two hosts cannot be reached; give \
         it another --public-ip",
        peer.subnets()
    ))
}

/// The lines about leases that were reported and still hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    leases: BTreeSet<String>,
}

impl Said {
    /// The lines that are new.
    pub(super) fn news(&mut self, lines: impl Iterator<Item = String>) -> Vec<String> {
        let now: BTreeSet<String> = lines.collect();
        let new = now.difference(&self.leases).cloned().collect();
        self.leases = now;
        few(new, "leases are ignored, or share an address")
    }
}

/// The leases that are not accepted, and those that share an address.
pub(super) fn of_leases(rejections: &[Rejected], book: &Book) -> impl Iterator<Item = String> {
    let ignored = rejections.iter().map(|r| format!("{} in the store is ignored: {}", r.key, r.explained()));
    ignored.chain(book.shared().map(|shared| one_address(&shared)))
}

/// Peers that cannot be reached now, and were reached before or are new.
pub(super) fn unreachable(lost: &[PeerView]) -> Vec<String> {
    let line = |peer: &PeerView| format!("{} at {} cannot be reached: {}", peer.subnet, peer.public, peer.reason);
    few(lost.iter().map(line).collect(), "peers cannot be reached")
}

/// These lines if they are few, else their number and the first one.
fn few(lines: Vec<String>, what: &str) -> Vec<String> {
    match &lines[..] {
        [first, ..] if lines.len() > LINES => vec![format!("{} {what}, for example {first}", lines.len())],
        _ => lines,
    }
}

/// Whether packets may not reach the peer.
pub(super) fn is_lost(peer: &PeerView) -> bool {
    matches!(peer.reach, Reach::Unreachable(_)) || matches!(peer.reason, crate::reach::Why::OtherVni(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_leases_that_are_ignored_are_one_line() {
        let lines = |count: usize| (0..count).map(|n| format!("lease {n:05} is ignored"));
        let mut said = Said::default();
        assert_eq!(said.news(lines(LINES)).len(), LINES);
        let many = said.news(lines(10_000));
        let wanted = "9990 leases are ignored, or share an address, for example lease 00010 is ignored";
        assert_eq!(many, [wanted]);
        assert_eq!(said.news(lines(10_000)), Vec::<String>::new(), "nothing is new");
        assert_eq!(said.news(lines(10_001)).len(), 1);
    }
}
