//! What many peers cost the daemon: the time from its start until the kernel has all of them, one lease's way from the
//! store to the kernel and its cost, a burst of them, and what it takes when nothing happens.
//!
//! `cargo bench -p tests --bench scale [-- --embedded | --nodes] [--flanneld FILE]`: `--embedded` and `--nodes` measure only that
//! store, the embedded one and Kubernetes. Needs no root. No time makes it fail; a missing entry does.

mod daemon;
mod etcd;
mod files;
mod leases;
mod nodes;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lab::process::become_child;
use lab::sandbox::{self, Right};
use lab::topology::Topology;
use lab::world::World;
use lab::{Doing, Error};

use daemon::Host;
use files::Files;
use nodes::Nodes;
use report::Row;
use tests::apiserver::Streaming;
use tests::need::Need;

/// Peers at the start, and what Go's flanneld takes for as many (kernel-costs of the project's notes: etcd, VXLAN).
const STARTS: [usize; 3] = [1_000, 4_000, 10_000];
/// Peers while single events are measured.
const WATCHED: [usize; 3] = [100, 1_000, 4_000];
/// How many of those: a lease that comes, and goes.
const EVENTS: usize = 300;
/// Between two events, longer than the daemon gathers: each is one by itself.
const PAUSE: Duration = Duration::from_millis(60);
/// Peers in the embedded store.
const FILES: [usize; 2] = [10_000, 100_000];
/// Nodes of a cluster, and how the API server lists them.
const NODES: [(usize, Streaming); 4] = [
    (1_000, Streaming::Full),
    (1_000, Streaming::Forbidden),
    (10_000, Streaming::Full),
    (10_000, Streaming::Forbidden),
];
/// Heartbeats of their kubelets.
const BEATS: usize = 1_000;
/// A burst.
const BURST: usize = 10_000;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows its figures")]
fn main() -> ExitCode {
    if let Some(error) = become_child(std::env::args_os()) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    All,
    Embedded,
    Nodes,
}

fn program(mut args: impl Iterator<Item = OsString>) -> Result<(PathBuf, Only), Error> {
    let me = std::env::current_exe().doing("find this executable")?;
    // target/PROFILE/deps/scale-…
    let target = me.ancestors().nth(3).unwrap_or(Path::new("target"));
    let mut path = target.join("x86_64-unknown-linux-musl/release/flanneld");
    let mut only = Only::All;
    while let Some(arg) = args.next() {
        match (arg.to_str(), arg == "--flanneld") {
            (Some("--bench"), _) => {}
            (Some("--embedded"), _) => only = Only::Embedded,
            (Some("--nodes"), _) => only = Only::Nodes,
            (_, true) => path = args.next().map(PathBuf::from).unwrap_or_default(),
            _ => return Err(Error::Wrong("scale [--embedded | --nodes] [--flanneld FILE]".into())),
        }
    }
    if path.is_file() {
        let path = std::fs::canonicalize(&path).doing(format_args!("find {}", path.display()))?;
        Ok((path, only))
    } else {
        Err(Error::Wrong(format!("{} is not there: scripts/release makes it", path.display())))
    }
}

fn run() -> Result<String, Error> {
    let (program, only) = program(std::env::args_os().skip(1))?;
    if let Some(absent) = Need::Program("etcd").absent() {
        return Err(Error::Wrong(format!("{absent} (apt-get install etcd-server)")));
    }
    let right = sandbox::enter()?;
    let world = World::build(Topology::flat(2))?;
    let mut rows = Vec::new();
    if only != Only::Embedded {
        for (peers, streaming) in NODES {
            rows.extend(shown(kubernetes(&world, &program, peers, streaming)?));
        }
    }
    if only != Only::Nodes {
        for peers in FILES {
            rows.extend(shown(embedded(&world, &program, peers)?));
        }
    }
    if only != Only::All {
        return Ok(report::table(&rows));
    }
    for peers in WATCHED {
        rows.extend(shown(events(&world, &program, peers)?));
    }
    for peers in STARTS {
        rows.extend(shown(start(&world, &program, peers)?));
    }
    let right = if right == Right::Root { "root" } else { "a user namespace" };
    Ok(format!("{}\netcd on a tmpfs, one member; as {right}.", report::table(&rows)))
}

/// Shows rows while the others are still to come.
#[expect(clippy::print_stderr, reason = "a program that shows its figures")]
fn shown(rows: Vec<Row>) -> Vec<Row> {
    eprint!("{}", report::lines(&rows));
    rows
}

