//! containerd by `ctr`, its own client.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::conf::Attachment;
use cni::runtime::{NetworkList, Runtime};
use lab::process::{Daemon, Launch, last_lines};
use lab::wait::eventually;
use serde_json::{Value, json};

use crate::host::{FILES, Host, Whose, fetch_in, left, nothing_left, run, serve};
use crate::{Failure, Outcome, image};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/t3/containerd.sock";
/// Where `ctr` and CRI look for networks.
const NETWORKS: &str = "/etc/cni/net.d";
const PATIENCE: Duration = Duration::from_secs(20);
/// The snapshotter that works on every file system.
const SNAPSHOTTER: [&str; 2] = ["--snapshotter", "native"];

/// The daemon on a host.
pub struct Containerd {
    pub host: Host,
    _daemon: Daemon,
}

impl Containerd {
    /// Starts it with this network.
    pub fn new(whose: Whose, network: &Value) -> Result<Self, Failure> {
        let host = Host::new(whose)?;
        for entry in fs::read_dir(NETWORKS).into_iter().flatten() {
            fs::remove_file(entry?.path())?;
        }
        fs::create_dir_all(NETWORKS)?;
        fs::write(Path::new(NETWORKS).join("10-net.conflist"), network.to_string())?;
        let config = Path::new(FILES).join("config.toml");
        fs::write(&config, settings(&host.bin))?;
        let log = Path::new(FILES).join("containerd.log");
        let launch = Launch {
            program: "containerd".into(),
            args: ["--config".into(), config.into(), "--log-level".into(), "warn".into()].into(),
            env: Vec::new(),
            netns: "/proc/self/ns/net".into(),
            log: log.clone(),
            outlive: false,
        };
        let containerd = Self { host, _daemon: launch.start()? };
        let answers = || ctr(&["version"]).map_err(|error| format!("{error}; {}", last_lines(&log)));
        eventually("containerd answers", PATIENCE, answers)?;
        let archive = Path::new(FILES).join("image.tar");
        image::write(&archive)?;
        for namespace in ["default", "k8s.io"] {
            let import = ["--namespace", namespace, "images", "import"];
            ctr(&[&import[..], &SNAPSHOTTER, &[&archive.to_string_lossy()]].concat())?;
        }
        Ok(containerd)
    }
}

/// The network of these tests: a bridge with everything that a runtime's capabilities name.
pub fn network() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd77::/64" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "firewall" },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ],
    })
}

/// Root without CAP_SYS_RESOURCE cannot lower a container's out-of-memory score.
fn settings(bin: &Path) -> String {
    let bin = bin.display();
    format!(
        "version = 2\nroot = \"{FILES}/root\"\nstate = \"{FILES}/state\"\n[grpc]\naddress = \"{SOCKET}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
         sandbox_image = \"{}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{bin}\"\nconf_dir = \"{NETWORKS}\"\n",
        image::NAME
    )
}

fn ctr(arguments: &[&str]) -> Result<String, Failure> {
    run("ctr", &[&["--address", SOCKET], arguments].concat())
}

/// Starts a container in the background, and returns the path of its network namespace.
fn start(id: &str) -> Result<PathBuf, Failure> {
    ctr(&[&["run", "--detach", "--cni"][..], &SNAPSHOTTER, &[image::NAME, id]].concat())?;
    let tasks = ctr(&["tasks", "ls"])?;
    let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("the task is not listed")?;
    Ok(format!("/proc/{pid}/ns/net").into())
}

/// Removes a container of [`start`]. `ctr` does not call DEL for it.
fn remove(id: &str) -> Outcome {
    ctr(&["tasks", "kill", "--signal", "SIGKILL", id])?;
    let stopped = || match ctr(&["tasks", "ls"]) {
        Ok(tasks) if tasks.contains("STOPPED") => Ok(()),
        Ok(tasks) => Err(tasks),
        Err(error) => Err(error.to_string()),
    };
    eventually(format!("{id} has stopped"), PATIENCE, stopped)?;
    // the exit status of a killed task is a failure of the command
    let _ = ctr(&["tasks", "rm", id]);
    ctr(&["containers", "rm", id])?;
    Ok(())
}

/// A container in the foreground: ctr calls ADD and DEL.
fn a_container_lives_and_goes(whose: Whose) -> Outcome {
    let _containerd = Containerd::new(whose, &network())?;
    let show = [image::BUSYBOX, "ip", "-o", "address", "show", "dev", "eth0"];
    for address in ["10.77.0.2/24", "10.77.0.3/24"] {
        let shown = ctr(&[&["run", "--rm", "--cni"][..], &SNAPSHOTTER, &[image::NAME, "one"], &show].concat())?;
        assert!(shown.contains(address) && shown.contains("fd77::"), "{address}: {shown}");
        // Debian's forgets its masquerade when the task ended before DEL
        let rules = if whose == Whose::TheirsThenOurs { &[][..] } else { &["10.77.0.", "fd77::"] };
        nothing_left(rules)?;
    }
    Ok(())
}

pub fn a_container_lives_and_goes_on_ours() -> Outcome {
    a_container_lives_and_goes(Whose::Ours)
}

pub fn a_container_lives_and_goes_with_their_chained_plugins() -> Outcome {
    a_container_lives_and_goes(Whose::OursThenTheirs)
}

pub fn a_container_lives_and_goes_behind_their_plugins() -> Outcome {
    a_container_lives_and_goes(Whose::TheirsThenOurs)
}

/// What `ctr` leaves of containers in the background, because it never calls DEL, GC takes; and nothing of those that live.
pub fn gc_takes_what_ctr_leaves() -> Outcome {
    let mut network = network();
    // of this suite alone: GC is newer than Debian's plugins
    let plugins = network["plugins"].as_array_mut().ok_or("no plugins")?;
    plugins.retain(|plugin| cni::SUITE.iter().any(|name| plugin["type"] == *name));
    let containerd = Containerd::new(Whose::Ours, &network)?;
    let [dead, lives] = ["dead", "lives"];
    start(dead)?;
    let netns = start(lives)?;
    remove(dead)?;
    let mut list = NetworkList::parse(network.to_string().as_bytes())?;
    // GC came with this version
    list.version = cni::version::Version::V110;
    let runtime = Runtime::new(containerd.host.bin.to_string_lossy(), "/var/lib/cni");
    // ctr names its containers so
    let id = |name: &str| format!("default-{name}");
    let found = left(&[&id(dead)])?;
    assert!(found.iter().any(|left| left.contains("10.77.0.2")), "ctr calls DEL by now: {found:?}");
    runtime.gc(&list, Some(&[Attachment { container_id: id(lives), ifname: "eth0".into() }]))?;
    let found = left(&["10.77.0.2", &id(dead)])?;
    let of_lives = ["10.77.0.3", "fd77::3", &id(lives), "veth"];
    let stray: Vec<_> = found.iter().filter(|left| !of_lives.iter().any(|own| left.contains(own))).collect();
    assert!(stray.is_empty() && found.iter().any(|left| left == "10.77.0.3"), "{found:#?}");
    let server = serve(&netns, 80, b"it lives".to_vec())?;
    let at = SocketAddr::new("10.77.0.3".parse()?, 80);
    assert_eq!(fetch_in(Path::new("/proc/self/ns/net"), at)?, "it lives");
    server.done()?;
    remove(lives)
}
