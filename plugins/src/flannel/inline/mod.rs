//! A network without a daemon: the configuration carries what flanneld would have leased and learnt.
//!
//! ```json
//! { "type": "vxlan",
//!   "network": "10.244.0.0/16", "subnet": "10.244.1.0/24",
//!   "peers": [{ "subnet": "10.244.2.0/24", "publicIP": "192.0.2.2" }] }
//! ```
//! | key | default |
//! |---|---|
//! | `network`, `subnet`; `ipv6Network`, `ipv6Subnet` | a pair turns its family on |
//! | `peers`: `subnet` `publicIP` `vtepMAC`; `ipv6Subnet` `publicIPv6` `vtepMACv6` | must be there; this host's own entry is passed over |
//! | `iface`: a name or an address | the default route's with the lowest metric |
//! | `publicIP`, `publicIPv6` | the interface's address |
//! | `vtepMAC`, `vtepMACv6`, a peer's too | by rule from VNI and public address ([`mac`]) |
//! | `vni` `port` `mtu` `gbp` `learning` | flanneld's |
//!
//! ADD makes the host so, by the functions that flanneld uses, before it attaches the pod; CHECK finds no difference;
//! DEL leaves the host alone, because other pods use it; GC without a valid attachment clears it. Devices carry the
//! network's mark, routes a protocol of their own: what is flanneld's, or another's, is never touched ([`guard`]).

mod fields;
mod guard;
mod mac;
mod network;
mod plan;
mod record;
#[cfg(test)]
mod tests;

use cni::error::{Error, code};
use cni::plugin::Request;
use ipnetwork::IpNetwork;
use kernel::state::{Scope, State};
use kernel::survey::Survey;
use kernel::{Kernel, KernelError};
use overlay::subnet_env::SubnetEnv;

use super::host::Host;
use super::state::States;
use plan::{Obstacle, Plan, joined};
use record::Record;

pub(super) use network::{Network, given};

/// Makes the host so, and gives what flanneld would have written.
pub(super) fn establish(request: &Request<'_>, network: &Network) -> Result<SubnetEnv, Error> {
    let mut record = Record::lock(States::of(&request.conf).dir(), &request.conf.name)?;
    let (mut kernel, plan) = look(request, network, &record.networks)?;
    for limit in &plan.limits {
        request.warn(&request.conf.kind, limit);
    }
    // before there is a route of it
    record.write(&joined(&record.networks, &plan.env.networks))?;
    converge(&mut kernel, &plan.desired, &plan.scope)?;
    record.write(&plan.env.networks)?;
    Ok(plan.env)
}

/// Fails with what [`establish`] would change.
pub(super) fn check(request: &Request<'_>, network: &Network) -> Result<(), Error> {
    let record = Record::lock_existing(States::of(&request.conf).dir(), &request.conf.name)?;
    let recorded = record.as_ref().map(|record| record.networks.as_slice()).unwrap_or_default();
    let (mut kernel, plan) = look(request, network, recorded)?;
    let differences = kernel.plan(&plan.desired, &plan.scope, None).map_err(failed)?;
    let conflicts = differences.conflicts.iter().map(ToString::to_string);
    let found: Vec<String> = conflicts.chain(differences.steps.iter().map(ToString::to_string)).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("the host's part of the network {} is not as ADD left it", request.conf.name))
        .with_details(format!("to repair it: {}", found.join("; "))))
}

/// What flanneld would have written, and what would keep some traffic from flowing. Changes nothing.
pub(super) fn status(request: &Request<'_>, network: &Network) -> Result<(SubnetEnv, Vec<String>), Error> {
    let (_, plan) = look(request, network, &[])?;
    Ok((plan.env, plan.limits))
}

/// Clears the host of all that carries the network's mark.
pub(super) fn remove(request: &Request<'_>) -> Result<(), Error> {
    let name = &request.conf.name;
    let Some(mut record) = Record::lock_existing(States::of(&request.conf).dir(), name)? else { return Ok(()) };
    let mut kernel = Kernel::open().map_err(failed)?;
    let survey = kernel.survey().map_err(failed)?;
    let (desired, scope) = plan::removal(name, &survey, record.networks.clone());
    converge(&mut kernel, &desired, &scope)?;
    Ok(record.write(&[])?)
}

/// What the network wants of this host, when nothing stands in the way.
fn look(request: &Request<'_>, network: &Network, recorded: &[IpNetwork]) -> Result<(Kernel, Plan), Error> {
    let (name, kind) = (&request.conf.name, &request.conf.kind);
    let mut kernel = Kernel::open().map_err(failed)?;
    let survey: Survey = kernel.survey().map_err(failed)?;
    let mut plan = plan::plan(network, name, &survey, recorded).map_err(|obstacle| match obstacle {
        Obstacle::Underlay(what) => Error::new(code::TRY_AGAIN, format!("{kind}: {what}")),
        Obstacle::Mistakes(all) => Error::config(format!("{kind}: {}", all.join("; "))),
    })?;
    let obstacles = guard::obstacles(name, &plan, &survey, Host::of(&request.conf).daemon().as_ref());
    if !obstacles.is_empty() {
        return Err(Error::new(code::TRY_AGAIN, format!("{kind}: {}", obstacles.join("; "))));
    }
    plan.narrow(name, &survey);
    Ok((kernel, plan))
}

fn converge(kernel: &mut Kernel, desired: &State, scope: &Scope) -> Result<(), Error> {
    let outcome = kernel.converge(desired, scope, None).map_err(failed)?;
    let conflicts = outcome.conflicts.iter().map(ToString::to_string);
    let troubles: Vec<String> = conflicts.chain(outcome.failed.iter().map(|(_, error)| error.to_string())).collect();
    if troubles.is_empty() { Ok(()) } else { Err(Error::internal(troubles.join("; "))) }
}

fn failed(error: KernelError) -> Error {
    Error::internal(error)
}
