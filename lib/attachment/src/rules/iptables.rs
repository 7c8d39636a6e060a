//! The rules that the reference plugins' iptables backend makes for an attachment (containernetworking/plugins,
//! pkg/ip/ipmasq_iptables_linux.go, pkg/utils/utils.go), as `iptables-nft` stores them:
//!
//! ```text
//! table ip nat {
//!     chain CNI-e8f6f419596f7f47b3468487 {
//!         ip daddr 10.1.2.0/24 accept
//!         ip daddr != 224.0.0.0/4 masquerade
//!     }
//!     chain POSTROUTING {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 10.1.2.3 jump CNI-e8f6f419596f7f47b3468487
//!     }
//! }
//! ```
//!
//! This module only deletes them. nf_tables cannot reach the rules of `iptables-legacy`, so those remain.

use kernel::nft::{NftFamily, TableKey};
use kernel::state::{NftChainScope, NftTable};

use super::{Rules, digest};
use crate::Key;

const POSTROUTING: &str = "POSTROUTING";
/// The longest chain name in bytes: XT_EXTENSION_MAXNAMELEN (linux/netfilter/x_tables.h) minus the terminating zero.
const LONGEST: usize = 28;

/// The chain of a container in a network. In upstream all interfaces of a container share it.
fn chain(key: Key<'_>) -> String {
    let mut name = format!("CNI-{}", digest(&format!("{}{}", key.network, key.container)));
    name.truncate(LONGEST);
    name
}

/// The rules that may exist, for IPv4 and IPv6.
pub fn rules(key: Key<'_>) -> [Rules; 2] {
    let own = chain(key);
    [NftFamily::Ip, NftFamily::Ip6].map(|family| {
        let jumps = (POSTROUTING.to_owned(), NftChainScope::JumpsTo(own.clone()));
        Rules {
            table: TableKey::new(family, "nat"),
            wanted: NftTable::default(),
            shared: NftTable::default(),
            parts: [jumps, (own.clone(), NftChainScope::Whole)].into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf net1cid1 | sha512sum`
    #[test]
    fn the_chain_is_upstreams() {
        let key = Key { network: "net1", container: "cid1", ifname: "eth0" };
        assert_eq!(chain(key), "CNI-e8f6f419596f7f47b3468487");
        assert_eq!(chain(Key { ifname: "net1", ..key }), chain(key));
    }
}
