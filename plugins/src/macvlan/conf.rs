//! The macvlan plugin's configuration, before and after the check.

use cni::error::Error;
use kernel::state::MacvlanMode;
use kernel::types::{IfName, Mac, Mtu};
use serde::Deserialize;

use crate::attach::fields::{Args, Ipam, WithMac, note, parse_mac};

/// The plugin's own fields of the document, in upstream's spelling.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Document {
    master: String,
    mode: String,
    mtu: i64,
    mac: String,
    bcqueuelen: u32,
    link_in_container: bool,
    ipam: Ipam,
    dns: cni::result::Dns,
    runtime_config: WithMac,
    args: Args,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The lower link of the pods' interfaces. `None`: the link of the default route.
    pub master: Option<IfName>,
    /// Whether that link is in the pod.
    pub in_pod: bool,
    /// How the interfaces on one lower link reach each other.
    pub mode: MacvlanMode,
    /// The MTU of the pod's interface. `None`: the master's.
    pub mtu: Option<Mtu>,
    /// The number of broadcast packets that may wait.
    pub bc_queue_len: Option<u32>,
    /// The MAC address of the pod's interface.
    pub mac: Option<Mac>,
    /// The IPAM plugin, if there is one.
    pub ipam: Option<String>,
    /// The DNS settings of the result. As upstream, IPAM's are ignored.
    pub dns: cni::result::Dns,
}

impl Document {
    /// Checks the configuration, and reports all mistakes in one error. `args_mac` is `MAC` of CNI_ARGS.
    pub fn check(self, args_mac: &str) -> Result<Conf, Error> {
        let mut mistakes = Vec::new();
        let master = note(&mut mistakes, master(&self.master));
        let mode = note(&mut mistakes, mode(&self.mode));
        let mtu = note(&mut mistakes, mtu(self.mtu));
        let asked = [&self.runtime_config.mac[..], &self.args.cni.mac, args_mac, &self.mac];
        let mac = note(&mut mistakes, parse_mac(asked));
        if mode == Some(MacvlanMode::Passthru) && mac.flatten().is_some() {
            mistakes.push("mac: an interface in mode passthru has its master's".to_owned());
        }
        let (Some(master), Some(mode), Some(mtu), Some(mac), true) = (master, mode, mtu, mac, mistakes.is_empty())
        else {
            return Err(Error::config(mistakes.join("; ")));
        };
        let bc_queue_len = Some(self.bcqueuelen).filter(|packets| *packets != 0);
        let in_pod = self.link_in_container;
        Ok(Conf { master, in_pod, mode, mtu, bc_queue_len, mac, ipam: self.ipam.named(), dns: self.dns })
    }
}

fn master(text: &str) -> Result<Option<IfName>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    IfName::new(text).map(Some).map_err(|e| format!("master: {e}"))
}

fn mode(text: &str) -> Result<MacvlanMode, String> {
    match text {
        "" | "bridge" => Ok(MacvlanMode::Bridge),
        "private" => Ok(MacvlanMode::Private),
        "vepa" => Ok(MacvlanMode::Vepa),
        "passthru" => Ok(MacvlanMode::Passthru),
        // Not upstream's.
        "source" => Ok(MacvlanMode::Source),
        _ => Err(format!("unknown macvlan mode: {text:?} (must be bridge, private, vepa, passthru or source)")),
    }
}

/// Checks the MTU, except that it must not exceed the master's, which is not known yet.
fn mtu(mtu: i64) -> Result<Option<Mtu>, String> {
    match mtu {
        0 => Ok(None),
        // ETH_MIN_MTU, linux/if_ether.h
        68.. => u32::try_from(mtu).map(|mtu| Some(Mtu(mtu))).map_err(|_| format!("invalid MTU {mtu}")),
        _ => Err(format!("invalid MTU {mtu}, must be 0 for the master's, or from 68 to that")),
    }
}
