//! Changes of the configuration during which hosts disagree, or their devices are made anew.

use flanneld::lab::cluster::{Cluster, PATIENCE, Spec};
use flanneld::lab::mode::{Mode, NETWORK, Path};
use flanneld::lab::topology::Topology;
use flanneld::lab::traffic::Traffic;
use flanneld::lab::wait::eventually;
use kernel::state::{LinkKind, Vxlan};
use kernel::types::Family;
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
fn with_own_configurations(from: Mode) -> Result<(Cluster, Vec<flanneld::lab::process::Daemon>), Failure> {
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

fn set(host: usize, mode: Mode) -> Outcome {
    let store = flanneld::lab::cluster::host_dir(host).join("store");
    Ok(files::replace(&config_path(&store, PREFIX), mode.config(false).as_bytes())?)
}

/// Host 1 and host 2 go from `from` to host-gw, and host 3 has not followed: it and they reach each other as before.
fn the_routed_host_keeps_its_path(from: Mode) -> Outcome {
    let (cluster, _daemons) = with_own_configurations(from)?;
    let traffic = Traffic::at(&cluster, &[(3, 1), (1, 3)], 2_000)?;
    traffic.pass(500)?;
    for host in [1, 2] {
        set(host, Mode::HostGw)?;
    }
    for host in [1, 2] {
        eventually(format_args!("host{host} has host-gw"), PATIENCE, || match Cluster::status(host) {
            Some(status) if status.backend == "host-gw" => Ok(()),
            other => Err(format!("{other:?}")),
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

pub fn a_routed_host_of_vxlan_keeps_its_path() -> Outcome {
    the_routed_host_keeps_its_path(Mode::Vxlan)
}

pub fn a_routed_host_of_direct_routing_keeps_its_path() -> Outcome {
    the_routed_host_keeps_its_path(Mode::DirectRouting)
}

/// The VXLAN device by which a host sends to the others' pods.
fn device(cluster: &Cluster, from: usize, to: usize) -> Result<Option<Vxlan>, Failure> {
    let pod = cluster.address(to, Family::V4)?;
    let mut kernel = cluster.world.host(from)?.kernel()?;
    let Some(dev) = kernel.route_to(pod).ok().flatten().and_then(|route| route.dev) else { return Ok(None) };
    Ok(kernel.link(&dev)?.and_then(|link| match link.link.kind {
        LinkKind::Vxlan(vxlan) => Some(vxlan),
        _ => None,
    }))
}

/// The backend's options change under traffic, there and back, and again: one change may be lucky.
fn nothing_is_lost(what: &str, options: serde_json::Value, is_so: impl Fn(&Vxlan) -> bool) -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
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
                    Some(vxlan) if is_so(&vxlan) == *new => Ok(()),
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
    nothing_is_lost("VNI", json!({ "VNI": 7 }), |vxlan| vxlan.vni.to_string() == "7")
}

pub fn another_port() -> Outcome {
    nothing_is_lost("port", json!({ "Port": 4789 }), |vxlan| vxlan.port == Some(4789))
}

pub fn another_vni_and_port() -> Outcome {
    nothing_is_lost("VNI and port", json!({ "VNI": 7, "Port": 4789 }), |vxlan| vxlan.port == Some(4789))
}
