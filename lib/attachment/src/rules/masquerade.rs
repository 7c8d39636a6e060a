//! Masquerading for attachments, with the rules of the reference plugins' nftables backend
//! (containernetworking/plugins, pkg/ip/ipmasq_nftables_linux.go).
//!
//! ```text
//! table inet cni_plugins_masquerade {
//!     chain masq_checks {
//!         ip saddr 10.1.2.3 ip daddr != 10.1.2.0/24 masquerade comment "<hash>-<hash>, net: n, if: eth0, id: c"
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip daddr 224.0.0.0/4 return
//!         ip6 daddr ff00::/8 return
//!         goto masq_checks
//!     }
//! }
//! ```
//!
//! A rule of ours can have more conditions of the kind `ip daddr != NETWORK`, one per network to which the attachment's
//! packets keep their source (`ip saddr 10.1.2.3 ip daddr != 10.1.2.0/24 ip daddr != 10.1.0.0/16 masquerade`). The
//! reference plugins know a rule by its comment alone, so they delete such a rule too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::nft::{Base, ChainKind, Hook, Is, NftFamily, Rule, RuleBuilder, Side, TableKey};
use kernel::state::{NftChain, NftChainScope, NftTable};
use kernel::types::{host_net, masked};
use kernel::{Kernel, KernelError};

use super::owner::{comment, is_stale, mark};
use super::{Rules, delete_rules};
use crate::Key;

const CHECKS: &str = "masq_checks";
const POSTROUTING: &str = "postrouting";

/// The table `inet cni_plugins_masquerade`.
pub fn table() -> TableKey {
    TableKey::new(NftFamily::Inet, "cni_plugins_masquerade")
}

/// The rules that masquerade traffic from the attachment's addresses to destinations outside their networks, and outside
/// the networks in `exclude`. Each of `nets` is an address with its prefix length.
pub fn rules(key: Key<'_>, nets: &[IpNetwork], exclude: &[IpNetwork]) -> Rules {
    let mut own: Vec<Rule> = nets.iter().map(|net| rule(*net, exclude, &comment(key))).collect();
    own.dedup();
    let shared = shared();
    let mut wanted = shared.clone();
    if let Some(checks) = wanted.chains.get_mut(CHECKS) {
        checks.rules = own.into_iter().map(Into::into).collect();
    }
    let commented = NftChainScope::Commented(mark(key));
    let chains = [(CHECKS.to_owned(), commented), (POSTROUTING.to_owned(), NftChainScope::Frame)];
    Rules { table: table(), wanted, shared, parts: chains.into() }
}

fn rule(net: IpNetwork, exclude: &[IpNetwork], comment: &str) -> Rule {
    let rule = RuleBuilder::new(NftFamily::Inet).addr(Side::Source, Is::Eq, host_net(net.ip()));
    let others = exclude.iter().filter(|other| other.is_ipv4() == net.is_ipv4() && masked(**other) != masked(net));
    let inside = std::iter::once(&net).chain(others);
    inside.fold(rule, |rule, net| rule.addr(Side::Destination, Is::Not, *net)).masquerade(false).comment(comment)
}

/// Deletes the rules of a network that belong to none of the `valid` attachments.
///
/// # Errors
/// The kernel refused to list or delete rules.
pub fn collect(kernel: &mut Kernel, network: &str, valid: &[Key<'_>]) -> Result<(), KernelError> {
    delete_rules(kernel, &table(), CHECKS, |rule| is_stale(rule.comment.as_deref(), network, valid))
}

/// The chains that all attachments share, without their rules.
fn shared() -> NftTable {
    let checks = NftChain {
        comment: Some("Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet".into()),
        ..NftChain::default()
    };
    let base = Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT);
    NftTable {
        comment: Some("Masquerading for plugins from github.com/containernetworking/plugins".into()),
        chains: [(CHECKS.to_owned(), checks), (POSTROUTING.to_owned(), NftChain::at(base, frame()))].into(),
        ..NftTable::default()
    }
}

/// The rules of the base chain. Multicast is not translated (RFC 5771, RFC 4291 §2.7).
fn frame() -> [Rule; 3] {
    let multicast = |group: IpAddr, prefix| {
        let net = IpNetwork::new(group, prefix).unwrap_or_else(|_| host_net(group));
        RuleBuilder::new(NftFamily::Inet).addr(Side::Destination, Is::Eq, net).back().done()
    };
    [
        multicast(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        multicast(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        RuleBuilder::new(NftFamily::Inet).goto(CHECKS).done(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::diff::diff;
    use kernel::state::{Scope, State};

    const KEY: Key<'_> = Key { network: "net1", container: "cid1", ifname: "eth0" };

    #[test]
    fn networks_of_the_same_family_are_excluded() {
        let nets = ["10.1.2.3/24", "fd00::3/64"].map(|net| net.parse().unwrap());
        let exclude = ["10.1.0.0/16", "10.1.2.0/24", "fd00::/48"].map(|net| net.parse().unwrap());
        let rules = rules(KEY, &nets, &exclude);
        let state = State { nft: [(table(), rules.wanted)].into(), ..State::default() };
        let steps = diff(&state, &State::default(), &Scope::default()).steps;
        let texts: Vec<String> =
            steps.iter().map(ToString::to_string).filter(|text| text.contains("masq_checks ip")).collect();
        let add = "nft add rule inet cni_plugins_masquerade masq_checks";
        assert!(
            texts[0].starts_with(&format!(
                "{add} ip saddr 10.1.2.3 ip daddr != 10.1.2.0/24 ip daddr != 10.1.0.0/16 masquerade comment"
            )),
            "{texts:?}"
        );
        assert!(texts[1].contains("ip6 daddr != fd00::/64 ip6 daddr != fd00::/48 masquerade"), "{texts:?}");
    }
}
