//! Configuration fields that all plugins with an interface share.

use kernel::types::Mac;
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

/// Stores the mistake, so that all mistakes are reported at once.
pub fn note<T>(mistakes: &mut Vec<String>, outcome: Result<T, String>) -> Option<T> {
    outcome.map_err(|mistake| mistakes.push(mistake)).ok()
}
