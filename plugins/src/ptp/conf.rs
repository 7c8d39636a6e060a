//! The ptp plugin's configuration, before and after the check.

use cni::error::Error;
use kernel::types::Mtu;
use serde::Deserialize;

use crate::attach::Masquerade;
use crate::attach::fields::{Ipam, masquerade, note, veth_mtu};

/// The plugin's own fields of the document, in upstream's spelling.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Document {
    ip_masq: bool,
    ip_masq_backend: String,
    /// Not upstream's: its plugin ignores it.
    ip_masq_exclude: Vec<String>,
    mtu: i64,
    ipam: Ipam,
    dns: cni::result::Dns,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The pod's traffic to other networks leaves with the host's address.
    pub masquerade: Option<Masquerade>,
    /// The MTU of the veth pair. `None`: the kernel's.
    pub mtu: Option<Mtu>,
    /// The IPAM plugin.
    pub ipam: String,
    /// Replaces the DNS settings of IPAM unless empty.
    pub dns: cni::result::Dns,
}

impl Document {
    /// Checks the configuration, and reports all mistakes in one error.
    pub fn check(self) -> Result<Conf, Error> {
        let mut mistakes = Vec::new();
        let mtu = note(&mut mistakes, veth_mtu(self.mtu));
        let masquerade = masquerade(self.ip_masq, &self.ip_masq_backend, &self.ip_masq_exclude, &mut mistakes);
        let ipam = self.ipam.named().ok_or_else(|| "ipam: a ptp pod needs an IPAM plugin (\"type\")".to_owned());
        let ipam = note(&mut mistakes, ipam);
        match (mtu, ipam) {
            (Some(mtu), Some(ipam)) if mistakes.is_empty() => Ok(Conf { masquerade, mtu, ipam, dns: self.dns }),
            _ => Err(Error::config(mistakes.join("; "))),
        }
    }
}
