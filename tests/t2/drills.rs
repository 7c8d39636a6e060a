//! flanneld's drill: its start is killed before each of its calls, and each of them fails once. The next start becomes
//! ready, and host and files are as after a start that nobody disturbed.
//!
//! The network has one subnet for this host, so that the lease of a killed start must be found again. A call is counted in
//! each thread, and the thread that comes to the number first is disturbed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use lab::cluster::{Cluster, PATIENCE, host_dir, key_file, log_file, subnet_file};
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::drill::snapshot::{self, Lines};
use tests::drill::{Calls, Change, Part, Point, failures, kills};
use tests::harness::{drills, executables, figure};
use tests::strace::own_calls;

use crate::{Failure, Outcome};

/// How many points are one slice's step. With it the slices of all rows take half a minute.
const STEP: usize = 53;

/// A backend.
struct Row {
    name: &'static str,
    /// `Backend` in the network configuration.
    backend: fn() -> Value,
    /// What a peer says in its lease.
    peer: fn() -> Value,
}

const VXLAN: Row = Row {
    name: "vxlan",
    backend: || json!({ "Type": "vxlan" }),
    peer: || json!({ "BackendType": "vxlan", "BackendData": { "VNI": 1, "VtepMAC": "02:00:00:00:00:07" } }),
};
const HOST_GW: Row =
    Row { name: "host-gw", backend: || json!({ "Type": "host-gw" }), peer: || json!({ "BackendType": "host-gw" }) };
const UDP: Row = Row { name: "udp", backend: || json!({ "Type": "udp" }), peer: || json!({}) };
const ALLOC: Row = Row { name: "alloc", backend: || json!({ "Type": "alloc" }), peer: || json!({}) };
const IPIP: Row =
    Row { name: "ipip", backend: || json!({ "Type": "ipip" }), peer: || json!({ "BackendType": "ipip" }) };
const WIREGUARD: Row = Row {
    name: "wireguard",
    backend: || json!({ "Type": "wireguard" }),
    peer: || {
        let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        json!({ "BackendType": "wireguard", "BackendData": { "PublicKey": key } })
    },
};
const EXTENSION: Row = Row {
    name: "extension",
    backend: || {
        json!({
            "Type": "extension", "PreStartupCommand": "echo 'data of a host'",
            "SubnetAddCommand": "ip route replace $SUBNET via $PUBLIC_IP",
            "SubnetRemoveCommand": "ip route delete $SUBNET via $PUBLIC_IP",
        })
    },
    peer: || json!({ "BackendType": "extension", "BackendData": "data of a host" }),
};

/// One function per row.
macro_rules! rows {
    ($($name:ident $row:ident),*) => {
        $(pub fn $name() -> Outcome {
            drill(&$row)
        })*
    };
}

rows!(vxlan VXLAN, host_gw HOST_GW, udp UDP, alloc ALLOC, ipip IPIP, wireguard WIREGUARD, extension EXTENSION);

fn drill(row: &Row) -> Outcome {
    let part = if drills() { Part::Whole } else { Part::Slice(STEP) };
    let (calls, undisturbed) = (calls(row)?, undisturbed(row)?);
    let (mut tried, mut left) = (0, Vec::new());
    for (what, points) in [("killed", kills(&calls)), ("failing", failures(&calls))] {
        assert!(points.len() > 200, "the start of {} makes few calls: {calls:?}", row.name);
        for point in part.of(&format!("{} {what}", row.name), points) {
            match try_point(row, &undisturbed, &point) {
                Ok(reached) => tried += usize::from(reached),
                Err(what) => left.push(format!("{point}: {what}")),
            }
        }
    }
    figure(format_args!("{}: {} points tried, {} wrong", row.name, tried + left.len(), left.len()));
    assert!(tried > 0 || !left.is_empty(), "{}: no point was tried", row.name);
    if left.is_empty() { Ok(()) } else { Err(format!("{}: {left:#?}", row.name).into()) }
}

/// A host with an uplink, and a store with the configuration and the lease of a peer.
struct Stage {
    world: World,
}

