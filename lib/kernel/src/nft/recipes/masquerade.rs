//! Masquerading of attachments, as the reference plugins' nftables backend does it (containernetworking/plugins,
//! pkg/ip/ipmasq_nftables_linux.go).
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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::nft::{
    Base, Batch, Chain, ChainKind, Hook, Is, ListedRule, NftFamily, Rule, RuleBuilder, Side, Table, TableKey,
    TableView, clip,
};
use crate::types::host_net;

const CHECKS: &str = "masq_checks";
const POSTROUTING: &str = "postrouting";

/// The table: `inet cni_plugins_masquerade`.
pub fn table() -> TableKey {
    TableKey::new(NftFamily::Inet, "cni_plugins_masquerade")
}

/// What one attachment's rules are known by: the start of their comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    network_hash: String,
    instance_hash: String,
    /// What follows the hashes, for people.
    description: String,
}

impl Attachment {
    /// `network_hash` is the first 16 hexadecimal digits of SHA-512(network), `instance_hash` those of
    /// SHA-512(`ifname:container`).
    pub fn new(network_hash: &str, instance_hash: &str, network: &str, ifname: &str, container: &str) -> Self {
        let description = format!("net: {network}, if: {ifname}, id: {container}").replace('"', "");
        Self { network_hash: network_hash.into(), instance_hash: instance_hash.into(), description }
    }

    fn mark(&self) -> String {
        format!("{}-{}", self.network_hash, self.instance_hash)
    }

    /// The comment of its rules.
    pub fn comment(&self) -> String {
        clip(&format!("{}, {}", self.mark(), self.description)).to_owned()
    }

    /// Traffic from the address to outside its network is masqueraded. `net` is the address with its prefix length.
    fn rule(&self, net: IpNetwork) -> Rule {
        RuleBuilder::new(NftFamily::Inet)
            .addr(Side::Source, Is::Eq, host_net(net.ip()))
            .addr(Side::Destination, Is::Not, net)
            .masquerade(false)
            .comment(self.comment())
    }
}

/// What makes the table hold exactly one rule per address of `nets` for the attachment, and the frame around them.
/// Empty when all is so already: then nothing is deleted either, which would make closing the socket slow.
pub fn ensure(seen: &TableView, attachment: &Attachment, nets: &[IpNetwork]) -> Batch {
    let key = table();
    let mut missing: Vec<Rule> = nets.iter().map(|net| attachment.rule(*net)).collect();
    missing.dedup();
    let mark = attachment.mark();
    let mut stale: Vec<&ListedRule> = marked(seen, &mark).collect();
    stale.retain(|listed| {
        let wanted = missing.iter().position(|rule| *rule == listed.rule);
        wanted.map(|at| missing.remove(at)).is_none()
    });
    let framed = seen.has_chain(CHECKS) && seen.rules_of(POSTROUTING).map(|r| &r.rule).eq(&frame());
    let mut batch = Batch::new();
    if framed && missing.is_empty() && stale.is_empty() {
        return batch;
    }
    add_frame(&mut batch, &key, seen, framed);
    delete(&mut batch, stale);
    missing.iter().for_each(|rule| batch.add_rule(&key, CHECKS, rule));
    batch
}

/// What deletes the attachment's rules, whatever its addresses were. The table stays, as upstream leaves it.
pub fn remove(seen: &TableView, attachment: &Attachment) -> Batch {
    let mut batch = Batch::new();
    delete(&mut batch, marked(seen, &attachment.mark()));
    batch
}

/// What deletes the rules of the network (`network_hash`: see [`Attachment::new`]) that belong to no `valid` attachment.
pub fn gc(seen: &TableView, network_hash: &str, valid: &[Attachment]) -> Batch {
    let marks: Vec<String> = valid.iter().map(Attachment::mark).collect();
    let mut batch = Batch::new();
    let network = format!("{network_hash}-");
    let of_network = marked(seen, &network);
    delete(&mut batch, of_network.filter(|listed| !marks.iter().any(|mark| listed.is_marked(mark))));
    batch
}

fn marked<'a>(seen: &'a TableView, mark: &'a str) -> impl Iterator<Item = &'a ListedRule> {
    seen.rules_of(CHECKS).filter(move |listed| listed.is_marked(mark))
}

fn delete<'a>(batch: &mut Batch, rules: impl IntoIterator<Item = &'a ListedRule>) {
    rules.into_iter().for_each(|listed| batch.delete_rule(&table(), &listed.chain, listed.handle));
}

/// The rules of the base chain: multicast is not translated.
fn frame() -> [Rule; 3] {
    let multicast = |group: IpAddr, prefix| {
        let net = IpNetwork::new(group, prefix).unwrap_or_else(|_| host_net(group));
        RuleBuilder::new(NftFamily::Inet).addr(Side::Destination, Is::Eq, net).back().done()
    };
    [
        // RFC 5771, RFC 4291 §2.7
        multicast(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        multicast(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        RuleBuilder::new(NftFamily::Inet).goto(CHECKS).done(),
    ]
}

fn add_frame(batch: &mut Batch, key: &TableKey, seen: &TableView, framed: bool) {
    let comment = Some("Masquerading for plugins from github.com/containernetworking/plugins".into());
    batch.add_table(&Table { key: key.clone(), comment });
    let checks = Chain::regular(CHECKS)
        .comment("Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet");
    batch.add_chain(key, &checks);
    batch.add_chain(key, &Chain::base(POSTROUTING, Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT)));
    if framed {
        return;
    }
    if seen.rules_of(POSTROUTING).next().is_some() {
        batch.flush_chain(key, POSTROUTING);
    }
    frame().iter().for_each(|rule| batch.add_rule(key, POSTROUTING, rule));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_upstreams() {
        let plain = Attachment::new("8e48f37d5de60467", "0b65a318f52e521b", "net1", "eth0", "cid1");
        assert_eq!(plain.comment(), "8e48f37d5de60467-0b65a318f52e521b, net: net1, if: eth0, id: cid1");
        let odd = Attachment::new("a", "b", "n\"1\"", "eth0", &"c".repeat(200));
        assert!(odd.comment().starts_with("a-b, net: n1, if: eth0, id: ccc") && odd.comment().len() == 128);
    }

    #[test]
    fn a_new_attachment_deletes_nothing() {
        let attachment = Attachment::new("a", "b", "n", "eth0", "c");
        let batch = ensure(&TableView::default(), &attachment, &["10.1.2.3/24".parse().unwrap()]);
        let all: Vec<_> = batch.describe().collect();
        assert_eq!(all.len(), 7, "{all:?}");
        assert!(!batch.deletes());
        assert!(remove(&TableView::default(), &attachment).is_empty());
    }
}
