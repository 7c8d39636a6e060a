//! What an attachment leaves on a host: its record and its packet rules.
//!
//! Plugins write both, and flanneld and flannelctl read the records. Nothing here knows the CNI protocol.

pub mod record;
pub mod rules;

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
