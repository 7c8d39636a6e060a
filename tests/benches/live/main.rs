//! What a change of the network's configuration loses, and how fast a restarted udp backend carries packets.
//!
//! `cargo bench -p tests --bench live [-- changes|restart]`; needs no root. `changes`: every ordered pair of configurations,
//! each three times, under 10,000 packets a second between hosts on one segment, and to and from a host behind a router.
//! `restart`: from exec to the first echo through the new process. It judges no figure; it fails when a host does not
//! follow.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use kernel::state::LinkKind;
use kernel::types::{Family, Mtu};
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::{Mode, NETWORK};
use lab::process::become_child;
use lab::sandbox;
use lab::topology::Topology;
use lab::traffic::Traffic;
use lab::wait::eventually;
use serde_json::{Value, json};
use store::{config_path, files};
use tests::harness::Outcome;

type Failure = Box<dyn std::error::Error>;

/// How often each change is made.
const RUNS: usize = 3;
/// How often the daemon is restarted.
const RESTARTS: usize = 20;
/// What passes before a change and after it, in packets of each stream.
const PASS: u64 = 2_000;
/// The hosts on one segment, and those of which one is behind the router.
const NEAR: [(usize, usize); 2] = [(1, 2), (2, 1)];
const FAR: [(usize, usize); 2] = [(1, 3), (3, 1)];
/// How long an echo of a restart may take before another is sent: the resolution of the figure.
const ECHO: Duration = Duration::from_millis(2);

/// A configuration.
struct Setting {
    name: &'static str,
    backend: fn() -> Value,
    /// Whether it reaches a host behind a router.
    routes: bool,
    /// The device's VNI, port and MTU, if it is a VXLAN one.
    device: Option<(u32, u16, u32)>,
    /// What `ip link add type` must know.
    needs: Option<&'static str>,
}

const fn vxlan(name: &'static str, backend: fn() -> Value, device: (u32, u16, u32)) -> Setting {
    Setting { name, backend, routes: true, device: Some(device), needs: None }
}

const SETTINGS: [Setting; 9] = [
    vxlan("vxlan", || json!({ "Type": "vxlan" }), (1, 8472, 1450)),
    vxlan("vxlan with DirectRouting", || json!({ "Type": "vxlan", "DirectRouting": true }), (1, 8472, 1450)),
    vxlan("vxlan, VNI 5", || json!({ "Type": "vxlan", "VNI": 5 }), (5, 8472, 1450)),
    vxlan("vxlan, port 4789", || json!({ "Type": "vxlan", "Port": 4789 }), (1, 4789, 1450)),
    vxlan("vxlan, MTU 1400", || json!({ "Type": "vxlan", "MTU": 1400 }), (1, 8472, 1350)),
    Setting { name: "host-gw", backend: || json!({ "Type": "host-gw" }), routes: false, device: None, needs: None },
    Setting { name: "udp", backend: || json!({ "Type": "udp" }), routes: true, device: None, needs: None },
    Setting { name: "ipip", backend: || json!({ "Type": "ipip" }), routes: true, device: None, needs: Some("ipip") },
    Setting {
        name: "wireguard",
        backend: || json!({ "Type": "wireguard" }),
        routes: true,
        device: None,
        needs: Some("wireguard"),
    },
];

