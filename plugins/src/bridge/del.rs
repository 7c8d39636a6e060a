//! DEL: the desire for nothing. Works without a namespace, without prevResult, any number of times.

use cni::error::{Error, code};
use cni::plugin::Request;
use kernel::Kernel;
use kernel::netns::{Netns, NetnsError};
use kernel::removal::delete_link;
use kernel::types::IfName;

use super::conf::Conf;
use super::rules;

/// Detaches the pod. The address is only released when no link uses it any more.
pub fn del(request: &Request, conf: &Conf) -> Result<(), Error> {
    remove_link(request)?;
    let ipam = match &conf.ipam {
        Some(kind) => request.delegates.del(kind, &request.conf.bytes, request.env),
        None => Ok(()),
    };
    let rules = rules::remove(request, conf);
    join(ipam, rules)
}

/// The pair, by the pod's end or, when the namespace cannot be reached any more, by the host's.
fn remove_link(request: &Request) -> Result<(), Error> {
    let netns = match request.env.netns.as_str() {
        "" => None,
        path => match Netns::open(path) {
            Ok(netns) => Some(netns),
            Err(NetnsError::Absent { .. }) => None,
            Err(error) => return Err(Error::new(code::INVALID_NETNS, error.to_string())),
        },
    };
    match netns {
        Some(netns) => {
            let mut pod = Kernel::open_in(netns).map_err(Error::internal)?;
            let ifname = IfName::new(&request.env.ifname).map_err(Error::internal)?;
            delete_link(&mut pod, &ifname).map(drop).map_err(Error::internal)
        }
        None => remove_host_end(request),
    }
}

/// A namespace whose path is gone may live on in a process: prevResult names the host's end.
fn remove_host_end(request: &Request) -> Result<(), Error> {
    let Some(previous) = &request.conf.prev_result else { return Ok(()) };
    let Some(veth) = super::host_end(previous) else { return Ok(()) };
    let mut host = Kernel::open().map_err(Error::internal)?;
    delete_link(&mut host, &veth).map(drop).map_err(Error::internal)
}

fn join(first: Result<(), Error>, second: Result<(), Error>) -> Result<(), Error> {
    match (first, second) {
        (Err(a), Err(b)) => Err(Error { msg: format!("{}; {}", a.msg, b.msg), ..a }),
        (first, second) => first.and(second),
    }
}
