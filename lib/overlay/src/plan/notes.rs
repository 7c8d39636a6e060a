//! What a person should know.

use std::collections::BTreeSet;

use kernel::types::Family;

use super::{Facts, PeerView};
use crate::peers::{Book, Rejected};
use crate::reach::Reach;
use crate::underlay::{Found, UnderlayError};

/// With more peers than this that become unreachable at once, one line counts them.
const LINES: usize = 10;

/// What is wrong with this host's own part, whatever the peers are.
pub(super) fn of_host(facts: &Facts<'_>, underlay: &Found, missing: &[UnderlayError]) -> Vec<String> {
    let nat = facts.conf.backend.behind_nat().filter(|_| underlay.public != underlay.underlay.addresses);
    missing.iter().map(ToString::to_string).chain(nat.map(str::to_owned)).collect()
}

/// A peer that publishes this host's address. Where the host itself has it the lease is rejected; where it is a router's the
/// peer is followed, but both can be reached only where hosts are told apart by more than that.
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

/// What was said of the leases and still is so.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    leases: BTreeSet<String>,
}

impl Said {
    /// What is new of these lines.
    pub(super) fn news(&mut self, lines: impl Iterator<Item = String>) -> Vec<String> {
        let now: BTreeSet<String> = lines.collect();
        let new = now.difference(&self.leases).cloned().collect();
        self.leases = now;
        new
    }
}

/// The leases that are not followed, and those that share an address.
pub(super) fn of_leases(rejections: &[Rejected], book: &Book) -> impl Iterator<Item = String> {
    let ignored = rejections.iter().map(|r| format!("{} in the store is ignored: {}", r.key, r.explained()));
    let shared = book.shared();
    ignored.chain(shared.map(|s| format!("the leases {} and {} publish the same address {}", s.key, s.with, s.public)))
}

/// Peers that cannot be reached now, and could be before or are new.
pub(super) fn unreachable(lost: &[PeerView]) -> Vec<String> {
    let line = |peer: &PeerView| format!("{} at {} cannot be reached: {}", peer.subnet, peer.public, peer.reason);
    match lost {
        [] => Vec::new(),
        [first, ..] if lost.len() > LINES => {
            vec![format!("{} peers cannot be reached, among them {}", lost.len(), line(first))]
        }
        few => few.iter().map(line).collect(),
    }
}

/// True for a peer that packets may not come to.
pub(super) fn is_lost(peer: &PeerView) -> bool {
    matches!(peer.reach, Reach::Unreachable(_)) || matches!(peer.reason, crate::reach::Why::OtherVni(_))
}
