//! What chained plugins made for an attachment, as its record has it.
//!
//! Each chained plugin that leaves objects on the host has one section. It is written before the plugin's first step,
//! and removed after its last object. Whoever removes the attachment removes what the sections name, too.

use std::path::Path;

use ipnetwork::IpNetwork;
use kernel::KernelError;
use kernel::conntrack::Conntrack;
use kernel::netns::Netns;
use kernel::nft::ElementHandle;
use kernel::state::{Scope, State};
use kernel::types::host_net;
use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;
use crate::record::Record;
use crate::rules::Rules;
use crate::rules::firewall::{self, Firewall};
use crate::rules::iptables::{self, Part, Removal};
use crate::rules::portmap::{self, Portmap};
use crate::{Key, connections};

/// The section of one plugin, and the pod that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Whether the plugin's ADD succeeded. Otherwise its ADD or DEL is running, or was killed.
    pub committed: bool,
    /// The pod's network namespace.
    pub netns: PodNetns,
    /// What the plugin made.
    pub section: Section,
}

/// A pod's network namespace, by path and inode. Another namespace may have the path by now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetns {
    /// CNI_NETNS
    pub path: String,
    /// The inode of the namespace.
    pub inode: u64,
}

impl PodNetns {
    /// The open namespace `netns` of the path.
    pub fn of(path: &str, netns: &Netns) -> Self {
        // an inode that cannot be read is that of no namespace: the pod counts as gone
        Self { path: path.to_owned(), inode: netns.id().map(|(_, inode)| inode).unwrap_or_default() }
    }

    /// Whether the path still leads to this namespace.
    pub fn is_there(&self) -> bool {
        let found = Path::new(&self.path).is_absolute().then(|| Netns::open(&self.path).ok()).flatten();
        found.is_some_and(|netns| netns.id().is_ok_and(|(_, inode)| inode == self.inode))
    }
}

/// What one chained plugin made on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Section {
    /// Accepts for the pod's packets.
    Firewall(Firewall),
    /// Host ports.
    Portmap(Portmap),
    /// Limits of the rate.
    Bandwidth(Bandwidth),
}

impl Section {
    /// The `type` of the plugin.
    pub fn plugin(&self) -> &'static str {
        match self {
            Self::Firewall(_) => "firewall",
            Self::Portmap(_) => "portmap",
            Self::Bandwidth(_) => "bandwidth",
        }
    }

    /// The pod's addresses, as far as the section has them.
    pub fn addresses(&self) -> Vec<IpNetwork> {
        match self {
            Self::Firewall(firewall) => firewall.addresses.iter().map(|address| host_net(*address)).collect(),
            Self::Portmap(portmap) => portmap.ports.iter().map(|port| port.pod).collect(),
            Self::Bandwidth(_) => Vec::new(),
        }
    }

    /// Whether the same container's attachments may have waited for the section's elements.
    pub fn has_elements(&self) -> bool {
        matches!(self, Self::Portmap(portmap) if portmap.backend.is_nftables() && !portmap.ports.is_empty())
    }

    /// The same with what another attachment of the container has. `None` if it waits for nothing.
    pub fn with_standby(&self) -> Option<Self> {
        match self {
            Self::Portmap(portmap) => portmap.with_standby().map(Self::Portmap),
            Self::Bandwidth(_) | Self::Firewall(_) => None,
        }
    }

    /// The same, but it waits for what the elements `taken` serve already.
    pub fn without(&self, taken: &[ElementHandle]) -> Self {
        match self {
            Self::Portmap(portmap) => Self::Portmap(portmap.without(taken)),
            other => other.clone(),
        }
    }

    /// The packet rules in nf_tables.
    pub fn rules(&self, key: Key<'_>) -> Vec<Rules> {
        match self {
            Self::Firewall(firewall) => firewall::rules(key, firewall),
            Self::Portmap(portmap) if portmap.backend.is_nftables() => vec![portmap::rules(key, portmap)],
            Self::Portmap(_) | Self::Bandwidth(_) => Vec::new(),
        }
    }

    /// The packet rules in the tables of iptables, and their removal; `None` if the plugin uses nf_tables.
    pub fn iptables(&self, key: Key<'_>) -> Option<(Vec<Part>, Removal)> {
        match self {
            Self::Firewall(firewall) => firewall.iptables(),
            Self::Portmap(portmap) if portmap.backend.is_nftables() => None,
            Self::Portmap(portmap) => Some((iptables::portmap::parts(key, portmap), iptables::portmap::removal(key))),
            Self::Bandwidth(_) => None,
        }
    }

    /// The zone of firewalld and its sources, if there are any.
    pub fn sources(&self) -> Option<(&str, Vec<String>)> {
        match self {
            Self::Firewall(firewall) => firewall.sources(),
            Self::Portmap(_) | Self::Bandwidth(_) => None,
        }
    }

    /// The other objects on the host: their state, and the scope in which nothing else exists.
    pub fn host(&self) -> (State, Scope) {
        match self {
            Self::Firewall(_) | Self::Portmap(_) => (State::default(), Scope::default()),
            Self::Bandwidth(bandwidth) => bandwidth.host(),
        }
    }
}

