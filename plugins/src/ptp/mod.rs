//! `ptp`: a veth pair per pod without a bridge. The host's end has the gateway's address, and the host routes to the pod.

mod conf;
mod desired;

#[cfg(test)]
mod tests;

use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface as ResultInterface};
use kernel::state::{Scope, State};
use kernel::types::IfName;

use conf::{Conf, Document};

use crate::attach::{
    Arranged, Birth, Common, Ends, Facts, Ground, Interface, Settled, interface, pod_interface, prev_mac,
};
use crate::host::forwarding;

/// The plugin.
pub struct Ptp;

impl Interface for Ptp {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        "ptp"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        request.conf.decode::<Document>()?.check()
    }

    fn common<'c>(&self, conf: &'c Conf) -> Common<'c> {
        Common {
            ipam: Some(&conf.ipam),
            dad: desired::DAD,
            mac: None,
            masquerade: conf.masquerade.as_ref(),
            spoof_check: false,
            waits_for_carrier: true,
            stands_on: None,
            stands_in_pod: false,
        }
    }

    fn birth(&self, conf: &Conf, ends: &Ends, facts: &Facts) -> Result<Birth, Error> {
        Ok(Birth { host: desired::links(conf, ends, facts.netns), ..Birth::default() })
    }

    fn complete(&self, conf: &Conf, ipam: AddResult) -> Result<AddResult, Error> {
        desired::complete(conf, ipam)
    }

    fn settle(&self, conf: &Conf, ends: &Ends, result: &AddResult) -> Result<Settled, Error> {
        Ok(Settled { host: desired::host(conf, ends, result), pod: desired::pod(conf, ends, result)? })
    }

    /// The pair has just been made; only forwarding must be read.
    fn arrange(&self, conf: &Conf, ground: &mut Ground<'_>, wanted: &mut State) -> Result<Arranged, Error> {
        Ok(Arranged {
            known: desired::links(conf, ground.ends, None),
            read: Scope { sysctls: forwarding(wanted), ..Scope::default() },
            scope: Scope { routes: Some(desired::host_routes(wanted)), keep: true, ..Scope::default() },
            last: None,
        })
    }

    fn interfaces(&self, _conf: &Conf, ground: &mut Ground<'_>) -> Result<Vec<ResultInterface>, Error> {
        let Ground { ends, sandbox, .. } = ground;
        Ok(vec![interface(&ends.host, Some(ends.host_mac), ""), interface(&ends.ifname, Some(ends.pod_mac), sandbox)])
    }

    fn recall(&self, _conf: &Conf, request: &Request<'_>, previous: &AddResult) -> Result<Ends, Error> {
        let pod = pod_interface(request, previous)?;
        let host = previous.interfaces.iter().find(|i| i.sandbox.is_empty());
        let host = host.ok_or_else(|| Error::config("prevResult names no host end of the pair"))?;
        let ends = Ends::random(&IfName::new(&request.env.ifname).map_err(Error::internal)?, Some(prev_mac(pod)?))?;
        let name = IfName::new(&host.name).map_err(|error| Error::config(format!("prevResult: {error}")))?;
        Ok(Ends { host: name, host_mac: prev_mac(host)?, ..ends })
    }

    fn judged(&self, _conf: &Conf, ends: &Ends, wanted: &mut State) -> Scope {
        if let Some(end) = wanted.links.get_mut(&ends.host) {
            // A later plugin may lower it.
            end.mtu = None;
        }
        Scope {
            read_links: vec![ends.host.clone()],
            addresses: vec![ends.host.clone()],
            routes: Some(desired::host_routes(wanted)),
            ..Scope::default()
        }
    }
}
