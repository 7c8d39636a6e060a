//! Changes the kernel. Nothing else does.

use netlink_packet_route::RouteNetlinkMessage as Message;

use crate::diff::{LinkChange, Step};
use crate::kernel::Kernel;
use crate::message::Request;
use crate::message::{ADD, APPEND, Body, PREPEND, PUT, address, link, neighbour, queue, route, vlan};
use crate::netlink::wire::Writer;
use crate::netlink::{Errno, KernelError};
use crate::nft::RuleHandle;
use crate::state::{Birth, Filter, FilterAction, Link, LinkKind};
use crate::types::{IfName, RouteProtocol};
use crate::wireguard::{WireguardRequest, remove_peer, set_device, set_peer};
use crate::{sysctl, tuntap};

/// The result of a list of steps.
#[derive(Debug, Default)]
pub struct Report {
    /// The number of steps that succeeded.
    pub done: usize,
    /// The rules of nf_tables that were added.
    pub handles: Vec<RuleHandle>,
    /// The steps that failed, each with the reason; their objects are unchanged.
    pub failed: Vec<(Step, KernelError)>,
}

impl Report {
    /// The first failure, for callers that need only one.
    pub fn ok(self) -> Result<(), KernelError> {
        self.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Kernel {
    /// Takes the steps in order, with as few messages to the kernel as possible. A step that fails is reported, and
    /// does not stop the others. Deleting an object that is gone, and adding one that exists, count as successes.
    pub fn apply(&mut self, steps: &[Step]) -> Report {
        self.take(None, steps)
    }

    pub(crate) fn take(&mut self, mut parent: Option<&mut Self>, steps: &[Step]) -> Report {
        let mut report = Report::default();
        let mut page = Page::default();
        for (i, step) in steps.iter().enumerate() {
            match step {
                _ if is_wireguard(step) => {
                    if i == 0 || !is_wireguard(&steps[i - 1]) {
                        page.flush(self, &mut report);
                        self.write_wireguard(&steps[i..], &mut report);
                    }
                }
                Step::Nft(..) => {
                    if i == 0 || !matches!(steps[i - 1], Step::Nft(..)) {
                        page.flush(self, &mut report);
                        self.write_nft(&steps[i..], &mut report);
                    }
                }
                Step::WriteSysctl(..) if i > 0 && matches!(steps[i - 1], Step::WriteSysctl(..)) => {}
                Step::WriteSysctl(..) => {
                    page.flush(self, &mut report);
                    self.write_sysctls(&steps[i..], &mut report);
                }
                Step::CreateLink(name, created) if !created.is_born_by_own_message() => {
                    page.flush(self, &mut report);
                    report.count(step, self.create_otherwise(parent.as_deref_mut(), name, created));
                }
                _ => self.stage(step, &mut page, &mut report),
            }
        }
        page.flush(self, &mut report);
        report
    }

    fn create_otherwise(&mut self, parent: Option<&mut Self>, name: &IfName, link: &Link) -> Result<(), KernelError> {
        self.seen.remove(name);
        match (&link.kind, &link.birth) {
            (LinkKind::TunTap(device), Birth::Here | Birth::Parent) => self.inside(|| tuntap::create(name, device))?,
            _ => self.bear(parent, name, link),
        }
    }

    fn write_sysctls(&mut self, steps: &[Step], report: &mut Report) {
        let run = steps.iter().take_while(|step| matches!(step, Step::WriteSysctl(..)));
        let written: Result<Vec<_>, _> = self.inside(|| {
            run.clone()
                .map(|step| match step {
                    Step::WriteSysctl(path, value) => sysctl::write(path, value),
                    _ => Ok(()),
                })
                .collect()
        });
        match written {
            Ok(outcomes) => run.zip(outcomes).for_each(|(step, outcome)| report.count(step, outcome)),
            Err(error) => run.for_each(|step| report.count(step, Err(error.clone()))),
        }
    }

    fn write_wireguard(&mut self, steps: &[Step], report: &mut Report) {
        let run = steps.iter().take_while(|step| is_wireguard(step));
        let request = |step: &Step| WireguardRequest { what: step.to_string(), body: wireguard_body(step) };
        let requests = run.clone().map(request).collect();
        match self.generic() {
            Ok(generic) => run.zip(generic.set(requests)).for_each(|(step, outcome)| report.count(step, outcome)),
            Err(error) => run.for_each(|step| report.count(step, Err(absent(step, &error)))),
        }
    }

    /// Adds a step to the page. Sends the page first if the step refers to a link that the page creates.
    fn stage<'a>(&mut self, step: &'a Step, page: &mut Page<'a>, report: &mut Report) {
        for name in refers_to(step) {
            if page.creates.contains(name) {
                page.look_up(name);
                page.flush(self, report);
            }
            if let Err(error) = self.index(name) {
                page.flush(self, report);
                return report.count(step, Err(absent(step, &error)));
            }
        }
        let Some((message, flags)) = self.message(step) else {
            return report.count(step, Err(KernelError::new(step.to_string(), Errno(libc::ENODEV))));
        };
        match step {
            Step::CreateLink(name, _) => {
                page.creates.push(name.clone());
                // A deleted link's index is not that of a new link with the same name.
                self.seen.remove(name);
            }
            Step::RenameLink(from, to) => {
                page.creates.push(to.clone());
                self.seen.remove(from);
                self.seen.remove(to);
            }
            Step::DeleteLink(name) => self.seen.remove(name),
            _ => {}
        }
        page.requests.push(Request::of(message, flags, step));
        page.steps.push(step);
        if page.steps.len() == FULL {
            page.flush(self, report);
        }
    }

    /// The message for a step; all links that it names are known by now.
    fn message(&self, step: &Step) -> Option<(Body, u16)> {
        let names = self.names();
        let message = match step {
            Step::AddQdisc(key, qdisc) => (queue::put(names.index(&key.dev)?, key.place, qdisc), ADD),
            Step::ChangeQdisc(key, qdisc) => (queue::put(names.index(&key.dev)?, key.place, qdisc), 0),
            Step::DeleteQdisc(key) => (queue::delete(names.index(&key.dev)?, key.place), 0),
            Step::AddFilter(key, filter) => (queue::add_filter(names.index(&key.dev)?, key.prio, filter, names)?, ADD),
            Step::DeleteFilter(key) => (queue::delete_filter(names.index(&key.dev)?, key.prio), 0),
            _ => return self.object(step).map(|(message, flags)| (message.into(), flags)),
        };
        Some((message.0.into(), message.1))
    }

    fn object(&self, step: &Step) -> Option<(Message, u16)> {
        let names = self.names();
        let message = match step {
            Step::CreateLink(name, created) => (link::create(name, created, names)?, ADD),
            Step::RenameLink(from, to) => (link::rename(names.index(from)?, to), 0),
            Step::ChangeLink(name, change) => (link::change(name, change, names)?, 0),
            Step::SetPort(name, port) => (link::set_port(name, *port, names), 0),
            Step::AddVlan(key, v) => (vlan::add(names.index(&key.dev)?, key.id, *v), 0),
            Step::DeleteVlan(key) => (vlan::delete(names.index(&key.dev)?, key.id), 0),
            Step::AddAddress(key, addr) => (address::add(names.index(&key.dev)?, key.net, addr), PUT),
            Step::PutNeighbour(key, mac) => (neighbour::put_neighbour(names.index(&key.dev)?, key.addr, *mac), PUT),
            Step::PutFdb(key, to) => (neighbour::put_fdb(names.index(&key.dev)?, key.mac, *to), PUT),
            Step::PutRoute(key, r) => (route::put(key, r, names)?, if key.ordinal == 0 { PUT } else { APPEND }),
            Step::CreateRoute(key, r) => (route::put(key, r, names)?, if key.dst.is_ipv4() { PREPEND } else { ADD }),
            Step::AddRoute(key, r) => (route::put(key, r, names)?, if key.ordinal == 0 { PREPEND } else { APPEND }),
            Step::DeleteRoute(key, r) => (route::delete(key, r, names)?, 0),
            Step::DeleteNeighbour(key) => (neighbour::delete_neighbour(names.index(&key.dev)?, key.addr), 0),
            Step::DeleteFdb(key) => (neighbour::delete_fdb(names.index(&key.dev)?, key.mac), 0),
            Step::DeleteAddress(key) => (address::delete(names.index(&key.dev)?, key.net), 0),
            Step::DeleteLink(name) => (link::delete(name), 0),
            Step::Nft(..)
            | Step::WriteSysctl(..)
            | Step::SetWireguard(..)
            | Step::PutWireguardPeer(..)
            | Step::DeleteWireguardPeer(..)
            | Step::AddQdisc(..)
            | Step::ChangeQdisc(..)
            | Step::DeleteQdisc(_)
            | Step::AddFilter(..)
            | Step::DeleteFilter(_) => return None,
        };
        Some(message)
    }
}

/// The links whose index must be known before a step can be sent.
fn refers_to(step: &Step) -> Vec<&IfName> {
    let (name, other) = match step {
        Step::CreateLink(_, link) => (link.kind.lower(), link.master.as_ref().and_then(Option::as_ref)),
        Step::RenameLink(from, _) => (Some(from), None),
        // The link itself may be identified by name.
        Step::ChangeLink(_, change) => {
            let lower = change.kind.as_ref().and_then(LinkKind::lower);
            (change.master.as_ref().and_then(Option::as_ref), lower)
        }
        Step::AddVlan(key, _) | Step::DeleteVlan(key) => (Some(&key.dev), None),
        Step::AddQdisc(key, _) | Step::ChangeQdisc(key, _) | Step::DeleteQdisc(key) => (Some(&key.dev), None),
        Step::AddFilter(key, Filter { action: FilterAction::Redirect(to), .. }) => (Some(&key.dev), to.as_ref()),
        Step::AddFilter(key, _) | Step::DeleteFilter(key) => (Some(&key.dev), None),
        Step::AddAddress(key, _) | Step::DeleteAddress(key) => (Some(&key.dev), None),
        Step::PutNeighbour(key, _) | Step::DeleteNeighbour(key) => (Some(&key.dev), None),
        Step::PutFdb(key, _) | Step::DeleteFdb(key) => (Some(&key.dev), None),
        Step::PutRoute(_, route)
        | Step::CreateRoute(_, route)
        | Step::AddRoute(_, route)
        | Step::DeleteRoute(_, route) => (route.dev.as_ref(), None),
        Step::Nft(..)
        | Step::SetPort(..)
        | Step::WriteSysctl(..)
        | Step::SetWireguard(..)
        | Step::PutWireguardPeer(..)
        | Step::DeleteWireguardPeer(..)
        | Step::DeleteLink(_) => (None, None),
    };
    name.into_iter().chain(other).collect()
}

fn is_wireguard(step: &Step) -> bool {
    matches!(step, Step::SetWireguard(..) | Step::PutWireguardPeer(..) | Step::DeleteWireguardPeer(..))
}

fn wireguard_body(step: &Step) -> Writer {
    let mut writer = Writer::default();
    match step {
        Step::SetWireguard(name, key, port) => set_device(&mut writer, name, *key, *port),
        Step::PutWireguardPeer(name, key, change) => set_peer(&mut writer, name, *key, change),
        Step::DeleteWireguardPeer(name, key) => remove_peer(&mut writer, name, *key),
        _ => {}
    }
    writer
}

/// Advice for a kernel without the module `name`.
pub(crate) fn no_module(name: &str) -> String {
    format!("this kernel has no {name}: `modprobe {name}` as root, or boot a kernel that has it")
}

fn port_in_use(port: u16) -> String {
    format!("something else has UDP port {port}: `ss -Hulpn sport = {port}` shows a program, `ip -d link` a device")
}

fn explain(kernel: &mut Kernel, step: &Step, error: KernelError) -> KernelError {
    match step {
        Step::CreateLink(_, link) => explain_kind(&link.kind, error),
        // the socket of a tunnel is made when the link is set up (vxlan_open, drivers/net/vxlan/vxlan_core.c)
        Step::ChangeLink(name, LinkChange { up: Some(true), .. }) if error.errno.0 == libc::EADDRINUSE => {
            match kernel.link(name) {
                Ok(Some(seen)) => explain_kind(&seen.link.kind, error),
                _ => error,
            }
        }
        _ => error,
    }
}

/// rtnl_newlink: EOPNOTSUPP when no module answers to the kind's name, with a sentence of its own since Linux 5.1.
/// EADDRINUSE when a link that is made up has a UDP port that a program or another link has.
pub(crate) fn explain_kind(kind: &LinkKind, error: KernelError) -> KernelError {
    let unknown = error.text.as_deref().is_none_or(|text| text == "Unknown device type");
    let kind = kind.as_kind();
    match (error.errno.0, kind.module(), kind.udp_port()) {
        (libc::EOPNOTSUPP, Some(module), _) if unknown => KernelError { text: Some(no_module(module)), ..error },
        (libc::EADDRINUSE, _, Some(port)) => KernelError { text: Some(port_in_use(port)), ..error },
        _ => error,
    }
}

fn absent(step: &Step, error: &KernelError) -> KernelError {
    KernelError { what: step.to_string(), errno: error.errno, text: Some(error.what.clone()) }
}

/// Steps that are sent to the kernel together.
#[derive(Default)]
struct Page<'a> {
    requests: Vec<Request<'a>>,
    steps: Vec<&'a Step>,
    creates: Vec<IfName>,
}