impl Section {
    /// Whether [`Section::forget_before`] and [`Section::forget_after`] have something to look for.
    pub fn outdates_connections(&self) -> bool {
        matches!(self, Self::Portmap(portmap) if connections::of_udp(&portmap.ports).next().is_some())
    }

    /// Deletes tracked connections that the section's objects, just added, make out of date.
    ///
    /// # Errors
    /// The kernel refused it. New connections are right all the same.
    pub fn forget_before(&self, conntrack: &mut Conntrack) -> Result<(), KernelError> {
        match self {
            Self::Portmap(portmap) => connections::forget_before(conntrack, &portmap.ports).map(drop),
            Self::Bandwidth(_) | Self::Firewall(_) => Ok(()),
        }
    }

    /// Deletes tracked connections that lead to the pod through the section's objects, which were just removed.
    ///
    /// # Errors
    /// As [`Section::forget_before`].
    pub fn forget_after(&self, conntrack: &mut Conntrack) -> Result<(), KernelError> {
        match self {
            Self::Portmap(portmap) => connections::forget_after(conntrack, &portmap.ports).map(drop),
            Self::Bandwidth(_) | Self::Firewall(_) => Ok(()),
        }
    }
}

impl Section {
    /// As [`Section::forget_after`], with a connection of its own, which is opened only if there is something to look for.
    ///
    /// # Errors
    /// As [`Section::forget_before`].
    pub fn forget_after_alone(&self) -> Result<(), KernelError> {
        if self.outdates_connections() { self.forget_after(&mut Conntrack::open()?) } else { Ok(()) }
    }
}

impl Record {
    /// What the plugin of this `type` made.
    pub fn section(&self, plugin: &str) -> Option<&Kept> {
        self.sections.iter().find(|kept| kept.section.plugin() == plugin)
    }

    /// Adds a plugin's section, or replaces it.
    pub fn put_section(&mut self, kept: Kept) {
        self.drop_section(kept.section.plugin());
        self.sections.push(kept);
    }

    /// Removes a plugin's section.
    pub fn drop_section(&mut self, plugin: &str) {
        self.sections.retain(|kept| kept.section.plugin() != plugin);
    }

    /// Whether the record names nothing that a plugin with an interface made.
    pub fn has_no_links(&self) -> bool {
        let Self { host, pod, ipam, rules, iptables, .. } = self;
        host.is_none() && pod.is_none() && ipam.is_none() && rules.is_empty() && !iptables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let netns = PodNetns { path: "/run/netns/p".into(), inode: 1 };
        Kept { committed: false, netns, section: Section::Portmap(Portmap::default()) }
    }

    #[test]
    fn a_record_has_one_section_of_each_plugin() {
        let mut record = Record::default();
        record.put_section(kept());
        record.put_section(Kept { committed: true, ..kept() });
        assert!(record.sections.len() == 1 && record.section("portmap").unwrap().committed);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert!(record.has_no_links());
        record.drop_section("portmap");
        assert_eq!(record, Record::default());
    }

    #[test]
    fn a_namespace_is_recognized_by_its_inode() {
        let own = Netns::current().unwrap();
        let path = "/proc/self/ns/net";
        let there = PodNetns::of(path, &own);
        assert!(there.is_there());
        assert!(!PodNetns { inode: there.inode + 1, ..there.clone() }.is_there());
        assert!(!PodNetns { path: "/nowhere".into(), ..there }.is_there());
    }
}
