//! The verdict on each half of each lease follows from four questions. Each answer depends on the answers to the
//! questions before it, for this half and for others:
//!
//! 1. Is the half valid by itself, beside what belongs to this host ([`Alone`])?
//! 2. Does it own its VTEP's MAC address and its WireGuard key? The first claimant owns them.
//! 3. Does it own its subnet? In the order of claims each half gets its subnet, unless a part of it is given already.
//! 4. Is its address outside all given subnets?
//!
//! A judgement starts with what has changed, and continues with the halves whose answers depend on that. It asks the
//! third question in the order of claims, so it looks at each half once: a later claim cannot change an earlier one.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use kernel::types::Family;

use super::alone::{Alone, Claimed, Rules};
use super::book::{Book, Pending, rank};
use super::claims::{Claimant, Claims, Rank};
use super::index::Spans;
use super::own::OwnChanges;
use super::{Own, Peer, Standing};
use crate::lease::{StoredLease, Subnets};
use crate::net::ByFamily;
use crate::netconf::NetConf;

/// What a judgement may have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything was judged; `peers` is empty.
    pub all: bool,
    /// The peers that have changed, including those that are no longer accepted or gone; each with its previous
    /// state, if it was accepted.
    pub peers: BTreeMap<Subnets, Option<Peer>>,
    /// Whether the result of [`Book::rejected`] may have changed.
    pub rejected: bool,
    /// The number of judged leases.
    pub judged: usize,
}

/// A judgement in progress.
pub(super) struct Judgement<'a> {
    pub(super) book: &'a mut Book,
    pub(super) rules: &'a Rules,
    /// Halves that wait for their subnets.
    pub(super) queue: BTreeSet<(Rank, Family)>,
    /// Subnets that were given or withdrawn.
    pub(super) moved: BTreeSet<IpNetwork>,
    /// The judged leases with their previous standing; `None`: everything is judged.
    pub(super) before: Option<BTreeMap<Subnets, ByFamily<Standing>>>,
}

impl Book {
    /// Judges what has changed since the last call, and what depends on it. Judges everything if the configuration
    /// has changed in a way that verdicts depend on, or if this host has another lease, another key or another VTEP's
    /// MAC address.
    pub fn judge(&mut self, conf: &NetConf, own: &Own) -> Touched {
        let rules = Rules::of(conf);
        let changes = own.changes_since(&self.own).filter(|_| self.rules.as_ref() == Some(&rules));
        if self.own != *own {
            self.own.clone_from(own);
        }
        self.rules = Some(rules.clone());
        let judgement =
            Judgement { book: self, rules: &rules, queue: BTreeSet::new(), moved: BTreeSet::new(), before: None };
        match changes {
            Some(changes) => judgement.what_changed(&changes),
            None => judgement.everything(),
        }
    }

    /// The leases whose verdict depends on a change of what belongs to this host.
    fn concerned(&self, changes: &OwnChanges) -> BTreeSet<Subnets> {
        let mut concerned = BTreeSet::new();
        for inside in &changes.inside {
            let network = self.rules.as_ref().and_then(|rules| *rules.families.get((*inside).into()));
            let around = network.map(|(network, _)| self.spans.around(*inside, network));
            concerned.extend(around.unwrap_or_default());
        }
        concerned.extend(changes.published.iter().flat_map(|public| self.addresses.publishing(*public, *public)));
        concerned.extend(changes.keys.iter().flat_map(|key| self.keys.keys(*key)));
        concerned
    }
}

