//! `flannel`: attaches a pod to the subnet that flanneld leased for this host, by a delegate whose configuration it
//! makes; and `vxlan`, `direct-routing`, `host-gw`: the same for a network that insists on one data path, or that has no
//! flanneld and carries its hosts in the configuration.

mod delegate;
mod host;
mod inline;
mod state;
#[cfg(test)]
mod tests;

use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;
use gojson::Json;

use delegate::{Delegate, Mistake};
use host::{DataPath, Host};
use inline::Network;
use overlay::subnet_env::SubnetEnv;
use state::{Content, Found, Left, States};

use crate::attach::join;
use crate::netns;

/// The plugin, under one of its names.
pub struct Flannel {
    wanted: Option<DataPath>,
}

/// Takes the data path that flanneld runs.
pub const FLANNEL: Flannel = Flannel { wanted: None };
/// VXLAN for every peer, with or without flanneld.
pub const VXLAN: Flannel = Flannel { wanted: Some(DataPath::Vxlan) };
/// VXLAN, but direct routes to peers on the same segment; with or without flanneld.
pub const DIRECT_ROUTING: Flannel = Flannel { wanted: Some(DataPath::DirectRouting) };
/// Direct routes only, with or without flanneld.
pub const HOST_GW: Flannel = Flannel { wanted: Some(DataPath::HostGw) };

/// What a runtime adds to the document for GC.
const ATTACHMENTS: &[&str] = &["cni.dev/valid-attachments", "cni.dev/attachments"];

impl Plugin for Flannel {
    fn name(&self) -> &'static str {
        self.wanted.map_or("flannel", DataPath::name)
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let delegate = match self.network(request)? {
            Some(network) => of_network(request, &inline::establish(request, &network)?),
            None => self.ready(request)?,
        };
        let bytes = delegate.bytes();
        // before the delegate has done anything that DEL would have to undo
        let state = States::of(&request.conf).state(request.env);
        let left = state.write(&bytes)?;
        request.delegates.add(&delegate.kind, &bytes, request.env).map_err(|cause| match left {
            Left::New => undone(cause, state.remove()),
            // that of an attachment that lives
            Left::Replaced => cause,
        })
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
                self.rebuilt(request)
            }
        };
        let keys = prev_result(request, &delegate);
        let delegate = delegate.with(&request.conf, keys);
        request.delegates.del(&delegate.kind, &delegate.bytes(), request.env)?;
        Ok(state.remove()?)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let network = self.network(request)?;
        let host = network.as_ref().map_or(Ok(()), |network| inline::check(request, network));
        let left = States::of(&request.conf).state(request.env).read()?;
        let delegate = match left.as_deref().and_then(Delegate::from_state) {
            Some(delegate) => delegate,
            None if network.is_some() => self.rebuilt(request),
            None => checked(request, &Host::of(&request.conf))?,
        };
        let delegate = delegate.with(&request.conf, &["cniVersion", "prevResult"]);
        join([host, request.delegates.check(&delegate.kind, &delegate.bytes(), request.env)])
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let delegate = self.rebuilt(request).with(&request.conf, ATTACHMENTS);
        let collected = request.delegates.gc(&delegate.kind, &delegate.bytes(), request.env);
        // a state is kept until the delegate has removed what it is about
        let states = if collected.is_ok() { remove_stale(request) } else { Ok(()) };
        let unused = request.conf.valid_attachments.as_ref().is_some_and(Vec::is_empty);
        let host = if unused && self.carries_network(request) { inline::remove(request) } else { Ok(()) };
        join([collected, states, host])
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let (delegate, limits) = self.could_serve(request).map_err(|error| match error.code {
            code::DECODE | code::INVALID_CONFIG => error,
            _ => Error { code: code::NOT_AVAILABLE, ..error },
        })?;
        request.delegates.status(&delegate.kind, &delegate.bytes(), request.env)?;
        if limits.is_empty() { Ok(()) } else { Err(Error::new(code::LIMITED_CONNECTIVITY, limits.join("; "))) }
    }
}

impl Flannel {
    /// What is wrong with the network that a configuration carries for this plugin, as far as it can be told without
    /// the host; `None` when it carries none.
    pub fn mistakes(&self, conf: &Json) -> Option<Vec<String>> {
        let path = self.wanted.filter(|_| inline::given(conf))?;
        Some(Network::read(path, conf).err().unwrap_or_default())
    }

    /// The delegate for an ADD, when the host can serve one.
    fn ready(&self, request: &Request<'_>) -> Result<Delegate, Error> {
        let host = Host::of(&request.conf);
        let delegate = checked(request, &host)?;
        self.wanted.map_or(Ok(()), |wanted| host.require(wanted))?;
        Ok(delegate)
    }

    /// The delegate, and what would keep some of a pod's traffic from flowing.
    fn could_serve(&self, request: &Request<'_>) -> Result<(Delegate, Vec<String>), Error> {
        let Some(network) = self.network(request)? else { return Ok((self.ready(request)?, Vec::new())) };
        let (env, limits) = inline::status(request, &network)?;
        Ok((of_network(request, &env), limits))
    }

    /// The configuration carries the network itself, which wins over any subnet.env. `flannel` follows a flanneld always.
    fn carries_network(&self, request: &Request<'_>) -> bool {
        self.wanted.is_some() && inline::given(request.conf.tree())
    }

    /// The network that the configuration carries. Its mistakes, and those of the rest, come at once.
    fn network(&self, request: &Request<'_>) -> Result<Option<Network>, Error> {
        let Some(path) = self.wanted.filter(|_| self.carries_network(request)) else { return Ok(None) };
        let read = Network::read(path, request.conf.tree());
        let (_, others) = Delegate::build(&request.conf, None);
        let others: Vec<String> = others.iter().map(Mistake::to_string).collect();
        match read {
            Ok(network) if others.is_empty() => Ok(Some(network)),
            read => {
                let mistakes = [read.err().unwrap_or_default(), others].concat();
                Err(Error::config(format!("{}: {}", path.name(), mistakes.join("; "))))
            }
        }
    }

    /// The best delegate there is to undo things with: mistakes do not matter, and subnet.env may be gone.
    fn rebuilt(&self, request: &Request<'_>) -> Delegate {
        let env = match self.wanted.filter(|_| self.carries_network(request)) {
            Some(path) => Network::read(path, request.conf.tree()).ok().map(|network| network.env_for_del()),
            None => Host::of(&request.conf).subnet_env().ok(),
        };
        Delegate::build(&request.conf, env.as_ref()).0
    }
}

/// The delegate's type and document in a state file of ADD's, Go flannel's too; `None` when it is no such thing.
pub fn read_state(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let delegate = Delegate::from_state(bytes)?;
    let document = delegate.bytes();
    Some((delegate.kind, document))
}

fn of_network(request: &Request<'_>, env: &SubnetEnv) -> Delegate {
    Delegate::build(&request.conf, Some(env)).0
}

/// The cause, and what could not be taken back.
fn undone(cause: Error, outcome: Result<(), state::StateError>) -> Error {
    match outcome {
        Ok(()) => cause,
        Err(left) => join([Err(cause.clone()), Err(left.into())]).err().unwrap_or(cause),
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
    let stale = States::of(&request.conf).all()?.into_iter().filter(|found| !is_valid(found));
    join(stale.map(|found| match found.read()? {
        Content::Of(delegate) if delegate.network() != Some(request.conf.name.as_str()) => Ok(()),
        Content::Foreign => Ok(()),
        Content::Of(_) | Content::Damaged => Ok(state::remove(&found.path)?),
    }))
}
