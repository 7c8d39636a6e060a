//! Reconstructs the attachment from a result of ADD, for CHECK.

use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use kernel::state::{Scope, State};
use kernel::types::{IfName, Mac};

use super::conf::Conf;
use crate::attach::{Ends, pod_interface};
use crate::host::accept_ra;

/// The links in prevResult.
pub fn ends(conf: &Conf, request: &Request<'_>, previous: &AddResult) -> Result<Ends, Error> {
    let of_host = |name: &str| previous.interfaces.iter().find(|i| i.name == name && i.sandbox.is_empty());
    let pod = pod_interface(request, previous)?;
    let bridge = of_host(conf.bridge.as_str())
        .ok_or_else(|| Error::config(format!("prevResult has no bridge {:?}", conf.bridge.as_str())))?;
    let host = host_end(previous).ok_or_else(|| Error::config("prevResult names no host end of the pair"))?;
    let host_mac = of_host(host.as_str()).map(|i| i.mac.as_str()).unwrap_or_default();
    let mac = |text: &str| text.parse::<Mac>().map_err(|e| Error::config(format!("prevResult: {e}")));
    Ok(Ends {
        host_mac: mac(host_mac)?,
        host,
        ifname: IfName::new(&request.env.ifname).map_err(Error::internal)?,
        pod_mac: mac(&pod.mac)?,
        shared_mac: mac(&bridge.mac)?,
        // CHECK creates nothing, so it needs no name.
        spare: conf.bridge.clone(),
    })
}

/// The host's end of the pair: the interface outside any sandbox that is neither the bridge nor the VLAN's gateway.
fn host_end(previous: &AddResult) -> Option<IfName> {
    let host: Vec<_> = previous.interfaces.iter().filter(|i| i.sandbox.is_empty()).collect();
    host.iter().find(|i| i.name.starts_with("veth")).or(host.get(1)).and_then(|i| IfName::new(&i.name).ok())
}

/// The objects that CHECK reads. It does not judge the bridge's MAC address, which may be that of its lowest port.
pub fn judged(conf: &Conf, ends: &Ends, wanted: &mut State) -> Scope {
    if let Some(bridge) = wanted.links.get_mut(&conf.bridge) {
        bridge.promisc = Some(conf.promisc);
    }
    if let Some(end) = wanted.links.get_mut(&ends.host) {
        // A later plugin may lower it.
        end.mtu = None;
    }
    // The bridge handles a port's frames, so the port's own setting has no effect.
    wanted.sysctls.remove(&accept_ra(&ends.host));
    Scope {
        read_links: vec![conf.bridge.clone(), ends.host.clone()],
        addresses: vec![conf.gateway_link()],
        vlans: conf.vlans.iter().map(|_| ends.host.clone()).collect(),
        ..Scope::default()
    }
}
