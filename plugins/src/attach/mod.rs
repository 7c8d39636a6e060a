//! ADD, DEL, CHECK, GC and STATUS, written once for every plugin that gives a pod an interface.
//!
//! A plugin states which links it needs before IPAM is asked, and what host and pod carry once IPAM has answered
//! ([`Interface`]). Everything else is here: names, the record, IPAM, packet rules, comparison, and undo. A failed
//! ADD removes what DEL removes: the attachment's own links, rules and reservation. Objects that attachments share (a
//! bridge, the gateway's address) are made by the first that needs them, verified by each, and never removed.

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
mod runtimes;
mod sections;
mod standby;

use std::os::fd::RawFd;

use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::{AddResult, Interface as ResultInterface};
use kernel::diff::{Plan, Step};
use kernel::message::link::SeenLink;
use kernel::state::{Scope, State};
use kernel::types::{IfName, Mac};
use kernel::{Kernel, KernelError, Outcome};

pub use chained::{Chain, Chained, Side, Sides};
pub use delegating::{Delegate, Delegating, Delegation, HostFacts, HostPart, Planned};
pub use ends::{Ends, interface, pod_interface, prev_mac};
pub use fields::{Masquerade, MasqueradeBackend};
pub use ipam::{Addresses, Ipam};
pub use rules::{by_firewalld, not_removed, refused};
pub(crate) use runtimes::kept;
pub use sections::Host;

use crate::netns;
use crate::pod::Dad;

/// The part of such a plugin that is particular to it. It keeps no state, and does not decide when to do or undo
/// something.
pub trait Interface: Sync {
    /// The checked configuration.
    type Conf;

    /// The plugin's `type` in a configuration.
    fn name(&self) -> &'static str;

    /// Checks the configuration of a request, and reports all mistakes in one error. DEL and GC need no
    /// configuration.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// Fills in what the configuration leaves to the host or the pod, such as the link of the default route. STATUS
    /// has no pod, so facts about the pod stay open. CHECK does not call this, because the facts may have changed
    /// since ADD.
    ///
    /// # Errors
    /// The host or the pod is not ready for an ADD.
    fn resolve(&self, _conf: &mut Self::Conf, _host: &mut Kernel, _pod: Option<&mut Kernel>) -> Result<(), Error> {
        Ok(())
    }

    /// The part of the configuration that all plugins share.
    fn common<'c>(&self, conf: &'c Self::Conf) -> Common<'c>;

    /// The MAC address that the pod's interface must have; `None` for any. Pure.
    fn pod_mac(&self, conf: &Self::Conf, _facts: &Facts) -> Option<Mac> {
        self.common(conf).mac
    }

    /// The links that are needed before IPAM is asked. Pure.
    fn birth(&self, conf: &Self::Conf, ends: &Ends, facts: &Facts) -> Result<Birth, Error>;

    /// IPAM's result with the plugin's additions. Pure.
    fn complete(&self, conf: &Self::Conf, ipam: AddResult) -> Result<AddResult, Error>;

    /// Everything that host and pod carry for a complete result. ADD makes it, and CHECK looks for it. Pure.
    fn settle(&self, conf: &Self::Conf, ends: &Ends, result: &AddResult) -> Result<Settled, Error>;

    /// Makes missing objects that attachments share, and returns which parts of the host's side are known to exist.
    fn arrange(&self, conf: &Self::Conf, ground: &mut Ground<'_>, wanted: &mut State) -> Result<Arranged, Error>;

    /// The interfaces of the result, including the pod's.
    fn interfaces(&self, conf: &Self::Conf, ground: &mut Ground<'_>) -> Result<Vec<ResultInterface>, Error>;

    /// The attachment that a result of this plugin describes.
    fn recall(&self, conf: &Self::Conf, request: &Request<'_>, previous: &AddResult) -> Result<Ends, Error>;

    /// The objects of [`Interface::settle`] that CHECK of this plugin may judge.
    fn judged(&self, conf: &Self::Conf, ends: &Ends, wanted: &mut State) -> Scope;

    /// Differences from what ADD made that no state can express, for CHECK. `pod` is the pod's namespace.
    fn differences(
        &self,
        _conf: &Self::Conf,
        _ends: &Ends,
        _host: &mut Kernel,
        _pod: &mut Kernel,
    ) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// The error, in upstream's words, for a pod that has an interface of the attachment's name.
    fn taken(&self, ifname: &IfName) -> Error {
        Error::internal(format!("container veth name ({:?}) peer provided already exists", ifname.as_str()))
    }

    /// Adds advice to an error of the kernel; `step` is the step that failed, if it makes links of the plugin.
    fn refused(&self, _conf: &Self::Conf, _step: Option<&Step>, error: KernelError) -> Error {
        Error::internal(error)
    }
}

/// The part of the configuration that all plugins share.
#[derive(Debug, Clone, Copy)]
pub struct Common<'c> {
    /// The IPAM plugin, if there is one.
    pub ipam: Option<&'c str>,
    /// Whether to wait for duplicate address detection of IPv6.
    pub dad: Dad,
    /// The requested MAC address.
    pub mac: Option<Mac>,
    /// The pod's traffic to other networks leaves with the host's address. `None`: all of it keeps its source.
    pub masquerade: Option<&'c Masquerade>,
    /// Whether frames from the pod must carry its MAC address.
    pub spoof_check: bool,
    /// Whether ADD waits until the host's end carries packets.
    pub waits_for_carrier: bool,
    /// The link below the attachment, which may not exist yet.
    pub stands_on: Option<&'c IfName>,
    /// Whether that link is in the pod rather than on the host.
    pub stands_in_pod: bool,
}

/// Facts that are known before anything is made.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// [`Common::stands_on`] as found; `None`: it does not exist.
    pub found: Option<SeenLink>,
    /// The pod's open namespace.
    pub netns: Option<RawFd>,
}

