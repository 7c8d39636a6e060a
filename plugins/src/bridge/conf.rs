//! The bridge plugin's configuration, before and after the check.

use cni::error::Error;
use kernel::types::{IfName, Mac, Mtu, VlanId};
use serde::Deserialize;

use crate::attach::Masquerade;
use crate::attach::fields::{Args, Ipam, WithMac, masquerade, note, parse_mac, veth_mtu};

/// The plugin's own fields of the document, in upstream's spelling.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Document {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: String,
    /// Not upstream's: its bridge plugin ignores it.
    ip_masq_exclude: Vec<String>,
    mtu: i64,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Vec<Trunk>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    ipam: Ipam,
    dns: cni::result::Dns,
    runtime_config: WithMac,
    args: Args,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Trunk {
    id: Option<i64>,
    #[serde(rename = "minID")]
    min_id: Option<i64>,
    #[serde(rename = "maxID")]
    max_id: Option<i64>,
}

/// The part of the bridge in the pods' routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gateway {
    /// None: the bridge is a switch.
    No,
    /// The bridge has the gateway's address.
    Address,
    /// The bridge also is the gateway of the pod's default route.
    Default,
}

/// The VLANs of the host's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlans {
    /// The VLAN of untagged frames.
    pub pvid: Option<VlanId>,
    /// The tagged VLANs, as inclusive ranges.
    pub tagged: Vec<(VlanId, VlanId)>,
    /// Whether the bridge's default VLAN stays on the port.
    pub keep_default: bool,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The bridge's name.
    pub bridge: IfName,
    /// Its part in the pod's routing.
    pub gateway: Gateway,
    /// Whether an address of another subnet on the bridge is replaced.
    pub force_address: bool,
    /// Pods' traffic to other networks leaves with the host's address.
    pub masquerade: Option<Masquerade>,
    /// The MTU of the veth pair and of a new bridge.
    pub mtu: Option<Mtu>,
    /// Whether a pod can reach itself through the bridge.
    pub hairpin: bool,
    /// Whether the bridge is promiscuous.
    pub promisc: bool,
    /// The port's VLANs; `None` without VLAN filtering.
    pub vlans: Option<Vlans>,
    /// Whether frames from the pod must carry its MAC address.
    pub spoof_check: bool,
    /// Whether the pod uses duplicate address detection.
    pub dad: crate::pod::Dad,
    /// Whether the interface in the pod is raised and configured.
    pub container_interface: bool,
    /// Whether pods cannot reach each other through the bridge.
    pub isolated: bool,
    /// The IPAM plugin, if there is one.
    pub ipam: Option<String>,
    /// Replaces the DNS settings of IPAM unless empty.
    pub dns: cni::result::Dns,
    /// The MAC address of the pod's interface.
    pub mac: Option<Mac>,
}

