//! `portmap`: ports of the host that lead to ports of a pod.

mod conf;
mod desired;
mod left;

use std::net::IpAddr;

use attachment::record::Record;
use attachment::rules::{iptables, support};
use attachment::section::Section;
use cni::error::{Error, code};
use cni::plugin::Request;
use cni::result::AddResult;
use kernel::Kernel;
use kernel::nft::{ElementHandle, Value};
use kernel::types::IfName;

use conf::{Conf, Document};
use desired::Facts;

use crate::attach::{Chained, Host, Sides};

/// The link on which kube-proxy has the addresses of services in its mode `ipvs`.
const SERVICES: &str = "kube-ipvs0";

/// The plugin.
pub struct Portmap;

impl Chained for Portmap {
    type Conf = Conf;
    type Facts = Facts;

    fn name(&self) -> &'static str {
        "portmap"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        request.conf.decode::<Document>()?.check()
    }

    fn facts(&self, conf: &Conf, request: &Request<'_>, host: &mut Host, _pod: &mut Kernel) -> Result<Facts, Error> {
        if conf.mappings.is_empty() {
            return Ok(Facts::default());
        }
        let pod = desired::pod_addresses(previous(request)?, &request.env.ifname);
        let v4 = pod.iter().find(|net| net.is_ipv4()).filter(|_| conf.masquerade.is_some());
        let device = match v4 {
            // without a route, no client on the host reaches the pod
            Some(net) => host.kernel()?.route_to(net.ip()).ok().flatten().and_then(|route| route.dev),
            None => None,
        };
        Ok(Facts { device, own: own_addresses(host)? })
    }

    fn desired(&self, conf: &Conf, facts: &Facts, request: &Request<'_>) -> Result<Sides, Error> {
        let pod = desired::pod_addresses(previous(request)?, &request.env.ifname);
        Ok(desired::sides(conf, facts, &pod))
    }

    /// Everything is in the record's section. `route_localnet` stays: other pods on the link may need it.
    fn released(&self, _request: &Request<'_>, _record: Option<&Record>) -> Sides {
        Sides::default()
    }

    fn remove_left(&self, request: &Request<'_>, record: Option<&Record>, host: &mut Host) -> Result<(), Error> {
        let recorded = record.is_some_and(|record| record.section(self.name()).is_some());
        if recorded || !left::may_have_ports(request) { Ok(()) } else { left::remove(request, host.kernel()?) }
    }

    fn answer(
        &self,
        _conf: &Conf,
        _facts: &Facts,
        request: &Request<'_>,
        _pod: &mut Kernel,
    ) -> Result<AddResult, Error> {
        previous(request).cloned()
    }

    fn is_served_otherwise(&self, request: &Request<'_>, section: &Section, host: &mut Host) -> Result<bool, Error> {
        let Section::Portmap(portmap) = section else { return Ok(false) };
        left::serves(request, portmap, host.kernel()?)
    }

    fn taken(&self, taken: &ElementHandle, owner: &str) -> Error {
        Error::internal(format!("portmap: host port {} is in use by {owner}", port_name(taken)))
            .with_details("remove that container, or map another port")
    }

    fn collect(&self, request: &Request<'_>, host: &mut Host) -> Result<(), Error> {
        left::collect(request, host.kernel()?)
    }

    fn status(&self, conf: &Conf, host: &mut Host) -> Result<(), Error> {
        let unusable = |cause: String| Error::new(code::NOT_AVAILABLE, cause);
        match conf.backend.is_nftables() {
            true => support(host.kernel()?).map_err(|cause| unusable(format!("portmap needs nf_tables: {cause}"))),
            false => iptables::usable("nat").map_err(|cause| unusable(format!("portmap: {cause}"))),
        }
    }
}

fn previous<'r>(request: &'r Request<'_>) -> Result<&'r AddResult, Error> {
    request.conf.prev_result.as_ref().ok_or_else(|| Error::config("must be called as chained plugin"))
}

/// The addresses of all links but the services', if the host has that link.
fn own_addresses(host: &mut Host) -> Result<Option<Vec<IpAddr>>, Error> {
    // asking the file system is cheaper than asking for the link
    let setting = format!("net/ipv4/conf/{SERVICES}/forwarding");
    if kernel::sysctl::read(&setting).map_err(Error::internal)?.is_none() {
        return Ok(None);
    }
    let services = IfName::new(SERVICES).map_err(Error::internal)?;
    let host = host.kernel()?;
    host.links().map_err(Error::internal)?;
    let all = host.addresses().map_err(Error::internal)?;
    let is_own = |address: &IpAddr| match address {
        IpAddr::V4(_) => true,
        // such an address is not unique on the host
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    let own = all.into_iter().filter(|seen| seen.key.dev != services).map(|seen| seen.key.net.ip());
    Ok(Some(own.filter(is_own).collect()))
}

/// The port that an element is for.
fn port_name(taken: &ElementHandle) -> String {
    let (mut address, mut port, mut protocol) = (None, 0, 0);
    for value in &taken.element.key {
        match value {
            Value::Addr(found) => address = Some(*found),
            Value::Port(found) => port = *found,
            Value::Proto(found) => protocol = *found,
            _ => {}
        }
    }
    conf::name(address, port, protocol)
}
