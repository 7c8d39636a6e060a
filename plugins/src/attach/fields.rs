//! Configuration fields that all plugins with an interface share.

use cni::result::{AddResult, Route};
use cni::version::Version;
use gojson::Json;
use ipnetwork::IpNetwork;
use kernel::types::{Mac, Mtu, masked};
use overlay::net::parse_cidr;
use serde::Deserialize;

/// The fields of `ipam` that the main plugin reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// The name of the IPAM plugin; empty when there is none.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `runtimeConfig`, and the `cni` member of `args`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WithMac {
    /// The requested MAC address; empty when none is requested.
    pub mac: String,
}

/// `args`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// Values from the runtime.
    pub cni: WithMac,
}

impl Ipam {
    /// The IPAM plugin, if there is one.
    pub fn named(self) -> Option<String> {
        Some(self.kind).filter(|kind| !kind.is_empty())
    }
}

/// The first MAC address that is not empty.
///
/// # Errors
/// The address is invalid, or not valid for a single interface.
pub fn parse_mac<'a>(asked: impl IntoIterator<Item = &'a str>) -> Result<Option<Mac>, String> {
    let Some(text) = asked.into_iter().find(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<Mac>() {
        Ok(mac) if mac.is_unicast() => Ok(Some(mac)),
        Ok(mac) => Err(format!("mac {mac}: not an address for one interface (multicast or zero)")),
        Err(e) => Err(format!("mac: {e}")),
    }
}

/// Checks the MTU of a veth pair in bytes; 0 is the kernel's own.
pub fn veth_mtu(mtu: i64) -> Result<Option<Mtu>, String> {
    match mtu {
        0 => Ok(None),
        // The range that veth accepts: ETH_MIN_MTU and ETH_MAX_MTU, linux/if_ether.h.
        68..=65535 => Ok(u32::try_from(mtu).ok().map(Mtu)),
        _ => Err(format!("invalid mtu {mtu} (must be 0 for the kernel's own, or between 68 and 65535)")),
    }
}

/// Checks `ipMasq`, `ipMasqBackend` and `ipMasqExclude`. `None`: nothing is masqueraded; otherwise everything but to these
/// networks is. This version has no iptables backend; the default is nftables.
///
/// # Errors
/// All mistakes, in one text.
pub fn masquerade(ip_masq: bool, backend: &str, exclude: &[String]) -> Result<Option<Vec<IpNetwork>>, String> {
    let mut mistakes = Vec::new();
    match (ip_masq, backend) {
        (false, _) | (true, "" | "nftables") => {}
        (true, "iptables") => mistakes.push(
            "ipMasqBackend \"iptables\" is not supported by this version: use \"nftables\", or leave the key out"
                .to_owned(),
        ),
        (true, other) => mistakes.push(format!("unknown ipmasq backend {other:?} (must be \"nftables\")")),
    }
    let mut networks = Vec::new();
    for text in exclude {
        match parse_cidr(text) {
            Some(network) => networks.push(masked(network)),
            None => mistakes.push(format!("ipMasqExclude: {text:?} is not a network (CIDR)")),
        }
    }
    if mistakes.is_empty() { Ok(ip_masq.then_some(networks)) } else { Err(mistakes.join("; ")) }
}

/// Parses `ipam.routes` with the reader for results, which knows all their keys.
pub fn ipam_routes(tree: Json) -> Result<Vec<Route>, String> {
    let result = AddResult::parse_prev(&Json::from_iter([("routes", tree)]), Version::NEWEST);
    result.map(|result| result.routes).map_err(|cause| format!("ipam.{cause}"))
}

/// Stores the mistake, so that all mistakes are reported at once.
pub fn note<T>(mistakes: &mut Vec<String>, outcome: Result<T, String>) -> Option<T> {
    outcome.map_err(|mistake| mistakes.push(mistake)).ok()
}