/// As many as the socket sends at once, so that thousands of messages need not exist before the first is sent.
const FULL: usize = 200;

impl Page<'_> {
    /// Asks for a link that the page creates, with the page.
    fn look_up(&mut self, name: &IfName) {
        self.requests.push(Request::new(link::get_by_name(name), 0, format!("ip link show {name}")));
    }

    fn flush(&mut self, kernel: &mut Kernel, report: &mut Report) {
        let mut outcomes = kernel.socket.transact(&self.requests);
        let found = outcomes.split_off(self.steps.len());
        for object in found.into_iter().flatten().flatten() {
            kernel.note(&object);
        }
        for (step, outcome) in self.steps.iter().zip(outcomes) {
            report.count(step, outcome.map(drop).map_err(|error| explain(kernel, step, error)));
        }
        *self = Self::default();
    }
}

/// Whether EEXIST means that exactly this route exists. For IPv6 it may be about another route.
fn is_there(step: &Step) -> bool {
    match step {
        Step::AddRoute(..) => true,
        // the kernel adds its own with an address
        Step::CreateRoute(key, route) => key.dst.is_ipv4() || route.protocol == RouteProtocol::KERNEL,
        _ => false,
    }
}

impl Report {
    pub(crate) fn refuse(&mut self, step: &Step, error: KernelError) {
        self.failed.push((step.clone(), error));
    }

    pub(crate) fn count(&mut self, step: &Step, outcome: Result<(), KernelError>) {
        match outcome {
            Err(error) if step.is_delete() && error.is_absent() => self.done += 1,
            // the link has no ingress discipline any more (`__tcf_qdisc_find`, net/sched/cls_api.c)
            Err(error) if matches!(step, Step::DeleteFilter(_)) && error.is_invalid() => self.done += 1,
            // exactly this route exists
            Err(error) if is_there(step) && error.is_already() => self.done += 1,
            Err(error) => self.failed.push((step.clone(), error)),
            Ok(()) => self.done += 1,
        }
    }
}
