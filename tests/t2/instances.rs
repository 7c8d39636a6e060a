//! Two daemons that would write the same files.

use lab::cluster::{Cluster, PATIENCE, Spec, log_file};
use lab::mode::Mode;
use lab::process::last_lines;
use lab::topology::Topology;
use lab::wait::eventually;
use tests::harness;

use crate::Outcome;

/// The second one ends and names the first, which goes on.
pub fn the_second_refuses() -> Outcome {
    let spec = Spec { topology: Topology::flat(1), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    cluster.start_daemon(1)?;
    cluster.wait_ready()?;
    let first = cluster.pids().next().map(|(_, pid)| pid).ok_or("no daemon")?;
    let mut daemon = cluster.take_daemon(1)?;
    cluster.start_daemon(1)?;
    let mut second = cluster.take_daemon(1)?;
    let status = eventually("the second daemon ends", PATIENCE, || match second.ended() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    })?;
    assert!(!status.success(), "{status}");
    let said = last_lines(&log_file(1));
    assert!(said.contains(&format!("another flanneld (process {first}) writes")), "{said}");
    assert_eq!(daemon.ended()?, None, "the first goes on");
    Ok(())
}
