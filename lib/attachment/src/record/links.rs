//! The links of an attachment, as its record has them.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The alias of a bridge that a plugin made (`ip link set … alias`). Such a bridge may take the addresses of another subnet
/// when it has no pod any more, and is made again after it was deleted.
pub const MADE: &str = "made by the CNI bridge plugin";

/// The host's link that leads to the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostLink {
    /// The link's name. Another link may have it by now.
    pub name: String,
    /// The link's MAC address, chosen at random. A link of this name with another MAC does not belong to the
    /// attachment.
    pub mac: String,
    /// The link's index; 0 if it is not known yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub index: u32,
    /// The link's kind as `ip link` prints it, such as `veth`.
    pub kind: String,
    /// The bridge whose port the link is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Whether a frame may leave the bridge through the port by which it arrived.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hairpin: bool,
    /// Whether the port cannot reach other isolated ports.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// The VLANs that the port carries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanRecord>,
    /// Whether the port carries no other VLANs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_vlans: bool,
    /// The pod's gateways, if the link itself has their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNetwork>,
    /// The pod's addresses, if the host has a route to each by this link.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNetwork>,
}

/// A VLAN of a bridge port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VlanRecord {
    /// The VLAN ID, 1 to 4094.
    pub id: u16,
    /// Whether untagged frames that arrive belong to this VLAN.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pvid: bool,
    /// Whether its frames leave untagged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub untagged: bool,
}

/// The pod's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodLink {
    /// The interface's name, CNI_IFNAME.
    pub name: String,
    /// The MAC address that ADD set.
    pub mac: String,
    /// The addresses that ADD set, with their prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The path of the pod's namespace, if no host link leads to it. Another namespace may be there by now.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub netns: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A host link that attachments share: the bridge, or the gateway link of a VLAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SharedLink {
    /// The link's name.
    pub name: String,
    /// The link's kind as `ip link` prints it, such as `bridge`. Empty: only its addresses are known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The link's MAC address at the time of ADD; pods have it in their neighbour tables.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Whether a plugin made it. Only such a link is made again after it was deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    /// The MTU that it was made with, bytes; 0: the kernel's choice.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Whether the bridge filters by VLAN.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub vlan_filtering: bool,
    /// Whether it is promiscuous.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub promisc: bool,
    /// The pods' gateway addresses, with their prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}
