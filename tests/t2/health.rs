//! What a daemon reports to its supervisors, by HTTP and by its exit status.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kernel::diff::Step;
use kernel::state::RouteKind;
use kernel::types::TableId;
use lab::cluster::{PATIENCE, host_dir, log_file, subnet_file};
use lab::process::{Daemon, Launch, last_lines};
use lab::wait::eventually;
use lab::world::World;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tests::harness;

use crate::disturb::{self, PORT};
use crate::etcd_server::{Lab, Start};
use crate::{Failure, Outcome};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const PEER: &str = r#"{"PublicIP":"192.168.1.50","PublicIPv6":null,"BackendType":"host-gw"}"#;

fn start(lab: &Lab) -> Result<Daemon, Failure> {
    std::fs::create_dir_all(host_dir(1))?;
    let args = [
        format!("--etcd-endpoints={}", lab.etcd.url()),
        "--iface=eth0".into(),
        format!("--subnet-file={}", subnet_file(1).display()),
        format!("--healthz-port={PORT}"),
        "--ip-blackhole-route".into(),
        "-v=1".into(),
    ];
    let launch = Launch {
        program: harness::executables()?.flanneld,
        args: args.map(Into::into).to_vec(),
        env: Vec::new(),
        netns: lab.world.host(1)?.path().to_owned(),
        log: log_file(1),
        outlive: false,
    };
    Ok(launch.start()?)
}

/// The answer's status and body.
pub(crate) fn get(world: &World, path: &str) -> Result<(u16, String), Failure> {
    disturb::get(world.host(1)?, path)
}

/// A probe is answered before a container is restarted for it: well within the ten seconds after which an idle
/// connection ends by itself.
fn probe(world: &World, what: &str) -> Outcome {
    eventually(what, Duration::from_secs(5), || match get(world, "/healthz") {
        Ok((200, body)) if body == "flanneld is running" => Ok(()),
        other => Err(format!("healthz does not answer: {other:?}; {}", last_lines(&log_file(1)))),
    })?;
    Ok(())
}

fn wait(world: &World, what: &str, path: &str, good: impl Fn(u16, &str) -> bool) -> Result<String, Failure> {
    Ok(eventually(what, PATIENCE, || match get(world, path) {
        Ok((status, body)) if good(status, &body) => Ok(body),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?)
}

pub fn ready_is_the_host_whose_data_path_is_up() -> Outcome {
    let mut lab = Lab::prepare(1, &Start::default())?;
    let daemon = start(&lab)?;
    wait(&lab.world, "it runs", "/healthz", |status, body| (status, body) == (200, "flanneld is running"))?;
    let (status, body) = get(&lab.world, "/readyz")?;
    assert!(status == 503 && body.starts_with("flanneld is not ready yet"), "{status} {body}");
    lab.etcd.start(&lab.world)?;
    lab.configure(CONFIG)?;
    wait(&lab.world, "it is ready", "/readyz", |status, body| (status, body) == (200, "flanneld is ready"))?;

    let mut kernel = lab.world.host(1)?.kernel()?;
    let routes = kernel.routes(TableId::MAIN)?;
    assert_eq!(routes.iter().filter(|(_, route)| route.kind == RouteKind::Blackhole).count(), 1, "{routes:?}");

    lab.put("subnets/10.5.250.0-24", PEER)?;
    let has = |line: &'static str| move |status: u16, body: &str| status == 200 && body.lines().any(|l| l == line);
    wait(&lab.world, "the peer is counted", "/metrics", has(r#"flanneld_peers{path="direct"} 1"#))?;
    let routes = kernel.routes(TableId::MAIN)?;
    let (key, route) = routes.into_iter().find(|(key, _)| key.dst.to_string() == "10.5.250.0/24").ok_or("no route")?;
    kernel.apply(&[Step::DeleteRoute(key, route)]).ok()?;
    let body = wait(&lab.world, "the repair is counted", "/metrics", has(r#"flanneld_drift_total{kind="route"} 1"#))?;
    for name in ["flanneld_reconcile_seconds_count", "flanneld_last_clean_reconcile_timestamp_seconds"] {
        assert!(body.contains(name), "{name} is not in\n{body}");
    }

    lab.etcd.kill()?;
    let old = wait(&lab.world, "the store is away", "/readyz", |status, body| {
        status == 200 && body.contains("the store cannot be read for ")
    })?;
    assert!(old.starts_with("flanneld is ready\n"), "{old}");
    assert!(daemon.stop(PATIENCE)?.success());
    Ok(())
}

pub fn a_busy_port_ends_the_start() -> Outcome {
    let lab = Lab::prepare(1, &Start::default())?;
    let _taken = lab.world.host(1)?.enter(|| TcpListener::bind(("127.0.0.1", PORT)))??;
    let mut daemon = start(&lab)?;
    let status = eventually("the daemon ends", PATIENCE, || match daemon.ended() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(status.code(), Some(2), "as upstream's");
    let said = last_lines(&log_file(1));
    assert!(said.contains("serve health on 127.0.0.1:8471") && said.contains("--healthz-port"), "{said}");
    Ok(())
}

/// A client that keeps its connection.
fn stay(world: &World) -> Result<TcpStream, Failure> {
    let at = SocketAddr::from(([127, 0, 0, 1], PORT));
    let mut stream = world.host(1)?.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)))??;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
    // the limit of descriptors may keep it waiting
    let _ = stream.read(&mut [0; 1024]);
    Ok(stream)
}

fn descriptors(daemon: &Daemon) -> Result<u64, Failure> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count().try_into()?)
}

fn limit_descriptors(daemon: &Daemon, limit: u64) -> Outcome {
    let pid = Pid::from_raw(daemon.pid().try_into()?).ok_or("no process number")?;
    let maximum = prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })?.maximum;
    assert!(maximum.is_none_or(|maximum| maximum >= limit), "{maximum:?}");
    Ok(())
}