impl Stage {
    fn new(row: &Row) -> Result<Self, Failure> {
        let leases = Cluster::leases_dir();
        for dir in [host_dir(1), Cluster::store_dir()] {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        fs::create_dir_all(&leases)?;
        fs::create_dir_all(host_dir(1))?;
        let (first, backend) = ("10.244.1.0", (row.backend)());
        let config = json!({ "Network": "10.244.0.0/16", "SubnetMin": first, "SubnetMax": first, "Backend": backend });
        fs::write(leases.with_file_name("config"), config.to_string())?;
        let mut peer = (row.peer)();
        (peer["PublicIP"], peer["PublicIPv6"]) = ("192.168.1.99".into(), Value::Null);
        fs::write(leases.join("10.244.7.0-24"), peer.to_string())?;
        Ok(Self { world: World::build(Topology::flat(1))? })
    }

    fn remove(self) -> Result<(), Failure> {
        self.world.take_down()?;
        Ok(())
    }

    /// Starts the daemon by `before`.
    fn start(&self, before: &[&str]) -> Result<Daemon, Failure> {
        let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
        words.extend([
            executables()?.flanneld.into(),
            format!("--store-dir={}", Cluster::store_dir().display()).into(),
            "--iface=eth0".into(),
            format!("--subnet-file={}", subnet_file(1).display()).into(),
        ]);
        let launch = Launch {
            program: words.remove(0).into(),
            args: words,
            env: vec![("WIREGUARD_KEY_FILE".into(), key_file(1).into())],
            netns: self.world.host(1)?.path().to_owned(),
            log: log_file(1),
            outlive: false,
        };
        Ok(launch.start()?)
    }

    /// Starts the daemon and waits until it is ready.
    fn started(&self) -> Result<Daemon, Failure> {
        let mut daemon = self.start(&[])?;
        let pid = daemon.pid();
        eventually("the start that nobody disturbs", PATIENCE, || match (ready_pid(), daemon.ended()) {
            (Some(ready), _) if ready == pid => Ok(Ok(())),
            (_, Ok(None)) => Err(last_lines(&log_file(1))),
            (_, ended) => Ok(Err(format!("{ended:?}: {}", last_lines(&log_file(1))))),
        })??;
        Ok(daemon)
    }

    /// The host and the files, without what is another at each start.
    fn state(&self) -> Result<Lines, Failure> {
        let mut all = snapshot::namespace(self.world.host(1)?)?;
        let mac = |line: &String| {
            let (link, mac) = line.strip_prefix("link ")?.split_once(" mac ")?;
            Some((mac.to_owned(), format!("the MAC of {}", link.split(' ').next()?)))
        };
        let macs: Vec<(String, String)> = all.iter().filter_map(mac).filter(|(mac, _)| mac != "none").collect();
        for dir in [host_dir(1), Cluster::store_dir()] {
            all.extend(snapshot::files(&dir, &["flanneld.log"])?.into_iter().map(|line| file(&line)));
        }
        let replaced = |line: String| macs.iter().fold(line, |line, (mac, name)| line.replace(mac, name));
        Ok(all.into_iter().map(replaced).collect())
    }
}

/// The content of a lease and of subnet.env; of other files the name. They have times and process IDs.
fn file(line: &str) -> String {
    let name = line.split(": ").next().unwrap_or(line);
    // a WireGuard key is made anew on each host
    let whole = (name.ends_with("subnet.env") || name.contains("/subnets/")) && !line.contains("PublicKey");
    if whole { line.to_owned() } else { name.to_owned() }
}

/// The process of a daemon that is ready: its host is, or misses a module of the kernel, which the status names.
fn ready_pid() -> Option<u32> {
    let status = Cluster::status(1)?;
    let refused = status.last_error.as_ref().is_some_and(|error| error.contains("this kernel has no "));
    let well = status.last_error.is_none() && status.last_reconcile.is_some() && subnet_file(1).exists();
    (refused || well).then_some(status.pid)
}

/// strace's log of the start.
fn trace() -> PathBuf {
    host_dir(1).with_file_name("strace.log")
}

/// The calls of a start until it is ready.
fn calls(row: &Row) -> Result<Calls, Failure> {
    let stage = Stage::new(row)?;
    let log = trace().display().to_string();
    let mut traced = stage.start(&["strace", "-f", "-b", "execve", "-qq", "-o", &log, "--"])?;
    end(&mut traced, || false)?;
    kill(traced)?;
    stage.remove()?;
    Ok(own_calls(&fs::read_to_string(log)?))
}

fn undisturbed(row: &Row) -> Result<Lines, Failure> {
    let stage = Stage::new(row)?;
    let daemon = stage.started()?;
    let state = stage.state()?;
    daemon.kill()?;
    stage.remove()?;
    Ok(state)
}

/// Waits until the traced daemon has ended, and gives its status, or is ready: `None`. A daemon whose every new thread or
/// command is disturbed, `often`, need not become ready.
fn end(traced: &mut Daemon, often: impl Fn() -> bool) -> Result<Option<ExitStatus>, Failure> {
    Ok(eventually("ended, or ready", PATIENCE, || match (traced.ended(), ready_pid()) {
        (Ok(Some(status)), _) => Ok(Some(status)),
        (Ok(None), Some(_)) => Ok(None),
        (Ok(None), None) if often() => Ok(None),
        (ended, _) => Err(format!("{ended:?}; {}", last_lines(&log_file(1)))),
    })?)
}

/// Kills a daemon and its strace, which would let go of it.
fn kill(traced: Daemon) -> Result<(), Failure> {
    let strace = traced.pid();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        // it may have ended by itself
        let _ = kill_process(child, Signal::KILL);
    }
    Ok(traced.kill()?)
}

