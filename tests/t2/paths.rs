//! Every pod reaches every other, by the path of the backend.

use std::time::Duration;

use kernel::types::Family;
use lab::capture::{Echo, Place, Sight, Tap, follow};
use lab::cluster::{Cluster, host_dir};
use lab::mode::Mode;
use lab::topology::Topology;
use lab::wait::eventually;

use crate::{Outcome, all_pairs_answer, up};

fn backend(topology: Topology, mode: Mode, dual_stack: bool) -> Outcome {
    all_pairs_answer(&up(topology, mode, dual_stack)?, mode)
}

pub fn vxlan() -> Outcome {
    backend(Topology::every_third_routed(3), Mode::Vxlan, false)
}

pub fn direct_routing() -> Outcome {
    backend(Topology::every_third_routed(4), Mode::DirectRouting, false)
}

pub fn host_gw() -> Outcome {
    backend(Topology::flat(3), Mode::HostGw, false)
}

pub fn vxlan_dual_stack() -> Outcome {
    backend(Topology::every_third_routed(3), Mode::Vxlan, true)
}

pub fn direct_routing_dual_stack() -> Outcome {
    backend(Topology::every_third_routed(3), Mode::DirectRouting, true)
}

pub fn host_gw_dual_stack() -> Outcome {
    backend(Topology::flat(2), Mode::HostGw, true)
}

/// One request on its way out of host 1 to `to`, as its interfaces see it.
fn seen(cluster: &Cluster, to: usize, family: Family, interfaces: &[&str]) -> Result<Vec<Sight>, crate::Failure> {
    let listen = |name: &&str| Tap::open(name).map(|tap| Place { name: (*name).to_owned(), tap });
    let places: Vec<_> = cluster.world.host(1)?.enter(|| interfaces.iter().map(listen).collect::<Result<_, _>>())??;
    let mut pinger = cluster.pinger(1, to, family)?;
    pinger.echo(Duration::from_secs(2))?;
    let echo = Echo { request: true, id: pinger.id, seq: pinger.seq() };
    Ok(follow(&places, echo, 8472, Duration::from_secs(2))?)
}

pub fn vxlan_adds_fifty_bytes_and_direct_none() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::DirectRouting, true)?;
    let veth = cluster.pod(1)?.veth.clone();
    for (family, device, added) in [(Family::V4, "flannel.1", 50), (Family::V6, "flannel-v6.1", 70)] {
        let pods = (cluster.address(1, family)?, cluster.address(3, family)?);
        let sights = seen(&cluster, 3, family, &[&veth, "cni0", device, "eth0"])?;
        let [pod, bridge, tunnel, wire] = &sights[..] else { return Err("not four sights".into()) };
        for bare in [pod, bridge, tunnel] {
            assert_eq!(bare.frame.outer, None, "{}", bare.place);
            assert_eq!((bare.frame.inner.ips, bare.frame.length()), (pods, pod.frame.length()), "{}", bare.place);
        }
        let (outer, vni) = wire.frame.outer.clone().ok_or("no VXLAN on the underlay")?;
        let ends = [1, 3].map(|host| cluster.spec.topology.underlay(host, family));
        let [Some(outer_from), Some(outer_to)] = ends else { return Err("no underlay address".into()) };
        assert_eq!((vni, outer.ips, wire.frame.inner.ips), (1, (outer_from, outer_to), pods));
        assert_eq!(outer.ports.map(|(_, destination)| destination), Some(8472));
        assert_eq!(wire.frame.length() - pod.frame.length(), added);

        let sights = seen(&cluster, 2, family, &[&veth, "cni0", "eth0"])?;
        let wire = &sights[2].frame;
        assert_eq!((&wire.outer, wire.length()), (&None, sights[0].frame.length()));
        assert_eq!(wire.inner.ips, (cluster.address(1, family)?, cluster.address(2, family)?));
    }
    Ok(())
}

pub fn pods_are_detached_without_a_trace() -> Outcome {
    let mut cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let veth = cluster.pod(1)?.veth.clone();
    let links = |cluster: &Cluster| -> Result<Vec<String>, crate::Failure> {
        Ok(cluster.world.host(1)?.kernel()?.links()?.into_iter().map(|link| link.name.to_string()).collect())
    };
    assert!(links(&cluster)?.contains(&veth));
    cluster.detach_pods()?;
    let names = links(&cluster)?;
    assert!(!names.iter().any(|name| name.starts_with("veth")), "{names:?}");
    let mut reserved = Vec::new();
    for entry in std::fs::read_dir(host_dir(1).join("cni/networks/lab"))? {
        reserved.push(entry?.file_name().into_string().map_err(|_| "a file name that is not text")?);
    }
    reserved.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
    assert_eq!(reserved, Vec::<String>::new());
    // and the same host takes a pod again
    cluster.attach_pods()?;
    let reachable = || cluster.pinger(1, 2, Family::V4)?.echo(Duration::from_secs(1)).map_err(crate::Failure::from);
    eventually("the new pods reach each other", Duration::from_secs(5), || reachable().map_err(|e| e.to_string()))?;
    Ok(())
}
