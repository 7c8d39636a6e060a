//! Fields that the configurations of all plugins with an interface have.

use kernel::types::Mac;
use serde::Deserialize;

/// `ipam`, as far as it is not for the IPAM plugin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// The plugin; empty: none.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `runtimeConfig`, and what `args.cni` has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WithMac {
    /// The MAC that is asked for; empty: any.
    pub mac: String,
}

/// `args`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// What the runtime passes on.
    pub cni: WithMac,
}

impl Ipam {
    /// The IPAM plugin, when there is one.
    pub fn named(self) -> Option<String> {
        Some(self.kind).filter(|kind| !kind.is_empty())
    }
}

/// The first MAC that is not empty.
///
/// # Errors
/// It is none that one interface can have.
pub fn parse_mac<'a>(asked: impl IntoIterator<Item = &'a str>) -> Result<Option<Mac>, String> {
    let Some(text) = asked.into_iter().find(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<Mac>() {
        Ok(mac) if mac.is_unicast() => Ok(Some(mac)),
        Ok(mac) => Err(format!("mac {mac}: not an address for one interface (multicast or zero)")),
        Err(e) => Err(format!("mac: {e}")),
    }
}

/// Keeps the mistake for later: all are said at once.
pub fn note<T>(mistakes: &mut Vec<String>, outcome: Result<T, String>) -> Option<T> {
    outcome.map_err(|mistake| mistakes.push(mistake)).ok()
}
