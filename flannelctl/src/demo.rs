//! `flannelctl demo`: builds a network of hosts on this machine and shows its leases, its paths and the bytes on the
//! wire.

mod report;
mod traffic;
mod way;

use std::io;
use std::time::Duration;

use crate::screen::Screen;
use lab::cluster::{Cluster, Spec};
use lab::executables::Executables;
use lab::mode::Mode;
use lab::sandbox::{self, Right};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::{self, world};

/// How long the kernel may take to release deleted links and namespaces.
const TIDYING: Duration = Duration::from_secs(5);

/// The options of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of hosts, at least 2. Every third is behind a router.
    pub hosts: usize,
    /// The backend at the start and at the end.
    pub backend: Mode,
    /// Whether pods also get IPv6 addresses.
    pub dual_stack: bool,
    /// Whether the network is left up.
    pub keep: bool,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step failed.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// The result cannot be written.
    #[error("write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The demo ran to its end, and these checks failed.
    #[error("the demo failed: {}", .0.join("; "))]
    Failed(Vec<String>),
}

/// Runs the whole demo.
pub fn run(options: &Options, executables: &Executables, screen: &mut Screen) -> Result<(), DemoError> {
    let right = sandbox::enter().map_err(lab::Error::from)?;
    world::probe()?;
    let mut cluster = Cluster::prepare(spec(options), executables)?;
    let shown = show(options.backend, &mut cluster, screen);
    if options.keep {
        report::how_to_enter(&cluster, right, screen)?;
        return verdict(shown?, screen);
    }
    let sent = shown?;
    take_down(cluster, screen)?;
    verdict(sent, screen)
}

/// Ends a demo that has passed. `sent` is the number of datagrams that were sent during the live changes.
fn verdict(sent: u64, screen: &mut Screen) -> Result<(), DemoError> {
    screen.title("Verdict")?;
    let text = format!("  passed: every pod reached every other; {sent} datagrams during live changes, none lost");
    Ok(screen.verdict(true, text)?)
}

fn spec(options: &Options) -> Spec {
    let topology = match options.backend {
        // in this mode a host behind a router would have no path
        Mode::HostGw => Topology::flat(options.hosts),
        _ => Topology::every_third_routed(options.hosts),
    };
    Spec { topology, mode: options.backend, dual_stack: options.dual_stack, outlive: options.keep }
}

/// Shows everything, and returns the number of datagrams that were sent during the live changes.
fn show(mode: Mode, cluster: &mut Cluster, screen: &mut Screen) -> Result<u64, DemoError> {
    screen.progress(format_args!("{} namespaces are up; flanneld starts on every host", cluster.world.size()))?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    screen.progress("every host has a lease; the plugins attach a pod on each")?;
    cluster.attach_pods()?;
    cluster.wait_paths(mode)?;

    report::hosts(cluster, screen)?;
    let mut failures = report::pairs(cluster, mode, screen)?;
    way::show_each(cluster, mode, screen)?;
    let mut sent = 0;
    for tour in traffic::tours(mode, &cluster.spec.topology) {
        let passed = traffic::run(cluster, &tour, screen)?;
        failures.extend(passed.failures);
        sent += passed.sent;
    }
    if failures.is_empty() { Ok(sent) } else { Err(DemoError::Failed(failures)) }
}

fn take_down(mut cluster: Cluster, screen: &mut Screen) -> Result<(), DemoError> {
    screen.title("Taken down")?;
    cluster.detach_pods()?;
    let left = report::left_of_pods(&cluster)?;
    let (pods, daemons) = (cluster.spec.topology.hosts().len(), cluster.pids().count());
    cluster.stop_daemons()?;
    let namespaces = cluster.world.size();
    let left: Vec<_> = left.into_iter().chain(last_users(&cluster.world.take_down()?)).collect();
    if !left.is_empty() {
        screen.verdict(false, format_args!("  left behind: {}", left.join(", ")))?;
        return Err(DemoError::Failed(vec![format!("left behind: {}", left.join(", "))]));
    }
    screen.verdict(
        true,
        format_args!(
            "  {pods} pods detached, {daemons} daemons stopped, {namespaces} namespaces removed: nothing is left"
        ),
    )?;
    Ok(())
}

/// The processes that still use a namespace. DEL returns once a link is gone; a child process of it waits some 20 ms
/// more while the kernel cleans up.
fn last_users(namespaces: &[u64]) -> Option<String> {
    let users = || match world::users_of(namespaces) {
        Ok(users) if users.is_empty() => Ok(()),
        Ok(users) => Err(users.join(", ")),
        Err(error) => Err(error.to_string()),
    };
    eventually("nobody uses the namespaces", TIDYING, users).err().map(|error| error.to_string())
}

/// The privilege in words.
fn by_right(right: Right) -> &'static str {
    match right {
        Right::Root => "as root",
        Right::UserNamespace => "in a user namespace of its own",
    }
}