fn start(world: &World, program: &Path, peers: usize) -> Result<Vec<Row>, Error> {
    let mut host = Host::new(world, program)?;
    host.etcd().put(0..peers)?;
    let took = host.start()?;
    let (missing, memory) = (host.missing(peers)?, host.memory()?);
    if missing > 0 {
        return Err(Error::Wrong(format!("{missing} of {peers} peers' entries are missing")));
    }
    let idle = host.idle()?;
    host.end()?;
    let what = |text: &str| format!("{peers} leases, vxlan: {text}");
    Ok(vec![
        Row::time(&what("start until all is in the kernel"), &[took]),
        Row::bytes(&what("memory peak"), memory.peak),
        Row::bytes(&what("memory"), memory.now),
        Row::text(&what("wake-ups in 10 s of nothing"), idle.to_string()),
    ])
}

/// A lease that comes and goes, again and again: how long each takes, and what of the daemon's processor time.
fn one_by_one(
    host: &Host<'_>,
    n: usize,
    put: impl Fn() -> Result<(), Error>,
    delete: impl Fn() -> Result<(), Error>,
) -> Result<([Vec<Duration>; 2], Duration), Error> {
    let (mut times, mut puts) = (Vec::new(), Vec::new());
    let before = host.cpu()?;
    for _ in 0..EVENTS {
        let (time, written) = host.event(n, &put)?;
        times.push(time);
        puts.push(written);
        host.rest(PAUSE)?;
        host.event(n, &delete)?;
        host.rest(PAUSE)?;
    }
    let cpu = host.cpu()?.saturating_sub(before) / u32::try_from(2 * EVENTS).unwrap_or(u32::MAX);
    Ok(([times, puts], cpu))
}

fn events(world: &World, program: &Path, peers: usize) -> Result<Vec<Row>, Error> {
    let mut host = Host::new(world, program)?;
    host.etcd().put(0..peers)?;
    host.start()?;
    let etcd = host.etcd();
    let ([times, puts], cpu) = one_by_one(&host, peers, || etcd.put(peers..peers + 1), || etcd.delete(peers))?;
    let mut rows = vec![
        Row::time(&format!("one lease with {peers} peers, from before its put until its route is announced"), &times),
        Row::time("the put alone, until etcd has answered", &puts),
        Row::time("processor time of one event, the status included", &[cpu]),
    ];
    if peers == WATCHED[1] {
        let burst = host.burst(peers, BURST)?;
        rows.push(Row::time(&format!("a burst of {BURST} leases, with {peers} peers"), &[burst]));
        rows.push(Row::bytes("memory peak after it", host.memory()?.peak));
    }
    host.end()?;
    Ok(rows)
}

/// The same with files.
fn embedded(world: &World, program: &Path, peers: usize) -> Result<Vec<Row>, Error> {
    let mut host = Host::new(world, program)?;
    let files = Files::make()?;
    files.put(0..peers)?;
    let took = host.start_over(vec![files.flag()])?;
    let ([times, _], cpu) = one_by_one(&host, peers, || files.put(peers..peers + 1), || files.delete(peers))?;
    let rows = vec![
        Row::time(&format!("embedded store, {peers} leases: start until all is in the kernel"), &[took]),
        Row::time("one more, from before it is written until its route is announced", &times),
        Row::time("processor time of one event, the status included", &[cpu]),
        Row::bytes("memory peak", host.memory()?.peak),
    ];
    host.end()?;
    Ok(rows)
}

/// The same with the Nodes of a cluster as the store.
fn kubernetes(world: &World, program: &Path, peers: usize, streaming: Streaming) -> Result<Vec<Row>, Error> {
    let mut host = Host::new(world, program)?;
    let nodes = Nodes::start(world, peers, streaming)?;
    let took = host.start_over(nodes.flags())?;
    let (missing, start) = (host.missing(peers)?, host.memory()?);
    if missing > 0 {
        return Err(Error::Wrong(format!("{missing} of {peers} Nodes' entries are missing")));
    }
    host.rest(PAUSE)?;
    let before = host.cpu()?;
    (0..BEATS).for_each(|beat| nodes.beat(beat % peers, beat));
    // it is after the heartbeats in the watch
    let change = || {
        nodes.join(peers);
        Ok(())
    };
    let (_, _) = host.event(peers, change)?;
    let cpu = host.cpu()?.saturating_sub(before);
    let after = host.memory()?;
    host.event(peers, || {
        nodes.leave(peers);
        Ok(())
    })?;
    host.end()?;
    let list = if streaming == Streaming::Full { "a streaming list" } else { "pages" };
    let what = |text: &str| format!("{peers} Nodes, vxlan, {list}: {text}");
    Ok(vec![
        Row::time(&what("start until all is in the kernel"), &[took]),
        Row::bytes(&what("memory peak of the start"), start.peak),
        Row::time(&format!("processor time of {BEATS} heartbeats and a new Node"), &[cpu]),
        Row::bytes("memory peak after them", after.peak),
    ])
}
