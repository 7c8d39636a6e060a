//! Stores in which a host takes its subnet itself: compare-and-write operations on one lease.

use std::time::Duration;

use overlay::lease::Subnets;

use crate::clock::Moment;
use crate::error::StoreError;

/// What ends a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Term {
    /// Changes whenever the end of the lease changes; `None` for a reservation, which has no end.
    pub id: Option<u64>,
    /// When the lease ends, if this is known.
    pub end: Option<Moment>,
}

/// The result of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The write was made, and the lease now has this term.
    Done(Term),
    /// The store has another value under that key, or no value where one was expected. Nothing was changed.
    Conflict,
}

impl Written {
    /// Whether the write was made.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The value's bytes.
    pub value: Vec<u8>,
    /// When the lease ends.
    pub term: Term,
}

/// A store in which hosts choose their subnets themselves. Each write succeeds only if nobody else wrote in the
/// meantime.
///
/// A `ttl` of `None` makes a reservation. After an error the write may or may not have been made.
pub trait CompareStore: Send + Sync {
    /// Reads one lease; `None` when there is none.
    fn read(&self, key: Subnets) -> impl Future<Output = Result<Option<Raw>, StoreError>> + Send;

    /// Writes a lease under a free key, unless another host holds one of its halves.
    fn create(
        &self,
        key: Subnets,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Replaces `old` by `new`, which may be equal, and lets the lease end after `ttl`.
    fn renew(
        &self,
        key: Subnets,
        old: &[u8],
        new: &[u8],
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Removes the lease if its value is still `old`.
    fn delete(&self, key: Subnets, old: &[u8]) -> impl Future<Output = Result<Written, StoreError>> + Send;
}
