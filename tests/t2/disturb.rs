//! Changes a host by commands, as a person would, and observes what its daemon does.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::Mode;
use lab::netns::Room;
use lab::topology::Topology;
use lab::wait::eventually;
use tests::harness;

use crate::{Failure, Outcome};

/// Where host 1's daemon answers probes.
pub const PORT: u16 = 8471;
/// Many times longer than a repair takes.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How long an unwanted change must not appear.
const WHILE: Duration = Duration::from_millis(1500);
/// Longer than the daemon waits before it writes a status.
const QUIET: Duration = Duration::from_millis(700);

/// A cluster that works and rests, with pods; host 1's daemon answers probes.
pub fn cluster(topology: Topology, mode: Mode, dual_stack: bool) -> Result<Cluster, Failure> {
    cluster_with(Spec { topology, mode, dual_stack, outlive: false }, &[])
}

/// The same; host 1's daemon has more flags.
pub fn cluster_with(spec: Spec, flags: &[&str]) -> Result<Cluster, Failure> {
    let mode = spec.mode;
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    start_first(&mut cluster, flags)?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    cluster.attach_pods()?;
    cluster.wait_paths(mode)?;
    rests(cluster.world.host(1)?)?;
    Ok(cluster)
}

/// Starts host 1's daemon, which answers probes, with more flags.
pub fn start_first(cluster: &mut Cluster, flags: &[&str]) -> Outcome {
    let port = format!("--healthz-port={PORT}");
    let flags: Vec<&str> = [port.as_str()].into_iter().chain(flags.iter().copied()).collect();
    Ok(cluster.start_daemon_with(1, &flags)?)
}

/// Runs a command, its words separated by single blanks, on a host and gives what it prints.
pub fn run(room: &Room, line: &str) -> Result<String, Failure> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    let output = room.enter(|| command.args(words).output())??;
    if !output.status.success() {
        return Err(format!("`{line}`: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A sysctl of a host, by its path below `/proc/sys`.
pub fn sysctl(room: &Room, path: &str) -> Result<String, Failure> {
    Ok(room.enter(|| fs::read_to_string(format!("/proc/sys/{path}")))??.trim().to_owned())
}

/// Writes a sysctl of a host.
pub fn set_sysctl(room: &Room, path: &str, value: &str) -> Outcome {
    Ok(room.enter(|| fs::write(format!("/proc/sys/{path}"), value))??)
}

/// Status and body of the answer of a host's daemon to a probe.
pub fn get(room: &Room, path: &str) -> Result<(u16, String), Failure> {
    let at = SocketAddr::from(([127, 0, 0, 1], PORT));
    let mut text = String::new();
    room.enter(|| -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
        stream.read_to_string(&mut text).map(drop)
    })??;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| text.clone())?;
    Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// How many passes a host's daemon has made.
fn passes(room: &Room) -> Result<String, Failure> {
    let (_, metrics) = get(room, "/metrics")?;
    let count = metrics.lines().find_map(|line| line.strip_prefix("flanneld_reconcile_seconds_count "));
    Ok(count.ok_or_else(|| format!("no count of passes in\n{metrics}"))?.to_owned())
}

/// Waits until the daemon makes no more passes: the next one has a new reason.
pub fn rests(room: &Room) -> Outcome {
    let (mut last, mut since) = (passes(room)?, Instant::now());
    Ok(eventually("the daemon makes no more passes", PATIENCE, || {
        let now = passes(room).map_err(|error| error.to_string())?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= QUIET { Ok(()) } else { Err(format!("{last} passes")) }
    })?)
}

/// Waits until `look` finds nothing wrong; `look` returns what it finds.
pub fn repaired(what: &str, mut look: impl FnMut() -> Result<Option<String>, Failure>) -> Outcome {
    let outcome = eventually(what, LIMIT, || match look() {
        Ok(None) => Ok(Ok(())),
        Ok(Some(seen)) => Err(seen),
        Err(failure) => Ok(Err(failure)),
    });
    outcome.map_err(|error| format!("not repaired: {error}"))?
}

/// As [`repaired`]; or the status says that something is wrong, and the host is not ready.
pub fn repaired_or_said(
    cluster: &Cluster,
    what: &str,
    mut look: impl FnMut() -> Result<Option<String>, Failure>,
) -> Outcome {
    let room = cluster.world.host(1)?;
    repaired(what, || {
        let Some(seen) = look()? else { return Ok(None) };
        let error = Cluster::status(1).and_then(|status| status.last_error);
        let (ready, _) = get(room, "/readyz")?;
        let said = error.is_some() && ready == 503;
        Ok((!said).then(|| format!("{seen}; the status says {error:?}, /readyz {ready}")))
    })
}

/// Checks for a while that `look` finds nothing wrong.
pub fn stays(what: &str, mut look: impl FnMut() -> Result<Option<String>, Failure>) -> Outcome {
    let since = Instant::now();
    let seen: Option<String> = eventually(what, PATIENCE, || match look() {
        Ok(None) if since.elapsed() < WHILE => Err(String::new()),
        seen => Ok(seen),
    })??;
    match seen {
        Some(seen) => Err(format!("does not stay: {what}; seen after {:?}: {seen}", since.elapsed()).into()),
        None => Ok(()),
    }
}
