//! flanneld restores what another program deletes or changes as soon as the kernel announces it, long before the
//! audit. The time is a figure, not a test, because the cores may be busy.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use kernel::diff::{LinkChange, Step};
use kernel::state::{Bridge, Link, LinkKind, RouteScope, Scope, State, Vxlan, VxlanTtl};
use kernel::types::{IfName, RouteProtocol};
use kernel::{Kernel, KernelError};
use lab::cluster::Cluster;
use lab::mode::Mode;
use lab::topology::Topology;
use lab::wait::eventually;
use tests::harness::figure;

use crate::{Failure, Outcome, all_pairs_answer, up};

/// What is waited before giving up; the audit comes after ten minutes.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn ipv4() -> Outcome {
    heals(&up(Topology::every_third_routed(3), Mode::DirectRouting, false)?, &["flannel.1"], Mode::DirectRouting)
}

pub fn dual_stack() -> Outcome {
    heals(&up(Topology::flat(2), Mode::Vxlan, true)?, &["flannel.1", "flannel-v6.1"], Mode::Vxlan)
}

pub fn host_gw() -> Outcome {
    heals(&up(Topology::flat(2), Mode::HostGw, false)?, &[], Mode::HostGw)
}

fn heals(cluster: &Cluster, devices: &[&str], mode: Mode) -> Outcome {
    let devices = devices.iter().map(|name| IfName::new(name)).collect::<Result<Vec<_>, _>>()?;
    let scope = Scope {
        links: devices.clone(),
        addresses: devices.clone(),
        neighbours: devices,
        routes: Some(RouteScope { protocol: Some(RouteProtocol::FLANNEL), ..RouteScope::default() }),
        ..Scope::default()
    };
    let mut kernel = cluster.world.host(1)?.kernel()?;
    let whole = settled(&mut kernel, &scope)?;
    kernel.apply(&[Step::CreateLink(bridge()?, Link::up(LinkKind::Bridge(Bridge::default())))]).ok()?;
    let deletions = deletions(&whole);
    assert!(!deletions.is_empty());
    for step in changes(&whole)?.into_iter().chain(deletions) {
        let took = heal(&mut kernel, &scope, &whole, &step)?;
        figure(format_args!("`{step}`: back after {:.1} ms", took.as_secs_f64() * 1e3));
    }
    all_pairs_answer(cluster, mode)
}

/// The daemon's objects: all in scope but the link-local addresses, which are the kernel's own.
pub(crate) fn look(kernel: &mut Kernel, scope: &Scope) -> Result<State, KernelError> {
    let mut state = kernel.observe(scope)?;
    let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    state.addresses.retain(|key, _| !link_local(key.net.ip()));
    Ok(state)
}

/// The state once it is the same at two looks.
pub(crate) fn settled(kernel: &mut Kernel, scope: &Scope) -> Result<State, Failure> {
    let mut last = look(kernel, scope)?;
    Ok(eventually("the host's state settles", PATIENCE, || {
        let now = look(kernel, scope).map_err(|error| error.to_string())?;
        let same = now == last;
        last = now;
        if same { Ok(last.clone()) } else { Err(format!("{last:?}")) }
    })?)
}

/// A bridge that takes devices that are not its.
fn bridge() -> Result<IfName, Failure> {
    Ok(IfName::new("br9")?)
}

/// Settings that stop a VXLAN device's traffic but leave the device. Without ARP it also loses its neighbours.
fn changes(whole: &State) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for (name, link) in &whole.links {
        let LinkKind::Vxlan(vxlan) = &link.kind else { continue };
        let short = LinkKind::Vxlan(Vxlan { ttl: VxlanTtl::Hops(1), ..vxlan.clone() });
        let changes = [
            LinkChange { kind: Some(short), ..LinkChange::default() },
            LinkChange { arp: Some(false), ..LinkChange::default() },
            LinkChange { multicast: Some(false), ..LinkChange::default() },
            LinkChange { master: Some(Some(bridge()?)), ..LinkChange::default() },
        ];
        steps.extend(changes.map(|change| Step::ChangeLink(name.clone(), change)));
    }
    Ok(steps)
}

/// One deletion of each object, devices last.
fn deletions(whole: &State) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(whole.routes.iter().map(|(key, route)| Step::DeleteRoute(key.clone(), route.clone())));
    steps.extend(whole.fdb.keys().map(|key| Step::DeleteFdb(key.clone())));
    steps.extend(whole.neighbours.keys().map(|key| Step::DeleteNeighbour(key.clone())));
    steps.extend(whole.addresses.keys().map(|key| Step::DeleteAddress(key.clone())));
    steps.extend(whole.links.keys().map(|name| Step::DeleteLink(name.clone())));
    steps
}

/// Takes the step, and measures until the state is complete again. First it checks that the deletion happened: in the
/// kernel or, if the repair was faster, by the kernel's answer to the step.
fn heal(kernel: &mut Kernel, scope: &Scope, whole: &State, step: &Step) -> Result<Duration, Failure> {
    let started = Instant::now();
    let report = kernel.apply(std::slice::from_ref(step));
    assert!(report.failed.is_empty(), "{report:?}");
    eventually(format_args!("`{step}` is undone"), PATIENCE, || {
        // a name may stand for another index now
        let now = look(kernel, scope).map_err(|error| error.to_string())?;
        if now == *whole { Ok(()) } else { Err(format!("{now:?}")) }
    })?;
    Ok(started.elapsed())
}
