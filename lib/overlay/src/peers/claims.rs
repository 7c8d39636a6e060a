//! Who claims something that only one host can have: a MAC address, or a WireGuard key.

use std::collections::{BTreeMap, BTreeSet};

use kernel::types::Family;

use crate::lease::Subnets;

/// The place of a half in the order of claims: the smaller one comes first.
///
/// A subnet of the configured length comes before others, so that a claim to half the network does not displace the
/// hosts in it. Next the older lease comes first, then the smaller key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) irregular: bool,
    pub(super) created: u64,
    pub(super) subnets: Subnets,
}

/// A half of a lease that claims a MAC address or a WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    /// False if this host knows that the claimant's host has what it claims. Proven claims come first.
    pub(super) unproven: bool,
    pub(super) rank: Rank,
    pub(super) family: Family,
}

/// All claims to each thing, in order: the first claimant owns it.
#[derive(Debug, Clone)]
pub(super) struct Claims<K> {
    all: BTreeSet<(K, Claimant)>,
    /// The previous owners, for changes that are not settled yet.
    before: BTreeMap<K, Option<Claimant>>,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self { all: BTreeSet::new(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> FromIterator<(K, Claimant)> for Claims<K> {
    fn from_iter<T: IntoIterator<Item = (K, Claimant)>>(claims: T) -> Self {
        Self { all: claims.into_iter().collect(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Claims<K> {
    /// All claimants of `what`, the owner first.
    fn claimants(&self, what: K) -> impl Iterator<Item = &Claimant> {
        let first = Claimant {
            unproven: false,
            rank: Rank { irregular: false, created: 0, subnets: Subnets::default() },
            family: Family::V4,
        };
        self.all.range((what, first)..).take_while(move |(other, _)| *other == what).map(|(_, claimant)| claimant)
    }

    pub(super) fn owner(&self, what: K) -> Option<&Claimant> {
        self.claimants(what).next()
    }

    pub(super) fn has(&self, what: K, rank: Rank, family: Family) -> bool {
        [false, true].into_iter().any(|unproven| self.all.contains(&(what, Claimant { unproven, rank, family })))
    }

    pub(super) fn insert(&mut self, what: K, claimant: Claimant) {
        self.note(what);
        self.all.insert((what, claimant));
    }

    pub(super) fn remove(&mut self, what: K, rank: Rank, family: Family) {
        self.note(what);
        for unproven in [false, true] {
            self.all.remove(&(what, Claimant { unproven, rank, family }));
        }
    }

    fn note(&mut self, what: K) {
        let owner = self.owner(what).copied();
        self.before.entry(what).or_insert(owner);
    }

    /// Takes the claimants whose owner has changed or is among those that are `judged` again.
    pub(super) fn take_disputed(&mut self, judged: impl Fn(&Subnets) -> bool) -> Vec<Claimant> {
        let mut disputed = Vec::new();
        for (what, before) in std::mem::take(&mut self.before) {
            let now = self.owner(what).copied();
            if now != before || now.is_some_and(|owner| judged(&owner.rank.subnets)) {
                disputed.extend(self.claimants(what));
            }
        }
        disputed
    }

    /// The lease keys of all claimants of `what`.
    pub(super) fn keys(&self, what: K) -> Vec<Subnets> {
        self.claimants(what).map(|claimant| claimant.rank.subnets).collect()
    }
}
