//! ADD, DEL, CHECK, GC and STATUS of plugins that generate the configuration of a delegate, which attaches the pod.
//! ADD stores that configuration for DEL before it calls the delegate. DEL keeps it until the delegate has removed
//! everything. The delegate itself undoes its failed ADD.

mod delegate;
mod host;
mod prefixes;
mod states;

use std::path::PathBuf;

use cni::conf::Conf;
use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;
use ipnetwork::IpNetwork;
use kernel::state::{Scope, State};
use kernel::survey::Survey;

pub use delegate::Delegate;
pub use host::joined;

use super::{join, runtimes};
use crate::netns;
use states::{Content, Found, Left, StateError, States};

/// The part of such a plugin that is particular to it. It keeps no state, and does not decide when to do or undo
/// something.
pub trait Delegating: Sync {
    /// Its configuration, checked, with what files of the host say of it.
    type Conf;

    /// Its `type` in a configuration.
    fn name(&self) -> &'static str;

    /// Checks the configuration of a request, and reports all mistakes in one error. DEL and GC need no
    /// configuration.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// The folder for what ADD leaves for DEL; the configuration may have mistakes elsewhere.
    fn folder(&self, conf: &Conf) -> PathBuf;

    /// Whether the plugin itself makes the part of the host that all attachments of the network share; otherwise
    /// another program does. The configuration may have mistakes.
    fn has_host_part(&self, conf: &Conf) -> bool;

    /// The delegate, and the host's part. Pure.
    fn plan(&self, conf: &Self::Conf, request: &Request<'_>, facts: HostFacts<'_>) -> Result<Planned, Error>;

    /// The desired state of the host without any attachment, and which objects belong to the network. Pure.
    fn without(&self, network: &str, facts: HostFacts<'_>) -> (State, Scope);

    /// The delegate for removing things when ADD left none: the best approximation from a configuration that may have
    /// mistakes, on a host whose files may be gone.
    fn rebuilt(&self, request: &Request<'_>) -> Delegate;
}

/// The facts about the host before a plan; empty when the plugin makes no part of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFacts<'a> {
    /// Its links, addresses and routes.
    pub survey: Option<&'a Survey>,
    /// The recorded prefixes that the network had routes to.
    pub recorded: &'a [IpNetwork],
}

/// The plan of an ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The plugin that attaches the pod.
    pub delegate: Delegate,
    /// What must exist before.
    pub host: HostPart,
}

/// The part of a host that all attachments of a network need. ADD makes it, CHECK compares it, DEL leaves it, and GC
/// removes it when no attachment is valid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostPart {
    /// The objects.
    pub desired: State,
    /// Which of the existing objects may be changed or deleted.
    pub scope: Scope,
    /// The prefixes that have routes, or may have. They are recorded, so that they are found when the configuration
    /// changes.
    pub prefixes: Vec<IpNetwork>,
    /// The reasons why some traffic does not flow.
    pub limits: Vec<String>,
}

