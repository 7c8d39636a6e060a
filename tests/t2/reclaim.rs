//! flanneld removes what pods left that are gone without DEL, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use cni::runtime::{Attachment, NetworkList, Runtime};
use gojson::Json;
use lab::cluster::{Cluster, Spec, host_dir, log_file, subnet_file};
use lab::mode::Mode;
use lab::netns::Room;
use lab::pods::place_plugins;
use lab::process::last_lines;
use lab::topology::Topology;
use lab::wait::eventually;
use overlay::status::Reclaim;
use serde_json::json;
use tests::harness;

use crate::disturb::{run, start_first};
use crate::{Failure, Outcome};

/// The goal is 30 s from the pod's end; a busy machine gets more.
const PATIENCE: Duration = Duration::from_secs(90);

const PLUGINS: &str = "/run/reclaim/bin";
const NETWORK: &str = "ruled";
const PORTS: &[u8] = br#"[{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]"#;

/// Two hosts; host 1's daemon has these flags. No pods.
fn cluster(flags: &[&str]) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(2), mode: Mode::Vxlan, dual_stack: true, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    start_first(&mut cluster, flags)?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    place_plugins(&harness::executables()?.plugins, Path::new(PLUGINS))?;
    Ok(cluster)
}

fn restart(cluster: &mut Cluster, flags: &[&str]) -> Outcome {
    cluster.take_daemon(1)?.kill()?;
    start_first(cluster, flags)
}

fn files() -> PathBuf {
    host_dir(1).join("cni")
}

/// Attaches a pod to host 1 with everything that a plugin can make on a host: a port of a bridge, masquerade, the check of its MAC,
/// host ports, accepts, limits.
fn attach(cluster: &Cluster, name: &str, port: bool) -> Result<Room, Failure> {
    let room = Room::create(name)?;
    let list = json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [{
            "type": "flannel",
            "subnetFile": subnet_file(1),
            "ipam": { "type": "host-local", "dataDir": files().join("networks") },
            "delegate": { "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true },
        }, {
            "type": "portmap",
            "capabilities": { "portMappings": true },
        }, {
            "type": "firewall",
        }, {
            "type": "bandwidth",
            "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000,
        }],
    });
    let list = NetworkList::parse(list.to_string().as_bytes())?;
    let ports = port.then(|| Json::parse(PORTS)).transpose()?;
    let attachment = Attachment {
        container_id: name.into(),
        netns: room.path().to_string_lossy().into_owned(),
        ifname: "eth0".into(),
        capability_args: ports.map(|ports| ("portMappings".to_owned(), ports)).into_iter().collect(),
        ..Attachment::default()
    };
    let runtime = Runtime::new(PLUGINS, files());
    cluster.world.host(1)?.enter(|| runtime.add(&list, &attachment))??;
    Ok(room)
}

/// What there is of a pod on host 1.
fn traces(cluster: &Cluster, name: &str) -> Result<Vec<String>, Failure> {
    let host = cluster.world.host(1)?;
    let mut found = Vec::new();
    // the elements of several pods are in one line
    let rules = run(host, "nft list ruleset")?;
    let named = [format!("id: {name}\""), format!("-{name}-eth0")].map(|word| rules.matches(&word).count());
    found.extend((named != [0, 0]).then(|| format!("rules: {named:?}")));
    for folder in [files().join("networks").join(NETWORK), PathBuf::from("/var/lib/cni/flannel")] {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            let is_of =
                |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.starts_with(&format!("{name}\r\n")));
            let is_named = path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name));
            found.extend((is_named || is_of(&path)).then(|| path.display().to_string()));
        }
    }
    found.extend(record(name).exists().then(|| "its record".to_owned()));
    for kind in ["ifb", "veth"] {
        let links = run(host, &format!("ip -o link show type {kind}"))?;
        found.extend(links.lines().filter(|line| !line.contains(": eth0")).map(|line| format!("{kind}: {line}")));
    }
    Ok(found)
}

fn record(name: &str) -> PathBuf {
    PathBuf::from(attachment::record::DIRECTORY).join(NETWORK).join(format!("{name}@eth0"))
}

fn status() -> Result<Reclaim, String> {
    Cluster::status(1).and_then(|status| status.reclaim).ok_or_else(|| "no reclaim in the status".to_owned())
}