/// Whether the point was reached. The error says what is wrong then.
fn try_point(row: &Row, undisturbed: &Lines, point: &Point) -> Result<bool, Failure> {
    let stage = Stage::new(row)?;
    let (log, rule) = (trace(), format!("inject={}:{}:when={}", point.call, point.change.injected(), point.nth));
    let trace = format!("trace={}", point.call);
    let _ = fs::remove_file(&log);
    // not of the commands that the daemon runs: each of them would be disturbed
    let strace = ["strace", "-f", "-b", "execve", "-qq", "-o", &log.display().to_string()];
    let mut traced = stage.start(&[&strace[..], &["-e", &trace, "-e", &rule, "--"]].concat())?;
    let often = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter(|line| is_disturbed(line, point)).count() > 2
    };
    let ended = end(&mut traced, often);
    kill(traced)?;
    let reached = Reached::by(&fs::read_to_string(&log)?, point);
    let judged = ended.and_then(|status| if reached == Reached::Impossible { Ok(()) } else { judge(point, status) });
    let next = judged.and_then(|()| after(&stage, undisturbed));
    stage.remove()?;
    next.map(|()| reached == Reached::Yes)
}

/// What became of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    No,
    Yes,
    /// It failed in a way in which the kernel never lets it fail.
    Impossible,
}

/// What tokio writes to an eventfd to wake its runtime.
const WAKES: &str = r#", "\1\0\0\0\0\0\0\0", 8"#;

impl Reached {
    fn by(log: &str, point: &Point) -> Self {
        let lines: Vec<&str> = log.lines().collect();
        let disturbed: Vec<usize> = (0..lines.len()).filter(|at| is_disturbed(lines[*at], point)).collect();
        // each thread has its own first, second … call
        match point.call == "write" && disturbed.iter().any(|at| is_wake(&lines[..=*at])) {
            true => Self::Impossible,
            false if disturbed.is_empty() => Self::No,
            false => Self::Yes,
        }
    }
}

/// Whether a line of strace says that the call was disturbed.
fn is_disturbed(line: &str, point: &Point) -> bool {
    match point.change {
        Change::Kill => line.contains("killed by SIGKILL"),
        Change::Fail(_) => line.contains("(INJECTED)"),
    }
}

/// Whether the last line is the end of a write to an eventfd, which never fails in this way. The write may begin on a line
/// of its own.
fn is_wake(lines: &[&str]) -> bool {
    let Some((last, before)) = lines.split_last() else { return false };
    let begins = |line: &&&str| line.split(' ').next() == last.split(' ').next() && line.contains("<unfinished");
    let call = if last.contains("resumed>") { before.iter().rev().find(begins).unwrap_or(last) } else { last };
    call.contains(WAKES)
}

/// A daemon one of whose calls fails becomes ready, or ends with an error. Only a library may panic, and that ends it.
fn judge(point: &Point, status: Option<ExitStatus>) -> Result<(), Failure> {
    let log = fs::read_to_string(log_file(1))?;
    let panics: Vec<&str> = log.lines().filter(|line| line.contains("panicked at")).collect();
    let is_ours = |panic: &&str| !panic.contains("panicked at /");
    match status {
        _ if point.change == Change::Kill || point.may_abort() => Ok(()),
        Some(status) if !panics.is_empty() && !panics.iter().any(is_ours) && !status.success() => Ok(()),
        _ if !panics.is_empty() => Err(format!("it panics: {panics:?}").into()),
        None => Ok(()),
        Some(status) if status.signal().is_some() => {
            if point.may_abort() {
                Ok(())
            } else {
                Err(format!("it dies: {status}").into())
            }
        }
        Some(status) => {
            let last = log.lines().last().unwrap_or_default();
            if !status.success() && last.contains(": ") { Ok(()) } else { Err(format!("{status}: {last:?}").into()) }
        }
    }
}

/// The next start makes the host as one does that nobody disturbed.
fn after(stage: &Stage, undisturbed: &Lines) -> Result<(), Failure> {
    let daemon = stage.started()?;
    let same = eventually("the host is as after an undisturbed start", PATIENCE, || {
        let state = stage.state().map_err(|error| error.to_string())?;
        let more: Vec<&String> = state.difference(undisturbed).collect();
        let missing: Vec<&String> = undisturbed.difference(&state).collect();
        if more.is_empty() && missing.is_empty() {
            Ok(())
        } else {
            Err(format!("more: {more:?}, missing: {missing:?}"))
        }
    });
    daemon.kill()?;
    Ok(same?)
}
