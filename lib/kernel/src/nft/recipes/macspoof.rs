//! The MAC spoof check of the bridge plugin (containernetworking/plugins, pkg/link/spoofcheck.go): a frame that a
//! container sends under another MAC address than its own is dropped.
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

use crate::nft::{
    Base, Batch, Chain, ChainKind, Expr, Hook, Is, NftFamily, Rule, RuleBuilder, Side, Table, TableKey, TableView,
    Verdict, clip,
};
use crate::types::{IfName, Mac};

const PREROUTING: &str = "PREROUTING";
/// `priority dstnat` in bridges (NF_BR_PRI_NAT_DST_BRIDGED, linux/netfilter_bridge.h).
const PRIORITY: i32 = -300;

/// The table: `bridge nat`. Others may use it too, so that it is never deleted.
pub fn table() -> TableKey {
    TableKey::new(NftFamily::Bridge, "nat")
}

/// Whose frames are checked: the container and the name of its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    id: String,
}

impl Attachment {
    /// `container` is CNI_CONTAINERID, `ifname` CNI_IFNAME.
    pub fn new(container: &str, ifname: &str) -> Self {
        Self { id: format!("{container}-{ifname}") }
    }

    fn chain(&self) -> String {
        format!("cni-br-iface-{}", self.id)
    }

    fn mac_chain(&self) -> String {
        format!("{}-mac", self.chain())
    }

    fn comment(&self) -> String {
        clip(&format!("macspoofchk-{}", self.id)).to_owned()
    }

    /// The rule leads into this attachment's chain. Comments do not tell: cut, they may be those of another.
    fn enters(&self, rule: &Rule) -> bool {
        rule.exprs.contains(&Expr::Verdict(Verdict::Jump(self.chain())))
    }

    /// The rules, each with its chain.
    fn rules(&self, host_link: &IfName, mac: Mac) -> Vec<(String, Rule)> {
        let rule = || RuleBuilder::new(NftFamily::Bridge);
        let all = [
            (PREROUTING.to_owned(), rule().iifname(Is::Eq, host_link).jump(self.chain())),
            (self.chain(), rule().jump(self.mac_chain())),
            (self.mac_chain(), rule().ether(Side::Source, Is::Eq, mac).back()),
            (self.mac_chain(), rule().drop()),
        ];
        all.into_iter().map(|(chain, rule)| (chain, rule.comment(self.comment()))).collect()
    }
}

/// What makes frames that come from `host_link` (the host's end of the veth) be dropped unless they are sent by `mac`.
/// Empty when all is so already. Rules that an earlier attempt left behind go in the same transaction.
pub fn ensure(seen: &TableView, attachment: &Attachment, host_link: &IfName, mac: Mac) -> Batch {
    let key = table();
    let rules = attachment.rules(host_link, mac);
    let mut batch = Batch::new();
    let chains = [PREROUTING.to_owned(), attachment.chain(), attachment.mac_chain()];
    let there = |chain: &String| {
        let ours = seen.rules_of(chain).filter(|r| chain != PREROUTING || attachment.enters(&r.rule));
        ours.map(|r| &r.rule).eq(rules.iter().filter(|(c, _)| c == chain).map(|(_, rule)| rule))
    };
    if chains.iter().all(there) {
        return batch;
    }
    batch.add_table(&Table { key: key.clone(), comment: None });
    batch.add_chain(&key, &Chain::base(PREROUTING, Base::new(ChainKind::Filter, Hook::Prerouting, PRIORITY)));
    remove_rules(&mut batch, seen, attachment);
    for chain in &chains[1..] {
        batch.add_chain(&key, &Chain::regular(chain));
        if seen.rules_of(chain).next().is_some() {
            batch.flush_chain(&key, chain);
        }
    }
    rules.iter().for_each(|(chain, rule)| batch.add_rule(&key, chain, rule));
    batch
}

/// What takes the check away. Needs neither the link nor its MAC address.
pub fn remove(seen: &TableView, attachment: &Attachment) -> Batch {
    let mut batch = Batch::new();
    remove_rules(&mut batch, seen, attachment);
    // the one that jumps goes first: a chain that is jumped to cannot be deleted
    for chain in [attachment.chain(), attachment.mac_chain()] {
        if seen.has_chain(&chain) {
            batch.delete_chain(&table(), &chain);
        }
    }
    batch
}

fn remove_rules(batch: &mut Batch, seen: &TableView, attachment: &Attachment) {
    for listed in seen.rules_of(PREROUTING).filter(|listed| attachment.enters(&listed.rule)) {
        batch.delete_rule(&table(), PREROUTING, listed.handle);
    }
}
