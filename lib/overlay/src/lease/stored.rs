//! Leases as a store delivers them: parsed and checked once.

use super::{AttrsError, KeyError, NodeError, StoredAttrs, Subnets};

/// One lease of the store.
///
/// The key of a stored lease is canonical: its text is `subnets.to_string()`, and no other text names these subnets.
/// So a newcomer cannot take a subnet by spelling the holder's key differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// The key.
    pub subnets: Subnets,
    /// The value.
    pub attrs: StoredAttrs,
    /// The order in which leases were created, if the store knows it (etcd's `create_revision`), else 0. Of two
    /// conflicting leases the older one wins.
    pub created: u64,
}

/// Why an entry of the store is not a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key names no subnets.
    #[error("its key is {0}")]
    Key(#[from] KeyError),
    /// The key names subnets, but is not in canonical form.
    #[error("its key is not canonical: the key of these subnets is {canonical}")]
    NotCanonical {
        /// The canonical form.
        canonical: Subnets,
    },
    /// The value cannot be read.
    #[error("its value cannot be read: {0}")]
    Value(#[from] AttrsError),
    /// The Kubernetes Node has no usable lease.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The entry is a directory, a link or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// The value is larger than any lease can be.
    #[error("its value is larger than 64 KiB")]
    TooLarge,
}

impl StoredLease {
    /// Parses a key and its value.
    ///
    /// # Errors
    /// The key is invalid or not canonical, or the value cannot be parsed.
    ///
    /// ```
    /// use overlay::lease::StoredLease;
    ///
    /// let value = br#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;
    /// let lease = StoredLease::read("10.5.53.0-24", value, 7)?;
    /// assert_eq!(lease.subnets.to_string(), "10.5.53.0-24");
    /// assert!(StoredLease::read("10.5.53.0-024", value, 8).is_err());
    /// # Ok::<(), overlay::lease::Refusal>(())
    /// ```
    pub fn read(key: &str, value: &[u8], created: u64) -> Result<Self, Refusal> {
        let subnets: Subnets = key.parse()?;
        if subnets.to_string() != key {
            return Err(Refusal::NotCanonical { canonical: subnets });
        }
        Ok(Self { subnets, attrs: StoredAttrs::parse(value)?, created })
    }
}

/// The changes of a store since the last change set. Each lease occurs at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseChanges {
    /// Whether `put` is complete: leases that were known before and are not in `put` are gone.
    pub snapshot: bool,
    /// Leases that are new or have a new value.
    pub put: Vec<StoredLease>,
    /// Leases that are gone.
    pub gone: Vec<Subnets>,
    /// Entries that are not leases, by their text in the store, with the reason. `None`: the entry is gone, or has
    /// become a lease.
    pub refused: Vec<(String, Option<Refusal>)>,
}

impl LeaseChanges {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        !self.snapshot && self.put.is_empty() && self.gone.is_empty() && self.refused.is_empty()
    }
}
