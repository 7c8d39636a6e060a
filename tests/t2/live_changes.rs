//! Changes of the configuration during which hosts disagree, or their devices are recreated.

use std::fs;

use kernel::state::{LinkKind, Vxlan};
use kernel::types::{Family, Mtu};
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::{Mode, NETWORK, Path};
use lab::topology::Topology;
use lab::traffic::Traffic;
use lab::wait::eventually;
use serde_json::json;
use store::config_path;
use store::files;
use tests::harness::{self, figure};

use crate::disturb::stays;
use crate::takeover::go;
use crate::{Failure, Outcome, all_pairs_answer, up};

const PREFIX: &str = "/coreos.com/network";
/// What passes in each state: half a second's.
const PASS: u64 = 5_000;

/// Every host has `from`, by a configuration of its own; host 3 is behind the router.
fn with_own_configurations(from: Mode) -> Result<(Cluster, Vec<lab::process::Daemon>), Failure> {
    let spec = Spec { topology: Topology::every_third_routed(3), mode: from, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    let mut daemons = Vec::new();
    for host in [1, 2, 3] {
        let store = go::own_store(host, &from.config(false))?;
        daemons.push(go::start(&cluster, host, &store, &["--iface=eth0"])?);
    }
    for host in [1, 2, 3] {
        eventually(format_args!("host{host} knows the others"), PATIENCE, || match Cluster::status(host) {
            Some(status) if status.peers.len() == 2 && status.mtu > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    cluster.attach_pods()?;
    cluster.wait_paths(from)?;
    Ok((cluster, daemons))
}

fn set(host: usize, config: &str) -> Outcome {
    let store = lab::cluster::host_dir(host).join("store");
    Ok(files::replace(&config_path(&store, PREFIX), config.as_bytes())?)
}

/// Host 1 and host 2 change from `from` to another configuration, and host 3 has not followed: all reach each other
/// as before. `followed` checks the changes on a host that has followed.
fn the_routed_host_keeps_its_path(from: Mode, config: &str, followed: impl Fn(usize) -> Outcome) -> Outcome {
    let (cluster, _daemons) = with_own_configurations(from)?;
    let traffic = Traffic::at(&cluster, &[(3, 1), (1, 3)], 2_000)?;
    traffic.pass(500)?;
    for host in [1, 2] {
        set(host, config)?;
    }
    for host in [1, 2] {
        eventually(format_args!("host{host} follows"), PATIENCE, || {
            followed(host).map_err(|error| format!("{error}; {:?}", Cluster::status(host)))
        })?;
    }
    stays("the path of a host behind a router, until it follows", || {
        for (from, to) in [(3, 1), (1, 3), (3, 2)] {
            let path = cluster.path(from, to, Family::V4)?;
            if path != Path::Vxlan {
                return Ok(Some(format!("host{from} to host{to}: {path}; {:?}", Cluster::status(from))));
            }
        }
        Ok(None)
    })?;
    let counts = traffic.stop()?;
    assert_eq!(counts.lost, 0, "{counts:?}");
    Ok(())
}

fn has_host_gw(host: usize) -> Outcome {
    let status = Cluster::status(host).ok_or("no status")?;
    if status.backend == "host-gw" { Ok(()) } else { Err(status.backend.into()) }
}

/// The lease that a host has published says VNI 7.
fn has_published_vni_7(host: usize) -> Outcome {
    let subnet = Cluster::status(host).and_then(|status| status.subnets.first().copied()).ok_or("no subnet")?;
    let key = format!("{}-{}", subnet.network(), subnet.prefix());
    let lease = fs::read_to_string(Cluster::leases_dir().join(key))?;
    if lease.contains(r#""VNI":7"#) { Ok(()) } else { Err(lease.into()) }
}

pub fn a_routed_host_of_vxlan_keeps_its_path() -> Outcome {
    the_routed_host_keeps_its_path(Mode::Vxlan, &Mode::HostGw.config(false), has_host_gw)
}

pub fn a_routed_host_of_direct_routing_keeps_its_path() -> Outcome {
    the_routed_host_keeps_its_path(Mode::DirectRouting, &Mode::HostGw.config(false), has_host_gw)
}

pub fn a_routed_host_of_another_vni_keeps_its_path() -> Outcome {
    let config = json!({ "Network": NETWORK, "Backend": { "Type": "vxlan", "VNI": 7 } }).to_string();
    the_routed_host_keeps_its_path(Mode::Vxlan, &config, has_published_vni_7)
}

/// The VXLAN device by which a host sends to the others' pods.
fn device(cluster: &Cluster, from: usize, to: usize) -> Result<Option<(Vxlan, Mtu)>, Failure> {
    let pod = cluster.address(to, Family::V4)?;
    let mut kernel = cluster.world.host(from)?.kernel()?;
    let Some(dev) = kernel.route_to(pod).ok().flatten().and_then(|route| route.dev) else { return Ok(None) };
    Ok(kernel.link(&dev)?.and_then(|link| match link.link.kind {
        LinkKind::Vxlan(vxlan) => Some((vxlan, link.link.mtu?)),
        _ => None,
    }))
}

/// The backend's options change under traffic, forth and back, twice. One host is behind a router.
fn nothing_is_lost(what: &str, options: serde_json::Value, is_so: impl Fn(&Vxlan, Mtu) -> bool) -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Vxlan, false)?;
    let traffic = Traffic::start(&cluster, &cluster.pairs())?;
    traffic.pass(PASS)?;
    let mut backend = options;
    backend["Type"] = "vxlan".into();
    let changed = json!({ "Network": NETWORK, "Backend": backend }).to_string();
    let there_and_back = [(changed, true), (Mode::Vxlan.config(false), false)];
    for (config, new) in there_and_back.iter().chain(&there_and_back) {
        files::replace(&config_path(&Cluster::store_dir(), PREFIX), config.as_bytes())?;
        for (from, to) in cluster.pairs() {
            eventually(format_args!("host{from} sends with the new {what}"), PATIENCE, || {
                match device(&cluster, from, to).map_err(|error| error.to_string())? {
                    Some((vxlan, mtu)) if is_so(&vxlan, mtu) == *new => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
        }
        traffic.pass(PASS)?;
    }
    let counts = traffic.stop()?;
    figure(format_args!("{what} changed under traffic, and back: {counts:?}"));
    assert!((counts.lost, counts.duplicated) == (0, 0), "packets are lost while the {what} changes: {counts:?}");
    all_pairs_answer(&cluster, Mode::Vxlan)
}

pub fn another_vni() -> Outcome {
    nothing_is_lost("VNI", json!({ "VNI": 7 }), |vxlan, _| vxlan.vni.to_string() == "7")
}

pub fn another_port() -> Outcome {
    nothing_is_lost("port", json!({ "Port": 4789 }), |vxlan, _| vxlan.port == Some(4789))
}

pub fn another_vni_and_port() -> Outcome {
    nothing_is_lost("VNI and port", json!({ "VNI": 7, "Port": 4789 }), |vxlan, _| vxlan.port == Some(4789))
}

pub fn another_mtu() -> Outcome {
    nothing_is_lost("MTU", json!({ "MTU": 1400 }), |_, mtu| mtu == Mtu(1350))
}
