//! The contents of the two files, and whether they have changed. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;

use ipnetwork::IpNetwork;
use overlay::plan::{PeerChanges, PeerView};
use overlay::status::{Attachments, Line, Reclaim, Rejected, Row, Status, Udp};

use crate::metrics::PeerCounts;

/// Peers that are handed over at a time: whoever writes them holds up nobody for longer than some microseconds.
const PAGE: usize = 256;

/// A status whose peers are elsewhere.
pub type Head = Status<()>;

/// The outcome of a pass.
#[derive(Debug, Default)]
pub struct Passed {
    /// What is wrong, the store, this host.
    pub head: Head,
    /// When the pass ended, in seconds since 1970.
    pub at: u64,
    /// The peers that have changed, change after change.
    pub peers: Vec<PeerChanges>,
    /// The entries in the store that are rejected; `None`: as before.
    pub rejected: Option<Vec<Rejected>>,
    /// The pass changed something.
    pub fresh: bool,
}

/// The contents of the files.
#[derive(Debug, Default)]
pub struct Contents {
    head: Head,
    peers: BTreeMap<IpNetwork, Row>,
    counts: PeerCounts,
    env: Option<String>,
    /// Whether the status has changes that are not written.
    unwritten: bool,
    /// Why subnet.env cannot be written.
    env_error: Option<String>,
}

impl Contents {
    /// Records the outcome of a pass.
    pub fn passed(&mut self, passed: Passed) {
        let Passed { mut head, at, peers, rejected, fresh } = passed;
        let before = std::mem::take(&mut self.head.rejected);
        let other = rejected.as_ref().is_some_and(|rejected| *rejected != before);
        let mut news = fresh || other || !says_the_same(&self.head, &head);
        head.rejected = rejected.unwrap_or(before);
        head.attachments = self.head.attachments.take();
        head.reclaim = self.head.reclaim.take();
        for changes in peers {
            news |= self.take_peers(changes, at);
        }
        self.head = head;
        self.unwritten |= news;
    }

    /// Applies changes of peers. Returns true if a peer is new, different or gone.
    fn take_peers(&mut self, changes: PeerChanges, now: u64) -> bool {
        if changes.whole {
            return self.take_all(&changes.put, now);
        }
        let mut news = false;
        for subnet in changes.gone {
            let gone = self.peers.remove(&subnet);
            gone.iter().for_each(|row| self.counts.remove(row.path));
            news |= gone.is_some();
        }
        for view in &changes.put {
            let (before, row) = (self.peers.get(&view.subnet), row(view, now));
            if before.is_some_and(|before| before.is_as(&row)) {
                continue;
            }
            before.into_iter().for_each(|before| self.counts.remove(before.path));
            self.counts.add(row.path);
            self.peers.insert(view.subnet, row);
            news = true;
        }
        news
    }

    fn take_all(&mut self, all: &[PeerView], now: u64) -> bool {
        let known = std::mem::take(&mut self.peers);
        let same = |view: &PeerView, row: &Row| known.get(&view.subnet).copied().filter(|known| known.is_as(row));
        let aged = |view: &PeerView| {
            let row = row(view, now);
            (view.subnet, same(view, &row).unwrap_or(row))
        };
        // a map that is made at once is half as large as one that grows
        self.peers = all.iter().map(aged).collect();
        self.counts = PeerCounts::default();
        self.peers.values().for_each(|row| self.counts.add(row.path));
        self.peers != known
    }

    /// The number of peers by how they are reached.
    pub fn counts(&self) -> &PeerCounts {
        &self.counts
    }

    /// The number of entries in the store that are rejected.
    pub fn rejected(&self) -> usize {
        self.head.rejected.len()
    }

    /// The number of peers.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// The next peers in the order of their subnets, after this one.
    pub fn page(&self, after: Option<IpNetwork>) -> Vec<Line> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.peers.range((from, Bound::Unbounded)).take(PAGE).map(|(subnet, row)| Line(*subnet, *row)).collect()
    }

    /// Sets the state of this host's attachments.
    pub fn set_attachments(&mut self, attachments: Attachments) {
        self.unwritten |= self.head.attachments.as_ref() != Some(&attachments);
        self.head.attachments = Some(attachments);
    }

    /// Sets what was left of pods that are gone.
    pub fn set_reclaim(&mut self, reclaim: Reclaim) {
        self.unwritten |= self.head.reclaim.as_ref() != Some(&reclaim);
        self.head.reclaim = Some(reclaim);
    }

    /// Sets what the udp backend has moved, if that is the backend. Returns whether it is.
    pub fn set_udp(&mut self, now: impl FnOnce() -> Udp) -> bool {
        let Some(known) = &mut self.head.udp else { return false };
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

    /// The status without its peers, for writing it now. `drift` is the number of repairs so far, by kind of object.
    pub fn take_head(&mut self, drift: BTreeMap<String, u64>) -> Head {
        self.unwritten = false;
        self.head.drift = drift;
        let all: Vec<String> = self.head.last_error.iter().chain(&self.env_error).cloned().collect();
        Head { last_error: (!all.is_empty()).then(|| all.join("; ")), ..self.head.clone() }
    }

    /// Notes that writing failed, so that the status is still unwritten.
    pub fn status_failed(&mut self) {
        self.unwritten = true;
    }

    /// A summary in one line for the service manager.
    pub fn summary(&self) -> String {
        match (&self.head.last_error, &self.env_error, &self.env) {
            (Some(error), ..) | (None, Some(error), _) => error.clone(),
            (None, None, None) => "starting".to_owned(),
            (None, None, Some(_)) => format!("{} peers", self.peers.len()),
        }
    }

    /// The last status without its peers, with the error that ends the daemon.
    pub fn last_words(&mut self, error: &str) -> Head {
        self.head.last_error = Some(error.to_owned());
        self.head.clone()
    }
}

fn row(view: &PeerView, since: u64) -> Row {
    let PeerView { public, reach, reason, vtep_mac, .. } = *view;
    Row { public_ip: public, path: reach.into(), reason, vtep_mac, since }
}

/// Whether the two differ only in their time, the udp backend's counters, and what comes apart from a pass.
fn says_the_same(status: &Head, head: &Head) -> bool {
    let Status { last_reconcile, udp, drift, rejected, attachments, reclaim, .. } = status.clone();
    *status == Status { last_reconcile, udp, drift, rejected, attachments, reclaim, ..head.clone() }
}
