//! A world with a daemon on every host and a pod behind it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use kernel::types::Family;
use overlay::backend::udp;

use super::executables::Executables;
use super::flow::{self, Flow};
use super::mode::{Mode, Path};
use super::ping::Pinger;
use super::pods::{Pod, Runtime};
use super::process::{self, Daemon, Launch};
use super::topology::Topology;
use super::wait::eventually;
use super::world::{World, families};
use super::{Doing, Error};
use overlay::status::{self, Status};

/// For what takes a daemon a fraction of a second when all is well. On a busy machine its end takes longer than anything
/// else: the kernel waits for all who look at a watched file's marks (`inotify_release`).
pub const PATIENCE: Duration = Duration::from_secs(30);
/// All files of a lab: on the sandbox's own tmpfs.
const ROOT: &str = "/run/lab";

/// What a cluster is made from.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Hosts and segments.
    pub topology: Topology,
    /// The first configuration.
    pub mode: Mode,
    /// IPv6, too.
    pub dual_stack: bool,
    /// The daemons go on when this process ends.
    pub outlive: bool,
}

/// Hosts with daemons, and pods.
#[derive(Debug)]
pub struct Cluster {
    /// What it was made from.
    pub spec: Spec,
    /// The namespaces.
    pub world: World,
    executables: Executables,
    daemons: BTreeMap<usize, Daemon>,
    pods: BTreeMap<usize, Pod>,
}

impl Cluster {
    /// Builds the world and writes the configuration; no daemon runs yet.
    pub fn prepare(spec: Spec, executables: &Executables) -> Result<Self, Error> {
        let world = World::build(spec.topology.clone())?;
        for host in spec.topology.hosts() {
            let dir = host_dir(host);
            fs::create_dir_all(&dir).doing(format_args!("make {}", dir.display()))?;
        }
        let cluster =
            Self { spec, world, executables: executables.clone(), daemons: BTreeMap::new(), pods: BTreeMap::new() };
        cluster.configure(cluster.spec.mode)?;
        Ok(cluster)
    }

    /// A cluster that works: daemons, leases, a pod on every host, and all paths.
    pub fn up(spec: Spec, executables: &Executables) -> Result<Self, Error> {
        let mode = spec.mode;
        let mut cluster = Self::prepare(spec, executables)?;
        cluster.start_daemons()?;
        cluster.wait_ready()?;
        cluster.attach_pods()?;
        cluster.wait_paths(mode)?;
        Ok(cluster)
    }

    /// Puts the configuration for `mode` into the store; the daemons follow by themselves.
    pub fn configure(&self, mode: Mode) -> Result<(), Error> {
        let (root, new) = (store_root(), Self::store_dir().join("config.new"));
        let written = fs::create_dir_all(&root).and_then(|()| fs::write(&new, mode.config(self.spec.dual_stack)));
        written.and_then(|()| fs::rename(&new, root.join("config"))).doing("configure the network")
    }

    /// Where the daemons' common store is.
    pub fn store_dir() -> PathBuf {
        FilePath::new(ROOT).join("store")
    }

    /// The folder of the leases.
    pub fn leases_dir() -> PathBuf {
        store_root().join("subnets")
    }

    /// Starts a daemon on every host that has none.
    pub fn start_daemons(&mut self) -> Result<(), Error> {
        for host in self.spec.topology.hosts() {
            if !self.daemons.contains_key(&host) {
                self.start_daemon(host)?;
            }
        }
        Ok(())
    }

    /// Starts the daemon of one host. From the main thread: a child is bound to the thread that starts it.
    pub fn start_daemon(&mut self, host: usize) -> Result<(), Error> {
        self.start_daemon_with(host, &[])
    }

