//! A world with a daemon and a pod on every host.

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

/// The limit for steps that normally take a fraction of a second. On a busy machine the end of a daemon takes longest:
/// the kernel waits for all readers of a watched file's marks (`inotify_release`).
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The folder of all files of a lab, on the sandbox's own tmpfs.
const ROOT: &str = "/run/lab";

/// The description of a cluster.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Hosts and segments.
    pub topology: Topology,
    /// The mode at the start.
    pub mode: Mode,
    /// Whether pods also get IPv6 addresses.
    pub dual_stack: bool,
    /// Whether the daemons continue to run when this process ends.
    pub outlive: bool,
}

/// Hosts with their daemons and pods.
#[derive(Debug)]
pub struct Cluster {
    /// The description that it was built from.
    pub spec: Spec,
    /// The namespaces.
    pub world: World,
    executables: Executables,
    daemons: BTreeMap<usize, Daemon>,
    pods: BTreeMap<usize, Pod>,
}

impl Cluster {
    /// Builds the world and writes the configuration. Starts no daemon.
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

    /// Builds a working cluster: every host has a daemon, a lease and a pod, and all paths are in place.
    pub fn up(spec: Spec, executables: &Executables) -> Result<Self, Error> {
        let mode = spec.mode;
        let mut cluster = Self::prepare(spec, executables)?;
        cluster.start_daemons()?;
        cluster.wait_ready()?;
        cluster.attach_pods()?;
        cluster.wait_paths(mode)?;
        Ok(cluster)
    }

    /// Writes the configuration for `mode` into the store. The daemons pick it up by themselves.
    pub fn configure(&self, mode: Mode) -> Result<(), Error> {
        let (root, new) = (store_root(), Self::store_dir().join("config.new"));
        let written = fs::create_dir_all(&root).and_then(|()| fs::write(&new, mode.config(self.spec.dual_stack)));
        written.and_then(|()| fs::rename(&new, root.join("config"))).doing("configure the network")
    }

    /// The folder of the daemons' common store.
    pub fn store_dir() -> PathBuf {
        FilePath::new(ROOT).join("store")
    }

    /// The folder of the leases.
    pub fn leases_dir() -> PathBuf {
        store_root().join("subnets")
    }

    /// Starts a daemon on every host without one.
    pub fn start_daemons(&mut self) -> Result<(), Error> {
        for host in self.spec.topology.hosts() {
            if !self.daemons.contains_key(&host) {
                self.start_daemon(host)?;
            }
        }
        Ok(())
    }

    /// Starts the daemon of one host. Call it from the main thread: a child is bound to the thread that starts it.
    pub fn start_daemon(&mut self, host: usize) -> Result<(), Error> {
        self.start_daemon_with(host, &[])
    }

    /// As [`Cluster::start_daemon`] with more flags; of repeated flags the last one counts. If one of them is etcd's,
    /// the store is etcd.
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

    /// Removes a host's daemon from the cluster and returns it, so that it can be stopped or killed.
    pub fn take_daemon(&mut self, host: usize) -> Result<Daemon, Error> {
        self.daemons.remove(&host).ok_or_else(|| Error::Wrong(format!("host{host} has no daemon")))
    }

    /// The hosts that have a daemon, each with the daemon's process ID.
    pub fn pids(&self) -> impl Iterator<Item = (usize, u32)> {
        self.daemons.iter().map(|(host, daemon)| (*host, daemon.pid()))
    }

    /// The status that a daemon has written; `None` if it has written none.
    pub fn status(host: usize) -> Option<Status> {
        let text = fs::read_to_string(status::path_beside(&subnet_file(host))).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Waits until every daemon has written subnet.env: its host is then ready for pods.
    pub fn wait_ready(&mut self) -> Result<(), Error> {
        for (host, daemon) in &mut self.daemons {
            eventually(format_args!("flanneld on host{host} is ready"), PATIENCE, || {
                if subnet_file(*host).exists() {
                    return Ok(Ok(()));
                }
                match daemon.ended() {
                    Ok(None) => Err(words(*host)),
                    Ok(Some(status)) => Ok(Err(Error::Wrong(format!(
                        "flanneld on host{host} has ended, {status}; the end of its log: {}",
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

    /// Every ordered pair of two hosts.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let hosts = self.spec.topology.hosts();
        let of = |from: usize| hosts.iter().filter(move |to| **to != from).map(move |to| (from, *to));
        hosts.iter().flat_map(|from| of(*from)).collect()
    }

    /// The path that the kernel of `from` takes to the pod of `to`.
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

    /// Waits until every host has the paths of `mode` to the peers that it can reach.
    pub fn wait_paths(&self, mode: Mode) -> Result<(), Error> {
        eventually(format_args!("every host has its paths for {mode}"), PATIENCE, || {
            for (from, to) in self.pairs() {
                let want = mode.path(self.spec.topology.on_one_segment(from, to));
                // the default route may take an unreachable pod's packet; that is not a path
                for family in self.families().iter().filter(|_| want != Path::None) {
                    let have = self.path(from, to, *family).map_err(|error| error.to_string())?;
                    if have != want {
                        return Err(format!(
                            "host{from} to host{to} {family:?}: {have}, not {want}; the end of its flanneld's log:\n{}",
                            words(from)
                        ));
                    }
                }
                // udp has one route for all peers; which of them the daemon sends to, only its status says
                if want == Path::Udp && !self.lists(from, to) {
                    return Err(format!("host{from}'s status does not list host{to}"));
                }
            }
            Ok(())
        })
    }

    /// Whether the status of one host lists another as its peer.
    fn lists(&self, host: usize, peer: usize) -> bool {
        let address = self.spec.topology.underlay(peer, Family::V4);
        Self::status(host).is_some_and(|status| status.peers.iter().any(|seen| Some(seen.public_ip) == address))
    }

    /// Opens a socket in the pod of `from` that pings the pod of `to`.
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

    /// Stops the daemons. It is an error if one does not end by itself and with success.
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
        // while the configuration changes, the previous device may have another name
        Some(dev) if dev.starts_with("fl") => Path::Vxlan,
        Some(_) => Path::Direct,
        None => Path::None,
    }
}

/// The end of the log of a host's daemon.
fn words(host: usize) -> String {
    process::last_lines(&log_file(host))
}

/// The folder below upstream's prefix in the daemons' common store.
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

/// The log of a host's daemon.
pub fn log_file(host: usize) -> PathBuf {
    host_dir(host).join("flanneld.log")
}
