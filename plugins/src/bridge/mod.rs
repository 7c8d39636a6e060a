//! `bridge`: a veth pair per pod. The host end is a port of a bridge, which may be the pods' gateway.

mod arrange;
mod conf;
mod desired;
mod gateway;
mod recall;

#[cfg(test)]
mod tests;

use cni::args::Args;
use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface as ResultInterface};
use kernel::KernelError;
use kernel::diff::Step;
use kernel::state::{Scope, State};

use conf::{Conf, Document, Gateway};

use crate::attach::{Arranged, Birth, Common, Ends, Facts, Ground, Interface, Settled, interface};

/// The number of ports of a bridge: BR_MAX_PORTS (net/bridge/br_private.h) without number 0, which is reserved.
const PORTS: u32 = 1023;

/// The plugin.
pub struct Bridge;

impl Interface for Bridge {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        "bridge"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        let document: Document = request.conf.decode()?;
        let args = Args::parse(&request.env.args, &["MAC"])?;
        document.check(args.get("MAC").unwrap_or_default())
    }

    fn common<'c>(&self, conf: &'c Conf) -> Common<'c> {
        Common {
            ipam: conf.ipam.as_deref(),
            dad: conf.dad,
            mac: conf.mac,
            masquerade: conf.masquerade.as_ref(),
            spoof_check: conf.spoof_check,
            waits_for_carrier: conf.container_interface,
            stands_on: Some(&conf.bridge),
            stands_in_pod: false,
        }
    }

    fn birth(&self, conf: &Conf, ends: &Ends, facts: &Facts) -> Result<Birth, Error> {
        let known = facts.found.as_ref().map(|seen| desired::known(conf, seen)).transpose()?;
        let host = desired::links(conf, ends, facts.netns, known.is_none());
        Ok(Birth { host, known: known.unwrap_or_default(), pod: State::default() })
    }

    fn complete(&self, conf: &Conf, ipam: AddResult) -> Result<AddResult, Error> {
        desired::complete(conf, ipam)
    }

    fn settle(&self, conf: &Conf, ends: &Ends, result: &AddResult) -> Result<Settled, Error> {
        Ok(Settled { host: desired::host(conf, ends, result), pod: desired::pod(conf, ends, result)? })
    }

    fn arrange(&self, conf: &Conf, ground: &mut Ground<'_>, wanted: &mut State) -> Result<Arranged, Error> {
        gateway::ensure(ground.host, conf, ground.ends)?;
        arrange::arrange(conf, ground, wanted)
    }

    fn interfaces(&self, conf: &Conf, ground: &mut Ground<'_>) -> Result<Vec<ResultInterface>, Error> {
        let bridge_mac = arrange::bridge_mac(conf, ground)?;
        let mut all = desired::interfaces(conf, ground.ends, bridge_mac, ground.sandbox);
        let link = conf.gateway_link();
        if link != conf.bridge && conf.gateway != Gateway::No {
            let seen = ground.host.link(&link).map_err(Error::internal)?;
            all.extend(seen.map(|seen| interface(&seen.name, seen.link.mac, "")));
        }
        Ok(all)
    }

    fn recall(&self, conf: &Conf, request: &Request<'_>, previous: &AddResult) -> Result<Ends, Error> {
        recall::ends(conf, request, previous)
    }

    fn judged(&self, conf: &Conf, ends: &Ends, wanted: &mut State) -> Scope {
        recall::judged(conf, ends, wanted)
    }

    fn refused(&self, conf: &Conf, _step: Option<&Step>, error: KernelError) -> Error {
        refused(conf, error)
    }
}

/// Adds advice when the bridge accepts no more ports.
fn refused(conf: &Conf, error: KernelError) -> Error {
    if !error.is_full_bridge() {
        return Error::internal(error);
    }
    let bridge = &conf.bridge;
    let text = Some(format!("the bridge {bridge} has no free port: it takes {PORTS}"));
    Error::internal(KernelError { text, ..error }).with_details(format!(
        "detach pods that are not needed (ip link show master {bridge}), or name another \"bridge\" in the configuration"
    ))
}
