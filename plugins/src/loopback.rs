//! `loopback` raises the container's own `lo`.

use attachment::record::Record;
use cni::error::Error;
use cni::plugin::Request;
use cni::quote;
use cni::result::{AddResult, Interface, IpConfig};
use ipnetwork::IpNetwork;
use kernel::state::{Link, LinkKind, Scope, State};
use kernel::types::{Family, IfName};
use kernel::{Kernel, KernelError};

use crate::attach::{Chained, Side, Sides};

/// The plugin.
pub struct Loopback;

impl Chained for Loopback {
    type Conf = ();
    type Facts = ();

    fn name(&self) -> &'static str {
        "loopback"
    }

    fn load(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn desired(&self, _conf: &(), _facts: &(), _request: &Request<'_>) -> Result<Sides, Error> {
        Ok(lo(true))
    }

    fn released(&self, _request: &Request<'_>, _record: Option<&Record>) -> Sides {
        lo(false)
    }

    fn answer(&self, _conf: &(), _facts: &(), request: &Request<'_>, pod: &mut Kernel) -> Result<AddResult, Error> {
        let found = addresses(pod).map_err(|error| Error::internal(format_args!("loopback: {error}")))?;
        if let Some(foreign) = found.iter().find(|net| !net.ip().is_loopback()) {
            return Err(Error::internal(format_args!(
                "loopback interface found with non-loopback address {}",
                quote(&foreign.ip().to_string())
            )));
        }
        Ok(request.conf.prev_result.clone().unwrap_or_else(|| result(&request.env.netns, &found)))
    }

    fn differs(&self, _request: &Request<'_>, _found: &[String]) -> Error {
        Error::internal("loopback interface is down")
    }
}

#[expect(clippy::expect_used, reason = "lo is a name")]
fn name() -> IfName {
    IfName::new("lo").expect("a name")
}

/// The desired state is `lo` up or down; the plugin changes nothing else.
fn lo(up: bool) -> Sides {
    let scope = Scope { links: vec![name()], ..Scope::default() };
    let mut wanted = State::default();
    wanted.links.insert(name(), Link { up, ..Link::up(LinkKind::Loopback) });
    Sides { pod: Side { wanted, scope, ..Side::default() }, ..Sides::default() }
}

fn addresses(pod: &mut Kernel) -> Result<Vec<IpNetwork>, KernelError> {
    let index = pod.index(&name())?;
    Ok(pod.addresses_of(index)?.into_iter().map(|seen| seen.key.net).collect())
}

/// The first address of each family, IPv4 first.
fn result(netns: &str, found: &[IpNetwork]) -> AddResult {
    let lo = Interface {
        name: "lo".to_owned(),
        mac: "00:00:00:00:00:00".to_owned(),
        sandbox: netns.to_owned(),
        ..Interface::default()
    };
    let first = |family| found.iter().find(|net| Family::from(**net) == family);
    let ips = Family::ALL.into_iter().filter_map(first);
    let ips = ips.map(|net| IpConfig { interface: Some(0), address: *net, gateway: None }).collect();
    AddResult { interfaces: vec![lo], ips, ..AddResult::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_each_family() {
        let found = ["::1/128", "127.0.0.1/8", "127.0.0.2/8"].map(|net| net.parse().unwrap());
        let result = result("/run/netns/x", &found);
        let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
        assert_eq!(ips, ["127.0.0.1/8", "::1/128"]);
        assert_eq!(result.ips[1].interface, Some(0));
    }
}
