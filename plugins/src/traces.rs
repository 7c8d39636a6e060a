//! Describes what an attachment leaves on a host, for its record.

use attachment::Key;
use attachment::record::{HostLink, MADE, PodLink, SharedLink, VlanRecord};
use cni::plugin::Request;
use cni::result::Interface;
use kernel::state::{Link, LinkKind, Route, State};

use crate::attach::Ends;

/// The attachment that a request is about.
pub fn key<'a>(request: &'a Request<'_>) -> Key<'a> {
    Key { network: &request.conf.name, container: &request.env.container_id, ifname: &request.env.ifname }
}

/// The attachment's own links: the host's end, if the host's state has one, and the pod's. Without a host's end the
/// pod's is found by its namespace.
pub fn links(request: &Request<'_>, ends: &Ends, host: &State) -> (Option<HostLink>, Option<PodLink>) {
    let host = host_link(ends, host);
    let netns = if host.is_none() { request.env.netns.clone() } else { String::new() };
    let pod = PodLink { name: ends.ifname.to_string(), mac: ends.pod_mac.to_string(), addresses: Vec::new(), netns };
    (host, Some(pod))
}

fn host_link(ends: &Ends, host: &State) -> Option<HostLink> {
    let link = host.links.get(&ends.host)?;
    let port = host.ports.get(&ends.host).copied().unwrap_or_default();
    let by_host = |route: &Route| route.dev.as_ref() == Some(&ends.host);
    let of_port = host.vlans.iter().filter(|(key, _)| key.dev == ends.host);
    let vlan = |id: u16, vlan: kernel::state::Vlan| VlanRecord { id, pvid: vlan.pvid, untagged: vlan.untagged };
    Some(HostLink {
        name: ends.host.to_string(),
        mac: ends.host_mac.to_string(),
        index: 0,
        kind: link.kind.word().to_owned(),
        master: link.master.clone().flatten().map(|master| master.to_string()),
        hairpin: port.hairpin,
        isolated: port.isolated,
        vlans: of_port.map(|(key, how)| vlan(key.id.get(), *how)).collect(),
        only_vlans: false,
        addresses: host.addresses.keys().filter(|key| key.dev == ends.host).map(|key| key.net).collect(),
        routes: host.routes.iter().filter(|(_, route)| by_host(route)).map(|(key, _)| key.dst).collect(),
    })
}

/// The bridges below the attachment, as desired before anything is made.
pub fn shared(ends: &Ends, host: &State) -> Vec<SharedLink> {
    let bridge = |(name, link): (&kernel::types::IfName, &Link)| {
        let LinkKind::Bridge(bridge) = &link.kind else { return None };
        Some(SharedLink {
            name: name.to_string(),
            kind: link.kind.word().to_owned(),
            mtu: link.mtu.map_or(0, |mtu| mtu.0),
            vlan_filtering: bridge.vlan_filtering,
            promisc: link.promisc == Some(true),
            ..SharedLink::default()
        })
    };
    host.links.iter().filter(|(name, _)| **name != ends.host).filter_map(bridge).collect()
}

/// Adds the addresses of the host's links that attachments share, which are the pods' gateways, to the record of their
/// links.
pub fn add_gateways(shared: &mut Vec<SharedLink>, ends: &Ends, host: &State) {
    for key in host.addresses.keys().filter(|key| key.dev != ends.host) {
        let dev = key.dev.as_str();
        if !shared.iter().any(|link| link.name == dev) {
            shared.push(SharedLink { name: dev.to_owned(), ..SharedLink::default() });
        }
        let links = shared.iter_mut().filter(|link| link.name == dev);
        links.for_each(|link| link.addresses.push(key.net.to_string()));
    }
}

/// Adds the MAC addresses of shared links in the result; `found` is the bridge as it was, if it existed.
pub fn add_macs(shared: &mut [SharedLink], interfaces: &[Interface], found: Option<&Link>) {
    for link in shared.iter_mut().filter(|link| !link.kind.is_empty()) {
        let of_host = interfaces.iter().find(|i| i.sandbox.is_empty() && i.name == link.name);
        link.mac = of_host.map(|i| i.mac.clone()).unwrap_or_default();
        link.made = found.is_none_or(|found| found.alias.as_deref() == Some(MADE));
    }
}
