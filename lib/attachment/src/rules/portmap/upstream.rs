//! The rules of the reference plugins' nftables backend (containernetworking/plugins,
//! plugins/meta/portmap/portmap_nftables.go). Their comment is the container's ID: it names neither the network nor the
//! interface.
//!
//! ```text
//! table ip cni_hostport {
//!     chain hostports {
//!         tcp dport 8080 dnat to 10.1.2.3:80 comment "cid1"
//!         ip daddr 10.0.0.1 udp dport 53 dnat to 10.1.2.3:53 comment "cid1"
//!     }
//!     chain masquerading {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 10.1.2.3 ip daddr 10.1.2.3 masquerade comment "cid1"
//!         ip saddr 127.0.0.1 ip daddr 10.1.2.3 masquerade comment "cid1"
//!     }
//! }
//! ```

use kernel::nft::{NftFamily, Rule, TableKey, clip};
use kernel::types::Family;
use kernel::{Kernel, KernelError};

use super::Portmap;
use crate::rules::delete_rules;

const HOSTPORTS: &str = "hostports";
/// Older versions have the rules for single addresses in a chain of their own.
const CHAINS: [&str; 3] = [HOSTPORTS, "hostip_hostports", "masquerading"];

fn table(family: Family) -> TableKey {
    let family = if family == Family::V4 { NftFamily::Ip } else { NftFamily::Ip6 };
    TableKey::new(family, "cni_hostport")
}

fn is_of(container: &str, rule: &Rule) -> bool {
    rule.comment.as_deref() == Some(clip(container))
}

/// Removes the container's rules.
///
/// # Errors
/// The kernel refused to list or delete rules.
pub fn remove(kernel: &mut Kernel, container: &str) -> Result<(), KernelError> {
    for family in Family::ALL {
        for chain in CHAINS {
            delete_rules(kernel, &table(family), chain, |rule| is_of(container, rule))?;
        }
    }
    Ok(())
}

/// Whether the container has a rule for each of its ports, by their number, as upstream's CHECK counts them.
///
/// # Errors
/// The kernel refused to list rules.
pub fn serves(kernel: &mut Kernel, container: &str, portmap: &Portmap) -> Result<bool, KernelError> {
    for family in Family::ALL {
        let wanted = portmap.ports.iter().filter(|port| Family::from(port.pod) == family).count();
        let what = format!("list rules of {}", table(family));
        let nft = kernel.nft().map_err(|error| error.about(&what))?;
        let rules = nft.rules(&table(family), Some(HOSTPORTS)).map_err(|error| error.about(&what))?;
        if rules.iter().filter(|listed| is_of(container, &listed.rule)).count() < wanted {
            return Ok(false);
        }
    }
    Ok(true)
}
