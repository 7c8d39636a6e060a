//! ADD makes the links first, so that IPAM is not asked when a name is taken, and then the rest in one batch per
//! side.

use std::borrow::Cow;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use attachment::record::{DIRECTORY, Locked, Record};
use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use kernel::diff::Step;
use kernel::state::{Link, Scope, State};
use kernel::types::IfName;
use kernel::{Assumed, Kernel, Outcome};

use super::del::{self, Extent};
use super::{
    Arranged, Birth, Common, Ends, Facts, Ground, Interface, Replacement, Settled, join, rules, runtimes, settled,
};
use crate::pod::Dad;
use crate::{netns, read_only, traces};

/// Upstream checks the port after 0, 50, 500, 1000 and 1000 ms; here the kernel's announcement ends the wait.
const PORT_PATIENCE: Duration = Duration::from_millis(2550);

/// How long to wait for duplicate address detection of IPv6; upstream's value.
const DAD_PATIENCE: Duration = Duration::from_secs(5);

/// How often a random name of the host end is tried; upstream's value.
const NAME_TRIES: usize = 10;

/// Both sides of the attachment, and its progress.
struct Adding<'a, I: Interface> {
    plugin: &'a I,
    request: &'a Request<'a>,
    conf: &'a I::Conf,
    common: Common<'a>,
    host: Kernel,
    pod: Kernel,
    facts: Facts,
    locked: Locked,
    /// Everything that was made so far.
    record: Record,
    /// Whether the attachment's port must carry exactly the desired VLANs.
    only_vlans: bool,
    extent: Extent,
}

/// Attaches the pod. If a step fails, everything that was done is undone.
pub(super) fn add<I: Interface>(plugin: &I, request: &Request<'_>, mut conf: I::Conf) -> Result<AddResult, Error> {
    let ifname = IfName::new(&request.env.ifname).map_err(Error::internal)?;
    let netns = netns::open(request).map_err(|e| netns::refused(&e))?;
    let mut host = Kernel::open().map_err(Error::internal)?;
    let mut pod = netns::kernel(request, netns)?;
    plugin.resolve(&mut conf, &mut host, Some(&mut pod))?;
    let conf = &conf;
    let common = plugin.common(conf);
    let below = if common.stands_in_pod { &mut pod } else { &mut host };
    let found = common.stands_on.map_or(Ok(None), |name| below.link(name)).map_err(Error::internal)?;
    let facts = Facts { found, netns: pod.netns().map(AsRawFd::as_raw_fd) };
    let (mut record, extent) = (Record::begun().map_err(Error::internal)?, Extent::Recorded);
    record.by = runtimes::attacher(request, pod.netns());
    record.data_dir = del::ipam_dir(request).map(Into::into);
    let locked = Locked::make(Path::new(DIRECTORY), traces::key(request)).map_err(Error::internal)?;
    let mut adding =
        Adding { plugin, request, conf, common, host, pod, facts, locked, record, extent, only_vlans: false };
    adding.remove_left(&ifname)?;
    match catch_unwind(AssertUnwindSafe(|| adding.make(&ifname))) {
        Ok(Ok(reply)) => {
            rules::leave(&mut adding.host);
            Ok(reply)
        }
        Ok(Err(cause)) => Err(adding.undo(cause)),
        Err(panic) => {
            adding.undo(Error::internal("panic"));
            resume_unwind(panic)
        }
    }
}

