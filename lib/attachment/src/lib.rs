//! What an attachment leaves on a host: its record, its packet rules, and host-local's reservations.
//!
//! Plugins write them; flanneld and flannelctl read records and reservations. Nothing here knows the CNI protocol.

pub mod record;
pub mod reservations;
pub mod rules;

use std::io::{self, ErrorKind};

/// Which attachment: one interface of one container in one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// The network's name (`name` of the configuration).
    pub network: &'a str,
    /// CNI_CONTAINERID
    pub container: &'a str,
    /// CNI_IFNAME
    pub ifname: &'a str,
}

/// There is no such file, nor can there be one.
fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}
