//! ADD, DEL, CHECK, GC and STATUS of chained plugins, which change an attachment that another plugin made.

use attachment::record::Record;
use attachment::section::{Kept, PodNetns, Section};
use cni::error::Error;
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;
use cni::version::Version;
use kernel::nft::ElementHandle;
use kernel::state::{Scope, State};
use kernel::{Kernel, KernelError};

use super::sections::{Book, Host, collect, make_by_programs, missing};
use super::{differences, join, runtimes, settled};
use crate::{netns, traces};

/// The part of a chained plugin that is particular to it. ADD makes the desired objects, and removes them when it
/// fails; CHECK compares them; DEL and GC remove them, whatever is missing.
pub trait Chained: Sync {
    /// The checked configuration.
    type Conf;

    /// What the plugin must know before it decides.
    type Facts: Default;

    /// The plugin's `type` in a configuration.
    fn name(&self) -> &'static str;

    /// The versions that the plugin supports, oldest first. Default: all.
    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    /// Checks the configuration of a request, and reports all mistakes in one error. DEL and GC need no configuration.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// Reads everything that ADD and CHECK must know before anything is made. Default: nothing.
    fn facts(
        &self,
        _conf: &Self::Conf,
        _request: &Request<'_>,
        _host: &mut Host,
        _pod: &mut Kernel,
    ) -> Result<Self::Facts, Error> {
        Ok(Self::Facts::default())
    }

