//! What a failed ADD takes back, also when it panics.

use cni::error::Error;
use cni::plugin::Request;
use kernel::Kernel;
use kernel::diff::Step;
use kernel::state::AddressKey;
use kernel::types::IfName;

use super::conf::Conf;
use super::desired::Ends;
use super::rules;

/// What was done so far. Dropped while armed, it is undone.
pub struct Undo<'a> {
    request: &'a Request<'a>,
    conf: &'a Conf,
    /// The host's end of the pair that was made.
    pub veth: Option<IfName>,
    /// The bridge was made.
    pub bridge: bool,
    /// The gateway link of a VLAN that was made.
    pub vlan_link: Option<IfName>,
    /// Addresses that the bridge did not have.
    pub addresses: Vec<AddressKey>,
    /// IPAM gave addresses.
    pub ipam: bool,
    /// Rules may have been written.
    pub rules: bool,
    armed: bool,
}

impl<'a> Undo<'a> {
    /// Nothing done yet.
    pub fn new(request: &'a Request<'a>, conf: &'a Conf) -> Self {
        Self {
            request,
            conf,
            veth: None,
            bridge: false,
            vlan_link: None,
            addresses: Vec::new(),
            ipam: false,
            rules: false,
            armed: true,
        }
    }

    /// The links that are about to be made.
    pub fn links(&mut self, ends: &Ends, bridge: bool) {
        self.veth = Some(ends.veth.clone());
        self.bridge = bridge;
    }

    /// The ADD has succeeded.
    pub fn disarm(mut self) {
        self.armed = false;
    }

    /// Undoes all; what cannot be undone is said beside the cause.
    pub fn because_of(mut self, cause: Error) -> Error {
        self.armed = false;
        let left: Vec<_> = self.run().into_iter().map(|e| e.to_string()).collect();
        if left.is_empty() {
            return cause;
        }
        let details = format!(
            "{}{}not undone: {}",
            cause.details,
            if cause.details.is_empty() { "" } else { "; " },
            left.join("; ")
        );
        cause.with_details(details)
    }

    fn run(&mut self) -> Vec<Error> {
        let mut left = Vec::new();
        if self.rules {
            left.extend(rules::remove(self.request, self.conf).err());
        }
        left.extend(self.unmake_links().err());
        if self.ipam
            && let Some(kind) = &self.conf.ipam
        {
            left.extend(self.request.delegates.del(kind, &self.request.conf.bytes, self.request.env).err());
        }
        left
    }

    fn unmake_links(&self) -> Result<(), Error> {
        let mut host = Kernel::open().map_err(Error::internal)?;
        let mut steps: Vec<_> = self.veth.iter().chain(&self.vlan_link).cloned().map(Step::DeleteLink).collect();
        if self.bridge && self.is_idle(&mut host)? {
            steps.push(Step::DeleteLink(self.conf.bridge.clone()));
        } else {
            steps.extend(self.addresses.iter().cloned().map(Step::DeleteAddress));
        }
        host.apply(&steps).ok().map_err(Error::internal)
    }

    /// No other attachment has joined the bridge in the meantime.
    fn is_idle(&self, host: &mut Kernel) -> Result<bool, Error> {
        let Some(bridge) = host.link(&self.conf.bridge).map_err(Error::internal)? else { return Ok(false) };
        let links = host.links().map_err(Error::internal)?;
        Ok(!links.iter().any(|l| l.master == Some(bridge.index.0) && Some(&l.name) != self.veth.as_ref()))
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.run();
        }
    }
}