    /// The same with more flags, of which the last one counts. With one of etcd's the store is etcd.
    pub fn start_daemon_with(&mut self, host: usize, flags: &[&str]) -> Result<(), Error> {
        let store = format!("--store-dir={}", Self::store_dir().display());
        let file = format!("--subnet-file={}", subnet_file(host).display());
        let etcd = flags.iter().any(|flag| flag.starts_with("--etcd-"));
        let own = [store.as_str(), "--iface=eth0", file.as_str()];
        let launch = Launch {
            program: self.executables.flanneld.clone(),
            args: own.iter().skip(usize::from(etcd)).chain(flags).map(Into::into).collect(),
            env: vec![("WIREGUARD_KEY_FILE".into(), key_file(host).into())],
            netns: self.world.host(host)?.path().to_owned(),
            log: log_file(host),
            outlive: self.spec.outlive,
        };
        self.daemons.insert(host, launch.start()?);
        Ok(())
    }

    /// The daemon of a host, taken out: to be stopped or killed.
    pub fn take_daemon(&mut self, host: usize) -> Result<Daemon, Error> {
        self.daemons.remove(&host).ok_or_else(|| Error::Wrong(format!("host{host} has no daemon")))
    }

    /// The daemons' processes.
    pub fn pids(&self) -> impl Iterator<Item = (usize, u32)> {
        self.daemons.iter().map(|(host, daemon)| (*host, daemon.pid()))
    }

    /// What a daemon says of itself; `None` while it has said nothing.
    pub fn status(host: usize) -> Option<Status> {
        let text = fs::read_to_string(status::path_beside(&subnet_file(host))).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Waits until every daemon has written subnet.env, which it does when its host is ready for pods.
    pub fn wait_ready(&mut self) -> Result<(), Error> {
        for (host, daemon) in &mut self.daemons {
            eventually(format_args!("flanneld on host{host} is ready"), PATIENCE, || {
                if subnet_file(*host).exists() {
                    return Ok(Ok(()));
                }
                match daemon.ended() {
                    Ok(None) => Err(words(*host)),
                    Ok(Some(status)) => Ok(Err(Error::Wrong(format!(
                        "flanneld on host{host} has ended, {status}; its last words: {}",
                        words(*host)
                    )))),
                    Err(error) => Ok(Err(error)),
                }
            })??;
        }
        Ok(())
    }

    /// Attaches a pod on every host.
    pub fn attach_pods(&mut self) -> Result<(), Error> {
        self.spec.topology.hosts().into_iter().try_for_each(|host| self.attach_pod(host))
    }

    /// Attaches a pod on one host.
    pub fn attach_pod(&mut self, host: usize) -> Result<(), Error> {
        let runtime = Runtime::install(&self.executables.plugins, FilePath::new(ROOT))?;
        let pod = runtime.attach(self.world.host(host)?, &host_dir(host), &format!("pod{host}"))?;
        self.pods.insert(host, pod);
        Ok(())
    }

    /// Detaches all pods.
    pub fn detach_pods(&mut self) -> Result<(), Error> {
        while let Some((host, pod)) = self.pods.pop_first() {
            pod.detach(self.world.host(host)?)?;
        }
        Ok(())
    }

    /// The pod of a host.
    pub fn pod(&self, host: usize) -> Result<&Pod, Error> {
        self.pods.get(&host).ok_or_else(|| Error::Wrong(format!("host{host} has no pod")))
    }

    /// The address of a host's pod.
    pub fn address(&self, host: usize, family: Family) -> Result<IpAddr, Error> {
        let address = self.pod(host)?.addresses.iter().find(|addr| Family::from(**addr) == family);
        address.copied().ok_or_else(|| Error::Wrong(format!("the pod of host{host} has no {family:?} address")))
    }

    /// The families of the pods.
    pub fn families(&self) -> &'static [Family] {
        families(self.spec.dual_stack)
    }

