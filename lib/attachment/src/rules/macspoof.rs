//! The bridge plugin's check against MAC spoofing (containernetworking/plugins, pkg/link/spoofcheck.go). It drops
//! frames that a container sends under a MAC address that is not its own.
//!
//! ```text
//! table bridge nat {
//!     chain PREROUTING {
//!         type filter hook prerouting priority -300; policy accept;
//!         iifname "veth0a1b2c3d" jump cni-br-iface-CID-eth0 comment "macspoofchk-CID-eth0"
//!     }
//!     chain cni-br-iface-CID-eth0 {
//!         jump cni-br-iface-CID-eth0-mac comment "macspoofchk-CID-eth0"
//!     }
//!     chain cni-br-iface-CID-eth0-mac {
//!         ether saddr 02:00:00:00:00:01 return comment "macspoofchk-CID-eth0"
//!         drop comment "macspoofchk-CID-eth0"
//!     }
//! }
//! ```

use kernel::nft::{Base, ChainKind, Hook, Is, NftFamily, Rule, RuleBuilder, Side, TableKey, clip};
use kernel::state::{NftChain, NftChainScope, NftTable};
use kernel::types::{IfName, Mac};

use super::Rules;
use crate::Key;

const PREROUTING: &str = "PREROUTING";
/// The priority `dstnat` in bridges (NF_BR_PRI_NAT_DST_BRIDGED, linux/netfilter_bridge.h).
const PRIORITY: i32 = -300;

/// The table `bridge nat`. Others may use it too, so it is never deleted.
pub fn table() -> TableKey {
    TableKey::new(NftFamily::Bridge, "nat")
}

fn chain(key: Key<'_>) -> String {
    format!("cni-br-iface-{}-{}", key.container, key.ifname)
}

/// The rules that drop frames from `host_link` (the host's end of the pair) unless their sender is `mac`. For DEL
/// neither is known: pass `None`.
pub fn rules(key: Key<'_>, ends: Option<(&IfName, Mac)>) -> Rules {
    let (first, second) = (chain(key), format!("{}-mac", chain(key)));
    let base = Base::new(ChainKind::Filter, Hook::Prerouting, PRIORITY);
    let shared = NftTable { chains: [(PREROUTING.to_owned(), NftChain::at(base, []))].into(), ..NftTable::default() };
    let mut wanted = shared.clone();
    if let Some((host_link, mac)) = ends {
        let [enter, check, pass, drop] = all(key, host_link, mac);
        wanted.chains.entry(PREROUTING.to_owned()).or_default().rules = vec![enter.into()];
        wanted.chains.insert(first.clone(), NftChain::regular([check]));
        wanted.chains.insert(second.clone(), NftChain::regular([pass, drop]));
    }
    // a comment does not identify the rule: once cut, it may equal another's
    let enters = NftChainScope::JumpsTo(first.clone());
    let whole = NftChainScope::Whole;
    let chains = [(PREROUTING.to_owned(), enters), (first, whole.clone()), (second, whole)];
    Rules { table: table(), wanted, shared, parts: chains.into() }
}

fn all(key: Key<'_>, host_link: &IfName, mac: Mac) -> [Rule; 4] {
    let comment = clip(&format!("macspoofchk-{}-{}", key.container, key.ifname)).to_owned();
    let rule = || RuleBuilder::new(NftFamily::Bridge);
    [
        rule().iifname(Is::Eq, host_link).jump(chain(key)),
        rule().jump(format!("{}-mac", chain(key))),
        rule().ether(Side::Source, Is::Eq, mac).back(),
        rule().drop(),
    ]
    .map(|rule| rule.comment(comment.clone()))
}
