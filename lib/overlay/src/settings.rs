//! Decides the host settings that forwarding requires. Pure. This is the only place that does: pods on a bridge need
//! the same settings.

use std::collections::{BTreeMap, BTreeSet};

use kernel::state::State;
use kernel::types::IfName;

use crate::backend::{Backend, Host};

/// `net.ipv4.ip_forward`, as a path below `/proc/sys`. Writing it sets the forwarding of all links.
pub const FORWARD_V4: &str = "net/ipv4/ip_forward";
/// IPv6 forwards between all links or none (`ip6_forward`, net/ipv6/ip6_output.c).
pub const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";

/// The settings that `host` must have, by path below `/proc/sys`. For IPv4: forwarding of the host, of its underlay,
/// and of the devices in `state` with an IPv4 address (`inet_forward`, net/ipv4/ip_forward.c). For IPv6: forwarding
/// of the host. `routers` are links with an IPv6 default route from router advertisements: a host that forwards drops
/// that route unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst).
///
/// Empty for alloc, which carries no packets, and for extension, whose commands do.
pub fn wanted(backend: &Backend, host: &Host, routers: &[IfName], state: &State) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    if backend.mode().is_none() {
        return wanted;
    }
    let mut set = |path: String, value: &str| drop(wanted.insert(path, value.to_owned()));
    if host.networks.v4.is_some() {
        set(FORWARD_V4.to_owned(), "1");
        let devices = state.addresses.keys().filter(|key| key.net.is_ipv4()).map(|key| &key.dev);
        let devices: BTreeSet<&IfName> = devices.chain([&host.underlay.dev]).collect();
        devices.into_iter().for_each(|dev| set(format!("net/ipv4/conf/{dev}/forwarding"), "1"));
    }
    if host.networks.v6.is_some() {
        set(FORWARD_V6.to_owned(), "1");
        routers.iter().for_each(|dev| set(format!("net/ipv6/conf/{dev}/accept_ra"), "2"));
    }
    wanted
}

/// Whether nothing is forwarded unless the setting at `path` is right.
pub fn is_vital(path: &str) -> bool {
    path == FORWARD_V4 || path.ends_with("/forwarding")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::types::Mtu;

    use crate::backend::Identity;
    use crate::lease::Subnets;
    use crate::net::ByFamily;
    use crate::netconf::NetConf;
    use crate::underlay::Underlay;

    fn text(conf: &str, routers: &[&str]) -> Vec<String> {
        let conf = NetConf::parse(conf.as_bytes()).unwrap().conf;
        let name = |text: &str| IfName::new(text).unwrap();
        let mut state = State::default();
        state.address(&name("flannel.1"), "10.5.1.0/32".parse().unwrap(), true);
        state.address(&name("flannel-v6.1"), "fd05::/128".parse().unwrap(), true);
        let routers: Vec<_> = routers.iter().map(|dev| name(dev)).collect();
        let underlay =
            Underlay { dev: name("eth0"), mtu: Mtu(1500), addresses: ByFamily::default(), connected: Vec::new() };
        let (networks, identity) = (conf.network_by_family(), Identity::default());
        let host = Host { networks, own: Subnets::default(), identity, underlay };
        let wanted = wanted(&conf.backend, &host, &routers, &state);
        wanted.iter().map(|(path, value)| format!("{path}={value}")).collect()
    }

    #[test]
    fn each_family_has_its_settings() {
        const V4: [&str; 3] =
            ["net/ipv4/conf/eth0/forwarding=1", "net/ipv4/conf/flannel.1/forwarding=1", "net/ipv4/ip_forward=1"];
        assert_eq!(text(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, &["eth0"]), V4);
        let dual =
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"vxlan"}}"#;
        assert_eq!(text(dual, &[])[..3], V4);
        assert_eq!(text(dual, &["eth1"])[3..], ["net/ipv6/conf/all/forwarding=1", "net/ipv6/conf/eth1/accept_ra=2"]);
    }

    #[test]
    fn who_moves_no_packets_wants_nothing() {
        assert!(text(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#, &[]).is_empty());
        assert!(text(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"extension"}}"#, &[]).is_empty());
    }

    #[test]
    fn what_stops_forwarding_is_vital() {
        for path in [FORWARD_V4, FORWARD_V6, "net/ipv4/conf/flannel.1/forwarding"] {
            assert!(is_vital(path), "{path}");
        }
        assert!(!is_vital("net/ipv6/conf/flannel.1/accept_ra") && !is_vital("net/ipv4/neigh/default/gc_thresh3"));
    }
}
