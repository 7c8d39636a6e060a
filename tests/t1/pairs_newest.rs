//! The pairs of the newest reference plugins that Debian has and ours: for each kind that both have, in both directions.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use tests::harness::Outcome;

use crate::call::Caller;
use crate::drills::rows;
use crate::pairs::{Failure, Kind, Pair, kind};

const BRIDGE: Kind = kind(&rows::BRIDGE);
const IPTABLES: Kind = kind(&rows::BRIDGE_IPTABLES);
/// Go's MAC check names the container and its interface, and not the network.
const NFTABLES: Kind =
    Kind { path: Some(without_iptables), nameless: &["nft table bridge nat chain"], ..kind(&rows::BRIDGE_RULES) };
const MACVLAN: Kind = kind(&rows::MACVLAN);
const PTP: Kind = Kind { path: Some(without_iptables), ..kind(&rows::PTP) };
const STATIC: Kind = kind(&rows::STATIC);
const LOOPBACK: Kind = kind(&rows::LOOPBACK);
/// Ports are in a table of our own. A rule of Go's names its container only.
const PORTMAP: Kind = Kind {
    more: || json!({ "backend": "nftables" }),
    left: &["nft table inet cni_portmap"],
    unseen: true,
    nameless: &["cni_hostport chain"],
    ..kind(&rows::PORTMAP)
};
const PORTMAP_IPTABLES: Kind = kind(&rows::PORTMAP_IPTABLES);
/// Go's rules have the pod's address only.
const FIREWALL: Kind = Kind { nameless: &[" filter chain CNI-FORWARD "], ..kind(&rows::FIREWALL_IPTABLES) };
/// The device's name is a hash.
const BANDWIDTH: Kind = Kind { nameless: &[" bwp", " dev bwp"], ..kind(&rows::BANDWIDTH) };
/// Go's file does not say its network.
const TUNING: Kind = Kind { nameless: &["/tuning/cid_eth0.json"], ..kind(&rows::TUNING) };

/// A PATH without iptables: with it, DEL of this suite fails where the host has no chain of its own there.
fn without_iptables() -> Result<String, Failure> {
    let folder = Path::new("/run/lab/nft-alone");
    fs::create_dir_all(folder)?;
    let nft = ["/usr/sbin/nft", "/sbin/nft"].into_iter().find(|nft| Path::new(nft).exists()).ok_or("no nft")?;
    symlink(nft, folder.join("nft"))?;
    Ok(folder.display().to_string())
}

/// Four tests per kind.
macro_rules! pairs {
    ($($kind:ident: $del_by_ours:ident $gc_by_ours:ident $del_by_go:ident $gc_by_go:ident),* $(,)?) => {
        $(
            pub fn $del_by_ours() -> Outcome {
                Pair::new($kind, Caller::newest())?.ours_ends_what_go_began()
            }
            pub fn $gc_by_ours() -> Outcome {
                Pair::new($kind, Caller::newest())?.ours_collects_what_go_began()
            }
            pub fn $del_by_go() -> Outcome {
                Pair::new($kind, Caller::newest())?.go_ends_what_ours_began()
            }
            pub fn $gc_by_go() -> Outcome {
                Pair::new($kind, Caller::newest())?.go_collects_what_ours_began()
            }
        )*
    };
}

pairs!(
    BRIDGE: bridge_of_go_by_ours bridge_of_go_by_our_gc bridge_of_ours_by_go bridge_of_ours_by_gos_gc,
    IPTABLES: iptables_of_go_by_ours iptables_of_go_by_our_gc iptables_of_ours_by_go iptables_of_ours_by_gos_gc,
    NFTABLES: nftables_of_go_by_ours nftables_of_go_by_our_gc nftables_of_ours_by_go nftables_of_ours_by_gos_gc,
    MACVLAN: macvlan_of_go_by_ours macvlan_of_go_by_our_gc macvlan_of_ours_by_go macvlan_of_ours_by_gos_gc,
    PTP: ptp_of_go_by_ours ptp_of_go_by_our_gc ptp_of_ours_by_go ptp_of_ours_by_gos_gc,
    STATIC: static_of_go_by_ours static_of_go_by_our_gc static_of_ours_by_go static_of_ours_by_gos_gc,
    LOOPBACK: loopback_of_go_by_ours loopback_of_go_by_our_gc loopback_of_ours_by_go loopback_of_ours_by_gos_gc,
    PORTMAP: portmap_of_go_by_ours portmap_of_go_by_our_gc portmap_of_ours_by_go portmap_of_ours_by_gos_gc,
    PORTMAP_IPTABLES: ports_by_iptables_of_go_by_ours ports_by_iptables_of_go_by_our_gc
        ports_by_iptables_of_ours_by_go ports_by_iptables_of_ours_by_gos_gc,
    FIREWALL: firewall_of_go_by_ours firewall_of_go_by_our_gc firewall_of_ours_by_go firewall_of_ours_by_gos_gc,
    BANDWIDTH: bandwidth_of_go_by_ours bandwidth_of_go_by_our_gc bandwidth_of_ours_by_go bandwidth_of_ours_by_gos_gc,
    TUNING: tuning_of_go_by_ours tuning_of_go_by_our_gc tuning_of_ours_by_go tuning_of_ours_by_gos_gc,
);
