//! `bridge`: a veth pair per pod, its host end a port of a bridge that may be the pods' gateway.

mod add;
mod check;
mod conf;
mod del;
mod desired;
mod gateway;
mod rules;
mod undo;

#[cfg(test)]
mod tests;

use cni::args::Args;
use cni::error::Error;
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;
use kernel::types::IfName;

use conf::{Conf, Document};

use crate::netns;

/// The plugin.
pub struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn admit(&self, request: &Request) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request) -> Result<AddResult, Error> {
        add::add(request, &load(request)?)
    }

    fn del(&self, request: &Request) -> Result<(), Error> {
        del::del(request, &load(request)?)
    }

    fn check(&self, request: &Request) -> Result<(), Error> {
        check::check(request, &load(request)?)
    }

    fn gc(&self, request: &Request) -> Result<(), Error> {
        let conf = load(request)?;
        let ipam = match &conf.ipam {
            Some(kind) => request.delegates.gc(kind, &request.conf.bytes, request.env),
            None => Ok(()),
        };
        ipam.and(rules::gc(request, &conf))
    }

    fn status(&self, request: &Request) -> Result<(), Error> {
        match load(request)?.ipam {
            Some(kind) => request.delegates.status(&kind, &request.conf.bytes, request.env),
            None => Ok(()),
        }
    }
}

/// The configuration of a request, whole and checked.
fn load(request: &Request) -> Result<Conf, Error> {
    let document: Document = request.conf.decode()?;
    let args = Args::parse(&request.env.args, &["MAC"])?;
    document.check(args.get("MAC").unwrap_or_default())
}

/// The host's end of the pair: of the interfaces outside any sandbox, the one that is neither bridge nor VLAN gateway.
fn host_end(previous: &AddResult) -> Option<IfName> {
    let host: Vec<_> = previous.interfaces.iter().filter(|i| i.sandbox.is_empty()).collect();
    host.iter().find(|i| i.name.starts_with("veth")).or(host.get(1)).and_then(|i| IfName::new(&i.name).ok())
}