fn nothing_left(cluster: &Cluster, name: &str) -> Outcome {
    Ok(eventually(format_args!("{name} has left nothing"), PATIENCE, || match traces(cluster, name) {
        Ok(found) if found.is_empty() => Ok(()),
        Ok(found) => Err(format!("{found:#?} {:?} {}", status(), last_lines(&log_file(1)))),
        Err(error) => Err(error.to_string()),
    })?)
}

fn no_record(name: &str) -> Outcome {
    Ok(eventually(format_args!("{name} has no record"), PATIENCE, || match record(name).exists() {
        true => Err(format!("{:?} {}", status(), last_lines(&log_file(1)))),
        false => Ok(()),
    })?)
}

fn kept(reason: &str) -> Outcome {
    Ok(eventually(format_args!("the status names {reason:?}"), PATIENCE, || {
        let status = status()?;
        if status.kept.iter().any(|line| line.contains(reason)) { Ok(()) } else { Err(format!("{status:?}")) }
    })?)
}

/// A living pod beside it, whose namespace shows where namespaces are seen, keeps everything.
pub fn a_pod_without_del_leaves_nothing() -> Outcome {
    let cluster = cluster(&[])?;
    let gone = attach(&cluster, "gone", true)?;
    let made = traces(&cluster, "gone")?;
    assert!(made.len() >= 8, "rules, reservations, states, record, links: {made:#?}");
    gone.remove()?;
    eventually("the pod's interface is gone", PATIENCE, || {
        match run(cluster.world.host(1).map_err(|e| e.to_string())?, "ip -o link show type veth") {
            Ok(text) if text.lines().all(|line| line.contains(": eth0")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let lives = attach(&cluster, "lives", false)?;
    let before: Vec<String> = traces(&cluster, "lives")?.into_iter().filter(|line| !line.starts_with("ifb")).collect();
    no_record("gone")?;
    let after: Vec<String> = traces(&cluster, "lives")?.into_iter().filter(|line| !line.starts_with("ifb")).collect();
    assert_eq!(after, before, "the living pod keeps everything");
    let wanted = Reclaim { reclaimed: 1, kept: Vec::new() };
    eventually("the status counts it", PATIENCE, || match status() {
        Ok(status) if status == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    lives.remove()?;
    nothing_left(&cluster, "lives")?;
    nothing_left(&cluster, "gone")
}

/// A container that does not see the namespaces sees none, dead or alive.
pub fn without_a_living_pod_nothing_is_removed() -> Outcome {
    let mut cluster = cluster(&["--reclaim=false"])?;
    assert!(Cluster::status(1).ok_or("no status")?.reclaim.is_none());
    attach(&cluster, "gone", false)?.remove()?;
    restart(&mut cluster, &[])?;
    kept("no living pod's namespace is visible in /run/netns")?;
    assert!(record("gone").exists());
    let lives = attach(&cluster, "lives", false)?;
    no_record("gone")?;
    assert!(record("lives").exists());
    drop(lives);
    Ok(())
}

/// A process that ends with the test.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ip netns del` removes a name; processes go on.
pub fn a_namespace_with_a_process_is_kept() -> Outcome {
    let cluster = cluster(&[])?;
    let (busy, _lives) = (attach(&cluster, "busy", false)?, attach(&cluster, "lives", false)?);
    let sleeper = Sleeper(busy.enter(|| Command::new("sleep").arg("3600").spawn())??);
    busy.remove()?;
    kept("the namespace has no path any more, but its interface exists")?;
    assert!(record("busy").exists());
    drop(sleeper);
    no_record("busy")?;
    Ok(())
}

/// Another process holds the record's lock: an ADD or a DEL.
pub fn a_record_in_use_is_left_alone() -> Outcome {
    let cluster = cluster(&[])?;
    let (gone, _lives) = (attach(&cluster, "gone", false)?, attach(&cluster, "lives", false)?);
    let other = attach(&cluster, "other", false)?;
    let lock = fs::File::open(record("gone"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    gone.remove()?;
    other.remove()?;
    no_record("other")?;
    assert!(record("gone").exists(), "both were gone at the same passes");
    drop(lock);
    no_record("gone")?;
    Ok(())
}
