//! What a follower reads from its store: single entries, or all entries at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay::lease::{Refusal, StoredLease, Subnets};

use crate::index::{Found, Index, Mark};

/// The largest value that is read, in bytes: a lease has about 200, a configuration about 500.
pub(crate) const LARGEST: usize = 64 * 1024;

/// The longest key that is shown, in bytes. The longest key of a lease has 64.
const LONGEST_KEY: usize = 128;

/// The key of the network's configuration, among the refused keys.
pub(crate) const CONFIG: &str = "config";

/// One entry that a follower has read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A lease with this value.
    Put(Found),
    /// Nothing exists under this key.
    Gone(String),
    /// The entry under this key is not a lease, or not a configuration.
    Refused(String, Refusal),
    /// The network's configuration; `None` when the store has none.
    Config(Option<Arc<[u8]>>),
}

/// Counts the values that are read, for tests.
#[cfg(test)]
pub(crate) mod parsed {
    use std::cell::Cell;

    thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });

    pub(crate) fn one() {
        COUNT.set(COUNT.get() + 1);
    }

    /// The number of values that this thread has read.
    pub(crate) fn count() -> usize {
        COUNT.get()
    }
}

impl Event {
    /// Reads an entry among the leases.
    pub(crate) fn read(key: &str, value: &[u8], created: u64, term: Option<u64>) -> Self {
        #[cfg(test)]
        parsed::one();
        if value.len() > LARGEST {
            return Self::refused(key, Refusal::TooLarge);
        }
        match StoredLease::read(key, value, created) {
            Ok(lease) => Self::Put(Found { lease, mark: Mark::of(value), term }),
            Err(refusal) => Self::refused(key, refusal),
        }
    }

    /// An entry that is not a lease.
    pub(crate) fn refused(key: &str, refusal: Refusal) -> Self {
        Self::Refused(shown(key), refusal)
    }

    /// An entry that does not exist.
    pub(crate) fn gone(key: &str) -> Self {
        Self::Gone(shown(key))
    }

    /// The network's configuration, unless it is too large.
    pub(crate) fn config(value: Vec<u8>) -> Self {
        if value.len() > LARGEST {
            return Self::refused(CONFIG, Refusal::TooLarge);
        }
        Self::Config(Some(value.into()))
    }
}

/// Shortens a key for display, so that nobody makes every host keep a megabyte.
fn shown(key: &str) -> String {
    let end = (0..=LONGEST_KEY.min(key.len())).rev().find(|end| key.is_char_boundary(*end));
    key[..end.unwrap_or_default()].to_owned()
}

/// The subnets of a canonical key.
pub(crate) fn canonical(key: &str) -> Option<Subnets> {
    key.parse().ok().filter(|subnets: &Subnets| subnets.to_string() == key)
}

/// Everything that a store holds at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) leases: Vec<StoredLease>,
    pub(crate) index: Index,
    pub(crate) refused: BTreeMap<String, Refusal>,
    pub(crate) config: Option<Arc<[u8]>>,
}

impl Snapshot {
    /// Adds an entry. A store has each key once.
    pub(crate) fn add(&mut self, event: Event) {
        match event {
            Event::Put(found) => {
                self.index.put(&found);
                self.leases.push(found.lease);
            }
            Event::Refused(key, refusal) => drop(self.refused.insert(key, refusal)),
            Event::Config(config) => self.config = config,
            Event::Gone(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_lease_or_refused() {
        let lease = Event::read("10.5.1.0-24", br#"{"PublicIP":"192.0.2.1"}"#, 7, Some(3));
        let Event::Put(found) = lease else { panic!("{lease:?}") };
        assert_eq!(
            (found.lease.created, found.term, found.lease.subnets),
            (7, Some(3), "10.5.1.0-24".parse().unwrap())
        );
        for (key, value, why) in [
            ("README", "", "its key is not a subnet"),
            ("10.5.1.0-024", "{}", "not canonical: the key of these subnets is 10.5.1.0-24"),
            ("10.5.1.0-24", "{", "its value cannot be read"),
            ("10.5.1.0-24", &"x".repeat(LARGEST + 1), "larger than 64 KiB"),
        ] {
            let Event::Refused(shown, refusal) = Event::read(key, value.as_bytes(), 0, None) else { panic!("{key}") };
            assert!(shown == key && refusal.to_string().contains(why), "{key}: {refusal}");
        }
        assert_eq!(Event::config(vec![b' '; LARGEST + 1]), Event::Refused("config".into(), Refusal::TooLarge));
    }

    #[test]
    fn a_long_key_is_cut_between_characters() {
        assert_eq!(Event::gone(&"ü".repeat(100)), Event::Gone("ü".repeat(64)));
        assert_eq!(Event::gone(&format!("x{}", "ü".repeat(100))), Event::Gone(format!("x{}", "ü".repeat(63))));
    }
}
