//! What etcd holds, kept equal to it by what a list and then a watch say. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::View;
use super::keys::{Keys, LARGEST, Place};
use super::pb::{EventType, KeyValue, RangeResponse, WatchResponse};
use crate::clock::Moment;
use crate::embedded::is_key;

/// The end of each etcd lease that this process made or renewed.
pub(super) type KnownEnds = BTreeMap<i64, Moment>;

/// A copy of what is below the prefix.
#[derive(Debug)]
pub(super) struct Working {
    keys: Keys,
    revision: i64,
    newest: Option<(Vec<u8>, i64)>,
    config: Option<Arc<[u8]>>,
    leases: Arc<BTreeMap<String, Arc<[u8]>>>,
    expires: Arc<BTreeMap<String, Option<Moment>>>,
    ignored: Arc<BTreeMap<String, String>>,
    /// The etcd lease of each of our leases that has one.
    attached: BTreeMap<String, i64>,
}

impl Working {
    /// Nothing is known yet.
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            revision: 0,
            newest: None,
            config: None,
            leases: Arc::default(),
            expires: Arc::default(),
            ignored: Arc::default(),
            attached: BTreeMap::new(),
        }
    }

    /// Everything up to this revision is in.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The key that was written last and the revision of that: when the store has another one there, its history is
    /// not the one that was followed. `None` when it is not known.
    pub(super) fn newest(&self) -> Option<&(Vec<u8>, i64)> {
        self.newest.as_ref()
    }

    /// Takes everything that is there at `revision`.
    pub(super) fn list(&mut self, answer: RangeResponse, revision: i64, ends: &KnownEnds) {
        *self = Self::new(self.keys.clone());
        for kv in answer.kvs {
            self.put(kv, ends);
        }
        self.revision = revision;
    }

    /// Takes what changed.
    pub(super) fn apply(&mut self, answer: WatchResponse, ends: &KnownEnds) {
        let told = answer.header.map_or(0, |header| header.revision);
        // a watch without news tells how far it is
        let mut revision = if answer.events.is_empty() && !answer.created { told } else { 0 };
        for event in answer.events {
            let deleted = event.r#type() == EventType::Delete;
            let Some(kv) = event.kv else { continue };
            revision = revision.max(kv.mod_revision);
            if deleted { self.delete(&kv.key) } else { self.put(kv, ends) }
        }
        // of a revision that is told in several parts the last is to come
        if !answer.fragment {
            self.revision = self.revision.max(revision);
        }
    }

    /// Takes ends that have become known.
    pub(super) fn learn(&mut self, ends: &KnownEnds) {
        let known = self.attached.iter().filter_map(|(name, id)| Some((name, *ends.get(id)?)));
        let expires = Arc::make_mut(&mut self.expires);
        known.for_each(|(name, end)| {
            expires.insert(name.clone(), Some(end));
        });
    }

    /// What it says, complete.
    pub(super) fn view(&self, name: Arc<str>) -> View {
        View {
            name,
            config: self.config.clone(),
            leases: self.leases.clone(),
            expires: self.expires.clone(),
            ignored: self.ignored.clone(),
            complete: true,
            error: None,
            stale_since: None,
        }
    }

    fn put(&mut self, kv: KeyValue, ends: &KnownEnds) {
        if self.newest.as_ref().is_none_or(|(_, revision)| *revision <= kv.mod_revision) {
            self.newest = Some((kv.key.clone(), kv.mod_revision));
        }
        let large = kv.value.len() > LARGEST;
        match self.keys.place(&kv.key) {
            Place::Config if large => {
                self.config = None;
                self.ignore("config", "larger than 64 KiB");
            }
            Place::Config => {
                self.regard("config");
                self.config = Some(kv.value.into());
            }
            Place::Lease(name) => match std::str::from_utf8(name) {
                Ok(name) if is_key(name) && !large => self.put_lease(name, &kv, ends),
                Ok(name) if is_key(name) => {
                    self.forget(name);
                    self.ignore(name, "larger than 64 KiB");
                }
                _ => self.ignore(&String::from_utf8_lossy(name), "its name is not a lease's key"),
            },
            Place::Elsewhere => {}
        }
    }

    fn put_lease(&mut self, name: &str, kv: &KeyValue, ends: &KnownEnds) {
        self.regard(name);
        if self.leases.get(name).is_none_or(|value| value[..] != kv.value[..]) {
            Arc::make_mut(&mut self.leases).insert(name.to_owned(), kv.value.as_slice().into());
        }
        if kv.lease == 0 {
            self.attached.remove(name);
            if self.expires.contains_key(name) {
                Arc::make_mut(&mut self.expires).remove(name);
            }
        } else {
            self.attached.insert(name.to_owned(), kv.lease);
            Arc::make_mut(&mut self.expires).insert(name.to_owned(), ends.get(&kv.lease).copied());
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.newest.take_if(|(newest, _)| newest == key);
        match self.keys.place(key) {
            Place::Config => {
                self.config = None;
                self.regard("config");
            }
            Place::Lease(name) => {
                let name = String::from_utf8_lossy(name);
                self.forget(&name);
                self.regard(&name);
            }
            Place::Elsewhere => {}
        }
    }

    fn forget(&mut self, name: &str) {
        self.attached.remove(name);
        if self.leases.contains_key(name) {
            Arc::make_mut(&mut self.leases).remove(name);
            Arc::make_mut(&mut self.expires).remove(name);
        }
    }

    fn ignore(&mut self, name: &str, why: &str) {
        Arc::make_mut(&mut self.ignored).insert(name.to_owned(), why.to_owned());
    }

    fn regard(&mut self, name: &str) {
        if self.ignored.contains_key(name) {
            Arc::make_mut(&mut self.ignored).remove(name);
        }
    }
}

#[cfg(test)]
#[path = "working_tests.rs"]
mod tests;
