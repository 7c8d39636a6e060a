//! A host as Go flanneld leaves it, laid down by hand: reference/flannel.md §5.2–5.6 and §6.1.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use kernel::state::{FdbKey, Link, LinkKind, NeighbourKey, Route, RouteKey, State, Vxlan};
use kernel::types::{Family, IfName, Mac, Mtu, Vni, host_net};
use lab::cluster::{Cluster, Spec, host_dir, log_file, subnet_file};
use lab::mode::{Mode, Path};
use lab::process::{Daemon, Launch};
use lab::world::establish;
use overlay::lease::{LeaseAttrs, Subnets, VxlanData};
use store;
use store::files;
use tests::harness;

use crate::Failure;

/// The host that ran Go flanneld.
pub const HOST: usize = 1;
pub const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];
const MACS: [&str; 2] = ["4a:ed:0f:9b:24:90", "4a:ed:0f:9b:24:96"];
const SUBNETS: [&str; 2] = ["10.244.7.0/24", "fd10:244:0:7::/64"];
const PREFIX: &str = "/coreos.com/network";

pub fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

pub fn device(family: Family) -> Result<IfName, Failure> {
    Ok(IfName::new(DEVICES[index(family)])?)
}

pub fn subnet(family: Family) -> Result<IpNetwork, Failure> {
    Ok(SUBNETS[index(family)].parse()?)
}

pub fn mac(family: Family) -> Result<Mac, Failure> {
    Ok(MACS[index(family)].parse()?)
}

/// What a Go daemon knows of another host.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub subnet: IpNetwork,
    pub public: IpAddr,
    /// None for a peer that is reached directly.
    pub mac: Option<Mac>,
}

/// The others, from their leases.
pub fn peers(cluster: &Cluster, own: &str) -> Result<Vec<Peer>, Failure> {
    let mut peers = Vec::new();
    for entry in fs::read_dir(Cluster::leases_dir())? {
        let (path, key) = {
            let entry = entry?;
            (entry.path(), entry.file_name().to_string_lossy().into_owned())
        };
        if key == own {
            continue;
        }
        let attrs = LeaseAttrs::parse(&fs::read(path)?)?;
        for subnet in key.parse::<Subnets>()?.iter() {
            let family = Family::from(subnet);
            let mac = attrs.data(family).map(VxlanData::parse).transpose()?.map(|data| data.vtep_mac);
            let public = attrs.public(family).ok_or("no address")?;
            let mac = mac.filter(|_| !is_direct(cluster, public));
            peers.push(Peer { subnet, public, mac });
        }
    }
    Ok(peers)
}

/// Whether Go takes a direct route to this address.
fn is_direct(cluster: &Cluster, public: IpAddr) -> bool {
    let Spec { topology, mode, .. } = &cluster.spec;
    let is_it = |host: &usize| topology.underlay(*host, Family::from(public)) == Some(public);
    let host = topology.hosts().into_iter().find(is_it);
    mode.path(host.is_some_and(|host| topology.on_one_segment(HOST, host))) == Path::Direct
}

