//! ADD, DEL and CHECK of chained plugins, which change an attachment that another plugin made.

use cni::error::Error;
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;
use kernel::state::{Scope, State};
use kernel::{Kernel, KernelError};

use super::{differences, join, settled};
use crate::netns;

/// The part of a chained plugin that is particular to it. ADD makes the desired objects, and removes them when it
/// fails; CHECK compares them; DEL makes the released state, whatever is missing.
pub trait Chained: Sync {
    /// The checked configuration.
    type Conf;

    /// The plugin's `type` in a configuration.
    fn name(&self) -> &'static str;

    /// Checks the configuration of a request, and reports all mistakes in one error. DEL needs no configuration.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// The desired changes to the attachment in [`Conf::prev_result`](cni::conf::Conf::prev_result). Pure.
    fn desired(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<Sides, Error>;

    /// The desired state after the attachment is gone, from the attachment's names alone. Pure.
    fn released(&self, request: &Request<'_>) -> Sides;

    /// The result of an ADD that succeeded.
    fn answer(&self, conf: &Self::Conf, request: &Request<'_>, pod: &mut Kernel) -> Result<AddResult, Error>;

    /// The error of CHECK; `found` are the commands that would repair the attachment.
    fn differs(&self, request: &Request<'_>, found: &[String]) -> Error {
        Error::internal(format!("{}: {} is not as ADD left it", self.name(), request.env.ifname))
            .with_details(format!("to repair it: {}", found.join("; ")))
    }
}

/// The desired state of one namespace, and which of its objects belong to the plugin.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// The objects.
    pub wanted: State,
    /// Which of the existing objects may be changed or deleted.
    pub scope: Scope,
}

/// The desired state of host and pod.
#[derive(Debug, Clone, Default)]
pub struct Sides {
    /// The host.
    pub host: Side,
    /// The pod.
    pub pod: Side,
}

/// A [`Chained`] as a plugin.
pub struct Chain<C>(pub C);

impl<C: Chained> Plugin for Chain<C> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let conf = self.0.load(request)?;
        let sides = self.0.desired(&conf, request)?;
        let mut pod = self.pod(request)?;
        let made = join([self.make(&mut pod, &sides.pod), self.make_on_host(&sides.host)]);
        let answer = made.and_then(|()| self.0.answer(&conf, request, &mut pod));
        answer.map_err(|cause| match self.release(request, Some(&mut pod)) {
            Ok(()) => cause,
            Err(left) => cause.with_details(format!("not undone: {left}")),
        })
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        match netns::remaining(request) {
            Ok(mut pod) => self.release(request, pod.as_mut()),
            Err(unreachable) => join([Err(unreachable), self.release(request, None)]),
        }
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let Sides { host, pod } = self.0.desired(&conf, request)?;
        let mut found = self.compare("in the pod: ", &mut self.pod(request)?, &pod)?;
        if !host.is_empty() {
            found.extend(self.compare("", &mut self.host()?, &host)?);
        }
        if found.is_empty() { Ok(()) } else { Err(self.0.differs(request, &found)) }
    }
}

impl Side {
    fn is_empty(&self) -> bool {
        self.wanted == State::default() && self.scope == Scope::default()
    }
}

impl<C: Chained> Chain<C> {
    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::internal(format_args!("{}: {error}", self.0.name()))
    }

    fn pod(&self, request: &Request<'_>) -> Result<Kernel, Error> {
        netns::kernel(request, netns::open(request).map_err(|error| netns::refused(&error))?)
    }

    fn host(&self) -> Result<Kernel, Error> {
        Kernel::open().map_err(|error| self.failed(error))
    }

    fn release(&self, request: &Request<'_>, pod: Option<&mut Kernel>) -> Result<(), Error> {
        let Sides { host, pod: wanted } = self.0.released(request);
        let of_pod = pod.map_or(Ok(()), |pod| self.make(pod, &wanted));
        join([of_pod, self.make_on_host(&host)])
    }

    fn make_on_host(&self, side: &Side) -> Result<(), Error> {
        if side.is_empty() { Ok(()) } else { self.make(&mut self.host()?, side) }
    }

    fn make(&self, kernel: &mut Kernel, Side { wanted, scope }: &Side) -> Result<(), Error> {
        let refused = |error: KernelError| self.failed(error);
        let outcome = kernel.converge(wanted, scope, None).map_err(refused)?;
        let outcome = settled(kernel, outcome).map_err(refused)?;
        outcome.conflicts.first().map_or(Ok(()), |conflict| Err(self.failed(conflict)))
    }

    fn compare(&self, place: &str, kernel: &mut Kernel, side: &Side) -> Result<Vec<String>, Error> {
        let plan = kernel.plan(&side.wanted, &side.scope, None).map_err(|error| self.failed(error))?;
        Ok(differences(place, &plan))
    }
}
