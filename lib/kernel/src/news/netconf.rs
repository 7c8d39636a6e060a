//! Settings of IP, which are sysctls: RTM_NEWNETCONF (linux/netconf.h), which the crates do not know.

use super::News;
use crate::message::Names;
use crate::types::Family;

pub(super) const RTM_NEWNETCONF: u16 = 80;
pub(super) const RTM_DELNETCONF: u16 = 81;

/// NETCONFA_IFINDEX, and its values that are not links.
const IFINDEX: u16 = 1;
const ALL: i32 = -1;
const DEFAULT: i32 = -2;

/// NETCONFA_* with the files below `net/FAMILY/conf/LINK` for IPv4 and IPv6 (inet_netconf_fill_devconf,
/// net/ipv4/devinet.c; inet6_netconf_fill_devconf, net/ipv6/addrconf.c); empty if there is none.
const FILES: [(u16, [&str; 2]); 5] = [
    (FORWARDING, ["forwarding", "forwarding"]),
    (3, ["rp_filter", ""]),
    (5, ["proxy_arp", "proxy_ndp"]),
    (6, ["ignore_routes_with_linkdown", "ignore_routes_with_linkdown"]),
    (8, ["bc_forwarding", ""]),
];
const FORWARDING: u16 = 2;
/// Another name of all links' IPv4 forwarding (ctl_forward_entry, net/ipv4/devinet.c).
const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// Whether the kernel announces a change of the sysctl at `path`, which is below `/proc/sys`. It announces these few of
/// IP's settings of a link, and no other sysctl.
pub fn is_announced(path: &str) -> bool {
    let known = |(_, [v4, v6]): &(u16, [&str; 2])| {
        let is = |family: &str, file: &str| {
            let rest = path.strip_prefix("net/").and_then(|rest| rest.strip_prefix(family));
            let link = rest.and_then(|rest| rest.strip_prefix("/conf/")).and_then(|rest| rest.strip_suffix(file));
            !file.is_empty() && link.is_some_and(|link| link.ends_with('/'))
        };
        is("ipv4", v4) || is("ipv6", v6)
    };
    path == IP_FORWARD || FILES.iter().any(known)
}

/// A message: the link, and its values by NETCONFA_*.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Netconf {
    family: Option<Family>,
    ifindex: i32,
    values: Vec<(u16, i32)>,
}

/// Parses struct netconfmsg, which is one byte, and the attributes after it; `None` when it is incomplete.
pub(super) fn parse(payload: &[u8]) -> Option<Netconf> {
    let family = match i32::from(*payload.first()?) {
        libc::AF_INET => Some(Family::V4),
        libc::AF_INET6 => Some(Family::V6),
        _ => None,
    };
    let mut netconf = Netconf { family, ifindex: 0, values: Vec::new() };
    let mut rest = payload.get(4..)?;
    while !rest.is_empty() {
        let header: &[u8; 4] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = i32::from_ne_bytes(*rest.get(4..length)?.first_chunk()?);
        match kind {
            IFINDEX => netconf.ifindex = value,
            kind => netconf.values.push((kind, value)),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(netconf)
}

/// The sysctls in the message. An unknown link is about to be announced, with the settings that the kernel gave it.
pub(super) fn news(netconf: &Netconf, names: &dyn Names) -> Vec<News> {
    let link = match netconf.ifindex {
        ALL => Some("all".to_owned()),
        DEFAULT => Some("default".to_owned()),
        index => u32::try_from(index).ok().and_then(|index| names.name(index)).map(|name| name.to_string()),
    };
    let (Some(link), Some(family)) = (link, netconf.family) else { return Vec::new() };
    let mut news = Vec::new();
    for (kind, value) in &netconf.values {
        let Some((_, [v4, v6])) = FILES.iter().find(|(known, _)| known == kind) else { continue };
        let (family_dir, file) = if family == Family::V4 { ("ipv4", v4) } else { ("ipv6", v6) };
        if !file.is_empty() {
            news.push(News::Sysctl(format!("net/{family_dir}/conf/{link}/{file}"), value.to_string()));
        }
        if (family, *kind, netconf.ifindex) == (Family::V4, FORWARDING, ALL) {
            news.push(News::Sysctl(IP_FORWARD.to_owned(), value.to_string()));
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::is_announced;

    #[test]
    fn few_sysctls_are_announced() {
        for path in [
            "net/ipv4/ip_forward",
            "net/ipv4/conf/eth0/rp_filter",
            "net/ipv4/conf/eth0.5/forwarding",
            "net/ipv6/conf/all/forwarding",
            "net/ipv6/conf/cni0/proxy_ndp",
        ] {
            assert!(is_announced(path), "{path}");
        }
        for path in [
            "net/ipv6/conf/cni0/accept_ra",
            "net/ipv6/conf/cni0/rp_filter",
            "net/ipv4/conf/cni0/mc_forwarding",
            "net/ipv4/conf/cni0/arp_ignore",
            "net/ipv4/neigh/default/gc_thresh3",
            "net/ipv4/conf/forwarding",
        ] {
            assert!(!is_announced(path), "{path}");
        }
    }
}
