//! Routes that an administrator puts inside the network.

use lab::cluster::{Cluster, PATIENCE};
use lab::mode::Mode;
use lab::topology::Topology;
use lab::wait::eventually;

use crate::disturb::{cluster, repaired_or_said, rests, run, start_first, stays};
use crate::{Failure, Outcome};

/// A subnet that no host has leased, and something behind it.
pub fn free() -> String {
    let leased: Vec<_> = [1, 2].into_iter().filter_map(Cluster::status).flat_map(|status| status.subnets).collect();
    let is_free = |net: &String| leased.iter().all(|subnet| subnet.to_string() != *net);
    (200..).map(|n| format!("10.244.{n}.0/24")).find(is_free).unwrap_or_default()
}

/// What is wrong with the route of host 1 to a destination: it is not there.
fn gone(cluster: &Cluster, dst: &str) -> Result<Option<String>, Failure> {
    let shown = run(cluster.world.host(1)?, &format!("ip {} route show {dst}", family(dst)))?;
    Ok(shown.is_empty().then(|| format!("no route to {dst}")))
}

fn family(dst: &str) -> &'static str {
    if dst.contains(':') { "-6" } else { "-4" }
}

/// Host 1 gets the route `DST HOW`, and it stays.
fn is_left_alone(cluster: &Cluster, dst: &str, how: &str) -> Outcome {
    run(cluster.world.host(1)?, &format!("ip {} route add {dst} {how}", family(dst)))?;
    stays(&format!("an administrator's route {how}"), || gone(cluster, dst))
}

pub fn one_by_a_gateway_stays() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    is_left_alone(&cluster, &free(), "via 192.168.1.12")
}

pub fn one_with_a_metric_stays() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::HostGw, false)?;
    is_left_alone(&cluster, &free(), "via 192.168.1.12 metric 50")
}

pub fn one_of_ipv6_stays() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, true)?;
    is_left_alone(&cluster, "fd10:244:0:fff0::/60", "via fd00:1::c")
}

pub fn one_of_protocol_static_stays() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    is_left_alone(&cluster, &free(), "via 192.168.1.12 proto static")
}

pub fn one_without_a_gateway_stays() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    is_left_alone(&cluster, &free(), "dev eth0")
}

/// The daemon starts, and the route is there already.
pub fn one_from_before_the_start_stays() -> Outcome {
    let mut cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    assert!(cluster.take_daemon(1)?.stop(PATIENCE)?.success());
    let dst = free();
    run(cluster.world.host(1)?, &format!("ip route add {dst} via 192.168.1.12"))?;
    start_first(&mut cluster, &[])?;
    let pid = cluster.pids().find(|(host, _)| *host == 1).map(|(_, pid)| pid);
    eventually("the new daemon works", PATIENCE, || match Cluster::status(1) {
        Some(status) if Some(status.pid) == pid && status.peers.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    stays("an administrator's route from before the start", || gone(&cluster, &dst))?;
    let named = Cluster::status(1).map(|status| status.foreign_routes).unwrap_or_default();
    assert_eq!(named, [format!("{dst} via 192.168.1.12 dev eth0")]);
    Ok(())
}

/// A route for what flanneld routes, put before its own: `ip route prepend`.
fn put_before_its_own(mode: Mode, dst: impl Fn(&Cluster) -> Result<String, Failure>) -> Outcome {
    let cluster = cluster(Topology::flat(2), mode, false)?;
    let (room, dst) = (cluster.world.host(1)?, dst(&cluster)?);
    rests(room)?;
    run(room, &format!("ip route prepend {dst} via 192.168.1.77"))?;
    let what = format!("{mode}: a foreign route for what flanneld routes");
    repaired_or_said(&cluster, &what, || {
        let path = cluster.path(1, 2, kernel::types::Family::V4)?;
        Ok((path != mode.path(true)).then(|| format!("host1 to pod2: {path}, not {}", mode.path(true))))
    })
}

pub fn the_networks_own_before_udps() -> Outcome {
    put_before_its_own(Mode::Udp, |_| Ok("10.244.0.0/16".to_owned()))
}

pub fn a_peers_own_before_vxlans() -> Outcome {
    put_before_its_own(Mode::Vxlan, |_| {
        let subnet = Cluster::status(2).and_then(|status| status.subnets.first().copied());
        Ok(subnet.ok_or("host2 has no lease")?.to_string())
    })
}
