//! Stores in which a host takes its subnet: what they can do for one lease, by comparing it with what it was.

use std::time::Duration;

use overlay::lease::Subnets;

use crate::clock::Moment;
use crate::error::StoreError;

/// What ends a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Term {
    /// Changes when the end of the lease changes; `None` for a reservation, which does not end.
    pub id: Option<u64>,
    /// When the lease ends, if this is known.
    pub end: Option<Moment>,
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was done, and the lease has this term now.
    Done(Term),
    /// The store holds something else under that key (or nothing, where something was expected): nothing was changed.
    Conflict,
}

impl Written {
    /// True when it was done.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The value's bytes.
    pub value: Vec<u8>,
    /// What ends it.
    pub term: Term,
}

/// A store in which hosts choose their subnets themselves, each write under the condition that nobody wrote meanwhile.
///
/// A `ttl` of `None` makes a reservation. An error of a write leaves open whether it was done.
pub trait CompareStore: Send + Sync {
    /// Reads one lease; `None` when there is none.
    fn read(&self, key: Subnets) -> impl Future<Output = Result<Option<Raw>, StoreError>> + Send;

    /// Writes a lease that nobody holds, and of which no other host holds a half.
    fn create(
        &self,
        key: Subnets,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Replaces `old` by `new` (they may be equal) and lets the lease end after `ttl`.
    fn renew(
        &self,
        key: Subnets,
        old: &[u8],
        new: &[u8],
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Removes the lease if it is still `old`.
    fn delete(&self, key: Subnets, old: &[u8]) -> impl Future<Output = Result<Written, StoreError>> + Send;
}
