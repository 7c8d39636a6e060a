//! What the two files contain, and whether that is new. Pure.

use std::collections::{BTreeMap, HashSet};

use ipnetwork::IpNetwork;

use crate::metrics::PeerCounts;
use overlay::status::{Peer, Peers, Rejected, Status};

/// Which peers have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChanges {
    /// These are all peers.
    Whole(Vec<Peer>),
    /// These are new or different, or gone (`None`), by their subnets.
    Some(Vec<(IpNetwork, Option<Peer>)>),
}

impl PeerChanges {
    /// These changes, and then others.
    pub fn then(&mut self, later: Self) {
        match (&mut *self, later) {
            (_, Self::Whole(all)) => *self = Self::Whole(all),
            (Self::Some(before), Self::Some(later)) => before.extend(later),
            (Self::Whole(all), Self::Some(later)) => {
                all.retain(|peer| !later.iter().any(|(subnet, _)| *subnet == peer.subnet));
                all.extend(later.into_iter().filter_map(|(_, peer)| peer));
            }
        }
    }
}

impl Default for PeerChanges {
    /// No change.
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

/// What the files contain.
#[derive(Debug, Default)]
pub struct Contents {
    status: Status,
    counts: PeerCounts,
    env: Option<String>,
    /// The status says something that is not written yet.
    unwritten: bool,
    /// Why subnet.env cannot be written.
    trouble: Option<String>,
}

impl Contents {
    /// Takes over the outcome of a pass.
    pub fn passed(&mut self, head: &Status, peers: PeerChanges, rejected: Option<Vec<Rejected>>, fresh: bool) {
        let mut now = head.clone();
        now.peers = std::mem::take(&mut self.status.peers);
        let before = std::mem::take(&mut self.status.rejected);
        let other = rejected.as_ref().is_some_and(|rejected| *rejected != before);
        now.rejected = rejected.unwrap_or(before);
        let mut news = fresh || other || !says_the_same(&self.status, head);
        news |= self.take_peers(&mut now.peers, peers, head.last_reconcile.as_deref().unwrap_or_default());
        self.status = now;
        self.unwritten |= news;
    }

    /// True when a peer is new, different or gone.
    fn take_peers(&mut self, known: &mut Peers, changes: PeerChanges, now: &str) -> bool {
        let mut news = false;
        let changed = match changes {
            PeerChanges::Some(changed) => changed,
            PeerChanges::Whole(all) => {
                let mut gone: Vec<IpNetwork> = known.iter().map(|peer| peer.subnet).collect();
                let all: Vec<_> = all.into_iter().map(|peer| (peer.subnet, Some(peer))).collect();
                let there: HashSet<IpNetwork> = all.iter().map(|(subnet, _)| *subnet).collect();
                gone.retain(|subnet| !there.contains(subnet));
                gone.into_iter().map(|subnet| (subnet, None)).chain(all).collect()
            }
        };
        for (subnet, peer) in changed {
            let before = known.get(&subnet);
            if let (Some(before), Some(peer)) = (before, &peer)
                && before.is_as(peer)
            {
                continue;
            }
            before.into_iter().for_each(|peer| self.counts.remove(peer.path));
            news |= before.is_some() || peer.is_some();
            match peer {
                Some(peer) => {
                    self.counts.add(peer.path);
                    known.put(Peer { since: now.to_owned(), ..peer });
                }
                None => known.remove(&subnet),
            }
        }
        news
    }

    /// How many peers are reached how.
    pub fn counts(&self) -> &PeerCounts {
        &self.counts
    }

    /// How many entries of the store are not followed.
    pub fn rejected(&self) -> usize {
        self.status.rejected.len()
    }

    /// How many peers there are.
    pub fn peers(&self) -> usize {
        self.status.peers.len()
    }

    /// The content of subnet.env, once there is one.
    pub fn env(&self) -> Option<&str> {
        self.env.as_deref()
    }

    /// Sets it.
    pub fn set_env(&mut self, text: String) {
        self.env = Some(text);
    }

    /// Whether the status says something that is not written yet.
    pub fn is_unwritten(&self) -> bool {
        self.unwritten
    }

    /// Why subnet.env cannot be written; `None` when it is.
    pub fn set_trouble(&mut self, trouble: Option<String>) {
        self.unwritten |= self.trouble != trouble;
        self.trouble = trouble;
    }

    /// The text of the status, to be written now. `drift`: what was repaired so far.
    pub fn take_status(&mut self, drift: BTreeMap<String, u64>) -> String {
        self.unwritten = false;
        self.status.drift = drift;
        let error = self.status.last_error.clone();
        let all: Vec<String> = error.iter().chain(&self.trouble).cloned().collect();
        self.status.last_error = (!all.is_empty()).then(|| all.join("; "));
        let text = self.status.to_json();
        self.status.last_error = error;
        text
    }

    /// The writing failed: it is still to be done.
    pub fn status_failed(&mut self) {
        self.unwritten = true;
    }

    /// One line for the service manager.
    pub fn summary(&self) -> String {
        match (&self.status.last_error, &self.trouble, &self.env) {
            (Some(error), ..) | (None, Some(error), _) => error.clone(),
            (None, None, None) => "starting".to_owned(),
            (None, None, Some(_)) => format!("{} peers", self.status.peers.len()),
        }
    }

    /// The text of the last status.
    pub fn last_words(&mut self, error: &str) -> String {
        self.status.last_error = Some(error.to_owned());
        self.status.to_json()
    }
}

/// True when the two differ in nothing but their time, what the udp backend has counted, and the lists.
fn says_the_same(status: &Status, head: &Status) -> bool {
    let Status { last_reconcile, udp, drift, .. } = status.clone();
    let (peers, rejected) = Default::default();
    *status == Status { peers, rejected, last_reconcile, udp, drift, ..head.clone() }
}
