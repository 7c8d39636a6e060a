//! An attachment's traces on a host: its record, its packet rules and limits, and host-local's reservations.
//!
//! Plugins write them; flanneld and flannelctl read records and reservations. This crate does not know the CNI
//! protocol.

pub mod bandwidth;
pub mod connections;
pub mod firewalld;
pub mod reclaim;
pub mod record;
pub mod reservations;
pub mod rules;
pub mod section;

use std::io::{self, ErrorKind};

/// Identifies an attachment: one interface of one container in one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// The network's `name` in the configuration.
    pub network: &'a str,
    /// CNI_CONTAINERID
    pub container: &'a str,
    /// CNI_IFNAME
    pub ifname: &'a str,
}

/// Whether the error says that the file does not exist, or that its path cannot exist.
fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}
