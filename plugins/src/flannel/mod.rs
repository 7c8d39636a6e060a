//! `flannel`: attaches a pod to the subnet that flanneld leased for this host, by a delegate whose configuration it
//! makes; and `vxlan`, `direct-routing`, `host-gw`: the same for a network that insists on one data path.

mod delegate;
mod host;
mod state;
#[cfg(test)]
mod tests;

use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;

use delegate::{Delegate, Mistake};
use host::{DataPath, Host};
use state::{Found, States};

/// The plugin, under one of its names.
pub struct Flannel {
    wanted: Option<DataPath>,
}

/// Takes the data path that flanneld runs.
pub const FLANNEL: Flannel = Flannel { wanted: None };
/// VXLAN for every peer.
pub const VXLAN: Flannel = Flannel { wanted: Some(DataPath::Vxlan) };
/// VXLAN, but direct routes to peers on the same segment.
pub const DIRECT_ROUTING: Flannel = Flannel { wanted: Some(DataPath::DirectRouting) };
/// Direct routes only.
pub const HOST_GW: Flannel = Flannel { wanted: Some(DataPath::HostGw) };

/// What a runtime adds to the document for GC.
const ATTACHMENTS: &[&str] = &["cni.dev/valid-attachments", "cni.dev/attachments"];

impl Plugin for Flannel {
    fn name(&self) -> &'static str {
        self.wanted.map_or("flannel", DataPath::name)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let delegate = self.ready(request)?;
        let bytes = delegate.bytes();
        // before the delegate has done anything that DEL would have to undo
        States::of(&request.conf).state(request.env).write(&bytes)?;
        request.delegates.add(&delegate.kind, &bytes, request.env)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        let state = States::of(&request.conf).state(request.env);
        let left = state.read().unwrap_or_else(|cause| {
            request.warn(self.name(), format_args!("{cause}: DEL goes by the configuration"));
            None
        });
        let delegate = match left.as_deref().map(Delegate::from_state) {
            Some(Some(delegate)) => delegate,
            damaged => {
                if damaged.is_some() {
                    request.warn(self.name(), "the state that ADD left is damaged: DEL goes by the configuration");
                }
                rebuilt(request)
            }
        };
        let keys = prev_result(request, &delegate);
        let delegate = delegate.with(&request.conf, keys);
        request.delegates.del(&delegate.kind, &delegate.bytes(), request.env)?;
        Ok(state.remove()?)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let left = States::of(&request.conf).state(request.env).read()?;
        let delegate = match left.as_deref().and_then(Delegate::from_state) {
            Some(delegate) => delegate,
            None => checked(request, &Host::of(&request.conf))?,
        };
        let delegate = delegate.with(&request.conf, &["cniVersion", "prevResult"]);
        request.delegates.check(&delegate.kind, &delegate.bytes(), request.env)
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let delegate = rebuilt(request).with(&request.conf, ATTACHMENTS);
        request.delegates.gc(&delegate.kind, &delegate.bytes(), request.env)?;
        remove_stale(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let delegate = self.ready(request).map_err(|error| match error.code {
            code::DECODE | code::INVALID_CONFIG => error,
            _ => Error { code: code::NOT_AVAILABLE, ..error },
        })?;
        request.delegates.status(&delegate.kind, &delegate.bytes(), request.env)
    }
}

impl Flannel {
    /// The delegate for an ADD, when the host can serve one.
    fn ready(&self, request: &Request<'_>) -> Result<Delegate, Error> {
        let host = Host::of(&request.conf);
        let delegate = checked(request, &host)?;
        self.wanted.map_or(Ok(()), |wanted| host.require(wanted))?;
        Ok(delegate)
    }
}

/// The delegate by the configuration and subnet.env. The configuration's mistakes come first, and all at once.
fn checked(request: &Request<'_>, host: &Host) -> Result<Delegate, Error> {
    let (_, mistakes) = Delegate::build(&request.conf, None);
    if !mistakes.is_empty() {
        return Err(Error::config(mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("; ")));
    }
    let env = host.subnet_env()?;
    Ok(Delegate::build(&request.conf, Some(&env)).0)
}

/// The best delegate there is to undo things with: mistakes do not matter, and subnet.env may be gone.
fn rebuilt(request: &Request<'_>) -> Delegate {
    let env = Host::of(&request.conf).subnet_env().ok();
    Delegate::build(&request.conf, env.as_ref()).0
}

/// `prevResult` for the delegate, unless it is bad or of another version than what ADD left: a DEL must not fail for it.
fn prev_result(request: &Request<'_>, delegate: &Delegate) -> &'static [&'static str] {
    let same_version = delegate.conf.get("cniVersion") == request.conf.tree().get("cniVersion");
    if same_version && request.conf.prev_result.is_some() { &["prevResult"] } else { &[] }
}

/// Removes the states of this network's attachments that are not valid; goes on after a failure.
fn remove_stale(request: &Request<'_>) -> Result<(), Error> {
    let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
    let is_valid = |found: &Found| {
        valid.iter().any(|a| a.container_id == found.id && found.ifname.as_ref().is_none_or(|name| *name == a.ifname))
    };
    let mut outcome = Ok(());
    for found in States::of(&request.conf).all()? {
        let delegate = std::fs::read(&found.path).ok().and_then(|bytes| Delegate::from_state(&bytes));
        let network = delegate.as_ref().and_then(Delegate::network);
        if network == Some(request.conf.name.as_str()) && !is_valid(&found) {
            outcome = outcome.and(state::remove(&found.path).map_err(Error::from));
        }
    }
    outcome
}
