//! The contents of the two files, and whether they have changed. Pure.

use std::collections::{BTreeMap, HashSet};

use ipnetwork::IpNetwork;

use crate::metrics::PeerCounts;
use overlay::status::{Attachments, Peer, Peers, Rejected, Status, Udp};

/// The peers that have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChanges {
    /// The complete list of peers.
    Whole(Vec<Peer>),
    /// The peers that are new or different, or gone (`None`), by subnet.
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

/// The contents of the files.
#[derive(Debug, Default)]
pub struct Contents {
    status: Status,
    counts: PeerCounts,
    env: Option<String>,
    /// Whether the status has changes that are not written.
    unwritten: bool,
    /// Why subnet.env cannot be written.
    env_error: Option<String>,
}

impl Contents {
    /// Records the outcome of a pass.
    pub fn passed(&mut self, head: &Status, peers: PeerChanges, rejected: Option<Vec<Rejected>>, fresh: bool) {
        let mut now = head.clone();
        now.peers = std::mem::take(&mut self.status.peers);
        let before = std::mem::take(&mut self.status.rejected);
        let other = rejected.as_ref().is_some_and(|rejected| *rejected != before);
        now.rejected = rejected.unwrap_or(before);
        now.attachments = self.status.attachments.take();
        let mut news = fresh || other || !says_the_same(&self.status, head);
        news |= self.take_peers(&mut now.peers, peers, head.last_reconcile.as_deref().unwrap_or_default());
        self.status = now;
        self.unwritten |= news;
    }

    /// Applies changes of peers. Returns true if a peer is new, different or gone.
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

    /// The number of peers by how they are reached.
    pub fn counts(&self) -> &PeerCounts {
        &self.counts
    }

    /// The number of entries in the store that are rejected.
    pub fn rejected(&self) -> usize {
        self.status.rejected.len()
    }

    /// The number of peers.
    pub fn peers(&self) -> usize {
        self.status.peers.len()
    }

    /// Sets the state of this host's attachments.
    pub fn set_attachments(&mut self, attachments: Attachments) {
        self.unwritten |= self.status.attachments.as_ref() != Some(&attachments);
        self.status.attachments = Some(attachments);
    }

    /// Sets what the udp backend has moved, if that is the backend. Returns whether it is.
    pub fn set_udp(&mut self, now: impl FnOnce() -> Udp) -> bool {
        let Some(known) = &mut self.status.udp else { return false };
        let before = std::mem::replace(known, now());
        self.unwritten |= before != *known;
        true
    }

    /// The content of subnet.env; `None` before it is known.
    pub fn env(&self) -> Option<&str> {
        self.env.as_deref()
    }

    /// Sets the content of subnet.env.
    pub fn set_env(&mut self, text: String) {
        self.env = Some(text);
    }

    /// Whether the status has changes that are not written.
    pub fn is_unwritten(&self) -> bool {
        self.unwritten
    }

    /// Sets why subnet.env cannot be written; `None` if it is written.
    pub fn set_env_error(&mut self, env_error: Option<String>) {
        self.unwritten |= self.env_error != env_error;
        self.env_error = env_error;
    }

    /// The text of the status, for writing it now. `drift` is the number of repairs so far, by kind of object.
    pub fn take_status(&mut self, drift: BTreeMap<String, u64>) -> String {
        self.unwritten = false;
        self.status.drift = drift;
        let error = self.status.last_error.clone();
        let all: Vec<String> = error.iter().chain(&self.env_error).cloned().collect();
        self.status.last_error = (!all.is_empty()).then(|| all.join("; "));
        let text = self.status.to_json();
        self.status.last_error = error;
        text
    }

    /// Notes that writing failed, so that the status is still unwritten.
    pub fn status_failed(&mut self) {
        self.unwritten = true;
    }

    /// A summary in one line for the service manager.
    pub fn summary(&self) -> String {
        match (&self.status.last_error, &self.env_error, &self.env) {
            (Some(error), ..) | (None, Some(error), _) => error.clone(),
            (None, None, None) => "starting".to_owned(),
            (None, None, Some(_)) => format!("{} peers", self.status.peers.len()),
        }
    }

    /// The text of the last status, with the error that ends the daemon.
    pub fn last_words(&mut self, error: &str) -> String {
        self.status.last_error = Some(error.to_owned());
        self.status.to_json()
    }
}

/// Whether the two differ only in their time and the udp backend's counters. `status` is without what comes apart from a
/// pass, as `head` is.
fn says_the_same(status: &Status, head: &Status) -> bool {
    let Status { last_reconcile, udp, drift, .. } = status.clone();
    let (peers, rejected, attachments) = Default::default();
    *status == Status { peers, rejected, last_reconcile, udp, drift, attachments, ..head.clone() }
}