    /// Does what ADD needs before anything is made: stores what DEL restores. Default: nothing.
    fn prepare(
        &self,
        _conf: &Self::Conf,
        _facts: &Self::Facts,
        _request: &Request<'_>,
        _pod: &mut Kernel,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// The desired changes to the attachment in [`Conf::prev_result`](cni::conf::Conf::prev_result). Pure.
    fn desired(&self, conf: &Self::Conf, facts: &Self::Facts, request: &Request<'_>) -> Result<Sides, Error>;

    /// What does not remain after the attachment is gone, beside the objects in the plugin's section of the record,
    /// from the attachment's names and the record as DEL found it. Pure.
    fn released(&self, request: &Request<'_>, record: Option<&Record>) -> Sides;

    /// Removes what [`Chained::released`] cannot express: what other versions of the plugin left. Default: nothing.
    fn remove_left(&self, _request: &Request<'_>, _record: Option<&Record>, _host: &mut Host) -> Result<(), Error> {
        Ok(())
    }

    /// Restores what ADD changed in the pod, which may be gone, from what [`Chained::prepare`] stored. Default: nothing.
    fn restore(&self, _request: &Request<'_>, _pod: Option<&mut Kernel>) -> Result<(), Error> {
        Ok(())
    }

    /// The result of an ADD that succeeded.
    fn answer(
        &self,
        conf: &Self::Conf,
        facts: &Self::Facts,
        request: &Request<'_>,
        pod: &mut Kernel,
    ) -> Result<AddResult, Error>;

    /// The error of an ADD that needs an element of a living attachment.
    fn taken(&self, taken: &ElementHandle, owner: &str) -> Error {
        Error::internal(format!("{}: an element of {} is in use by {owner}", self.name(), taken.set.name))
    }

    /// The error of CHECK; `found` are the commands that would repair the attachment.
    fn differs(&self, request: &Request<'_>, found: &[String]) -> Error {
        Error::internal(format!("{}: {} is not as ADD left it", self.name(), request.env.ifname))
            .with_details(format!("to repair it: {}", found.join("; ")))
    }

    /// Whether the attachment is served by other packet rules than those of `section`: the reference plugins', or those of
    /// another backend. CHECK asks if rules are missing. Default: it is not.
    fn is_served_otherwise(&self, _request: &Request<'_>, _section: &Section, _host: &mut Host) -> Result<bool, Error> {
        Ok(false)
    }

    /// Differences from what ADD made that no state can express, for CHECK. Default: none.
    fn differences(
        &self,
        _conf: &Self::Conf,
        _facts: &Self::Facts,
        _host: &mut Host,
        _pod: &mut Kernel,
    ) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Removes the network's objects without a record that belong to none of
    /// [`Conf::valid_attachments`](cni::conf::Conf::valid_attachments). Default: there are none.
    fn collect(&self, _request: &Request<'_>, _host: &mut Host) -> Result<(), Error> {
        Ok(())
    }

    /// Fails with code 50 if no ADD could be served. Default: succeeds.
    fn status(&self, _conf: &Self::Conf, _host: &mut Host) -> Result<(), Error> {
        Ok(())
    }
}

/// The desired state of one namespace, and which of its objects belong to the plugin.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// The objects.
    pub wanted: State,
    /// Which of the existing objects may be changed or deleted.
    pub scope: Scope,
    /// What exists of it, for ADD. `None`: it is read first. If it turns out that something else exists, it is read,
    /// too.
    pub known: Option<State>,
}

/// The desired state of host and pod.
#[derive(Debug, Clone, Default)]
pub struct Sides {
    /// The host.
    pub host: Side,
    /// The pod.
    pub pod: Side,
    /// What the record must say about the host's objects. ADD also adds its packet rules.
    pub section: Option<Section>,
}

/// A [`Chained`] as a plugin.
pub struct Chain<C>(pub C);

impl<C: Chained> Plugin for Chain<C> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn versions(&self) -> &'static [Version] {
        self.0.versions()
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        let conf = self.0.load(request)?;
        let (mut host, mut pod) = (Host::default(), self.pod(request)?);
        let facts = self.0.facts(&conf, request, &mut host, &mut pod)?;
        let sides = self.0.desired(&conf, &facts, request)?;
        let mut book = self.begin(request, &sides, &mut host, &pod)?;
        let prepared = self.0.prepare(&conf, &facts, request, &mut pod);
        let made = prepared.and_then(|()| self.make(&sides, book.as_mut(), &mut host, &mut pod));
        let answer = made.and_then(|()| self.0.answer(&conf, &facts, request, &mut pod));
        let kept = answer.and_then(|answer| book.as_mut().map_or(Ok(()), |book| book.commit(true)).map(|()| answer));
        let outcome = kept.map_err(|cause| {
            let restored = self.0.restore(request, Some(&mut pod));
            match join([restored, self.release(request, book, &mut host, Some(&mut pod))]) {
                Ok(()) => cause,
                Err(left) => {
                    let gap = if cause.details.is_empty() { "" } else { "; " };
                    let details = format!("{}{gap}not undone: {left}", cause.details);
                    cause.with_details(details)
                }
            }
        });
        host.leave(sides.section.as_ref().filter(|_| outcome.is_ok()));
        outcome
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        let mut host = Host::default();
        let (mut pod, unreachable) = apart(netns::remaining(request));
        let (mut book, refused) = apart(Book::existing(self.name(), traces::key(request)));
        if let Some(book) = &mut book {
            // A record that cannot be written can still be deleted.
            let _ = book.commit(false);
        }
        let restored = unreachable.and_then(|()| self.0.restore(request, pod.as_mut()));
        let released = self.release(request, book, &mut host, pod.as_mut());
        host.leave(None);
        join([restored, refused, released])
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let (mut host, mut pod) = (Host::default(), self.pod(request)?);
        let facts = self.0.facts(&conf, request, &mut host, &mut pod)?;
        let sides = self.0.desired(&conf, &facts, request)?;
        let mut found = self.compare("in the pod: ", &mut pod, &sides.pod)?;
        if !sides.host.is_empty() {
            found.extend(self.compare("", host.kernel()?, &sides.host)?);
        }
        if let Some(section) = &sides.section {
            found.extend(self.missing_rules(request, section, &mut host)?);
        }
        found.extend(self.0.differences(&conf, &facts, &mut host, &mut pod)?);
        if found.is_empty() { Ok(()) } else { Err(self.0.differs(request, &found)) }
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let mut host = Host::default();
        let recorded = collect(self.name(), request, &mut host);
        let others = self.0.collect(request, &mut host);
        host.leave(None);
        join([recorded, others])
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        self.0.status(&self.0.load(request)?, &mut Host::default())
    }
}