/// Members of the document that a runtime adds for GC.
const ATTACHMENTS: &[&str] = &["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A [`Delegating`] as a plugin.
pub struct Delegation<D>(pub D);

impl<D: Delegating> Plugin for Delegation<D> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let conf = self.0.load(request)?;
        let delegate = match self.0.has_host_part(&request.conf) {
            true => host::establish(&self.0, request, &conf)?,
            false => self.0.plan(&conf, request, HostFacts::default())?.delegate,
        };
        let bytes = delegate.bytes();
        // The state is stored before the delegate does anything that DEL must undo.
        let state = self.states(request).state(request.env);
        let left = state.write(&bytes).map_err(|error| self.failed(&error))?;
        request.delegates.add(&delegate.kind, &bytes, request.env).map_err(|cause| match left {
            Left::New => undone(cause, state.remove().map_err(|error| self.failed(&error))),
            // The previous state belongs to an attachment in use.
            Left::Replaced => cause,
        })
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        let state = self.states(request).state(request.env);
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
                self.0.rebuilt(request)
            }
        };
        let keys = prev_result(request, &delegate);
        let delegate = delegate.with(&request.conf, keys);
        request.delegates.del(&delegate.kind, &delegate.bytes(), request.env)?;
        state.remove().map_err(|error| self.failed(&error))
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let has_host_part = self.0.has_host_part(&request.conf);
        let host = if has_host_part { host::check(&self.0, request, &conf) } else { Ok(()) };
        let left = self.states(request).state(request.env).read().map_err(|error| self.failed(&error))?;
        let delegate = match left.as_deref().and_then(Delegate::from_state) {
            Some(delegate) => delegate,
            None if has_host_part => self.0.rebuilt(request),
            None => self.0.plan(&conf, request, HostFacts::default())?.delegate,
        };
        let delegate = delegate.with(&request.conf, &["cniVersion", "prevResult"]);
        join([host, request.delegates.check(&delegate.kind, &delegate.bytes(), request.env)])
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let delegate = self.0.rebuilt(request).with(&request.conf, ATTACHMENTS);
        let collected = request.delegates.gc(&delegate.kind, &delegate.bytes(), request.env);
        // A state is kept until the delegate has removed its attachment.
        let states = if collected.is_ok() { self.remove_stale(request) } else { Ok(()) };
        let unused = request.conf.valid_attachments.is_some() && runtimes::kept(request).is_empty();
        let host = if unused && self.0.has_host_part(&request.conf) { host::remove(&self.0, request) } else { Ok(()) };
        join([collected, states, host])
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let planned = match self.0.has_host_part(&request.conf) {
            true => host::look(&self.0, request, &conf, &[]).map(|(_, planned)| planned),
            false => self.0.plan(&conf, request, HostFacts::default()),
        };
        let Planned { delegate, host } = planned.map_err(|error| match error.code {
            code::INVALID_CONFIG => error,
            _ => Error { code: code::NOT_AVAILABLE, ..error },
        })?;
        request.delegates.status(&delegate.kind, &delegate.bytes(), request.env)?;
        if host.limits.is_empty() {
            return Ok(());
        }
        Err(Error::new(code::LIMITED_CONNECTIVITY, host.limits.join("; ")))
    }
}

impl<D: Delegating> Delegation<D> {
    fn states(&self, request: &Request<'_>) -> States {
        States::of(self.0.folder(&request.conf))
    }

    fn failed(&self, error: &StateError) -> Error {
        failed(&self.0, error)
    }

    /// Removes the states of this network's attachments that are no longer valid. Continues after a failure.
    fn remove_stale(&self, request: &Request<'_>) -> Result<(), Error> {
        let valid = runtimes::kept(request);
        let is_valid = |found: &Found| {
            let is = |name: &Option<String>, ifname: &str| name.as_ref().is_none_or(|name| name == ifname);
            valid.iter().any(|a| a.container_id == found.id && is(&found.ifname, &a.ifname))
        };
        let all = self.states(request).all().map_err(|error| self.failed(&error))?;
        let remove = |found: Found| match found.read()? {
            Content::Of(delegate) if delegate.network() != Some(request.conf.name.as_str()) => Ok(()),
            Content::Foreign => Ok(()),
            Content::Of(_) | Content::Damaged => states::remove(&found.path),
        };
        let stale = all.into_iter().filter(|found| !is_valid(found));
        join(stale.map(|found| remove(found).map_err(|error| self.failed(&error))))
    }
}

/// An error with code 5.
fn failed<D: Delegating>(plugin: &D, error: &StateError) -> Error {
    Error::new(code::IO, format!("{}: {error}", plugin.name()))
}

/// The error, together with what could not be undone.
fn undone(cause: Error, outcome: Result<(), Error>) -> Error {
    join([Err(cause.clone()), outcome]).err().unwrap_or(cause)
}

/// Leaves `prevResult` out if it is invalid, or of another version than the stored document: DEL must not fail for
/// it.
fn prev_result(request: &Request<'_>, delegate: &Delegate) -> &'static [&'static str] {
    let same_version = delegate.conf.get("cniVersion") == request.conf.tree().get("cniVersion");
    if same_version && request.conf.prev_result.is_some() { &["prevResult"] } else { &[] }
}
