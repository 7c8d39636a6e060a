//! The other networks that this host is on, as far as they share addresses with the overlay's. Pure.

use std::fmt;

use ipnetwork::IpNetwork;
use kernel::state::LinkKind;
use kernel::survey::SeenLink;
use kernel::types::IfName;

use crate::lease::Subnets;
use crate::net::overlap;
use crate::netconf::NetConf;
use crate::underlay::{Survey, is_overlay};

/// A link of this host whose prefix overlaps the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lan {
    /// The link.
    pub dev: IfName,
    /// Its address, with the length of its prefix.
    pub address: IpNetwork,
    /// The network of the configuration.
    pub network: IpNetwork,
}

/// One for each link and network, with the link's first such address. Links of the overlay are left out, and so are
/// addresses in `pods`, the subnets of this host's pods, unless the underlay has them: those are the bridge's.
pub fn lans(conf: &NetConf, survey: &Survey, underlay: &IfName, pods: &[Subnets]) -> Vec<Lan> {
    let is_other = |link: &&SeenLink| link.link.kind != LinkKind::Loopback && !is_overlay(link);
    let serves_pods = |net: &IpNetwork| pods.iter().flat_map(Subnets::iter).any(|own| own.contains(net.ip()));
    let networks = conf.networks();
    let of_link = |link: &SeenLink| {
        let addresses = survey.addresses.iter().filter(|seen| seen.key.dev == link.name).map(|seen| seen.key.net);
        let addresses: Vec<IpNetwork> = addresses.filter(|net| link.name == *underlay || !serves_pods(net)).collect();
        let first = |network: &IpNetwork| addresses.iter().copied().find(|address| overlap(*address, *network));
        let lan = |network| Some(Lan { dev: link.name.clone(), address: first(&network)?, network });
        networks.iter().copied().filter_map(lan).collect::<Vec<_>>()
    };
    survey.links.iter().filter(is_other).flat_map(of_link).collect()
}

impl fmt::Display for Lan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dev, address, network } = self;
        write!(
            f,
            "the network {network} overlaps {address} of {dev}: a host there cannot be reached when a pod or a lease has its \
             address; use another Network"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::state::{Address, AddressKey, Link, Vxlan};
    use kernel::survey::SeenAddress;
    use kernel::types::{IfIndex, Vni};

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn link(dev: &str) -> SeenLink {
        let kind = match dev {
            "lo" => LinkKind::Loopback,
            "flannel.1" => LinkKind::Vxlan(Vxlan::new(Vni::new(1).unwrap())),
            _ => LinkKind::Other(String::new()),
        };
        SeenLink {
            index: IfIndex(1),
            name: name(dev),
            link: Link::up(kind),
            master: None,
            lower: None,
            lower_elsewhere: None,
            port: None,
            running: true,
            operstate: "Up".into(),
            queue: String::new(),
            ipv6: None,
        }
    }

    fn address((dev, net): (&str, &str)) -> SeenAddress {
        SeenAddress {
            key: AddressKey { dev: name(dev), net: net.parse().unwrap() },
            address: Address::default(),
            tentative: false,
            dad_failed: false,
            permanent: true,
            secondary: false,
            deprecated: false,
            global: true,
        }
    }

    /// The LANs of a host on eth0 whose pods are in `pods`.
    fn found(network: &str, pods: &str) -> Vec<String> {
        let conf = NetConf::parse(format!(r#"{{"Network":"{network}"}}"#).as_bytes()).unwrap().conf;
        let addresses = [
            ("lo", "127.0.0.1/8"),
            ("lo", "10.5.9.9/32"),
            ("eth0", "10.5.1.11/24"),
            ("eth0", "10.5.1.12/24"),
            ("eth1", "192.0.2.1/24"),
            ("cni0", "10.5.3.1/24"),
            ("flannel.1", "10.5.3.0/32"),
        ];
        let survey = Survey {
            links: ["lo", "eth0", "eth1", "cni0", "flannel.1"].map(link).to_vec(),
            addresses: addresses.map(address).to_vec(),
            ..Survey::default()
        };
        let pods = Subnets { v4: pods.parse().ok(), v6: None };
        let lans = lans(&conf, &survey, &name("eth0"), &[pods]);
        lans.iter().map(|lan| format!("{} {} {}", lan.dev, lan.address, lan.network)).collect()
    }

    #[test]
    fn a_lan_inside_or_around_the_network_is_found_once() {
        assert_eq!(found("10.5.0.0/16", "10.5.3.0/24"), ["eth0 10.5.1.11/24 10.5.0.0/16"]);
        assert_eq!(found("10.5.1.0/25", "10.5.3.0/24"), ["eth0 10.5.1.11/24 10.5.1.0/25"]);
        assert_eq!(found("192.0.0.0/8", "10.5.3.0/24"), ["eth1 192.0.2.1/24 192.0.0.0/8"]);
        assert_eq!(found("10.6.0.0/16", "10.5.3.0/24"), Vec::<String>::new());
    }

    #[test]
    fn the_bridge_of_this_hosts_pods_is_none() {
        assert_eq!(found("10.5.2.0/23", "10.5.3.0/24"), Vec::<String>::new());
        assert_eq!(found("10.5.2.0/23", "none"), ["cni0 10.5.3.1/24 10.5.2.0/23"], "a bridge that is nobody's");
        assert_eq!(found("10.5.0.0/23", "10.5.1.0/24"), ["eth0 10.5.1.11/24 10.5.0.0/23"], "the underlay is no bridge");
    }
}
