//! `flannelctl demo`: a network of hosts on this machine, shown from its leases to the bytes on its wires.

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

/// What the kernel may take to forget deleted links and namespaces.
const TIDYING: Duration = Duration::from_secs(5);

/// What to show.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many hosts: 2 or more; every third is behind a router.
    pub hosts: usize,
    /// The backend it begins and ends with.
    pub backend: Mode,
    /// IPv6, too.
    pub dual_stack: bool,
    /// Leave it up.
    pub keep: bool,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step of it did.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// It cannot be shown.
    #[error("write to standard output: {0}")]
    Output(#[from] io::Error),
    /// It was all shown, and was not what it must be.
    #[error("the demo failed: {}", .0.join("; "))]
    Failed(Vec<String>),
}

/// The whole demo.
pub fn run(options: &Options, executables: &Executables, screen: &mut Screen) -> Result<(), DemoError> {
    let right = sandbox::enter().map_err(lab::Error::from)?;
    world::probe()?;
    let mut cluster = Cluster::prepare(spec(options), executables)?;
    let shown = show(options.backend, &mut cluster, screen);
    if options.keep {
        report::how_to_enter(&cluster, right, screen)?;
        return shown;
    }
    shown?;
    take_down(cluster, screen)
}

fn spec(options: &Options) -> Spec {
    let topology = match options.backend {
        // a host behind a router would be cut off
        Mode::HostGw => Topology::flat(options.hosts),
        _ => Topology::every_third_routed(options.hosts),
    };
    Spec { topology, mode: options.backend, dual_stack: options.dual_stack, outlive: options.keep }
}

fn show(mode: Mode, cluster: &mut Cluster, screen: &mut Screen) -> Result<(), DemoError> {
    screen.progress(format_args!("{} namespaces are up; flanneld starts on every host", cluster.world.size()))?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    screen.progress("every host has a lease; the plugins attach a pod on each")?;
    cluster.attach_pods()?;
    cluster.wait_paths(mode)?;

    report::hosts(cluster, screen)?;
    let mut failures = report::pairs(cluster, mode, screen)?;
    way::show_each(cluster, mode, screen)?;
    for tour in traffic::tours(mode, &cluster.spec.topology) {
        failures.extend(traffic::run(cluster, &tour, screen)?);
    }
    if failures.is_empty() { Ok(()) } else { Err(DemoError::Failed(failures)) }
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

/// DEL answers when a link is gone for everyone; a child of it sits out the kernel's own tidying for some 20 ms more.
fn last_users(namespaces: &[u64]) -> Option<String> {
    let users = || match world::users_of(namespaces) {
        Ok(users) if users.is_empty() => Ok(()),
        Ok(users) => Err(users.join(", ")),
        Err(error) => Err(error.to_string()),
    };
    eventually("the namespaces are nobody's", TIDYING, users).err().map(|error| error.to_string())
}

/// How this world can be, for the reader.
fn by_right(right: Right) -> &'static str {
    match right {
        Right::Root => "as root",
        Right::UserNamespace => "in a user namespace of its own",
    }
}
