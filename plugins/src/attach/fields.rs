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

/// How the pod's traffic to other networks is masqueraded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// Traffic to these networks keeps its source.
    pub exclude: Vec<IpNetwork>,
    /// What writes the rules.
    pub backend: MasqueradeBackend,
}

/// What writes masquerade rules (`ipMasqBackend`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MasqueradeBackend {
    /// nf_tables, over netlink.
    #[default]
    Nftables,
    /// The programs of iptables.
    Iptables,
}

/// Checks `ipMasq`, `ipMasqBackend` and `ipMasqExclude`. Without `ipMasq` any name of a backend is accepted, as upstream
/// does. All mistakes are added to `mistakes`.
pub fn masquerade(ip_masq: bool, backend: &str, exclude: &[String], mistakes: &mut Vec<String>) -> Option<Masquerade> {
    let backend = note(mistakes, if ip_masq { masquerade_backend(backend) } else { Ok(MasqueradeBackend::default()) });
    let exclude = note(mistakes, networks(exclude));
    let masquerade = Masquerade { exclude: exclude?, backend: backend? };
    ip_masq.then_some(masquerade)
}

fn masquerade_backend(name: &str) -> Result<MasqueradeBackend, String> {
    match name {
        "" | "nftables" => Ok(MasqueradeBackend::Nftables),
        "iptables" => Ok(MasqueradeBackend::Iptables),
        other => Err(format!("unknown ipmasq backend {other:?} (must be \"nftables\" or \"iptables\")")),
    }
}

fn networks(texts: &[String]) -> Result<Vec<IpNetwork>, String> {
    let parse = |text: &String| {
        let network = parse_cidr(text).map(masked);
        network.ok_or_else(|| format!("ipMasqExclude: {text:?} is not a network (CIDR)"))
    };
    texts.iter().map(parse).collect()
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

/// Parses `ipam.routes` with the reader for results, which knows all their keys.
pub fn ipam_routes(tree: Json) -> Result<Vec<Route>, String> {
    let result = AddResult::parse_prev(&Json::from_iter([("routes", tree)]), Version::NEWEST);
    result.map(|result| result.routes).map_err(|cause| format!("ipam.{cause}"))
}

/// Stores the mistake, so that all mistakes are reported at once.
pub fn note<T>(mistakes: &mut Vec<String>, outcome: Result<T, String>) -> Option<T> {
    outcome.map_err(|mistake| mistakes.push(mistake)).ok()
}
