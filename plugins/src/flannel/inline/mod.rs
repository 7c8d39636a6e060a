//! A network without a daemon: the configuration contains what flanneld would otherwise lease and learn.
//!
//! ```json
//! { "type": "vxlan",
//!   "network": "10.244.0.0/16", "subnet": "10.244.1.0/24",
//!   "peers": [{ "subnet": "10.244.2.0/24", "publicIP": "192.0.2.2" }] }
//! ```
//! | key | default |
//! |---|---|
//! | `network`, `subnet`; `ipv6Network`, `ipv6Subnet` | a pair turns its family on |
//! | `peers`: `subnet` `publicIP` `vtepMAC`; `ipv6Subnet` `publicIPv6` `vtepMACv6` | required; this host's own entry is skipped |
//! | `iface`: a name or an address | the default route's with the lowest metric |
//! | `publicIP`, `publicIPv6` | the interface's address |
//! | `vtepMAC`, `vtepMACv6`, a peer's too | by rule from VNI and public address ([`mac`]) |
//! | `vni` `port` `mtu` `gbp` `learning` | flanneld's |
//!
//! ADD brings the host into this state with flanneld's own functions before it attaches the pod. Devices have the
//! network's mark, and routes have a protocol of their own: objects of flanneld or of other networks are never
//! touched (`guard`).

mod fields;
mod guard;
mod mac;
mod network;
mod plan;
#[cfg(test)]
mod tests;

use cni::error::{Error, code};
use kernel::survey::Survey;
use overlay::subnet_env::SubnetEnv;

use super::host::Daemon;
use crate::attach::{HostFacts, HostPart};
use plan::Obstacle;

pub(super) use network::{Network, given};
pub(super) use plan::removal;

/// The desired state of this host for the network `name`, and what flanneld would have written, unless something
/// prevents it; `kind` is the plugin's name. Pure.
pub(super) fn host(
    network: &Network,
    (kind, name): (&str, &str),
    daemon: Option<&Daemon>,
    facts: HostFacts<'_>,
) -> Result<(HostPart, SubnetEnv), Error> {
    let (nothing, recorded) = (Survey::default(), facts.recorded);
    let survey = facts.survey.unwrap_or(&nothing);
    let mut plan = plan::plan(network, name, survey, recorded).map_err(|obstacle| match obstacle {
        Obstacle::Underlay(what) => Error::new(code::TRY_AGAIN, format!("{kind}: {what}")),
        Obstacle::Mistakes(all) => Error::config(format!("{kind}: {}", all.join("; "))),
    })?;
    let obstacles = guard::obstacles(name, &plan, survey, daemon);
    if !obstacles.is_empty() {
        return Err(Error::new(code::TRY_AGAIN, format!("{kind}: {}", obstacles.join("; "))));
    }
    plan.narrow(name, survey);
    let (prefixes, limits) = (plan.env.networks.clone(), plan.limits);
    Ok((HostPart { desired: plan.desired, scope: plan.scope, prefixes, limits }, plan.env))
}
