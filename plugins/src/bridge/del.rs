//! DEL: the desire for nothing. Works without a namespace, without prevResult, any number of times.

use cni::error::Error;
use cni::plugin::Request;
use cni::result::Interface;
use kernel::message::link::SeenLink;
use kernel::removal::{delete_link, delete_seen};
use kernel::state::LinkKind;
use kernel::types::{IfName, Mac};
use kernel::{Kernel, KernelError};

use super::conf::Conf;
use super::rules;
use crate::netns;

/// Detaches the pod. The address is only released when no link uses it any more.
pub fn del(request: &Request, conf: &Conf) -> Result<(), Error> {
    remove_link(request, conf)?;
    let ipam = match &conf.ipam {
        Some(kind) => request.delegates.del(kind, &request.conf.bytes, request.env),
        None => Ok(()),
    };
    let rules = rules::remove(request, conf);
    join(ipam, rules)
}

/// The pair, by the pod's end or, when the namespace cannot be reached any more, by the host's.
fn remove_link(request: &Request, conf: &Conf) -> Result<(), Error> {
    let netns = match request.env.netns.as_str() {
        "" => None,
        _ => match netns::open(request) {
            Ok(netns) => Some(netns),
            Err(gone) if gone.is_absent() => None,
            Err(error) => return Err(netns::refused(&error)),
        },
    };
    match netns {
        Some(netns) => {
            let mut pod = netns::kernel(request, netns)?;
            let ifname = IfName::new(&request.env.ifname).map_err(Error::internal)?;
            delete_link(&mut pod, &ifname).map(drop).map_err(Error::internal)
        }
        None => remove_host_end(request, conf),
    }
}

/// A namespace whose path is gone may live on in a process: prevResult names the host's end. A name alone may be that
/// of any link of the host.
fn remove_host_end(request: &Request, conf: &Conf) -> Result<(), Error> {
    let Some(previous) = &request.conf.prev_result else { return Ok(()) };
    let mut host = Kernel::open().map_err(Error::internal)?;
    let Some(bridge) = host.link(&conf.bridge).map_err(Error::internal)? else { return Ok(()) };
    for interface in previous.interfaces.iter().filter(|i| i.sandbox.is_empty()) {
        if let Some(end) = end_of(&mut host, interface, &bridge).map_err(Error::internal)? {
            delete_seen(&mut host, &end).map_err(Error::internal)?;
        }
    }
    Ok(())
}

/// The link that `interface` names, when it is what ADD made: a veth, a port of this bridge, with that MAC.
fn end_of(host: &mut Kernel, interface: &Interface, bridge: &SeenLink) -> Result<Option<SeenLink>, KernelError> {
    let (Ok(name), Ok(mac)) = (IfName::new(&interface.name), interface.mac.parse::<Mac>()) else { return Ok(None) };
    let is_end = |seen: &SeenLink| {
        matches!(seen.link.kind, LinkKind::Veth { .. })
            && seen.master == Some(bridge.index.0)
            && seen.link.mac == Some(mac)
    };
    Ok(host.link(&name)?.filter(is_end))
}

fn join(first: Result<(), Error>, second: Result<(), Error>) -> Result<(), Error> {
    match (first, second) {
        (Err(a), Err(b)) => Err(Error { msg: format!("{}; {}", a.msg, b.msg), ..a }),
        (first, second) => first.and(second),
    }
}
