//! The gateway of the pods' VLAN: a pair on the host. One end has the gateway's addresses; the other is a port of the
//! bridge in that VLAN.

use cni::error::Error;
use kernel::message::link::SeenLink;
use kernel::state::{LinkKind, Scope, State};
use kernel::{Kernel, KernelError};

use super::conf::{Conf, Gateway};
use super::{desired, refused};
use crate::attach::{Ends, settled};
use crate::host::seen_accept_ra;

/// Makes the pair if it is missing, and finishes one that another ADD is making or has left incomplete. Does nothing
/// when pods have no VLAN or no gateway.
pub fn ensure(host: &mut Kernel, conf: &Conf, ends: &Ends) -> Result<(), Error> {
    let link = conf.gateway_link();
    if link == conf.bridge || conf.gateway == Gateway::No {
        return Ok(());
    }
    if host.link(&link).map_err(Error::internal)?.is_none() {
        make(host, conf, ends)?;
    }
    match host.link(&link).map_err(Error::internal)? {
        Some(seen) => finish(host, conf, ends, seen),
        None => Err(Error::internal(format!("{link} was deleted while it was being made the pods' gateway"))),
    }
}

/// Creates the pair, which is still down. Another ADD may have been faster.
fn make(host: &mut Kernel, conf: &Conf, ends: &Ends) -> Result<(), Error> {
    let wanted = desired::vlan_gateway(conf, ends);
    let outcome = host.converge(&wanted, &Scope::default(), Some(State::default().into())).map_err(Error::internal)?;
    match outcome.failed.into_iter().find(|(_, error)| !error.is_already()) {
        Some((_, error)) => Err(Error::internal(error)),
        None => Ok(()),
    }
}

/// Makes the far end a port in the VLAN, and raises both ends. A link of another kind, or with a far end on another
/// bridge, was set up by somebody else and stays unchanged.
fn finish(host: &mut Kernel, conf: &Conf, ends: &Ends, seen: SeenLink) -> Result<(), Error> {
    let bridge = host.index(&conf.bridge).map_err(Error::internal)?;
    let port = far_end(host, &seen).map_err(Error::internal)?;
    let Some(port) = port.filter(|port| port.master.is_none_or(|master| master == bridge.0)) else {
        return guard(host, conf, &seen);
    };
    let mut known = State::default();
    for link in [&seen, &port] {
        known.links.insert(link.name.clone(), link.named(host.names()));
        known.sysctls.extend([seen_accept_ra(link)]);
    }
    let ends = Ends { spare: port.name.clone(), ..ends.clone() };
    let mut wanted = desired::vlan_port(conf, &ends);
    let mut scope = Scope::default();
    if port.master.is_some() && port.link.up {
        // It is raised last, so its VLAN is set.
        wanted.vlans.clear();
    } else if conf.vlans.as_ref().is_some_and(|vlans| !vlans.keep_default) {
        known.vlans.extend(desired::default_vlan(&port.name));
        scope.vlans.push(port.name.clone());
    }
    let outcome = host.converge(&wanted, &scope, Some(known.into())).map_err(Error::internal)?;
    settled(host, outcome).map(drop).map_err(|error| refused(conf, error))
}

/// The other end of a pair, if it is in this namespace: each end has the other's index.
fn far_end(host: &mut Kernel, seen: &SeenLink) -> Result<Option<SeenLink>, KernelError> {
    let veth = |link: &SeenLink| matches!(link.link.kind, LinkKind::Veth { .. });
    let Some(index) = seen.lower.filter(|_| veth(seen)) else { return Ok(None) };
    let Some(name) = host.name(index)? else { return Ok(None) };
    let far = host.link(&name)?;
    Ok(far.filter(|far| veth(far) && far.lower == Some(seen.index.0)))
}

/// Makes a gateway link that another program created ignore router advertisements from pods.
fn guard(host: &mut Kernel, conf: &Conf, seen: &SeenLink) -> Result<(), Error> {
    let (key, value) = seen_accept_ra(seen);
    let (mut wanted, mut known) = (State::default(), State::default());
    wanted.sysctls.insert(key.clone(), "0".to_owned());
    known.sysctls.insert(key, value);
    let outcome = host.converge(&wanted, &Scope::default(), Some(known.into())).map_err(Error::internal)?;
    settled(host, outcome).map(drop).map_err(|error| refused(conf, error))
}
