//! A host that has lost its underlay is not ready.

use lab::cluster::{Cluster, PATIENCE, Spec, log_file};
use lab::mode::Mode;
use lab::process::last_lines;
use lab::topology::Topology;
use lab::wait::eventually;
use tests::harness;

use crate::disturb::{get, repaired, rests, run, start_first};
use crate::{Failure, Outcome};

fn is_ready(cluster: &Cluster) -> Outcome {
    let room = cluster.world.host(1)?;
    Ok(eventually("host1 is ready", PATIENCE, || match get(room, "/readyz") {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?)
}

fn host(mode: Mode) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(1), mode, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    start_first(&mut cluster, &[])?;
    is_ready(&cluster)?;
    rests(cluster.world.host(1)?)?;
    Ok(cluster)
}

/// After `line` /readyz says that the host is not ready, and so does the status, by which flannelctl judges.
fn is_not_ready_after(cluster: &Cluster, line: &str) -> Outcome {
    let room = cluster.world.host(1)?;
    run(room, line)?;
    repaired(&format!("/readyz after `{line}`"), || {
        let (status, body) = get(room, "/readyz")?;
        let error = Cluster::status(1).and_then(|status| status.last_error);
        let said = status == 503 && error.as_ref().is_some_and(|error| body.contains(error));
        Ok((!said).then(|| format!("{status} {body:?}, and the status says {error:?}")))
    })
}

pub fn a_link_that_is_down() -> Outcome {
    let cluster = host(Mode::Vxlan)?;
    is_not_ready_after(&cluster, "ip link set eth0 down")?;
    run(cluster.world.host(1)?, "ip link set eth0 up")?;
    is_ready(&cluster)
}

pub fn a_link_without_addresses() -> Outcome {
    let cluster = host(Mode::Vxlan)?;
    is_not_ready_after(&cluster, "ip addr flush dev eth0")?;
    run(cluster.world.host(1)?, "ip addr add 192.168.1.11/24 dev eth0")?;
    is_ready(&cluster)
}

pub fn a_link_that_is_deleted() -> Outcome {
    is_not_ready_after(&host(Mode::Vxlan)?, "ip link del eth0")
}

pub fn a_link_of_host_gw_that_is_down() -> Outcome {
    is_not_ready_after(&host(Mode::HostGw)?, "ip link set eth0 down")
}