impl Document {
    /// Checks the configuration, and reports all mistakes in one error. `args_mac` is `MAC` of CNI_ARGS.
    pub fn check(self, args_mac: &str) -> Result<Conf, Error> {
        let mut mistakes = Vec::new();
        let bridge = if self.bridge.is_empty() { "cni0" } else { &self.bridge };
        let bridge = note(&mut mistakes, IfName::new(bridge).map_err(|e| format!("bridge: {e}")));
        let mtu = note(&mut mistakes, veth_mtu(self.mtu));
        let vlans = note(&mut mistakes, vlans(self.vlan, &self.vlan_trunk, self.preserve_default_vlan));
        let mac = note(&mut mistakes, parse_mac([&self.runtime_config.mac[..], &self.args.cni.mac, args_mac]));
        if let (Some(bridge), Some(Some(Vlans { pvid: Some(id), .. }))) = (&bridge, &vlans)
            && let Err(e) = vlan_gateway(bridge, *id)
        {
            mistakes.push(format!("vlan: the gateway of VLAN {id} would be on a link of its own, and {e}"));
        }
        let masquerade = masquerade(self.ip_masq, &self.ip_masq_backend, &self.ip_masq_exclude, &mut mistakes);
        if self.hairpin_mode && self.promisc_mode {
            mistakes.push("cannot set hairpin mode and promiscuous mode at the same time".to_owned());
        }
        if self.disable_container_interface && !self.ipam.kind.is_empty() {
            mistakes.push("cannot use IPAM when DisableContainerInterface flag is set".to_owned());
        }
        let (Some(bridge), Some(mtu), Some(vlans), Some(mac), true) = (bridge, mtu, vlans, mac, mistakes.is_empty())
        else {
            return Err(Error::config(mistakes.join("; ")));
        };
        let gateway = match (self.is_default_gateway, self.is_gateway) {
            (true, _) => Gateway::Default,
            (false, true) => Gateway::Address,
            (false, false) => Gateway::No,
        };
        Ok(Conf {
            bridge,
            gateway,
            force_address: self.force_address,
            masquerade,
            mtu,
            hairpin: self.hairpin_mode,
            promisc: self.promisc_mode,
            vlans,
            spoof_check: self.macspoofchk,
            dad: if self.enabledad { crate::pod::Dad::On } else { crate::pod::Dad::Off },
            container_interface: !self.disable_container_interface,
            isolated: self.port_isolation,
            ipam: self.ipam.named(),
            dns: self.dns,
            mac,
        })
    }
}

fn vlan_gateway(bridge: &IfName, id: VlanId) -> Result<IfName, kernel::types::InvalidValue> {
    IfName::new(&format!("{bridge}.{id}"))
}

impl Conf {
    /// The link with the gateway's addresses: the bridge, or `<bridge>.<vlan>` for pods in a VLAN.
    pub fn gateway_link(&self) -> IfName {
        let vlan = self.vlans.as_ref().and_then(|vlans| vlans.pvid);
        vlan.and_then(|id| vlan_gateway(&self.bridge, id).ok()).unwrap_or_else(|| self.bridge.clone())
    }
}

fn vlans(vlan: i64, trunk: &[Trunk], keep_default: bool) -> Result<Option<Vlans>, String> {
    let mut mistakes = Vec::new();
    let pvid = match vlan {
        0 => None,
        _ => match vlan_id(vlan) {
            Some(id) => Some(id),
            None => {
                mistakes.push(format!("invalid VLAN ID {vlan} (must be between 0 and 4094)"));
                None
            }
        },
    };
    let mut tagged = Vec::new();
    for item in trunk {
        match item.ranges() {
            Ok(ranges) => tagged.extend(ranges),
            Err(mistake) => mistakes.push(mistake.to_owned()),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes.join("; "));
    }
    Ok((pvid.is_some() || !tagged.is_empty()).then_some(Vlans { pvid, tagged, keep_default }))
}

fn vlan_id(id: i64) -> Option<VlanId> {
    u16::try_from(id).ok().and_then(|id| VlanId::new(id).ok())
}

impl Trunk {
    fn ranges(&self) -> Result<Vec<(VlanId, VlanId)>, &'static str> {
        let mut ranges = Vec::new();
        match (self.min_id, self.max_id) {
            (Some(min), Some(max)) => {
                let min = vlan_id(min).ok_or("incorrect trunk minID parameter")?;
                let max = vlan_id(max).ok_or("incorrect trunk maxID parameter")?;
                if min > max {
                    return Err("minID is greater than maxID in trunk parameter");
                }
                ranges.push((min, max));
            }
            (None, Some(_)) => return Err("minID and maxID should be configured simultaneously, minID is missing"),
            (Some(_), None) => return Err("minID and maxID should be configured simultaneously, maxID is missing"),
            (None, None) => {}
        }
        if let Some(id) = self.id {
            let id = vlan_id(id).ok_or("incorrect trunk id parameter")?;
            ranges.push((id, id));
        }
        Ok(ranges)
    }
}
