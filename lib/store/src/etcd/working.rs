//! Translates lists and watches of etcd into entries of the feed. Pure.

use super::keys::{Keys, Place};
use super::pb::{EventType, KeyValue, WatchResponse};
use crate::snapshot::{Event, Snapshot};

/// How much of etcd's history the follower knows.
#[derive(Debug)]
pub(super) struct Working {
    keys: Keys,
    revision: i64,
    newest: Option<(Vec<u8>, i64)>,
    /// The parts of a revision that is not complete yet.
    part: Vec<Event>,
}

impl Working {
    /// Starts without any knowledge.
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, revision: 0, newest: None, part: Vec::new() }
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.keys.clone());
    }

    /// The last revision that is known completely.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The key that was written last, and its revision. If the store has another revision for that key, it has
    /// another history. `None` while this is unknown.
    pub(super) fn newest(&self) -> Option<&(Vec<u8>, i64)> {
        self.newest.as_ref()
    }

    /// Adds a page of a list.
    pub(super) fn page(&mut self, kvs: Vec<KeyValue>, snapshot: &mut Snapshot) {
        kvs.into_iter().filter_map(|kv| self.put(kv)).for_each(|event| snapshot.add(event));
    }

    /// Records that all pages of the list at `revision` have arrived.
    pub(super) fn listed(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Records that a watch starts after [`Self::revision`]. It repeats what an earlier watch sent of later
    /// revisions.
    pub(super) fn watched(&mut self) {
        self.part.clear();
    }

    /// Takes a message of the watch. Returns the changes that it completes.
    pub(super) fn apply(&mut self, answer: WatchResponse) -> Vec<Event> {
        let answered = answer.header.map_or(0, |header| header.revision);
        // An answer without events says how far the watch has come.
        let mut revision = if answer.events.is_empty() && !answer.created { answered } else { 0 };
        for event in answer.events {
            let deleted = event.r#type() == EventType::Delete;
            let Some(kv) = event.kv else { continue };
            revision = revision.max(kv.mod_revision);
            let event = if deleted { self.delete(&kv.key) } else { self.put(kv) };
            self.part.extend(event);
        }
        // The last part of this revision is still missing.
        if answer.fragment {
            return Vec::new();
        }
        self.revision = self.revision.max(revision);
        std::mem::take(&mut self.part)
    }

    fn put(&mut self, kv: KeyValue) -> Option<Event> {
        let event = match self.keys.place(&kv.key) {
            Place::Config => Event::config(kv.value),
            Place::Lease(name) => {
                let term = (kv.lease != 0).then(|| kv.lease.cast_unsigned());
                let created = u64::try_from(kv.create_revision).unwrap_or_default();
                Event::read(&String::from_utf8_lossy(name), &kv.value, created, term)
            }
            Place::Elsewhere => return None,
        };
        if self.newest.as_ref().is_none_or(|(_, revision)| *revision <= kv.mod_revision) {
            self.newest = Some((kv.key, kv.mod_revision));
        }
        Some(event)
    }

    fn delete(&mut self, key: &[u8]) -> Option<Event> {
        self.newest.take_if(|(newest, _)| newest == key);
        match self.keys.place(key) {
            Place::Config => Some(Event::Config(None)),
            Place::Lease(name) => Some(Event::gone(&String::from_utf8_lossy(name))),
            Place::Elsewhere => None,
        }
    }
}

#[cfg(test)]
#[path = "working_tests.rs"]
mod tests;