impl<I: Interface> Adding<'_, I> {
    /// Removes what an ADD that was killed, or a pod without DEL, left behind. An attachment in use is left alone.
    fn remove_left(&mut self, ifname: &IfName) -> Result<(), Error> {
        let Some(left) = self.locked.record.take() else { return Ok(()) };
        if left.committed && self.pod.link(ifname).map_err(Error::internal)?.is_some() {
            return Err(self.plugin.taken(ifname));
        }
        join(del::remove_recorded(self.request, &mut self.host, &mut self.pod, &left))
    }

    fn make(&mut self, ifname: &IfName) -> Result<AddResult, Error> {
        let ends = self.connect(ifname)?;
        let ipam = match self.common.ipam {
            Some(kind) => {
                let answer = self.request.delegates.add(kind, &self.request.conf.bytes, self.request.env)?;
                self.record.ipam = Some(kind.to_owned());
                answer
            }
            None => AddResult::default(),
        };
        let result = self.plugin.complete(self.conf, ipam)?;
        let Settled { mut host, pod } = self.plugin.settle(self.conf, &ends, &result)?;
        traces::add_gateways(&mut self.record.shared, &ends, &host);
        let last = self.configure_host(&ends, &mut host)?;
        self.configure_pod(&ends, &pod)?;
        self.add_rules(&ends, &result)?;
        if self.common.waits_for_carrier {
            self.wait_for_port(&ends.host)?;
        }
        let interfaces = self.ask(&ends, |plugin, conf, ground| plugin.interfaces(conf, ground))?;
        if let Some(last) = last {
            self.replace(&last)?;
        }
        let found = self.facts.found.as_ref().map(|found| &found.link);
        traces::add_macs(&mut self.record.shared, &interfaces, found);
        self.commit(&ends, &host, &pod)?;
        Ok(AddResult { interfaces, ..result })
    }

    /// Makes the links that the plugin needs: shared links that are missing, and its own.
    fn connect(&mut self, ifname: &IfName) -> Result<Ends, Error> {
        for _ in 0..NAME_TRIES {
            let ends = Ends::random(ifname, self.plugin.pod_mac(self.conf, &self.facts))?;
            let birth = self.plugin.birth(self.conf, &ends, &self.facts)?;
            self.begin(&ends, &birth)?;
            if self.bear(&ends, birth)? {
                return Ok(ends);
            }
            (self.record.host, self.record.pod) = (None, None);
            if self.pod.link(ifname).map_err(Error::internal)?.is_some() {
                return Err(self.plugin.taken(ifname));
            }
        }
        Err(Error::internal(format!("no free name for the attachment's link after {NAME_TRIES} tries")))
    }

    /// Writes the record before anything is made, with everything that may follow.
    fn begin(&mut self, ends: &Ends, birth: &Birth) -> Result<(), Error> {
        (self.record.host, self.record.pod) = traces::links(self.request, ends, &birth.host);
        self.record.shared = traces::shared(ends, &birth.host);
        self.record.iptables = rules::uses_iptables(&self.common);
        let ipam = self.common.ipam.map(str::to_owned);
        self.locked.write(&Record { ipam, ..self.record.clone() }).map_err(Error::internal)
    }

    /// Creates the links. Returns false when the name of one of the attachment's own links is taken.
    fn bear(&mut self, ends: &Ends, birth: Birth) -> Result<bool, Error> {
        let Birth { host, known, pod } = birth;
        let outcome = self.host.converge(&host, &Scope::default(), Some(known.into())).map_err(Error::internal)?;
        let born = self.born(ends, outcome, self.common.stands_on)?;
        if !born || pod == State::default() {
            return Ok(born);
        }
        let outcome = self.pod.bring(&mut self.host, &pod);
        self.born(ends, outcome, None)
    }

    /// Evaluates the outcome. `shared` is a link that other ADDs may also create.
    fn born(&mut self, ends: &Ends, outcome: Outcome, shared: Option<&IfName>) -> Result<bool, Error> {
        let mut taken = false;
        for (step, error) in outcome.failed {
            match step {
                // Another ADD created the link in the meantime; it stays as that ADD made it.
                Step::CreateLink(name, _) if error.is_already() && Some(&name) == shared => {
                    self.facts.found = self.host.link(&name).map_err(Error::internal)?;
                }
                Step::CreateLink(name, _) if error.is_already() && (name == ends.host || name == ends.ifname) => {
                    taken = true;
                }
                // A consequence of the taken name, which is handled already.
                _ if taken => {}
                step if read_only::passes(&mut self.host, &step, &error).map_err(Error::internal)? => {}
                step => {
                    let error = read_only::explained(&step, error);
                    return Err(self.plugin.refused(self.conf, Some(&step), error));
                }
            }
        }
        match outcome.conflicts.first() {
            Some(conflict) => Err(Error::internal(conflict)),
            None => Ok(!taken),
        }
    }

    fn ask<T>(
        &mut self,
        ends: &Ends,
        question: impl FnOnce(&I, &I::Conf, &mut Ground<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (facts, sandbox) = (&self.facts, self.request.env.netns.as_str());
        question(self.plugin, self.conf, &mut Ground { host: &mut self.host, ends, facts, sandbox })
    }

    /// Configures the host's side. Returns the objects that must replace others at the end.
    fn configure_host(&mut self, ends: &Ends, wanted: &mut State) -> Result<Option<Replacement>, Error> {
        let arranged = self.ask(ends, |plugin, conf, ground| plugin.arrange(conf, ground, wanted))?;
        let Arranged { known, read, scope, last } = arranged;
        self.only_vlans = scope.vlans.contains(&ends.host);
        let assumed = Assumed { state: Cow::Owned(known), read };
        let outcome = self.host.converge(wanted, &scope, Some(assumed)).map_err(Error::internal)?;
        settled(&mut self.host, outcome).map_err(|error| self.plugin.refused(self.conf, None, error))?;
        Ok(last)
    }

    fn configure_pod(&mut self, ends: &Ends, wanted: &State) -> Result<(), Error> {
        let mut born = State::default();
        for (name, link) in &wanted.links {
            born.links.insert(name.clone(), Link { up: false, ..link.clone() });
        }
        // The pod may have other interfaces, and routes of its own.
        let scope = Scope { beside: true, ..Scope::default() };
        let outcome = self.pod.converge(wanted, &scope, Some(born.into())).map_err(Error::internal)?;
        settled(&mut self.pod, outcome).map_err(|error| self.plugin.refused(self.conf, None, error))?;
        if self.common.dad == Dad::On && wanted.addresses.keys().any(|key| key.net.is_ipv6()) {
            self.pod.wait_addresses(&ends.ifname, DAD_PATIENCE).map_err(Error::internal)?;
        }
        Ok(())
    }

    fn add_rules(&mut self, ends: &Ends, result: &AddResult) -> Result<(), Error> {
        self.record.masquerade_exclude = self.common.masquerade.map(|all| all.exclude.clone()).unwrap_or_default();
        let wanted = rules::wanted(self.request, &self.common, ends, result);
        for rules in &wanted.nft {
            self.extent = Extent::Possible;
            let added = rules.add(&mut self.host).map_err(|cause| {
                Error::internal(format!("failed to set up table {} (nftables): {cause}", rules.table))
            })?;
            self.record.rules.extend(added.into_iter().map(Into::into));
        }
        if !wanted.iptables.is_empty() {
            self.extent = Extent::Possible;
            rules::put(&wanted.iptables)?;
        }
        Ok(())
    }

    fn wait_for_port(&mut self, name: &IfName) -> Result<(), Error> {
        let what = if self.common.stands_on.is_some() { "bridge port" } else { "host interface" };
        match self.host.wait_running(name, PORT_PATIENCE).map_err(Error::internal)? {
            Some(link) if link.running => Ok(()),
            Some(link) => Err(Error::internal(format!("{what} in error state: {}", link.operstate))
                .with_details(format!("{name} did not come up within {PORT_PATIENCE:?}; see: ip -d link show {name}"))),
            None => Err(Error::internal(format!("{name} was deleted while it was being attached"))),
        }
    }

    fn replace(&mut self, last: &Replacement) -> Result<(), Error> {
        let Replacement { wanted, known, scope } = last;
        let outcome = self.host.converge(wanted, scope, Some(known.into())).map_err(Error::internal)?;
        settled(&mut self.host, outcome).map(drop).map_err(Error::internal)
    }

    fn commit(&mut self, ends: &Ends, host: &State, pod: &State) -> Result<(), Error> {
        (self.record.host, self.record.pod) = traces::links(self.request, ends, host);
        let index = self.host.names().index(&ends.host);
        if let (Some(link), Some(index)) = (&mut self.record.host, index) {
            link.index = index.0;
            link.only_vlans = self.only_vlans;
        }
        if let Some(link) = &mut self.record.pod {
            link.addresses = pod.addresses.keys().map(|key| key.net.to_string()).collect();
        }
        self.record.committed = true;
        self.locked.write(&self.record).map_err(Error::internal)
    }

    /// Undoes the attachment as DEL does. What cannot be undone is added to the error, and stays in the record.
    fn undo(self, cause: Error) -> Error {
        let Self { request, mut host, mut pod, locked, record, extent, .. } = self;
        let mut undone: Vec<_> = del::remove_made(request, (&mut host, &mut pod), &record, extent).into();
        if undone.iter().all(Result::is_ok) {
            undone.push(locked.delete().map_err(Error::internal));
        }
        let left: Vec<_> = undone.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
        if left.is_empty() {
            return cause;
        }
        let gap = if cause.details.is_empty() { "" } else { "; " };
        let details = format!("{}{gap}not undone: {}", cause.details, left.join("; "));
        cause.with_details(details)
    }
}