    /// Every ordered pair of different hosts.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let hosts = self.spec.topology.hosts();
        let of = |from: usize| hosts.iter().filter(move |to| **to != from).map(move |to| (from, *to));
        hosts.iter().flat_map(|from| of(*from)).collect()
    }

    /// The path that the kernel of one host takes to the pod of another.
    pub fn path(&self, from: usize, to: usize, family: Family) -> Result<Path, Error> {
        let addr = self.address(to, family)?;
        let what = format!("route from host{from} to {addr}");
        match self.world.host(from)?.kernel()?.route_to(addr) {
            Ok(route) => Ok(path_by(route.and_then(|route| route.dev).as_ref().map(|dev| dev.as_str()))),
            Err(error) if error.is_absent() || error.errno.0 == rustix::io::Errno::NETUNREACH.raw_os_error() => {
                Ok(Path::None)
            }
            Err(error) => Err(error).doing(what),
        }
    }

    /// Waits until every host takes the paths that `mode` wants to those that it can reach.
    pub fn wait_paths(&self, mode: Mode) -> Result<(), Error> {
        eventually(format_args!("every host has its paths for {mode}"), PATIENCE, || {
            for (from, to) in self.pairs() {
                let want = mode.path(self.spec.topology.on_one_segment(from, to));
                // what the default route does with an unreachable pod's packet is no path
                for family in self.families().iter().filter(|_| want != Path::None) {
                    let have = self.path(from, to, *family).map_err(|error| error.to_string())?;
                    if have != want {
                        return Err(format!(
                            "host{from} to host{to} {family:?}: {have}, not {want}; its flanneld's last words:\n{}",
                            words(from)
                        ));
                    }
                }
            }
            Ok(())
        })
    }

    /// A socket in the pod of `from` that asks the pod of `to` for echoes.
    pub fn pinger(&self, from: usize, to: usize, family: Family) -> Result<Pinger, Error> {
        let (addr, id) = (self.address(to, family)?, (from * 256 + to) as u16);
        let opened = self.pod(from)?.room.enter(|| Pinger::open(addr, id))?;
        opened.doing(format_args!("open a ping socket in pod{from}"))
    }

    /// Starts a stream between two pods.
    pub fn flow(&self, from: usize, to: usize, family: Family, rate: u64) -> Result<Flow, Error> {
        let socket = |host: usize| {
            let addr = self.address(host, family)?;
            self.pod(host)?.room.enter(|| flow::socket(addr))?.doing(format_args!("open a socket in pod{host}"))
        };
        flow::start(socket(from)?, socket(to)?, rate)
    }

    /// Stops the daemons; each must end by itself and well.
    pub fn stop_daemons(&mut self) -> Result<(), Error> {
        while let Some((host, daemon)) = self.daemons.pop_first() {
            let status = daemon.stop(PATIENCE)?;
            if !status.success() {
                return Err(Error::Wrong(format!("flanneld on host{host} ended with {status}")));
            }
        }
        Ok(())
    }
}

fn path_by(dev: Option<&str>) -> Path {
    match dev {
        Some(udp::DEVICE) => Path::Udp,
        Some("flannel.ipip") => Path::Ipip,
        Some(dev) if dev.starts_with("flannel-wg") => Path::Wireguard,
        // while the configuration changes the device before may have another name
        Some(dev) if dev.starts_with("fl") => Path::Vxlan,
        Some(_) => Path::Direct,
        None => Path::None,
    }
}

/// The end of what a host's daemon has logged.
fn words(host: usize) -> String {
    process::last_lines(&log_file(host))
}

/// What is below upstream's prefix in the daemons' common store.
fn store_root() -> PathBuf {
    Cluster::store_dir().join("coreos.com/network")
}

/// The folder of a host's files.
pub fn host_dir(host: usize) -> PathBuf {
    FilePath::new(ROOT).join(format!("host{host}"))
}

/// A host's subnet.env.
pub fn subnet_file(host: usize) -> PathBuf {
    host_dir(host).join("subnet.env")
}

/// A host's WireGuard key.
pub fn key_file(host: usize) -> PathBuf {
    host_dir(host).join("wgkey")
}

/// What a host's daemon says.
pub fn log_file(host: usize) -> PathBuf {
    host_dir(host).join("flanneld.log")
}