pub fn clients_that_stay_do_not_keep_a_probe_out() -> Outcome {
    let lab = Lab::prepare(1, &Start::default())?;
    let daemon = start(&lab)?;
    wait(&lab.world, "it runs", "/healthz", |status, _| status == 200)?;
    let clients: Result<Vec<TcpStream>, Failure> = (0..70).map(|_| stay(&lab.world)).collect();
    let clients = clients?;
    probe(&lab.world, "an answer beside 70 clients that stay")?;
    // and with as many that say nothing
    let at = SocketAddr::from(([127, 0, 0, 1], PORT));
    let silent: Result<Vec<_>, _> = lab.world.host(1)?.enter(|| (0..70).map(|_| TcpStream::connect(at)).collect())?;
    let silent = silent?;
    probe(&lab.world, "an answer beside 70 silent clients")?;
    // no descriptor is left but what those clients have
    limit_descriptors(&daemon, descriptors(&daemon)?)?;
    let more: Result<Vec<TcpStream>, Failure> = (0..3).map(|_| stay(&lab.world)).collect();
    probe(&lab.world, "an answer when descriptors are out")?;
    drop((clients, silent, more?));
    Ok(())
}

pub fn without_descriptors_it_waits_and_does_not_spin() -> Outcome {
    let lab = Lab::prepare(1, &Start::default())?;
    let daemon = start(&lab)?;
    wait(&lab.world, "it runs", "/healthz", |status, _| status == 200)?;
    limit_descriptors(&daemon, 3)?;
    let at = SocketAddr::from(([127, 0, 0, 1], PORT));
    let client = lab.world.host(1)?.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)))??;
    let attempts = || -> usize {
        let log = std::fs::read_to_string(log_file(1)).unwrap_or_default();
        log.matches("a connection cannot be accepted").count()
    };
    let at_least = |number: usize| {
        eventually(format_args!("{number} attempts to accept"), PATIENCE, || match attempts() {
            seen if seen >= number => Ok(seen),
            seen => Err(format!("{seen} attempts; {}", last_lines(&log_file(1)))),
        })
    };
    at_least(1)?;
    let began = Instant::now();
    let seen = at_least(4)?;
    let most = 4 + began.elapsed().as_millis() / 100;
    assert!(began.elapsed() >= Duration::from_millis(300), "it spins: {seen} attempts in {:?}", began.elapsed());
    assert!(seen as u128 <= most, "it spins: {seen} attempts in {:?}", began.elapsed());
    drop(client);
    Ok(())
}
