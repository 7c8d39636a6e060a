//! What an attachment leaves on a host, in the words of its record.

use attachment::Key;
use attachment::record::{HostLink, PodLink, VlanRecord};
use cni::plugin::Request;
use kernel::state::State;

use crate::attach::Ends;

/// Which attachment a request is about.
pub fn key<'a>(request: &'a Request<'_>) -> Key<'a> {
    Key { network: &request.conf.name, container: &request.env.container_id, ifname: &request.env.ifname }
}

/// The attachment's own links: the host's end, where the host's state has one, and the pod's. Where it has none, the pod's
/// is found by its namespace.
pub fn links(request: &Request<'_>, ends: &Ends, host: &State) -> (Option<HostLink>, Option<PodLink>) {
    let host = host_link(ends, host);
    let netns = if host.is_none() { request.env.netns.clone() } else { String::new() };
    let pod = PodLink { name: ends.ifname.to_string(), mac: ends.pod_mac.to_string(), addresses: Vec::new(), netns };
    (host, Some(pod))
}

fn host_link(ends: &Ends, host: &State) -> Option<HostLink> {
    let link = host.links.get(&ends.host)?;
    let port = host.ports.get(&ends.host).copied().unwrap_or_default();
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
    })
}
