//! `macvlan`: an interface with a MAC of its own on a link of the host, made in the pod's namespace.

mod conf;
mod desired;

#[cfg(test)]
mod tests;

use cni::args::Args;
use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, Interface as ResultInterface};
use kernel::state::{MacvlanMode, Scope, State};
use kernel::survey::default_route;
use kernel::types::{Family, IfName, Mac, TableId};
use kernel::{Kernel, KernelError};

use conf::{Conf, Document};

use crate::attach::{Arranged, Birth, Common, Ends, Facts, Ground, Interface, Settled, interface, pod_interface};

/// The plugin.
pub struct Macvlan;

impl Interface for Macvlan {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        let mut document: Document = request.conf.decode()?;
        let args = Args::parse(&request.env.args, &["MAC"])?;
        if document.master.is_empty() {
            document.master = default_master()?.to_string();
        }
        document.check(args.get("MAC").unwrap_or_default())
    }

    fn common<'c>(&self, conf: &'c Conf) -> Common<'c> {
        Common {
            ipam: conf.ipam.as_deref(),
            dad: desired::DAD,
            mac: conf.mac,
            masquerade: None,
            spoof_check: false,
            waits_for_carrier: false,
            stands_on: Some(&conf.master),
        }
    }

    /// In passthru mode the kernel gives it the master's (`macvlan_common_newlink`, drivers/net/macvlan.c).
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
        let mac = pod_interface(request, previous)?.mac.parse();
        let mac = mac.map_err(|e| Error::config(format!("prevResult: {e}")))?;
        Ends::random(&IfName::new(&request.env.ifname).map_err(Error::internal)?, Some(mac))
    }

    fn judged(&self, _conf: &Conf, _ends: &Ends, _wanted: &mut State) -> Scope {
        Scope::default()
    }

    /// The pod's interface stands on the master.
    fn differences(&self, conf: &Conf, ends: &Ends, host: &mut Kernel, pod: &mut Kernel) -> Result<Vec<String>, Error> {
        let master = host.link(&conf.master).map_err(Error::internal)?.map(|seen| seen.index.0);
        let found = pod.link(&ends.ifname).map_err(Error::internal)?;
        Ok(match (master, found) {
            (None, _) => vec![format!("master {} is not there (ip link show {})", conf.master, conf.master)],
            (Some(index), Some(found)) if found.lower_elsewhere.or(found.lower) != Some(index) => {
                vec![format!("in the pod: ip link del {} (it does not stand on {})", ends.ifname, conf.master)]
            }
            // that the interface is not there has been said
            _ => Vec::new(),
        })
    }

    fn taken(&self, ifname: &IfName) -> Error {
        Error::internal(format!("container interface name {:?} already exists", ifname.as_str()))
    }

    fn refused(&self, conf: &Conf, error: KernelError) -> Error {
        let (busy, master) = (error.is_busy(), &conf.master);
        let error = Error::internal(error);
        if !busy {
            return error;
        }
        error.with_details(format!(
            "a port of a bridge or of a bond, and the master of ipvlan interfaces, carries no macvlan interface, and two on \
             one link cannot have one MAC: ip -d link show {master}"
        ))
    }
}

/// The link of the default route, IPv4's first.
fn default_master() -> Result<IfName, Error> {
    let routes = Kernel::open().and_then(|mut host| host.routes(TableId::MAIN)).map_err(Error::internal)?;
    let found = Family::ALL.into_iter().find_map(|family| default_route(&routes, family));
    found.map(|route| route.dev.clone()).ok_or_else(|| {
        Error::internal("no default route interface name found")
            .with_details("name the link as \"master\", or give this host a default route: ip route show default")
    })
}
