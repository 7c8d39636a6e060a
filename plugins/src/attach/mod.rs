//! The life of an attachment, written once for every plugin that gives a pod an interface: ADD, DEL, CHECK, GC, STATUS.
//!
//! A plugin says what links it wants before IPAM is asked, and what host and pod carry once IPAM has answered
//! ([`Interface`]). All else is here: names, the record, IPAM, packet rules, the comparison, and what a failed ADD takes
//! back. That is what DEL takes: the attachment's own links, rules and reservation. What attachments share (a bridge, the
//! gateway's address) is made by whoever needs it first, verified by each, and never taken back.

mod add;
mod chained;
mod check;
mod del;
pub mod delegating;
mod ends;
pub mod fields;
mod gc;
mod ipam;
mod rules;

use std::os::fd::RawFd;

use cni::error::Error;
use cni::plugin::{Plugin, Request};
use cni::result::{AddResult, Interface as ResultInterface};
use ipnetwork::IpNetwork;
use kernel::diff::Plan;
use kernel::message::link::SeenLink;
use kernel::state::{Scope, State};
use kernel::types::{IfName, Mac};
use kernel::{Kernel, KernelError, Outcome};

pub use chained::{Chain, Chained, Side, Sides};
pub use delegating::{Delegate, Delegating, Delegation, HostFacts, HostPart, Planned};
pub use ends::{Ends, interface, pod_interface};
pub use ipam::{Addresses, Ipam};

use crate::netns;
use crate::pod::Dad;

/// A plugin that gives a pod an interface: what is particular to it. It keeps no state, and decides nothing about when
/// things are done or taken back.
pub trait Interface: Sync {
    /// Its configuration, checked.
    type Conf;

    /// Its `type` in a configuration.
    fn name(&self) -> &'static str;

    /// The configuration of a request, whole, or every mistake in one error. DEL and GC need none.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// What all plugins have in their configurations.
    fn common<'c>(&self, conf: &'c Self::Conf) -> Common<'c>;

    /// The MAC that the pod's interface must have, if not any. Pure.
    fn pod_mac(&self, conf: &Self::Conf, _facts: &Facts) -> Option<Mac> {
        self.common(conf).mac
    }

    /// The links that it wants before IPAM is asked. Pure.
    fn birth(&self, conf: &Self::Conf, ends: &Ends, facts: &Facts) -> Result<Birth, Error>;

    /// IPAM's answer with what this plugin adds to it. Pure.
    fn complete(&self, conf: &Self::Conf, ipam: AddResult) -> Result<AddResult, Error>;

    /// All that host and pod carry with an answer that is complete. ADD makes it and CHECK looks for it. Pure.
    fn settle(&self, conf: &Self::Conf, ends: &Ends, result: &AddResult) -> Result<Settled, Error>;

    /// Makes what attachments share where it is not there yet, and says what of the host's side is known to be as it is.
    fn arrange(&self, conf: &Self::Conf, ground: &mut Ground<'_>, wanted: &mut State) -> Result<Arranged, Error>;

    /// The interfaces of the answer, the pod's among them.
    fn interfaces(&self, conf: &Self::Conf, ground: &mut Ground<'_>) -> Result<Vec<ResultInterface>, Error>;

    /// The attachment that an answer of this plugin's describes.
    fn recall(&self, conf: &Self::Conf, request: &Request<'_>, previous: &AddResult) -> Result<Ends, Error>;

    /// For CHECK: which of [`Interface::settle`]'s objects are this plugin's to judge.
    fn judged(&self, conf: &Self::Conf, ends: &Ends, wanted: &mut State) -> Scope;

    /// For CHECK: what is not as ADD left it and what no state can say. `pod` is the pod's namespace.
    fn differences(
        &self,
        _conf: &Self::Conf,
        _ends: &Ends,
        _host: &mut Kernel,
        _pod: &mut Kernel,
    ) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// The pod has an interface of the attachment's name, in upstream's words.
    fn taken(&self, ifname: &IfName) -> Error {
        Error::internal(format!("container veth name ({:?}) peer provided already exists", ifname.as_str()))
    }

    /// A step of its own that the kernel refused, with what to do about it.
    fn refused(&self, _conf: &Self::Conf, error: KernelError) -> Error {
        Error::internal(error)
    }
}

/// What all plugins have in their configurations.
#[derive(Debug, Clone, Copy)]
pub struct Common<'c> {
    /// The IPAM plugin, when there is one.
    pub ipam: Option<&'c str>,
    /// How IPv6 addresses are taken into use.
    pub dad: Dad,
    /// The MAC that is asked for.
    pub mac: Option<Mac>,
    /// Traffic of the pod to elsewhere leaves with the host's address, but for traffic to these networks. `None`: it keeps
    /// its source.
    pub masquerade: Option<&'c [IpNetwork]>,
    /// Frames from the pod must carry its MAC.
    pub spoof_check: bool,
    /// ADD answers when the host's end carries packets.
    pub waits_for_carrier: bool,
    /// A link of the host that the attachment hangs on, and that may not be there yet.
    pub stands_on: Option<&'c IfName>,
}

/// What is known before anything is made.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// [`Common::stands_on`] as found; `None`: it is not there.
    pub found: Option<SeenLink>,
    /// The pod's open namespace.
    pub netns: Option<RawFd>,
}

