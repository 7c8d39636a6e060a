//! The links of an attachment, as its record has them.

use serde::{Deserialize, Serialize};

/// The alias of a bridge that a plugin made (`ip link set … alias`): it may take the addresses of another subnet when it has
/// no pod any more, and is made again when somebody deletes it.
pub const MADE: &str = "made by the CNI bridge plugin";

/// The link of the host that leads to the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostLink {
    /// Its name. Another link may have it by now.
    pub name: String,
    /// Its MAC, chosen at random: a link of this name that has another one is not the attachment's.
    pub mac: String,
    /// Its index; 0 while it is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub index: u32,
    /// Its kind, as `ip link` has it: `veth`.
    pub kind: String,
    /// The bridge that it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// A frame may leave the bridge by the port it came in by.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hairpin: bool,
    /// It does not reach other isolated ports.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// The VLANs that the port carries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanRecord>,
    /// It carries no others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_vlans: bool,
}

/// A VLAN of a bridge port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VlanRecord {
    /// Its number.
    pub id: u16,
    /// Untagged frames that come in belong to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pvid: bool,
    /// Its frames leave untagged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub untagged: bool,
}

/// The pod's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodLink {
    /// Its name.
    pub name: String,
    /// The MAC that ADD gave it.
    pub mac: String,
    /// The addresses that ADD gave it, with their prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The path of its namespace, when no link of the host leads to it. Another namespace may have it by now.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub netns: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A link of the host that attachments share: the bridge, and the gateway of their VLAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SharedLink {
    /// Its name.
    pub name: String,
    /// Its kind, as `ip link` has it: `bridge`; empty: its addresses alone are known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its MAC when the attachment was made; pods have it in their neighbour tables.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// A plugin made it: whoever deletes it finds it made again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    /// The MTU that it was made with, bytes; 0: the kernel's choice.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Its ports are told apart by VLAN.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub vlan_filtering: bool,
    /// It is promiscuous.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub promisc: bool,
    /// The pods' gateways, with their prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}