#[expect(clippy::print_stderr, reason = "a program that shows its figures")]
fn main() -> ExitCode {
    if let Some(error) = become_child(std::env::args_os()) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let part = std::env::args().skip(1).find(|arg| arg != "--bench").unwrap_or_default();
    let done = sandbox::enter().map_err(Failure::from).and_then(|_| {
        if part != "restart" {
            changes()?;
        }
        if part != "changes" { restarts() } else { Ok(()) }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program that shows its figures")]
fn changes() -> Outcome {
    let spec = Spec { topology: Topology::every_third_routed(3), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let cluster = Cluster::up(spec, &tests::harness::executables()?)?;
    let (there, absent): (Vec<&Setting>, Vec<&Setting>) =
        SETTINGS.iter().partition(|setting| setting.needs.is_none_or(|kind| knows(&cluster, kind)));
    for setting in absent {
        println!("{}: not measured: this kernel has no module {}", setting.name, setting.needs.unwrap_or_default());
    }
    let mut total = 0;
    for from in &there {
        for to in there.iter().filter(|to| to.name != from.name) {
            let mut lost = Vec::new();
            for _ in 0..RUNS {
                set(&cluster, from)?;
                lost.push(change(&cluster, from, to)?);
            }
            total += lost.iter().flatten().flatten().sum::<u64>();
            let far = if from.routes && to.routes { "" } else { " (host-gw has no path to a host behind a router)" };
            println!("{} to {}: lost near, far: {}{far}", from.name, to.name, text(&lost));
        }
    }
    println!("lost in all: {total}");
    Ok(())
}

fn text(lost: &[[Option<u64>; 2]]) -> String {
    let of = |lost: &Option<u64>| lost.map_or("-".to_owned(), |lost| lost.to_string());
    lost.iter().map(|[near, far]| format!("{} {}", of(near), of(far))).collect::<Vec<_>>().join(", ")
}

fn knows(cluster: &Cluster, kind: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(["link", "add", "probe", "type", kind]);
    let known = cluster.world.host(1).and_then(|room| room.enter(|| command.output()));
    let known = known.is_ok_and(|output| output.is_ok_and(|output| output.status.success()));
    let delete = || Command::new("ip").args(["link", "del", "probe"]).output();
    let _ = cluster.world.host(1).and_then(|room| room.enter(delete));
    known
}

/// Sets the configuration, and waits until every host follows it.
fn set(cluster: &Cluster, setting: &Setting) -> Outcome {
    let config = json!({ "Network": NETWORK, "Backend": (setting.backend)() }).to_string();
    files::replace(&config_path(&Cluster::store_dir(), "/coreos.com/network"), config.as_bytes())?;
    for (from, to) in NEAR.into_iter().chain(FAR) {
        if !setting.routes && FAR.contains(&(from, to)) {
            continue;
        }
        eventually(format_args!("host{from} sends to host{to} by {}", setting.name), PATIENCE, || {
            follows(cluster, setting, from, to).map_err(|error| error.to_string())
        })?;
    }
    Ok(())
}

fn follows(cluster: &Cluster, setting: &Setting, from: usize, to: usize) -> Outcome {
    let status = Cluster::status(from).ok_or("no status")?;
    if Some(status.backend.as_str()) != (setting.backend)()["Type"].as_str() {
        return Err(status.backend.into());
    }
    let mut kernel = cluster.world.host(from)?.kernel()?;
    let route = kernel.route_to(cluster.address(to, Family::V4)?)?.ok_or("no route")?;
    let dev = route.dev.ok_or("no link")?;
    let link = kernel.link(&dev)?.ok_or("the link is gone")?.link;
    let direct = status.direct_routing && cluster.spec.topology.on_one_segment(from, to);
    let right = match (&link.kind, setting.device) {
        (LinkKind::Vxlan(_), None) => false,
        (LinkKind::Vxlan(vxlan), Some((vni, port, mtu))) => {
            !direct && vxlan.vni.get() == vni && vxlan.port.unwrap_or(8472) == port && link.mtu == Some(Mtu(mtu))
        }
        (_, Some(_)) => direct,
        (LinkKind::TunTap(_), None) => setting.name == "udp",
        (LinkKind::Ipip(_), None) => setting.name == "ipip",
        (LinkKind::Wireguard, None) => setting.name == "wireguard",
        (_, None) => !setting.routes,
    };
    if right { Ok(()) } else { Err(format!("it sends by {dev}: {:?} {:?}", link.kind, link.mtu).into()) }
}

/// What is lost near and far while the configuration changes.
fn change(cluster: &Cluster, from: &Setting, to: &Setting) -> Result<[Option<u64>; 2], Failure> {
    let near = Traffic::start(cluster, &NEAR)?;
    let far = if from.routes && to.routes { Some(Traffic::start(cluster, &FAR)?) } else { None };
    near.pass(PASS)?;
    set(cluster, to)?;
    near.pass(PASS)?;
    let lost = near.stop()?.lost;
    Ok([Some(lost), far.map(Traffic::stop).transpose()?.map(|counts| counts.lost)])
}

#[expect(clippy::print_stdout, reason = "a program that shows its figures")]
fn restarts() -> Outcome {
    let spec = Spec { topology: Topology::flat(2), mode: Mode::Udp, dual_stack: false, outlive: false };
    let mut cluster = Cluster::up(spec, &tests::harness::executables()?)?;
    let mut pinger = cluster.pinger(1, 2, Family::V4)?;
    let mut times = Vec::new();
    for _ in 0..RESTARTS {
        cluster.take_daemon(1)?.kill()?;
        let since = Instant::now();
        cluster.start_daemon(1)?;
        while let Err(error) = pinger.echo(ECHO) {
            if since.elapsed() > PATIENCE {
                return Err(error.into());
            }
        }
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).or(times.last()).copied().unwrap_or_default();
    println!("udp, killed and started: exec to the first echo, p50 {:.0} ms, longest {:.0} ms", at(50), at(100));
    Ok(())
}
