//! `loopback`: the container's own `lo`, up.

use cni::error::Error;
use cni::plugin::{Plugin, Request};
use cni::result::{AddResult, Interface, IpConfig};
use ipnetwork::IpNetwork;
use kernel::message::address::SeenAddress;
use kernel::state::{Link, LinkKind, Scope, State};
use kernel::types::{Family, IfName};
use kernel::{Failure, Kernel, KernelError};

use crate::netns;

/// The plugin.
pub struct Loopback;

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let mut lo = Lo::open(request)?;
        lo.set(true)?;
        let found = lo.addresses()?;
        if let Some(foreign) = found.iter().find(|net| !net.ip().is_loopback()) {
            return Err(Error::internal(format_args!(
                "loopback interface found with non-loopback address {}",
                cni::quote(&foreign.ip().to_string())
            )));
        }
        Ok(request.conf.prev_result.clone().unwrap_or_else(|| result(&request.env.netns, &found)))
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        match netns::remaining(request)? {
            Some(kernel) => Lo::of(kernel).set(false),
            None => Ok(()),
        }
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let up = Lo::open(request)?.is_up()?;
        if up { Ok(()) } else { Err(Error::internal("loopback interface is down")) }
    }
}

fn failed(error: KernelError) -> Error {
    Error::internal(format_args!("loopback: {error}"))
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

/// `lo` of a namespace.
struct Lo {
    kernel: Kernel,
    name: IfName,
}

impl Lo {
    fn open(request: &Request<'_>) -> Result<Self, Error> {
        let netns = netns::open(request).map_err(|error| netns::refused(&error))?;
        Ok(Self::of(netns::kernel(request, netns)?))
    }

    #[expect(clippy::expect_used, reason = "lo is a name")]
    fn of(kernel: Kernel) -> Self {
        Self { kernel, name: IfName::new("lo").expect("a name") }
    }

    /// What is wanted is `lo` up or down; nothing else about it is ours.
    fn set(&mut self, up: bool) -> Result<(), Error> {
        let scope = Scope { links: vec![self.name.clone()], ..Scope::default() };
        let mut desired = State::default();
        desired.links.insert(self.name.clone(), Link { up, ..Link::up(LinkKind::Loopback) });
        let outcome = self.kernel.converge(&desired, &scope, None).map_err(failed)?;
        match outcome.ok() {
            Ok(_) => Ok(()),
            Err(Failure::Kernel(error)) => Err(failed(error)),
            Err(conflict) => Err(Error::internal(format_args!("loopback: {conflict}"))),
        }
    }

    fn is_up(&mut self) -> Result<bool, Error> {
        let seen = self.kernel.link(&self.name).map_err(failed)?;
        Ok(seen.is_some_and(|seen| seen.link.up))
    }

    fn addresses(&mut self) -> Result<Vec<IpNetwork>, Error> {
        let index = self.kernel.index(&self.name).map_err(failed)?;
        let seen: Vec<SeenAddress> = self.kernel.addresses_of(index).map_err(failed)?;
        Ok(seen.into_iter().map(|seen| seen.key.net).collect())
    }
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
