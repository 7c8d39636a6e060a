//! The desired state of the pod for an attachment; the host needs none. Pure.

use cni::error::Error;
use cni::result::AddResult;
use kernel::message::link::SeenLink;
use kernel::state::{Birth as LinkBirth, Link, LinkKind, Macvlan, State};

use super::conf::Conf;
use crate::attach::Ends;
use crate::pod;

/// Other machines share the segment, so duplicates of an address are detected, as upstream does.
pub const DAD: pod::Dad = pod::Dad::On;

/// The pod's interface.
fn link(conf: &Conf, ends: &Ends) -> Link {
    let kind = Macvlan { lower: conf.master.clone(), mode: conf.mode, bc_queue_len: conf.bc_queue_len };
    let birth = if conf.in_pod { LinkBirth::Here } else { LinkBirth::Parent };
    Link { birth, mtu: conf.mtu, mac: Some(ends.pod_mac), ..Link::up(LinkKind::Macvlan(kind)) }
}

/// The error when no master is named, and there is no default route.
pub fn no_default_route() -> Error {
    Error::internal("no default route interface name found")
        .with_details("name the link as \"master\", or add a default route where it is: ip route show default")
}

/// The interface, still down. `master` is its lower link.
pub fn born(conf: &Conf, ends: &Ends, master: Option<&SeenLink>) -> Result<State, Error> {
    let Some(name) = &conf.master else { return Err(no_default_route()) };
    let Some(master) = master else {
        let name = name.as_str();
        let place = if conf.in_pod { "the pod" } else { "this host" };
        return Err(Error::internal(format!("failed to lookup master {name:?}: Link not found"))
            .with_details(format!("name a link of {place} as \"master\": ip link show {name}")));
    };
    if let (Some(wanted), Some(most)) = (conf.mtu, master.link.mtu)
        && wanted.0 > most.0
    {
        return Err(Error::internal(format!("invalid MTU {}, must be [0, master MTU({})]", wanted.0, most.0)));
    }
    let mut state = State::default();
    state.links.insert(ends.ifname.clone(), Link { up: false, ..link(conf, ends) });
    Ok(state)
}

/// IPAM's result with the plugin's additions: the interface of each address, and DNS.
pub fn complete(conf: &Conf, mut ipam: AddResult) -> Result<AddResult, Error> {
    if conf.ipam.is_some() && ipam.ips.is_empty() {
        return Err(Error::internal("IPAM plugin returned missing IP config"));
    }
    ipam.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
    Ok(AddResult { dns: conf.dns.clone(), ..ipam })
}

/// The interface, up, with its addresses and routes. Without IPAM it is only raised.
pub fn pod(conf: &Conf, ends: &Ends, result: &AddResult) -> Result<State, Error> {
    if conf.ipam.is_none() {
        let mut state = State::default();
        state.links.insert(ends.ifname.clone(), link(conf, ends));
        return Ok(state);
    }
    let mut state = pod::desired(&ends.ifname, link(conf, ends), result, DAD)?;
    // The IPv6 counterpart of arp_notify.
    state.conf("ipv6", &ends.ifname, "ndisc_notify", "1");
    Ok(state)
}
