//! CHECK compares what ADD made with what exists, and lists every difference that this attachment may judge.

use cni::error::Error;
use cni::plugin::Request;
use kernel::Kernel;
use kernel::state::{Scope, State};
use kernel::types::IfName;

use super::{Interface, Settled, differences, rules};
use crate::{netns, pod, read_only};

/// Fails with a list of the steps that ADD would take.
pub(super) fn check<I: Interface>(plugin: &I, request: &Request<'_>, conf: &I::Conf) -> Result<(), Error> {
    let Some(previous) = &request.conf.prev_result else {
        return Err(Error::config("Required prevResult missing"));
    };
    let common = plugin.common(conf);
    if let Some(kind) = common.ipam {
        request.delegates.check(kind, &request.conf.bytes, request.env)?;
    }
    let ends = plugin.recall(conf, request, previous)?;
    let netns = netns::open(request).map_err(|e| netns::refused(&e))?;
    let Settled { mut host, pod } = plugin.settle(conf, &ends, previous)?;
    let scope = plugin.judged(conf, &ends, &mut host);
    let (mut kernel, mut inside) = (Kernel::open().map_err(Error::internal)?, netns::kernel(request, netns)?);
    let mut found = host_differences(&mut kernel, &mut host, &scope)?;
    found.extend(pod_differences(&mut inside, &ends.ifname, pod)?);
    found.extend(plugin.differences(conf, &ends, &mut kernel, &mut inside)?);
    found.extend(rules::differences(request, &common, &ends, previous)?);
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("{} is not as ADD left it", request.env.ifname))
        .with_details(format!("to repair it: {}", found.join("; "))))
}

fn host_differences(host: &mut Kernel, wanted: &mut State, scope: &Scope) -> Result<Vec<String>, Error> {
    read_only::leave_out(wanted);
    let scope = Scope { sysctls: wanted.sysctls.keys().cloned().collect(), keep: true, ..scope.clone() };
    Ok(differences("", &host.plan(wanted, &scope, None).map_err(Error::internal)?))
}

fn pod_differences(pod: &mut Kernel, ifname: &IfName, mut wanted: State) -> Result<Vec<String>, Error> {
    pod::leave_to_others(&mut wanted);
    let mut found = Vec::new();
    for (wanted, scope) in pod::by_table(ifname, &wanted) {
        let plan = pod.plan(&wanted, &scope, None).map_err(Error::internal)?;
        found.extend(differences("in the pod: ", &plan));
    }
    Ok(found)
}
