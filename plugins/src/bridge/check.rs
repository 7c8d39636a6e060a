//! CHECK: what ADD wanted, compared with what is there; every difference is listed.

use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use kernel::Kernel;
use kernel::diff::{Plan, diff};
use kernel::state::{Scope, State};
use kernel::types::{IfName, Mac};

use super::conf::Conf;
use super::desired::{self, Ends};
use super::rules;
use crate::{netns, pod, read_only};

/// Fails with the list of what ADD would change.
pub fn check(request: &Request, conf: &Conf) -> Result<(), Error> {
    let Some(previous) = &request.conf.prev_result else {
        return Err(Error::config("Required prevResult missing"));
    };
    if let Some(kind) = &conf.ipam {
        request.delegates.check(kind, &request.conf.bytes, request.env)?;
    }
    let ends = ends(request, conf, previous)?;
    let netns = netns::open(request).map_err(|e| netns::refused(&e))?;
    let mut found = host_differences(conf, &ends, previous)?;
    found.extend(pod_differences(netns::kernel(request, netns)?, conf, &ends, previous)?);
    found.extend(rules::differences(request, conf, &ends, previous)?);
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("{} is not as ADD left it", request.env.ifname))
        .with_details(format!("to repair it: {}", found.join("; "))))
}

/// The links as prevResult has them.
fn ends(request: &Request, conf: &Conf, previous: &AddResult) -> Result<Ends, Error> {
    let interface =
        |name: &str, host: bool| previous.interfaces.iter().find(|i| i.name == name && i.sandbox.is_empty() == host);
    let pod = interface(&request.env.ifname, false)
        .ok_or_else(|| Error::config(format!("prevResult has no interface {:?} in a sandbox", request.env.ifname)))?;
    if pod.sandbox != request.env.netns {
        return Err(Error::config(format!(
            "Sandbox in prevResult {} doesn't match configured netns: {}",
            pod.sandbox, request.env.netns
        )));
    }
    let bridge = interface(conf.bridge.as_str(), true)
        .ok_or_else(|| Error::config(format!("prevResult has no bridge {:?}", conf.bridge.as_str())))?;
    let veth = super::host_end(previous).ok_or_else(|| Error::config("prevResult names no host end of the pair"))?;
    let veth_mac = interface(veth.as_str(), true).map(|i| i.mac.as_str()).unwrap_or_default();
    let mac = |text: &str| text.parse::<Mac>().map_err(|e| Error::config(format!("prevResult: {e}")));
    Ok(Ends {
        veth_mac: mac(veth_mac)?,
        veth,
        ifname: IfName::new(&request.env.ifname).map_err(Error::internal)?,
        pod_mac: mac(&pod.mac)?,
        bridge_mac: mac(&bridge.mac)?,
        // CHECK makes nothing: no name is needed
        vlan_port: conf.bridge.clone(),
    })
}

fn host_differences(conf: &Conf, ends: &Ends, previous: &AddResult) -> Result<Vec<String>, Error> {
    let mut wanted = desired::host(conf, ends, previous);
    if let Some(bridge) = wanted.links.get_mut(&conf.bridge) {
        bridge.mac = Some(ends.bridge_mac);
        bridge.promisc = Some(conf.promisc);
    }
    // a port's frames are the bridge's: its own value says nothing while it is one
    wanted.sysctls.remove(&desired::accept_ra(&ends.veth));
    read_only::leave_out(&mut wanted);
    let scope = Scope {
        read_links: vec![conf.bridge.clone(), ends.veth.clone()],
        addresses: vec![conf.gateway_link()],
        vlans: conf.vlans.iter().map(|_| ends.veth.clone()).collect(),
        sysctls: wanted.sysctls.keys().cloned().collect(),
        keep: true,
        ..Scope::default()
    };
    let mut host = Kernel::open().map_err(Error::internal)?;
    let observed = host.observe(&scope).map_err(Error::internal)?;
    Ok(differences("", diff(&wanted, &observed, &scope)))
}

fn pod_differences(mut pod: Kernel, conf: &Conf, ends: &Ends, previous: &AddResult) -> Result<Vec<String>, Error> {
    let mut wanted = desired::pod(conf, ends, previous)?;
    read_only::leave_out(&mut wanted);
    let mut observed = State::default();
    let mut scope = Scope::default();
    for table in pod::tables(&wanted) {
        scope = Scope { keep: true, ..pod::scope(&ends.ifname, &wanted, table) };
        let part = pod.observe(&scope).map_err(Error::internal)?;
        observed.routes.extend(part.routes);
        observed = State { routes: observed.routes, ..part };
    }
    Ok(differences("in the pod: ", diff(&wanted, &observed, &scope)))
}

fn differences(place: &str, plan: Plan) -> Vec<String> {
    let steps = plan.steps.iter().map(|step| format!("{place}{step}"));
    let conflicts = plan.conflicts.iter().map(|conflict| format!("{place}{conflict}"));
    steps.chain(conflicts).collect()
}