impl Judgement<'_> {
    fn everything(mut self) -> Touched {
        self.book.pending = Pending::default();
        self.book.spans = Spans::default();
        let (mut macs, mut keys, mut queue) = (Vec::new(), Vec::new(), Vec::new());
        let (rules, own) = (self.rules, &self.book.own);
        for peer in self.book.leases.values_mut() {
            for family in Family::ALL {
                let (standing, claimed) = admit(Alone { rules, own, lease: &peer.lease }, family);
                *peer.standing.get_mut(family) = standing;
                let Some(rank) = rank(rules, &peer.lease, family) else { continue };
                let claimant = |unproven| Claimant { unproven, rank, family };
                macs.extend(claimed.mac.map(|mac| ((family, mac), claimant(false))));
                keys.extend(claimed.key.map(|key| (key, claimant(!own.proves(&key, &peer.lease.attrs)))));
                queue.push((rank, family));
            }
        }
        self.book.macs = Claims::from_iter(macs);
        self.book.keys = Claims::from_iter(keys);
        self.queue = queue.iter().copied().collect();
        self.give_subnets();
        self.find_loops(queue);
        self.book.spans.pack();
        self.settle_all()
    }

    fn settle_all(self) -> Touched {
        let book = self.book;
        book.rejected = book.leases.values().filter(|peer| peer.is_rejected()).map(|peer| peer.lease.subnets).collect();
        book.counts = BTreeMap::new();
        for peer in book.leases.values().filter(|peer| peer.is_followed()) {
            *book.counts.entry(peer.lease.attrs.backend_type).or_default() += 1;
        }
        Touched { all: true, peers: BTreeMap::new(), rejected: true, judged: book.leases.len() }
    }

    fn what_changed(mut self, changes: &OwnChanges) -> Touched {
        let mut dirty = std::mem::take(&mut self.book.pending.dirty);
        dirty.append(&mut self.book.concerned(changes));
        self.before = Some(BTreeMap::new());
        dirty.iter().for_each(|key| self.admit(key));
        let disputed_macs = self.book.macs.take_disputed(|key| dirty.contains(key));
        let disputed_keys = self.book.keys.take_disputed(|key| dirty.contains(key));
        for Claimant { rank, family, .. } in disputed_macs.into_iter().chain(disputed_keys) {
            self.queue.insert((rank, family));
        }
        for subnet in std::mem::take(&mut self.book.pending.freed) {
            self.moved.insert(subnet);
            self.free(subnet, None);
        }
        let looked_at = self.give_subnets();
        let concerned = self.find_concerned();
        self.find_loops(looked_at.into_iter().chain(concerned).collect());
        self.settle()
    }

    /// Asks the first question about a lease, and registers its claims.
    fn admit(&mut self, key: &Subnets) {
        let Some(peer) = self.book.leases.get(key).cloned() else { return };
        self.note(&peer);
        for family in Family::ALL {
            self.book.release(&peer.lease, family);
            let alone = Alone { rules: self.rules, own: &self.book.own, lease: &peer.lease };
            let (standing, claimed) = admit(alone, family);
            if let Some(rank) = rank(self.rules, &peer.lease, family) {
                self.claim(&peer.lease, claimed, rank, family);
                self.queue.insert((rank, family));
            }
            self.set(key, family, standing);
        }
    }

    fn claim(&mut self, lease: &StoredLease, claimed: Claimed, rank: Rank, family: Family) {
        if let Some(mac) = claimed.mac {
            self.book.macs.insert((family, mac), Claimant { unproven: false, rank, family });
        }
        if let Some(key) = claimed.key {
            let unproven = !self.book.own.proves(&key, &lease.attrs);
            self.book.keys.insert(key, Claimant { unproven, rank, family });
        }
    }

    pub(super) fn note(&mut self, peer: &Peer) {
        if let Some(before) = &mut self.before {
            before.entry(peer.lease.subnets).or_insert(peer.standing);
        }
    }

    pub(super) fn set(&mut self, key: &Subnets, family: Family, standing: Standing) {
        if let Some(peer) = self.book.leases.get_mut(key) {
            *peer.standing.get_mut(family) = standing;
        }
    }

    /// Updates everything that is derived from the verdicts, and returns what has changed.
    fn settle(self) -> Touched {
        let (book, before) = (self.book, self.before.unwrap_or_default());
        let refused = std::mem::take(&mut book.pending.refused);
        let mut touched = Touched { judged: before.len(), rejected: refused, ..Touched::default() };
        let was = std::mem::take(&mut book.pending.touched);
        touched.peers = was.into_iter().map(|(key, peer)| (key, Some(peer))).collect();
        for (key, before) in before {
            let Some(peer) = book.leases.get(&key) else { continue };
            let (kind, now) = (peer.lease.attrs.backend_type, peer.standing);
            touched.rejected |= match peer.is_rejected() {
                true => book.rejected.insert(key),
                false => book.rejected.remove(&key),
            };
            let [was, is] = [before, now].map(is_followed);
            if (was || is) && before != now {
                let was = was.then(|| Peer { standing: before, ..peer.clone() });
                touched.peers.entry(key).or_insert(was);
            }
            if was != is {
                book.count(kind, is);
            }
        }
        // A reason may name any other lease.
        touched.rejected |= !book.rejected.is_empty() && (touched.judged > 0 || !touched.peers.is_empty());
        touched
    }
}

pub(super) fn is_followed(standing: ByFamily<Standing>) -> bool {
    Family::ALL.into_iter().any(|family| matches!(standing.get(family), Standing::Good { .. }))
}

/// Asks the first question. A half that passes counts as good until the other questions are asked.
fn admit(alone: Alone<'_>, family: Family) -> (Standing, Claimed) {
    let half = match alone.whole() {
        Ok(true) => alone.half(family),
        Ok(false) => Ok(None),
        Err(_) if alone.lease.subnets.get(family).is_none() => Ok(None),
        Err(reason) => Err(reason),
    };
    match half {
        Ok(Some(claimed)) => (Standing::Good { vtep: false, key: false }, claimed),
        Ok(None) => (Standing::Absent, Claimed::default()),
        Err(_) => (Standing::Refused, Claimed::default()),
    }
}
