//! Masquerading for attachments with the chains of the reference plugins' iptables backend
//! (containernetworking/plugins, pkg/ip/ipmasq_iptables_linux.go, pkg/utils/utils.go):
//!
//! ```text
//! *nat
//! :CNI-e8f6f419596f7f47b3468487 - [0:0]
//! -A POSTROUTING -s 10.1.2.3/32 -m comment --comment "name: \"net1\" id: \"cid1\"" -j CNI-e8f6f419596f7f47b3468487
//! -A CNI-e8f6f419596f7f47b3468487 -d 10.1.2.0/24 -m comment --comment "name: \"net1\" id: \"cid1\"" -j ACCEPT
//! -A CNI-e8f6f419596f7f47b3468487 ! -d 224.0.0.0/4 -m comment --comment "name: \"net1\" id: \"cid1\"" -j MASQUERADE
//! ```
//!
//! A chain of ours can have more accepts, one per network to which the attachment's packets keep their source.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use kernel::types::{Family, masked};

use super::super::digest;
use super::plan::{Line, Part, Place, Removal};
use super::remove::Collection;
use super::rule::{Rule, clip_comment, host};
use crate::Key;

const TABLE: &str = "nat";
const POSTROUTING: &str = "POSTROUTING";
const PREFIX: &str = "CNI-";
/// The longest chain name in bytes: XT_EXTENSION_MAXNAMELEN (linux/netfilter/x_tables.h) minus the terminating zero.
const LONGEST: usize = 28;

/// Upstream's `H(28, prefix, text)`: the name of a container's chain in a network. In upstream all interfaces of a container
/// share it.
pub fn chain(prefix: &str, key: Key<'_>) -> String {
    let mut name = format!("{prefix}{}", digest(&format!("{}{}", key.network, key.container)));
    name.truncate(LONGEST);
    name
}

/// The start of the comments of a network's rules.
fn network_mark(network: &str) -> String {
    format!("name: \"{network}\" id: ")
}

fn comment(key: Key<'_>) -> String {
    clip_comment(&format!("{}\"{}\"", network_mark(key.network), key.container))
}

/// The rules that masquerade traffic from the attachment's addresses to destinations outside their networks, and outside
/// the networks in `exclude`. Each of `nets` is an address with its prefix length. One part per family that has an address.
pub fn parts(key: Key<'_>, nets: &[IpNetwork], exclude: &[IpNetwork]) -> Vec<Part> {
    let of_family = |family| {
        let of = |nets: &[IpNetwork]| -> Vec<IpNetwork> {
            nets.iter().filter(|net| Family::from(**net) == family).copied().collect()
        };
        part(key, family, &of(nets), &of(exclude))
    };
    Family::ALL.into_iter().filter_map(of_family).collect()
}

fn part(key: Key<'_>, family: Family, nets: &[IpNetwork], exclude: &[IpNetwork]) -> Option<Part> {
    if nets.is_empty() {
        return None;
    }
    let (own, comment) = (chain(PREFIX, key), comment(key));
    let rule = |words: &[&str], target: &str| {
        Rule::new(words.iter().copied().chain(["-m", "comment", "--comment", &comment, "-j", target]))
    };
    let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    let inside: BTreeSet<IpNetwork> = nets.iter().chain(exclude).map(|net| masked(*net)).collect();
    let accepts = inside.iter().map(|net| rule(&["-d", &net.to_string()], "ACCEPT"));
    let rules = accepts.chain([rule(&["!", "-d", multicast], "MASQUERADE")]).collect();
    let entry = |net: &IpNetwork| Line {
        chain: POSTROUTING.to_owned(),
        place: Place::Last,
        rule: rule(&["-s", &host(net.ip())], &own),
    };
    Some(Part {
        own: [(own.clone(), rules)].into(),
        entries: nets.iter().map(entry).collect(),
        ..Part::new(family, TABLE)
    })
}

/// What DEL removes, from the attachment's names alone.
pub fn removal(key: Key<'_>) -> Removal {
    Removal { table: TABLE, own: [chain(PREFIX, key)].into(), parents: vec![POSTROUTING], entries: Vec::new() }
}

/// What GC removes: the chains of the network's attachments that are not `valid`.
pub fn collection(network: &str, valid: &[Key<'_>]) -> Collection {
    Collection {
        table: TABLE,
        parent: POSTROUTING,
        prefix: PREFIX,
        network: network_mark(network),
        valid: valid.iter().map(|key| comment(*key)).collect(),
    }
}
