//! A host of the udp backend is restarted, and goes back to Go flanneld.

use std::time::{Duration, Instant};

use kernel::types::{Family, IfName};
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::flow::Counts;
use lab::mode::{Mode, NETWORK};
use lab::topology::Topology;
use lab::traffic::{RATE, Traffic};
use lab::wait::eventually;
use tests::harness::{self, figure};

use crate::disturb::{cluster, run};
use crate::etcd_server::{Member, PREFIX, Start, ctl};
use crate::{Failure, Outcome, up};

/// Go's start, by the same calls: TUNSETIFF with `flannel%d`, the subnet's first address, up, and the network's route,
/// which may be there already. Gives the device that Go reads and writes.
fn start_go(cluster: &Cluster) -> Result<IfName, Failure> {
    let room = cluster.world.host(1)?;
    let names = || -> Result<Vec<IfName>, Failure> {
        let links = room.kernel()?.links()?;
        Ok(links.into_iter().map(|link| link.name).filter(|name| name.as_str().starts_with("flannel")).collect())
    };
    let before = names()?;
    run(room, "ip tuntap add dev flannel%d mode tun")?;
    let new = names()?.into_iter().find(|name| !before.contains(name)).ok_or("no new TUN device")?;
    let subnet = Cluster::status(1).and_then(|status| status.subnets.first().copied()).ok_or("no lease")?;
    run(room, &format!("ip addr add {}/32 dev {new}", subnet.network()))?;
    run(room, &format!("ip link set dev {new} up"))?;
    match run(room, &format!("ip route add {NETWORK} dev {new} scope global")) {
        Err(error) if !error.to_string().contains("File exists") => Err(error),
        _ => Ok(new),
    }
}

/// Our daemon is stopped, and Go's started without a further step: the packets come to the device that Go has.
fn is_taken_over_by_go(end: impl FnOnce(&mut Cluster) -> Outcome) -> Outcome {
    let mut cluster = cluster(Topology::flat(2), Mode::Udp, false)?;
    let pod = cluster.address(2, Family::V4)?;
    end(&mut cluster)?;
    let device = start_go(&cluster)?;
    let by = cluster.world.host(1)?.kernel()?.route_to(pod)?.and_then(|route| route.dev);
    assert!(by.as_ref() == Some(&device), "Go flanneld has {device}, and packets for pod2 go to {by:?}");
    Ok(())
}

pub fn go_takes_over_from_a_stopped_daemon() -> Outcome {
    is_taken_over_by_go(|cluster| {
        assert!(cluster.take_daemon(1)?.stop(PATIENCE)?.success());
        Ok(())
    })
}

pub fn go_takes_over_from_a_killed_daemon() -> Outcome {
    is_taken_over_by_go(|cluster| Ok(cluster.take_daemon(1)?.kill()?))
}

/// What is lost besides what is sent while no daemon carries packets.
const MORE: Duration = Duration::from_millis(50);

/// `absent`: from the end of one daemon to the work of the next. How long that is depends on how busy the machine is; a
/// process that has watched files ends only after the kernel has waited for all who look at marks (`inotify_release`,
/// fs/notify/inotify/inotify_user.c), which takes seconds on a busy one.
fn loses_little(what: &str, absent: Duration, counts: &Counts) {
    let lost = Duration::from_secs(counts.lost) / RATE as u32;
    figure(format_args!("{what}: {} ms of the traffic lost, {} ms absent", lost.as_millis(), absent.as_millis()));
    assert!(lost <= absent + MORE, "{what}: {lost:?} of the traffic lost, while {absent:?} absent: {counts:?}");
}

/// Waits until host 1's present daemon carries packets.
fn carries(cluster: &Cluster) -> Outcome {
    let pid = cluster.pids().find(|(host, _)| *host == 1).map(|(_, pid)| pid);
    Ok(eventually("the new daemon works", PATIENCE, || match Cluster::status(1) {
        Some(status) if Some(status.pid) == pid && status.mtu > 0 && status.peers.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })?)
}

fn restart(what: &str, end: impl FnOnce(&mut Cluster) -> Outcome) -> Outcome {
    let mut cluster = up(Topology::flat(2), Mode::Udp, false)?;
    let traffic = Traffic::start(&cluster, &cluster.pairs())?;
    traffic.pass(2_000)?;
    let since = Instant::now();
    end(&mut cluster)?;
    cluster.start_daemon(1)?;
    carries(&cluster)?;
    let absent = since.elapsed();
    traffic.pass(2_000)?;
    loses_little(what, absent, &traffic.stop()?);
    Ok(())
}

/// The same with leases in etcd, which runs on host 3.
fn restart_over_etcd(what: &str, end: impl FnOnce(&mut Cluster) -> Outcome) -> Outcome {
    let spec = Spec { topology: Topology::flat(3), mode: Mode::Udp, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    let mut etcd = Member::new(&cluster.world, 3, &Start { hosts: vec![3], ..Start::default() })?;
    etcd.start(&cluster.world)?;
    ctl(&cluster.world, 3, &etcd.url(), &["put", &format!("{PREFIX}/config"), &Mode::Udp.config(false)])?;
    let endpoints = format!("--etcd-endpoints={}", etcd.url());
    let flags = [endpoints.as_str()];
    for host in [1, 2] {
        cluster.start_daemon_with(host, &flags)?;
    }
    cluster.wait_ready()?;
    for host in [1, 2] {
        cluster.attach_pod(host)?;
    }
    carries(&cluster)?;
    let traffic = Traffic::start(&cluster, &[(1, 2), (2, 1)])?;
    traffic.pass(2_000)?;
    let since = Instant::now();
    end(&mut cluster)?;
    cluster.start_daemon_with(1, &flags)?;
    carries(&cluster)?;
    let absent = since.elapsed();
    traffic.pass(2_000)?;
    loses_little(what, absent, &traffic.stop()?);
    Ok(())
}

/// Go flanneld deletes its device when it stops.
fn kill_with_device(cluster: &mut Cluster) -> Outcome {
    cluster.take_daemon(1)?.kill()?;
    run(cluster.world.host(1)?, "ip link del flannel0").map(drop)
}

pub fn go_is_followed_by_ours() -> Outcome {
    restart("udp, from a device that goes with its daemon to ours", kill_with_device)
}

pub fn go_is_followed_by_ours_over_etcd() -> Outcome {
    restart_over_etcd("udp over etcd, from a device that goes with its daemon to ours", kill_with_device)
}

pub fn a_killed_daemon_is_started_over_etcd() -> Outcome {
    restart_over_etcd("udp over etcd, killed and started", |cluster| Ok(cluster.take_daemon(1)?.kill()?))
}

pub fn a_stopped_daemon_is_started() -> Outcome {
    restart("udp, stopped and started", |cluster| {
        assert!(cluster.take_daemon(1)?.stop(PATIENCE)?.success());
        Ok(())
    })
}

pub fn a_killed_daemon_is_started() -> Outcome {
    restart("udp, killed and started", |cluster| Ok(cluster.take_daemon(1)?.kill()?))
}
