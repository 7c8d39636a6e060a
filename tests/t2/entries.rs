//! flanneld restores a peer's FDB entry or neighbour that another program changed rather than deleted.

use kernel::state::{Scope, State};
use kernel::types::{Family, IfName};
use lab::cluster::Cluster;
use lab::mode::Mode;
use lab::topology::Topology;

use crate::disturb::{cluster, repaired, run};
use crate::takeover::go;
use crate::{Failure, Outcome};

const WRONG_MAC: &str = "02:00:00:00:00:99";

/// Host 1's permanent entries, and those of `bridge fdb` that are not: what packets follow.
fn look(cluster: &Cluster, dev: &IfName) -> Result<(State, String), Failure> {
    let room = cluster.world.host(1)?;
    let scope = Scope { links: vec![dev.clone()], neighbours: vec![dev.clone()], ..Scope::default() };
    Ok((room.kernel()?.observe(&scope)?, run(room, &format!("bridge fdb show dev {dev}"))?))
}

/// Runs `line`, with the peer's address and MAC address in it, on host 1. Everything must be restored.
fn is_repaired(family: Family, what: &str, line: impl Fn(&str, &str, &str) -> String) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, family == Family::V6)?;
    let dev = go::device(family)?;
    let (before, fdb) = look(&cluster, &dev)?;
    let of_peer =
        |(key, mac): (&kernel::state::NeighbourKey, &kernel::types::Mac)| (key.addr.to_string(), mac.to_string());
    let (address, mac) = before.neighbours.iter().next().map(of_peer).ok_or("host1 knows no peer")?;
    run(cluster.world.host(1)?, &line(dev.as_str(), &address, &mac))?;
    repaired(what, || {
        let now = look(&cluster, &dev)?;
        let same = now.0.neighbours == before.neighbours && now.0.fdb == before.fdb && now.1 == fdb;
        Ok((!same).then(|| format!("{:?} {:?}, and `bridge fdb`: {}", now.0.neighbours, now.0.fdb, now.1)))
    })
}

pub fn an_fdb_entry_to_elsewhere() -> Outcome {
    is_repaired(Family::V4, "a permanent FDB entry to elsewhere", |dev, _, mac| {
        format!("bridge fdb replace {mac} dev {dev} dst 192.0.2.77 self permanent")
    })
}

pub fn an_fdb_entry_to_elsewhere_that_ages() -> Outcome {
    is_repaired(Family::V4, "an FDB entry to elsewhere that ages", |dev, _, mac| {
        format!("bridge fdb replace {mac} dev {dev} dst 192.0.2.77 self dynamic")
    })
}

pub fn an_fdb_entry_to_another_port() -> Outcome {
    is_repaired(Family::V4, "an FDB entry to another port", |dev, _, mac| {
        format!("bridge fdb replace {mac} dev {dev} dst 192.168.1.12 port 9999 self permanent")
    })
}

pub fn a_foreign_default_fdb_entry() -> Outcome {
    is_repaired(Family::V4, "a foreign default FDB entry", |dev, _, _| {
        format!("bridge fdb append 00:00:00:00:00:00 dev {dev} dst 192.0.2.77 self permanent")
    })
}

pub fn a_reachable_neighbour_with_another_mac() -> Outcome {
    is_repaired(Family::V4, "a reachable neighbour with another MAC", |dev, address, _| {
        format!("ip neigh replace {address} lladdr {WRONG_MAC} dev {dev} nud reachable")
    })
}

pub fn a_stale_neighbour_of_ipv6() -> Outcome {
    is_repaired(Family::V6, "a stale neighbour of IPv6", |dev, address, _| {
        format!("ip -6 neigh replace {address} lladdr {WRONG_MAC} dev {dev} nud stale")
    })
}

pub fn a_permanent_neighbour_with_another_mac() -> Outcome {
    is_repaired(Family::V4, "a permanent neighbour with another MAC", |dev, address, _| {
        format!("ip neigh replace {address} lladdr {WRONG_MAC} dev {dev} nud permanent")
    })
}
