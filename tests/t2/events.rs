//! The daemon wakes when an announcement contradicts the desired state, and never otherwise.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use kernel::Kernel;
use kernel::diff::Step;
use kernel::state::{RouteScope, Scope, State};
use kernel::types::{Family, IfName, RouteProtocol, TableId};
use lab::cluster::{Cluster, PATIENCE, Spec, log_file, subnet_file};
use lab::mode::Mode;
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use tests::harness::{self, figure};

use crate::disturb::PORT;
use crate::health::get;
use crate::{Failure, Outcome, all_pairs_answer, heal, up};

/// How soon another program's change must be undone.
const PROMISED: Duration = Duration::from_secs(1);
const DEVICE: &str = "flannel.1";

fn scope() -> Result<Scope, Failure> {
    let devices = vec![IfName::new(DEVICE)?];
    let routes = RouteScope { protocol: Some(RouteProtocol::FLANNEL), ..RouteScope::default() };
    Ok(Scope {
        links: devices.clone(),
        addresses: devices.clone(),
        neighbours: devices,
        routes: Some(routes),
        ..Scope::default()
    })
}

/// Runs a command of iproute2 on host 1.
fn run(cluster: &Cluster, line: &str) -> Outcome {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let output = cluster.world.host(1)?.enter(|| command.output())??;
    assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs `lines` on host 1 and measures until its state is whole again.
fn undone(cluster: &Cluster, kernel: &mut Kernel, whole: &State, lines: &[String]) -> Result<Duration, Failure> {
    let (what, scope) = (lines.join("; "), scope()?);
    let started = Instant::now();
    lines.iter().try_for_each(|line| run(cluster, line))?;
    eventually(format_args!("`{what}` is undone"), 5 * PROMISED, || {
        let now = heal::look(kernel, &scope).map_err(|error| error.to_string())?;
        if now == *whole { Ok(()) } else { Err(format!("{now:?}")) }
    })?;
    let took = started.elapsed();
    figure(format_args!("`{what}`: undone after {:.1} ms", took.as_secs_f64() * 1e3));
    Ok(took)
}

fn heals(lines: impl Fn(&Objects) -> Vec<Vec<String>>) -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let mut kernel = cluster.world.host(1)?.kernel()?;
    let whole = heal::settled(&mut kernel, &scope()?)?;
    for lines in lines(&Objects::of(&whole)?) {
        let took = undone(&cluster, &mut kernel, &whole, &lines)?;
        assert!(took <= PROMISED, "`{}`: undone after {took:?}", lines.join("; "));
    }
    all_pairs_answer(&cluster, Mode::Vxlan)
}

/// What host 1 has for host 2, as iproute2 writes it.
struct Objects {
    mac: String,
    dst: String,
    addr: String,
    net: String,
    route: String,
}

impl Objects {
    fn of(whole: &State) -> Result<Self, Failure> {
        let (fdb, entry) = whole.fdb.iter().next().ok_or("no FDB entry")?;
        let neighbour = whole.neighbours.keys().next().ok_or("no neighbour")?;
        let route = whole.routes.keys().next().ok_or("no route")?;
        let (mac, addr) = (fdb.mac.to_string(), neighbour.addr.to_string());
        let net = route.dst.to_string();
        let route = format!("{net} via {addr} dev {DEVICE} onlink proto 70");
        Ok(Self { mac, dst: entry.dst.to_string(), addr, net, route })
    }
}

/// What says to the kernel where a peer is: an entry is as wanted or it is not, whatever its state is called.
pub fn a_forwarding_entry_or_neighbour_that_differs_is_undone() -> Outcome {
    heals(|Objects { mac, dst, addr, .. }| {
        let wrong = "02:00:00:00:00:99";
        vec![
            vec![format!("bridge fdb replace {mac} dev {DEVICE} dst 192.0.2.77 self permanent")],
            vec![format!("bridge fdb replace {mac} dev {DEVICE} dst {dst} self dynamic")],
            vec![format!("bridge fdb replace {mac} dev {DEVICE} dst {dst} vni 7 self permanent")],
            vec![format!("bridge fdb replace {mac} dev {DEVICE} dst {dst} via lo self permanent")],
            vec![format!("bridge fdb replace {mac} dev {DEVICE} dst 192.0.2.77 self static")],
            vec![format!("bridge fdb append 00:00:00:00:00:00 dev {DEVICE} dst 192.0.2.77 self permanent")],
            vec![format!("ip neigh replace {addr} lladdr {wrong} dev {DEVICE} nud reachable")],
            vec![format!("ip neigh replace {addr} lladdr {mac} dev {DEVICE} nud stale")],
            vec![format!("ip neigh replace {addr} lladdr {wrong} dev {DEVICE} nud permanent")],
            vec![
                format!("ip neigh del {addr} dev {DEVICE}"),
                format!("ip neigh replace {addr} lladdr {wrong} dev {DEVICE} nud reachable"),
            ],
        ]
    })
}