/// The state that is needed before IPAM is asked.
#[derive(Debug, Clone, Default)]
pub struct Birth {
    /// The host's objects; a link may have its other end in the pod.
    pub host: State,
    /// Which of them are known to exist.
    pub known: State,
    /// Links that are created in the pod from the host's namespace.
    pub pod: State,
}

/// The final state of host and pod.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// The host's side.
    pub host: State,
    /// The pod's side.
    pub pod: State,
}

/// The context of an ADD after IPAM has answered.
pub struct Ground<'a> {
    /// The host.
    pub host: &'a mut Kernel,
    /// The names and MAC addresses of this attachment.
    pub ends: &'a Ends,
    /// The facts from before.
    pub facts: &'a Facts,
    /// CNI_NETNS
    pub sandbox: &'a str,
}

/// What [`Interface::arrange`] knows about the host.
#[derive(Debug, Clone, Default)]
pub struct Arranged {
    /// Objects that exist.
    pub known: State,
    /// Objects that must still be read.
    pub read: Scope,
    /// Objects that may be removed.
    pub scope: Scope,
    /// Objects that replace others on the host after everything else has succeeded, so that a failed ADD replaces
    /// nothing.
    pub last: Option<Replacement>,
}

/// Objects that replace others.
#[derive(Debug, Clone, Default)]
pub struct Replacement {
    /// What is wanted.
    pub wanted: State,
    /// The objects that exist.
    pub known: State,
    /// Which of them are removed.
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
        add::add(&self.0, request, self.0.load(request)?)
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
        let mut conf = self.0.load(request)?;
        let mut host = Kernel::open().map_err(Error::internal)?;
        let resolved = self.0.resolve(&mut conf, &mut host, None);
        let resolved = resolved.map_err(|error| Error { code: code::NOT_AVAILABLE, ..error });
        let common = self.0.common(&conf);
        let ipam = match common.ipam {
            Some(kind) => request.delegates.status(kind, &request.conf.bytes, request.env),
            None => Ok(()),
        };
        join([resolved, ipam, rules::status(&common, &mut host)])
    }
}

/// Combines all failures: the first one's code and message, followed by the others.
pub fn join(outcomes: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let mut failures = outcomes.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else { return Ok(()) };
    Err(failures.fold(first, |all, next| {
        let (msg, details) = (format!("{}; {}", all.msg, next.msg), [all.details, next.details]);
        let details: Vec<String> = details.into_iter().filter(|text| !text.is_empty()).collect();
        Error { code: all.code, msg, details: details.join("; ") }
    }))
}

/// The first failure that matters; a read-only /proc/sys may prevent some settings.
pub fn settled(kernel: &mut Kernel, outcome: Outcome) -> Result<Outcome, KernelError> {
    for (step, error) in &outcome.failed {
        if !crate::read_only::passes(kernel, step, error)? {
            return Err(crate::read_only::explained(step, error.clone()));
        }
    }
    Ok(outcome)
}

/// The steps of a plan, each as the command that does the same.
fn differences(place: &str, plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter().map(|step| format!("{place}{step}"));
    let conflicts = plan.conflicts.iter().map(|conflict| format!("{place}{conflict}"));
    steps.chain(conflicts).collect()
}