/// What is wanted before IPAM is asked.
#[derive(Debug, Clone, Default)]
pub struct Birth {
    /// Of the host; a link there may have its other end in the pod.
    pub host: State,
    /// What of that is known to be there.
    pub known: State,
    /// Links that come into the pod from the host's namespace.
    pub pod: State,
}

/// What host and pod carry in the end.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// The host's side.
    pub host: State,
    /// The pod's side.
    pub pod: State,
}

/// Where an ADD stands when IPAM has answered.
pub struct Ground<'a> {
    /// The host.
    pub host: &'a mut Kernel,
    /// The names and MACs of this attachment.
    pub ends: &'a Ends,
    /// What was known before.
    pub facts: &'a Facts,
    /// CNI_NETNS
    pub sandbox: &'a str,
}

/// What [`Interface::arrange`] knows of the host.
#[derive(Debug, Clone, Default)]
pub struct Arranged {
    /// What is there.
    pub known: State,
    /// What of the host is still to be read.
    pub read: Scope,
    /// What of it may be taken away.
    pub scope: Scope,
    /// What takes the place of something else on the host, when all else has succeeded: a failed ADD has replaced nothing.
    pub last: Option<Replacement>,
}

/// Objects that take the place of others.
#[derive(Debug, Clone, Default)]
pub struct Replacement {
    /// What is wanted.
    pub wanted: State,
    /// What is there.
    pub known: State,
    /// What of it goes.
    pub scope: Scope,
}

/// An [`Interface`] as a plugin.
pub struct Attach<I>(pub I);

impl<I: Interface> Plugin for Attach<I> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        add::add(&self.0, request, &self.0.load(request)?)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        del::del(request)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        check::check(&self.0, request, &self.0.load(request)?)
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        gc::gc(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let common = self.0.common(&conf);
        let ipam = match common.ipam {
            Some(kind) => request.delegates.status(kind, &request.conf.bytes, request.env),
            None => Ok(()),
        };
        join([ipam, rules::status(&common)])
    }
}

/// All failures in one: the first one's code and message, the others behind it.
pub fn join(outcomes: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let mut failures = outcomes.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else { return Ok(()) };
    Err(failures.fold(first, |all, next| {
        let (msg, details) = (format!("{}; {}", all.msg, next.msg), [all.details, next.details]);
        let details: Vec<String> = details.into_iter().filter(|text| !text.is_empty()).collect();
        Error { code: all.code, msg, details: details.join("; ") }
    }))
}

/// The first reason why not everything is as it is wanted, but for what a read-only /proc/sys may keep back.
pub fn settled(kernel: &mut Kernel, outcome: Outcome) -> Result<Outcome, KernelError> {
    for (step, error) in &outcome.failed {
        if !crate::read_only::passes(kernel, step, error)? {
            return Err(crate::read_only::explained(step, error.clone()));
        }
    }
    Ok(outcome)
}

/// What a plan would do, each as the command that does the same.
fn differences(place: &str, plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter().map(|step| format!("{place}{step}"));
    let conflicts = plan.conflicts.iter().map(|conflict| format!("{place}{conflict}"));
    steps.chain(conflicts).collect()
}
