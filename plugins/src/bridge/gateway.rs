//! The gateway of the pods' VLAN: a pair in the host, one end the link that has the gateway's addresses, the other a port
//! of the bridge in that VLAN.

use cni::error::Error;
use kernel::diff::diff;
use kernel::message::link::SeenLink;
use kernel::state::{Link, LinkKind, Scope, State, Veth};
use kernel::{Kernel, KernelError};

use super::add::refused;
use super::conf::{Conf, Gateway};
use super::desired::{self, Ends};
use super::undo::Undo;
use crate::read_only;

/// Makes the pair when it is not there yet, and finishes one that an ADD before left half-made. The link as it is then;
/// `None` when pods have no VLAN, or no gateway.
pub fn ensure(host: &mut Kernel, conf: &Conf, ends: &Ends, undo: &mut Undo) -> Result<Option<SeenLink>, Error> {
    let link = conf.gateway_link();
    if link == conf.bridge || conf.gateway == Gateway::No {
        return Ok(None);
    }
    match host.link(&link).map_err(Error::internal)? {
        Some(seen) => finish(host, conf, ends, seen).map(Some),
        None => {
            undo.vlan_link = Some(link.clone());
            make(host, conf, ends)?;
            host.link(&link).map_err(Error::internal)
        }
    }
}

fn make(host: &mut Kernel, conf: &Conf, ends: &Ends) -> Result<(), Error> {
    let mut observed = desired::vlan_gateway(conf, ends);
    host.apply(&diff(&observed, &State::default(), &Scope::default()).steps).ok().map_err(Error::internal)?;
    observed.links.insert(ends.vlan_port.clone(), Link { up: false, ..Link::up(LinkKind::Veth(Veth { peer: None })) });
    attach(host, conf, ends, &observed)
}

/// Makes the far end a port in the VLAN, and raises both.
fn attach(host: &mut Kernel, conf: &Conf, ends: &Ends, observed: &State) -> Result<(), Error> {
    let report = host.apply(&diff(&desired::vlan_port(conf, ends), observed, &Scope::default()).steps);
    read_only::settled(host, report).map_err(|error| refused(conf, error))
}

/// An ADD that was killed may have left the pair without its place in the bridge, or a link that takes routers.
fn finish(host: &mut Kernel, conf: &Conf, ends: &Ends, seen: SeenLink) -> Result<SeenLink, Error> {
    let bridge = host.index(&conf.bridge).map_err(Error::internal)?;
    let port = far_end(host, &seen).map_err(Error::internal)?;
    // a port of another bridge is where somebody wants it
    let Some(port) = port.filter(|port| port.master.is_none_or(|master| master == bridge.0)) else {
        return guard(host, conf, seen);
    };
    let mut observed = State::default();
    for link in [&seen, &port] {
        observed.links.insert(link.name.clone(), link.named(host.names()));
        observed.sysctls.extend([desired::seen_accept_ra(link)]);
    }
    let ends = Ends { vlan_port: port.name.clone(), ..ends.clone() };
    let mut wanted = desired::vlan_port(conf, &ends);
    if port.master.is_some() && port.link.up {
        // it is raised last, and so has its VLAN
        wanted.vlans.clear();
    }
    let report = host.apply(&diff(&wanted, &observed, &Scope::default()).steps);
    read_only::settled(host, report).map_err(|error| refused(conf, error))?;
    Ok(seen)
}

/// The other end of a pair, when it is in this namespace: each names the other's index.
fn far_end(host: &mut Kernel, seen: &SeenLink) -> Result<Option<SeenLink>, KernelError> {
    let veth = |link: &SeenLink| matches!(link.link.kind, LinkKind::Veth { .. });
    let Some(index) = seen.lower.filter(|_| veth(seen)) else { return Ok(None) };
    let Some(name) = host.name(index)? else { return Ok(None) };
    let far = host.link(&name)?;
    Ok(far.filter(|far| veth(far) && far.lower == Some(seen.index.0)))
}

/// A link of another kind, which somebody made to be the gateway: it takes no routers from pods.
fn guard(host: &mut Kernel, conf: &Conf, seen: SeenLink) -> Result<SeenLink, Error> {
    let (key, value) = desired::seen_accept_ra(&seen);
    let (mut wanted, mut observed) = (State::default(), State::default());
    wanted.sysctls.insert(key.clone(), "0".to_owned());
    observed.sysctls.insert(key, value);
    let report = host.apply(&diff(&wanted, &observed, &Scope::default()).steps);
    read_only::settled(host, report).map_err(|error| refused(conf, error))?;
    Ok(seen)
}
