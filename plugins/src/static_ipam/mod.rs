//! `static` gives the addresses that its configuration, or the runtime, names. It stores nothing.

mod config;
#[cfg(test)]
mod tests;

use cni::conf::Attachment;
use cni::error::Error;
use cni::plugin::Request;
use cni::result::{AddResult, IpConfig};

use config::Conf;

use crate::attach::Ipam;

/// The plugin.
pub struct Static;

impl Ipam for Static {
    type Conf = Conf;

    fn name(&self) -> &'static str {
        "static"
    }

    fn load(&self, request: &Request<'_>) -> Result<Conf, Error> {
        Conf::read(&request.conf, &request.env.args)
    }

    fn reserve(&self, conf: &Conf, _request: &Request<'_>) -> Result<AddResult, Error> {
        let Conf { ips, routes, dns } = conf.clone();
        Ok(AddResult { ips, routes, dns, ..AddResult::default() })
    }

    fn release(&self, _request: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn retain(&self, _request: &Request<'_>, _valid: &[Attachment]) -> Result<(), Error> {
        Ok(())
    }

    /// The interface's own plugin may have added gateways, so only those of the configuration are compared.
    fn differences(&self, conf: &Conf, request: &Request<'_>) -> Result<Vec<String>, Error> {
        let Some(previous) = &request.conf.prev_result else {
            return Err(Error::config("Required prevResult missing"));
        };
        let ifname = &request.env.ifname;
        let differs = |wanted: &&IpConfig| {
            let gateway = |given: &IpConfig| wanted.gateway.is_none() || wanted.gateway == given.gateway;
            !previous.ips.iter().any(|given| given.address == wanted.address && gateway(given))
        };
        let text = |ip: &IpConfig| format!("Failed to match addr {}{} on interface {ifname}", ip.address, by(ip));
        Ok(conf.ips.iter().filter(differs).map(text).collect())
    }

    fn obstacles(&self, _conf: &Conf, _request: &Request<'_>) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

fn by(ip: &IpConfig) -> String {
    ip.gateway.map(|gateway| format!(" with gateway {gateway}")).unwrap_or_default()
}
