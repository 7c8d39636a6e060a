//! `macvlan`: an interface with a MAC address of its own on a link of the host, created in the pod's namespace.

mod conf;
mod desired;

#[cfg(test)]
mod tests;

use cni::args::Args;
use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface as ResultInterface};
use kernel::diff::Step;
use kernel::message::link::SeenLink;
use kernel::state::{MacvlanMode, Scope, State};
use kernel::survey::default_route;
use kernel::types::{Family, IfName, Mac, TableId};
use kernel::{Kernel, KernelError};

use conf::{Conf, Document};

use crate::attach::{
    Arranged, Birth, Common, Ends, Facts, Ground, Interface, Settled, interface, pod_interface, prev_mac,
};

/// The plugin.
pub struct Macvlan;

impl Interface for Macvlan {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        let document: Document = request.conf.decode()?;
        let args = Args::parse(&request.env.args, &["MAC"])?;
        document.check(args.get("MAC").unwrap_or_default())
    }

    fn resolve(&self, conf: &mut Conf, host: &mut Kernel, pod: Option<&mut Kernel>) -> Result<(), Error> {
        let place = if conf.in_pod { pod } else { Some(host) };
        // The master is named, or is in a pod that does not exist yet.
        let (None, Some(place)) = (&conf.master, place) else { return Ok(()) };
        conf.master = Some(default_master(place)?);
        Ok(())
    }

    fn common<'c>(&self, conf: &'c Conf) -> Common<'c> {
        Common {
            ipam: conf.ipam.as_deref(),
            dad: desired::DAD,
            mac: conf.mac,
            masquerade: None,
            spoof_check: false,
            waits_for_carrier: false,
            stands_on: conf.master.as_ref(),
            stands_in_pod: conf.in_pod,
        }
    }

    /// In passthru mode the kernel gives the interface its master's MAC address (`macvlan_common_newlink`,
    /// drivers/net/macvlan.c).
    fn pod_mac(&self, conf: &Conf, facts: &Facts) -> Option<Mac> {
        match (conf.mode, &facts.found) {
            (MacvlanMode::Passthru, Some(master)) => master.link.mac,
            _ => conf.mac,
        }
    }

    fn birth(&self, conf: &Conf, ends: &Ends, facts: &Facts) -> Result<Birth, Error> {
        Ok(Birth { pod: desired::born(conf, ends, facts.found.as_ref())?, ..Birth::default() })
    }

    fn complete(&self, conf: &Conf, ipam: AddResult) -> Result<AddResult, Error> {
        desired::complete(conf, ipam)
    }

    fn settle(&self, conf: &Conf, ends: &Ends, result: &AddResult) -> Result<Settled, Error> {
        Ok(Settled { host: State::default(), pod: desired::pod(conf, ends, result)? })
    }

    fn arrange(&self, _conf: &Conf, _ground: &mut Ground<'_>, _wanted: &mut State) -> Result<Arranged, Error> {
        Ok(Arranged::default())
    }

    fn interfaces(&self, _conf: &Conf, ground: &mut Ground<'_>) -> Result<Vec<ResultInterface>, Error> {
        Ok(vec![interface(&ground.ends.ifname, Some(ground.ends.pod_mac), ground.sandbox)])
    }

    fn recall(&self, _conf: &Conf, request: &Request<'_>, previous: &AddResult) -> Result<Ends, Error> {
        let mac = prev_mac(pod_interface(request, previous)?)?;
        Ends::random(&IfName::new(&request.env.ifname).map_err(Error::internal)?, Some(mac))
    }

    fn judged(&self, _conf: &Conf, _ends: &Ends, _wanted: &mut State) -> Scope {
        Scope::default()
    }

    /// Checks that the pod's interface is on the named master. Without a name, the default route may have changed
    /// since ADD.
    fn differences(&self, conf: &Conf, ends: &Ends, host: &mut Kernel, pod: &mut Kernel) -> Result<Vec<String>, Error> {
        let Some(name) = &conf.master else { return Ok(Vec::new()) };
        let below = if conf.in_pod { pod.link(name) } else { host.link(name) };
        let found = pod.link(&ends.ifname).map_err(Error::internal)?;
        Ok(match (below.map_err(Error::internal)?, found) {
            (None, _) => vec![format!("master {name} is not there (ip link show {name})")],
            (Some(master), Some(found)) if !stands_on(&found, master.index.0, conf.in_pod) => {
                vec![format!("in the pod: ip link del {} (it does not stand on {name})", ends.ifname)]
            }
            // A missing interface is reported already.
            _ => Vec::new(),
        })
    }

    fn taken(&self, ifname: &IfName) -> Error {
        Error::internal(format!("container interface name {:?} already exists", ifname.as_str()))
    }

    fn refused(&self, conf: &Conf, step: Option<&Step>, error: KernelError) -> Error {
        let master = conf.master.as_ref().map(ToString::to_string).unwrap_or_default();
        let details = match &error {
            error if error.is_busy() => format!(
                "a port of a bridge or of a bond, and the master of ipvlan interfaces, carries no macvlan interface, and two \
                 on one link cannot have one MAC: ip -d link show {master}"
            ),
            // macvlan_common_newlink, drivers/net/macvlan.c
            error if error.is_invalid() && matches!(step, Some(Step::CreateLink(..))) => format!(
                "a macvlan interface in mode passthru is the only one on its link: detach what else stands on {master} (in \
                 other pods, too), or take another mode or master"
            ),
            _ => String::new(),
        };
        Error::internal(error).with_details(details)
    }
}

/// Whether the interface's lower link is the one with this index, in the pod or on the host.
fn stands_on(found: &SeenLink, master: u32, in_pod: bool) -> bool {
    if in_pod { found.lower == Some(master) } else { found.lower_elsewhere.or(found.lower) == Some(master) }
}

/// The link of the default route; IPv4's takes precedence.
fn default_master(place: &mut Kernel) -> Result<IfName, Error> {
    let routes = place.routes(TableId::MAIN).map_err(Error::internal)?;
    let found = Family::ALL.into_iter().find_map(|family| default_route(&routes, family));
    found.map(|route| route.dev.clone()).ok_or_else(desired::no_default_route)
}