/// The lease's key and its value, as Go writes them.
pub fn lease(cluster: &Cluster) -> Result<(String, String), Failure> {
    let public = |family| cluster.spec.topology.underlay(HOST, family).ok_or("no underlay");
    let data = |family| format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, MACS[index(family)]);
    let vxlan = cluster.spec.mode != Mode::HostGw;
    let mut value = format!(r#"{{"PublicIP":"{}","PublicIPv6":"#, public(Family::V4)?);
    let mut key = "10.244.7.0-24".to_owned();
    if cluster.spec.dual_stack {
        value += &format!(r#""{}""#, public(Family::V6)?);
        key += "&fd10:244:0:7::-64";
    } else {
        value += "null";
    }
    value += &format!(r#","BackendType":"{}""#, if vxlan { "vxlan" } else { "host-gw" });
    if vxlan {
        value += &format!(r#","BackendData":{}"#, data(Family::V4));
    }
    if vxlan && cluster.spec.dual_stack {
        value += &format!(r#","BackendV6Data":{}"#, data(Family::V6));
    }
    Ok((key, value + "}"))
}

/// subnet.env of Go's last run.
pub fn write_subnet_env(cluster: &Cluster) -> Result<(), Failure> {
    let mtu = if cluster.spec.mode == Mode::HostGw { 1500 } else { 1450 };
    let mut text = String::from("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\n");
    if cluster.spec.dual_stack {
        text += "FLANNEL_IPV6_NETWORK=fd10:244::/48\nFLANNEL_IPV6_SUBNET=fd10:244:0:7::1/64\n";
    }
    text += &format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n");
    Ok(files::replace(&subnet_file(HOST), text.as_bytes())?)
}

/// What Go makes in the kernel for `peers`: what it puts, each with "replace", at every start.
pub fn state(cluster: &Cluster, peers: &[Peer]) -> Result<State, Failure> {
    let mut state = State::default();
    if cluster.spec.mode != Mode::HostGw {
        for family in cluster.families() {
            add_device(&mut state, cluster, *family)?;
        }
    }
    for peer in peers {
        add_peer(&mut state, peer)?;
    }
    Ok(state)
}

fn add_device(state: &mut State, cluster: &Cluster, family: Family) -> Result<(), Failure> {
    let dev = device(family)?;
    let kind = Vxlan {
        lower: Some(IfName::new("eth0")?),
        local: cluster.spec.topology.underlay(HOST, family),
        ..Vxlan::new(Vni::new(1)?)
    };
    let mtu = Some(Mtu(if family == Family::V4 { 1450 } else { 1430 }));
    state.links.insert(dev.clone(), Link { mtu, mac: Some(mac(family)?), ..Link::up(LinkKind::Vxlan(kind)) });
    state.conf("ipv6", &dev, "accept_ra", "0");
    state.address(&dev, host_net(subnet(family)?.network()), false);
    Ok(())
}

pub fn add_peer(state: &mut State, peer: &Peer) -> Result<(), Failure> {
    let Some(mac) = peer.mac else {
        let route = Route { via: Some(peer.public), ..Route::by(&IfName::new("eth0")?) };
        state.routes.insert(RouteKey::main(peer.subnet), route);
        return Ok(());
    };
    let (dev, addr) = (device(Family::from(peer.subnet))?, peer.subnet.network());
    state.neighbours.insert(NeighbourKey { dev: dev.clone(), addr }, mac);
    state.fdb.insert(FdbKey { dev: dev.clone(), mac }, peer.public.into());
    let route = Route { via: Some(addr), onlink: true, ..Route::by(&dev) };
    state.routes.insert(RouteKey::main(peer.subnet), route);
    Ok(())
}

/// Go's start on a host: the device is kept as it is, and everything is put again.
pub fn run(cluster: &Cluster, peers: &[Peer]) -> Result<(), Failure> {
    Ok(establish(cluster.world.host(HOST)?, &state(cluster, peers)?)?)
}

/// A store folder of one host's own: its configuration, and the cluster's leases by symbolic links.
pub fn own_store(host: usize, config: &str) -> Result<PathBuf, Failure> {
    let dir = host_dir(host).join("store");
    let root = store::config_path(&dir, PREFIX).with_file_name("");
    fs::create_dir_all(&root)?;
    let common = Cluster::leases_dir().with_file_name("");
    for name in ["subnets", "ttl", "tmp"] {
        fs::create_dir_all(common.join(name))?;
    }
    for name in ["subnets", "ttl", "tmp"] {
        symlink_anew(&common.join(name), &root.join(name))?;
    }
    // one lock for all; a daemon takes none by a symbolic link
    let (lock, own) = (common.join("lock"), root.join("lock"));
    fs::OpenOptions::new().create(true).append(true).open(&lock)?;
    if !own.exists() {
        fs::hard_link(&lock, &own)?;
    }
    files::replace(&root.join("config"), config.as_bytes())?;
    Ok(dir)
}

/// The folder of leases in a host's own store.
pub fn own_leases(host: usize) -> PathBuf {
    store::config_path(&host_dir(host).join("store"), PREFIX).with_file_name("subnets")
}

/// Lets `link` point to `target`, whatever it pointed to.
pub fn symlink_anew(target: &std::path::Path, link: &std::path::Path) -> Result<(), Failure> {
    let new = link.with_extension("new");
    symlink(target, &new)?;
    Ok(fs::rename(new, link)?)
}

/// Starts a host's daemon with a store folder and further flags.
pub fn start(cluster: &Cluster, host: usize, store: &std::path::Path, flags: &[&str]) -> Result<Daemon, Failure> {
    let mut args = vec![format!("--store-dir={}", store.display())];
    args.push(format!("--subnet-file={}", subnet_file(host).display()));
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let launch = Launch {
        program: harness::executables()?.flanneld,
        args: args.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        netns: cluster.world.host(host)?.path().to_owned(),
        log: log_file(host),
        outlive: false,
    };
    Ok(launch.start()?)
}
