//! Nothing is lost while the network changes.

use lab::cluster::{Cluster, PATIENCE};
use lab::flow::Counts;
use lab::mode::Mode;
use lab::topology::Topology;
use lab::traffic::Traffic;
use lab::wait::eventually;
use tests::harness::figure;

use crate::{Outcome, all_pairs_answer, up};

/// What passes in each state: half a second's.
const PASS: u64 = 5_000;

fn nothing_lost(what: &str, counts: &Counts) {
    figure(format_args!("{what}: {counts:?}"));
    assert_eq!((counts.lost, counts.duplicated), (0, 0), "{what}: {counts:?}");
    assert!(counts.rate() > 9_000, "{what}: the streams were slower than 10,000 a second: {counts:?}");
}

fn tour(cluster: &Cluster, modes: &[Mode]) -> Outcome {
    let traffic = Traffic::start(cluster, &cluster.pairs())?;
    traffic.pass(PASS)?;
    for mode in modes {
        cluster.configure(*mode)?;
        cluster.wait_paths(*mode)?;
        traffic.pass(PASS)?;
    }
    nothing_lost(&format!("{modes:?}"), &traffic.stop()?);
    all_pairs_answer(cluster, modes[modes.len() - 1])
}

pub fn direct_routing_and_back_under_traffic() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Vxlan, false)?;
    tour(&cluster, &[Mode::DirectRouting, Mode::Vxlan, Mode::DirectRouting, Mode::Vxlan])
}

pub fn host_gw_and_back_under_traffic() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    tour(&cluster, &[Mode::HostGw, Mode::Vxlan, Mode::HostGw, Mode::DirectRouting, Mode::Vxlan])
}

pub fn dual_stack_change_under_traffic() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, true)?;
    tour(&cluster, &[Mode::DirectRouting, Mode::HostGw, Mode::Vxlan])
}

pub fn a_killed_daemon_loses_no_packet() -> Outcome {
    let mut cluster = up(Topology::every_third_routed(3), Mode::DirectRouting, false)?;
    let before: Vec<_> = [1, 2, 3].map(|host| Cluster::status(host).unwrap_or_default().subnets).to_vec();
    let traffic = Traffic::start(&cluster, &cluster.pairs())?;
    for host in [1, 2, 3] {
        cluster.take_daemon(host)?.kill()?;
        traffic.pass(PASS)?;
        cluster.start_daemon(host)?;
        is_at_work(&cluster, host)?;
        traffic.pass(PASS)?;
    }
    nothing_lost("three daemons killed and restarted", &traffic.stop()?);
    let after: Vec<_> = [1, 2, 3].map(|host| Cluster::status(host).unwrap_or_default().subnets).to_vec();
    assert_eq!(after, before, "a restarted daemon keeps its lease");
    all_pairs_answer(&cluster, Mode::DirectRouting)
}

/// Waits until the host's present daemon has done its first pass.
fn is_at_work(cluster: &Cluster, host: usize) -> Outcome {
    let pid = cluster.pids().find(|(of, _)| *of == host).map(|(_, pid)| pid).ok_or("no daemon")?;
    eventually("the new daemon reports", PATIENCE, || match Cluster::status(host) {
        Some(status) if status.pid == pid && status.last_reconcile.is_some() => Ok(()),
        Some(status) => Err(format!("{status:?}")),
        None => Err("no status".into()),
    })?;
    Ok(())
}
