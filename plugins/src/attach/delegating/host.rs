//! The part of the host that a network's attachments share. It is changed only under the lock of the network's file,
//! which records the prefixes that have routes.

use cni::error::Error;
use cni::plugin::Request;
use ipnetwork::IpNetwork;
use kernel::state::{Scope, State};
use kernel::{Kernel, KernelError};

use super::prefixes::Prefixes;
use super::{Delegate, Delegating, HostFacts, HostPart, Planned, failed};

/// Makes the host's part, and returns the delegate.
pub(super) fn establish<D: Delegating>(plugin: &D, request: &Request<'_>, conf: &D::Conf) -> Result<Delegate, Error> {
    let refused = |error| failed(plugin, &error);
    let mut prefixes = Prefixes::lock(&plugin.folder(&request.conf), &request.conf.name).map_err(refused)?;
    let (mut kernel, Planned { delegate, host }) = look(plugin, request, conf, &prefixes.all)?;
    for limit in &host.limits {
        request.warn(&request.conf.kind, limit);
    }
    // The record is written before any route exists.
    prefixes.write(&joined(&prefixes.all, &host.prefixes)).map_err(refused)?;
    converge(&mut kernel, &host.desired, &host.scope)?;
    prefixes.write(&host.prefixes).map_err(refused)?;
    Ok(delegate)
}

/// Fails with a list of the steps that [`establish`] would take.
pub(super) fn check<D: Delegating>(plugin: &D, request: &Request<'_>, conf: &D::Conf) -> Result<(), Error> {
    let name = &request.conf.name;
    let prefixes = Prefixes::lock_existing(&plugin.folder(&request.conf), name);
    let prefixes = prefixes.map_err(|error| failed(plugin, &error))?;
    let recorded = prefixes.as_ref().map(|prefixes| prefixes.all.as_slice()).unwrap_or_default();
    let (mut kernel, Planned { host, .. }) = look(plugin, request, conf, recorded)?;
    let HostPart { desired, scope, .. } = &host;
    let plan = kernel.plan(desired, scope, None).map_err(internal)?;
    let conflicts = plan.conflicts.iter().map(ToString::to_string);
    let found: Vec<String> = conflicts.chain(plan.steps.iter().map(ToString::to_string)).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("the host's part of the network {name} is not as ADD left it"))
        .with_details(format!("to repair it: {}", found.join("; "))))
}

/// Removes everything that belongs to the network.
pub(super) fn remove<D: Delegating>(plugin: &D, request: &Request<'_>) -> Result<(), Error> {
    let (name, refused) = (&request.conf.name, |error| failed(plugin, &error));
    let found = Prefixes::lock_existing(&plugin.folder(&request.conf), name).map_err(refused)?;
    let Some(mut prefixes) = found else { return Ok(()) };
    let mut kernel = Kernel::open().map_err(internal)?;
    let survey = kernel.survey().map_err(internal)?;
    let facts = HostFacts { survey: Some(&survey), recorded: &prefixes.all };
    let (desired, scope) = plugin.without(name, facts);
    converge(&mut kernel, &desired, &scope)?;
    prefixes.write(&[]).map_err(refused)
}

/// Makes the plan for the current state of the host.
pub(super) fn look<D: Delegating>(
    plugin: &D,
    request: &Request<'_>,
    conf: &D::Conf,
    recorded: &[IpNetwork],
) -> Result<(Kernel, Planned), Error> {
    let mut kernel = Kernel::open().map_err(internal)?;
    let survey = kernel.survey().map_err(internal)?;
    let planned = plugin.plan(conf, request, HostFacts { survey: Some(&survey), recorded })?;
    Ok((kernel, planned))
}

fn converge(kernel: &mut Kernel, desired: &State, scope: &Scope) -> Result<(), Error> {
    let outcome = kernel.converge(desired, scope, None).map_err(internal)?;
    let conflicts = outcome.conflicts.iter().map(ToString::to_string);
    let troubles: Vec<String> = conflicts.chain(outcome.failed.iter().map(|(_, error)| error.to_string())).collect();
    if troubles.is_empty() { Ok(()) } else { Err(Error::internal(troubles.join("; "))) }
}

fn internal(error: KernelError) -> Error {
    Error::internal(error)
}

/// The `new` prefixes, followed by those of `old` that are not in `new`.
pub fn joined(old: &[IpNetwork], new: &[IpNetwork]) -> Vec<IpNetwork> {
    let gone = old.iter().filter(|network| !new.contains(network));
    new.iter().chain(gone).copied().collect()
}