/// The value, or nothing and the error.
fn apart<T>(outcome: Result<Option<T>, Error>) -> (Option<T>, Result<(), Error>) {
    match outcome {
        Ok(value) => (value, Ok(())),
        Err(error) => (None, Err(error)),
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

    /// Writes what ADD is about to make. What an ADD that was killed, or an earlier ADD of this attachment, has in its
    /// section is removed first.
    fn begin<'r>(
        &self,
        request: &'r Request<'_>,
        sides: &Sides,
        host: &mut Host,
        pod: &Kernel,
    ) -> Result<Option<Book<'r>>, Error> {
        let Some(section) = sides.section.clone() else { return Ok(None) };
        let mut book = Book::make(self.name(), traces::key(request))?;
        if let Some(before) = book.section().map(|kept| kept.section.clone()) {
            host.remove(traces::key(request), &before)?;
        }
        let netns = pod.netns().map(|netns| PodNetns::of(&request.env.netns, netns)).unwrap_or_default();
        if book.record.by.is_none() {
            book.record.by = runtimes::attacher(request, pod.netns());
        }
        book.write(Kept { committed: false, netns, section })?;
        Ok(Some(book))
    }

    fn make(&self, sides: &Sides, book: Option<&mut Book<'_>>, host: &mut Host, pod: &mut Kernel) -> Result<(), Error> {
        self.converge(pod, &sides.pod)?;
        if !sides.host.is_empty() {
            self.converge(host.kernel()?, &sides.host)?;
        }
        let Some((book, section)) = book.zip(sides.section.as_ref()) else { return Ok(()) };
        let own = self.add_rules(section, book, host)?;
        if !own.is_empty() {
            let rest = section.without(&own);
            book.replace(rest.clone())?;
            self.add_rules(&rest, book, host)?;
        }
        make_by_programs(book.key(), section)
    }

    /// Adds the section's rules, and returns the elements that the container has already on another network.
    fn add_rules(&self, section: &Section, book: &Book<'_>, host: &mut Host) -> Result<Vec<ElementHandle>, Error> {
        let mut own = Vec::new();
        for rules in section.rules(book.key()) {
            own.extend(book.add(host.kernel()?, &rules, &|taken, owner| self.0.taken(taken, owner))?);
        }
        Ok(own)
    }

    /// The rules that ADD would still have to write, unless other rules serve the attachment.
    fn missing_rules(&self, request: &Request<'_>, section: &Section, host: &mut Host) -> Result<Vec<String>, Error> {
        let found = missing(host.kernel()?, traces::key(request), section)?;
        if found.is_empty() || self.0.is_served_otherwise(request, section, host)? { Ok(Vec::new()) } else { Ok(found) }
    }

    fn release(
        &self,
        request: &Request<'_>,
        book: Option<Book<'_>>,
        host: &mut Host,
        pod: Option<&mut Kernel>,
    ) -> Result<(), Error> {
        let record = book.as_ref().map(|book| &book.record);
        let sides = self.0.released(request, record);
        let of_pod = pod.map_or(Ok(()), |pod| self.converge(pod, &sides.pod));
        let of_host = if sides.host.is_empty() {
            Ok(())
        } else {
            host.kernel().and_then(|host| self.converge(host, &sides.host))
        };
        let left = self.0.remove_left(request, record, host);
        let closed = book.map_or(Ok(()), |book| book.close(host));
        join([of_pod, of_host, left, closed])
    }

    fn converge(&self, kernel: &mut Kernel, Side { wanted, scope, known }: &Side) -> Result<(), Error> {
        let refused = |error: KernelError| self.failed(error);
        let assumed = known.as_ref().map(Into::into);
        let mut outcome = kernel.converge(wanted, scope, assumed).map_err(refused)?;
        if known.is_some() && outcome.failed.iter().any(|(_, error)| error.is_already()) {
            outcome = kernel.converge(wanted, scope, None).map_err(refused)?;
        }
        let outcome = settled(kernel, outcome).map_err(refused)?;
        outcome.conflicts.first().map_or(Ok(()), |conflict| Err(self.failed(conflict)))
    }

    fn compare(&self, place: &str, kernel: &mut Kernel, side: &Side) -> Result<Vec<String>, Error> {
        let plan = kernel.plan(&side.wanted, &side.scope, None).map_err(|error| self.failed(error))?;
        Ok(differences(place, &plan))
    }
}
