//! Finds the hosts that this one needs, from the kernel and resolv.conf(5).

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::state::{Route, RouteKey};
use kernel::types::{IfName, RouteProtocol};

use super::Service;

/// The gateway of a default route, or of any route by the link `dev`. A route that this program or its plugins made has
/// none: its gateway is a peer.
pub fn gateway(key: &RouteKey, route: &Route, dev: &IfName) -> Option<IpAddr> {
    let ours = [RouteProtocol::FLANNEL, RouteProtocol::FLANNEL_CNI].contains(&route.protocol);
    route.via.filter(|_| !ours && (key.dst.prefix() == 0 || route.dev.as_ref() == Some(dev)))
}

/// The gateways of all routes ([`gateway`]).
pub fn gateways(routes: &[(RouteKey, Route)], dev: &IfName) -> Vec<(IpAddr, Service)> {
    let all: BTreeSet<IpAddr> = routes.iter().filter_map(|(key, route)| gateway(key, route, dev)).collect();
    all.into_iter().map(|gateway| (gateway, Service::Gateway)).collect()
}

/// The C library's list of DNS servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// systemd-resolved's list of its upstream servers, for hosts whose [`RESOLV_CONF`] names only its stub.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The addresses that systemd-resolved's stub listens on (systemd-resolved.service(8)).
const STUB: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 54))];

/// The DNS servers of this host, except those on the host itself. `read` returns a file's content; `None`: it cannot
/// be read.
pub fn dns_servers(read: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<(IpAddr, Service)> {
    let read = |path| read(path).map(|text| nameservers(&String::from_utf8_lossy(&text))).unwrap_or_default();
    let mut servers = read(RESOLV_CONF);
    if servers.iter().any(|server| STUB.contains(server)) {
        servers.extend(read(RESOLVED));
    }
    servers.into_iter().filter(|server| !server.is_loopback()).map(|server| (server, Service::Dns)).collect()
}

/// The addresses after `nameserver`. The zone of a link-local address does not matter here.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(name: &str) -> IfName {
        IfName::new(name).unwrap()
    }

    fn route(dst: &str, via: &str, by: &str, protocol: RouteProtocol) -> (RouteKey, Route) {
        let route = Route { via: via.parse().ok(), protocol, ..Route::by(&dev(by)) };
        (RouteKey::main(dst.parse().unwrap()), route)
    }

    #[test]
    fn gateways_are_those_of_the_way_out() {
        let routes = [
            route("0.0.0.0/0", "192.0.2.254", "eth0", RouteProtocol::BOOT),
            route("::/0", "fe80::1", "eth1", RouteProtocol::BOOT),
            route("198.51.100.0/24", "192.0.2.253", "eth0", RouteProtocol(4)),
            route("203.0.113.0/24", "192.0.2.254", "eth0", RouteProtocol(4)),
            route("192.0.2.0/24", "none", "eth0", RouteProtocol::KERNEL),
            route("10.5.2.0/24", "10.5.2.0", "flannel.1", RouteProtocol::BOOT),
            route("10.5.3.0/24", "192.0.2.3", "eth0", RouteProtocol::FLANNEL),
            route("10.5.4.0/24", "192.0.2.4", "eth0", RouteProtocol::FLANNEL_CNI),
        ];
        let found: Vec<String> = gateways(&routes, &dev("eth0")).iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(found, ["192.0.2.253", "192.0.2.254", "fe80::1"]);
    }

    #[test]
    fn dns_servers_are_those_that_are_asked() {
        let files = |etc: &'static str, resolved: Option<&'static str>| {
            let read = move |path: &str| {
                let text = if path == RESOLV_CONF { Some(etc) } else { resolved };
                text.map(|text| text.as_bytes().to_vec())
            };
            dns_servers(read).iter().map(|(at, _)| at.to_string()).collect::<Vec<_>>()
        };
        let text =
            "# nameserver 192.0.2.1\nnameserver\t192.0.2.53 x\n nameserver fe80::53%eth0\nnameserver a\nsearch b\n";
        let unasked = Some("nameserver 192.0.2.99\n");
        assert_eq!(files(text, unasked), ["192.0.2.53", "fe80::53"]);
        assert_eq!(files("nameserver 127.0.0.53\n", Some("nameserver 192.0.2.9\n")), ["192.0.2.9"]);
        assert_eq!(files("nameserver 127.0.0.53\nnameserver 127.0.0.1\n", None), Vec::<String>::new());
    }
}
