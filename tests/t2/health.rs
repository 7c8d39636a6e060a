//! What a daemon tells those who watch it, by HTTP and by its exit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use flanneld::lab::cluster::{PATIENCE, host_dir, log_file, subnet_file};
use flanneld::lab::process::{Daemon, Launch, last_lines};
use flanneld::lab::wait::eventually;
use flanneld::lab::world::World;
use kernel::diff::Step;
use kernel::state::RouteKind;
use kernel::types::TableId;
use tests::harness;

use crate::etcd_server::{Lab, Start};
use crate::{Failure, Outcome};

pub(crate) const PORT: u16 = 8471;
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
    let at = SocketAddr::from(([127, 0, 0, 1], PORT));
    let mut text = String::new();
    world.host(1)?.enter(|| -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
        stream.read_to_string(&mut text).map(drop)
    })??;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| text.clone())?;
    Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
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
    let old =
        wait(&lab.world, "the store is away", "/readyz", |status, body| status == 200 && body.contains(" s ago"))?;
    assert!(old.starts_with("flanneld is ready\nthe store was last heard "), "{old}");
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