pub fn a_link_address_or_route_that_differs_is_undone() -> Outcome {
    heals(|Objects { addr, route, net: dst, .. }| {
        let set = |what: &str| vec![format!("ip link set {DEVICE} {what}")];
        vec![
            set("mtu 1300"),
            set("address 02:00:00:00:00:99"),
            set("alias somebody's"),
            set("down"),
            set("protodown on"),
            set("type vxlan learning"),
            vec![format!("ip address add 192.0.2.7/32 dev {DEVICE}")],
            vec![format!("ip route replace {route} mtu 1200")],
            vec![format!("ip route replace {route} advmss 1000")],
            vec![format!("ip route replace {dst} dev eth0 scope link proto 70")],
            vec![format!("ip route replace {dst} nexthop via {addr} dev {DEVICE} onlink nexthop dev eth0")],
            vec![format!("ip route replace unreachable {dst}")],
            vec![format!("ip route add 10.244.250.0/24 dev {DEVICE} proto 70")],
        ]
    })
}

/// A daemon on host 1 that says how many passes it has made.
fn counted(cluster: &Cluster) -> Result<Daemon, Failure> {
    let args = [
        format!("--store-dir={}", Cluster::store_dir().display()),
        "--iface=eth0".into(),
        format!("--subnet-file={}", subnet_file(1).display()),
        format!("--healthz-port={PORT}"),
    ];
    let launch = Launch {
        program: harness::executables()?.flanneld,
        args: args.map(Into::into).to_vec(),
        env: Vec::new(),
        netns: cluster.world.host(1)?.path().to_owned(),
        log: log_file(1),
        outlive: false,
    };
    Ok(launch.start()?)
}

fn passes(cluster: &Cluster) -> Result<u64, Failure> {
    let (_, text) = get(&cluster.world, "/metrics")?;
    let count = text.lines().find_map(|line| line.strip_prefix("flanneld_reconcile_seconds_count "));
    Ok(count.ok_or("no count of passes")?.parse()?)
}

/// The passes once there is a peer and no more of them are made.
fn passes_at_rest(cluster: &Cluster) -> Result<u64, Failure> {
    let (mut last, mut same) = (0, 0);
    Ok(eventually("host1 has its peer and makes no pass", PATIENCE, || {
        let status = Cluster::status(1).filter(|status| status.peers.len() == 1).ok_or("no peer")?;
        let now = passes(cluster).map_err(|error| error.to_string())?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same > 100 { Ok(now) } else { Err(format!("{now} passes; {:?}", status.last_error)) }
    })?)
}

/// Processor time that a process has used, in ticks of 10 ms (proc(5): utime and stime).
fn ticks(pid: u32) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Ok(fields.get(11).ok_or("no utime")?.parse::<u64>()? + fields.get(12).ok_or("no stime")?.parse::<u64>()?)
}

/// 10,000 changes of routes as a BGP daemon makes them: beside the network, inside it and with IPv6, by a gateway on the
/// underlay; new, changed and gone.
fn churn(gateway: &str, gateway_v6: &str) -> String {
    let mut text = String::new();
    for n in 0..1_000 {
        let (high, low) = (n / 256, n % 256);
        for (verb, extra) in [("add", ""), ("replace", " src 192.168.1.11"), ("del", "")] {
            for net in [100, 244] {
                let dst = format!("10.{net}.{}.{low}/32", 200 + high);
                let _ = writeln!(text, "route {verb} {dst} via {gateway} dev eth0 proto 186{extra}");
            }
        }
        for (verb, extra) in [("add", ""), ("replace", " mtu 1400"), ("replace", ""), ("del", "")] {
            let _ = writeln!(text, "route {verb} 2001:db8:{n}::/48 via {gateway_v6} dev eth0 proto 186{extra}");
        }
    }
    text
}

/// Deletes the peer's route and waits until it is restored: by then all earlier announcements have been judged.
fn repaired(cluster: &Cluster) -> Outcome {
    let mut kernel = cluster.world.host(1)?.kernel()?;
    let ours = |kernel: &mut Kernel| -> Result<_, Failure> {
        let routes = kernel.routes(TableId::MAIN)?;
        Ok(routes.into_iter().find(|(_, route)| route.protocol == RouteProtocol::FLANNEL))
    };
    let (key, route) = ours(&mut kernel)?.ok_or("no route of ours")?;
    kernel.apply(&[Step::DeleteRoute(key, route)]).ok()?;
    eventually("the route is there again", PATIENCE, || match ours(&mut kernel) {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?;
    Ok(())
}

pub fn the_routes_of_a_bgp_daemon_cost_no_pass() -> Outcome {
    let spec = Spec { topology: Topology::flat(2), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    let daemon = counted(&cluster)?;
    cluster.start_daemon(2)?;
    let gateway = |family| cluster.world.topology.underlay(2, family).ok_or("no underlay");
    let batch = churn(&gateway(Family::V4)?.to_string(), &gateway(Family::V6)?.to_string());
    fs::write("/run/routes", &batch)?;
    let before = passes_at_rest(&cluster)?;
    let used = ticks(daemon.pid())?;
    let started = Instant::now();
    run(&cluster, "ip -batch /run/routes")?;
    let took = started.elapsed();
    repaired(&cluster)?;
    let after = passes_at_rest(&cluster)?;
    let changes = batch.lines().count();
    figure(format_args!(
        "{changes} changes of a BGP daemon's routes in {:.2} s: {} passes, {} ms of the daemon's processor time",
        took.as_secs_f64(),
        after.saturating_sub(before + 1),
        (ticks(daemon.pid())? - used) * 10
    ));
    assert_eq!(changes, 10_000);
    assert_eq!(after, before + 1, "a pass for the route of ours alone: {}", last_lines(&log_file(1)));
    assert!(daemon.stop(PATIENCE)?.success());
    Ok(())
}
