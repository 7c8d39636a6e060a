//! All Nodes as leases. Pure.
//!
//! A lease is named by its subnets, but a Node keeps its name when its podCIDR changes. Two Nodes may also have the same
//! podCIDR. So this remembers the lease of each Node, and which Node holds the subnets: the older one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use overlay::lease::{
    Annotations, LeaseAttrs, NodeError, NodeKeys, Refusal, StoredAttrs, StoredLease, Subnets, assigned,
};
use overlay::net::ByFamily;

use super::wire::Node;
use crate::index::{Found, Mark};
use crate::snapshot::{Event, Snapshot};

/// How Nodes are read.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) keys: NodeKeys,
    /// The families of the network's configuration.
    pub(super) on: ByFamily<bool>,
}

/// A lease as text, which is also how it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) subnets: Subnets,
    /// The value as in etcd.
    pub(super) value: Box<str>,
    pub(super) created: u64,
}

/// What a Node means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    Lease(Text),
    Refused(NodeError),
}

/// The name of a Node, after the time of its creation: the order in which Nodes get a podCIDR that several have.
type Claimant = (u64, Arc<str>);

/// The Nodes that a flanneld has claimed.
#[derive(Debug)]
pub(super) struct Nodes {
    rules: Rules,
    by_name: BTreeMap<Arc<str>, Meaning>,
    claimants: BTreeMap<Subnets, Vec<Claimant>>,
}

impl Rules {
    fn read(&self, node: &Node) -> Option<Meaning> {
        let none = Annotations::new();
        let annotations = node.metadata.annotations.as_ref().unwrap_or(&none);
        if !self.keys.is_claimed(annotations) {
            return None;
        }
        let lease = assigned(node.spec.cidrs(), self.on).and_then(|subnets| {
            let attrs: LeaseAttrs = self.keys.attrs(annotations)?;
            Ok(Text { subnets, value: attrs.to_json().into(), created: node.created() })
        });
        Some(lease.map_or_else(Meaning::Refused, Meaning::Lease))
    }
}

impl Text {
    /// The lease; the reason if its value cannot be read.
    pub(super) fn event(&self) -> Event {
        let value = self.value.as_bytes();
        match StoredAttrs::parse(value) {
            Ok(attrs) => {
                let lease = StoredLease { subnets: self.subnets, attrs, created: self.created };
                Event::Put(Found { lease, mark: Mark::of(value), term: None })
            }
            Err(error) => Event::refused(&self.subnets.to_string(), Refusal::Value(error)),
        }
    }
}

impl Nodes {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, by_name: BTreeMap::new(), claimants: BTreeMap::new() }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The leases by the names of their Nodes.
    pub(super) fn leases(&self) -> impl Iterator<Item = (&str, &Text)> {
        self.by_name.iter().filter_map(|(name, meaning)| match meaning {
            Meaning::Lease(text) => Some((&**name, text)),
            Meaning::Refused(_) => None,
        })
    }

    /// Takes a Node as it is now. Returns what changes for the leases: nothing if only other fields changed.
    pub(super) fn put(&mut self, node: &Node) -> Vec<Event> {
        self.set(&node.metadata.name, self.rules.read(node))
    }

    /// Takes a lease that was saved.
    pub(super) fn restore(&mut self, name: &str, text: Text) {
        self.set(name, Some(Meaning::Lease(text)));
    }

    /// A Node is gone.
    pub(super) fn remove(&mut self, name: &str) -> Vec<Event> {
        self.set(name, None)
    }

    fn set(&mut self, name: &str, new: Option<Meaning>) -> Vec<Event> {
        if self.by_name.get(name) == new.as_ref() {
            return Vec::new();
        }
        let name: Arc<str> = name.into();
        let old = match new.clone() {
            Some(new) => self.by_name.insert(name.clone(), new),
            None => self.by_name.remove(&name),
        };
        let subnets = |meaning: &Option<Meaning>| match meaning {
            Some(Meaning::Lease(text)) => Some((text.subnets, text.created)),
            _ => None,
        };
        let (before, after) = (subnets(&old), subnets(&new));
        let mut events = Vec::new();
        if before != after {
            before.into_iter().for_each(|(subnets, created)| self.leave(subnets, &(created, name.clone())));
            after.into_iter().for_each(|(subnets, created)| self.join(subnets, (created, name.clone())));
        }
        match new {
            Some(Meaning::Refused(why)) => events.push(refused(&name, why)),
            _ if matches!(old, Some(Meaning::Refused(_))) => events.push(Event::Gone(entry(&name))),
            // a Node whose podCIDR another one holds is not refused any more when it leaves
            None => events.push(Event::Gone(entry(&name))),
            Some(Meaning::Lease(_)) => {}
        }
        let touched: BTreeSet<Subnets> = [before, after].into_iter().flatten().map(|(subnets, _)| subnets).collect();
        events.extend(touched.into_iter().flat_map(|subnets| self.state_of(subnets)));
        events
    }

    fn join(&mut self, subnets: Subnets, claimant: Claimant) {
        let all = self.claimants.entry(subnets).or_default();
        all.push(claimant);
        all.sort();
    }

    fn leave(&mut self, subnets: Subnets, claimant: &Claimant) {
        if let Some(all) = self.claimants.get_mut(&subnets) {
            all.retain(|other| other != claimant);
            if all.is_empty() {
                self.claimants.remove(&subnets);
            }
        }
    }

    /// Who holds these subnets now, and who else has them.
    fn state_of(&self, subnets: Subnets) -> Vec<Event> {
        let Some([(_, holder), others @ ..]) = self.claimants.get(&subnets).map(Vec::as_slice) else {
            return vec![Event::gone(&subnets.to_string())];
        };
        let lease = match self.by_name.get(holder) {
            Some(Meaning::Lease(text)) => text.event(),
            _ => Event::gone(&subnets.to_string()),
        };
        let held = |(_, name): &Claimant| refused(name, NodeError::Held { holder: holder.to_string() });
        // it may have been refused while another Node held the subnets
        let accepted = Event::Gone(entry(holder));
        [lease, accepted].into_iter().chain(others.iter().map(held)).collect()
    }

    /// All leases and refusals.
    pub(super) fn snapshot(&self, config: Option<Arc<[u8]>>) -> Snapshot {
        let mut snapshot = Snapshot { config, ..Snapshot::default() };
        for subnets in self.claimants.keys() {
            self.state_of(*subnets).into_iter().for_each(|event| snapshot.add(event));
        }
        for (name, meaning) in &self.by_name {
            if let Meaning::Refused(why) = meaning {
                snapshot.add(refused(name, why.clone()));
            }
        }
        snapshot
    }
}

/// The name of a Node among the refused entries. It is never the key of a lease.
fn entry(name: &str) -> String {
    format!("node {name}")
}

fn refused(name: &str, why: NodeError) -> Event {
    Event::refused(&entry(name), Refusal::Node(why))
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
