//! A part of the daemon ends: then the daemon ends, or that part works again. It never goes on without it.

use std::fs;
use std::time::Duration;

use flanneld::events::Events;
use kernel::types::Family;
use lab::cluster::{Cluster, PATIENCE, log_file};
use lab::mode::Mode;
use lab::process::last_lines;
use lab::topology::Topology;
use lab::wait::eventually;

use crate::disturb::{LIMIT, cluster, repaired};
use crate::tracer::Tracer;
use crate::{Failure, Outcome};

/// The thread of a process that has this name.
fn thread(pid: u32, name: &str) -> Result<u32, Failure> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == name {
            return Ok(path.file_name().unwrap_or_default().to_string_lossy().parse()?);
        }
    }
    Err(format!("process {pid} has no thread {name}").into())
}

fn pid(cluster: &Cluster) -> Result<u32, Failure> {
    Ok(cluster.pids().find(|(host, _)| *host == 1).map(|(_, pid)| pid).ok_or("no daemon on host1")?)
}

/// Host 1's udp worker gets an error from its next system call: soon pods answer again, or the daemon has ended.
fn udp_goes_on_or_ends(worker: &str, rule: &str) -> Outcome {
    let mut cluster = cluster(Topology::flat(2), Mode::Udp, false)?;
    let mut pinger = cluster.pinger(1, 2, Family::V4)?;
    pinger.echo(LIMIT)?;
    let before = thread(pid(&cluster)?, worker)?;
    let tracer = Tracer::attach(before, rule, &[])?;
    let pid = pid(&cluster)?;
    eventually(format_args!("{worker} has got its error"), PATIENCE, || {
        // each echo is a packet for both workers
        let _ = pinger.echo(Duration::from_millis(20));
        match thread(pid, worker) {
            Ok(now) if now == before => Err(last_lines(&log_file(1))),
            _ => Ok(()),
        }
    })?;
    drop(tracer);
    let mut daemon = cluster.take_daemon(1)?;
    repaired(&format!("the udp worker {worker}"), || {
        if daemon.ended()?.is_some_and(|status| !status.success()) {
            return Ok(None);
        }
        let echo = pinger.echo(Duration::from_millis(100));
        Ok(echo
            .err()
            .map(|error| format!("pod2 does not answer: {error}; the daemon goes on: {}", last_lines(&log_file(1)))))
    })
}

pub fn a_udp_receiver_without_memory() -> Outcome {
    udp_goes_on_or_ends("udp-receive-0", "recvmsg:error=ENOMEM")
}

pub fn a_udp_sender_whose_device_fails() -> Outcome {
    udp_goes_on_or_ends("udp-send-0", "read:error=EIO")
}

/// The follower of the embedded store gets an announcement that is none (5 bytes), by which it panics.
pub fn a_store_follower_that_panics() -> Outcome {
    let mut cluster = cluster(Topology::flat(1), Mode::Vxlan, false)?;
    let pid = pid(&cluster)?;
    let tracer = Tracer::attach(pid, "read:retval=5:when=1", &["-e", "trace=read", "-P", "anon_inode:inotify"])?;
    cluster.configure(Mode::HostGw)?;
    eventually("the follower has panicked", PATIENCE, || {
        let log = fs::read_to_string(log_file(1)).map_err(|error| error.to_string())?;
        if log.contains("panicked") { Ok(()) } else { Err(last_lines(&log_file(1))) }
    })?;
    drop(tracer);
    let mut daemon = cluster.take_daemon(1)?;
    repaired("the store's follower after a panic", || match daemon.ended()? {
        Some(status) if !status.success() => Ok(None),
        other => Ok(Some(format!("the daemon: {other:?}; {}", last_lines(&log_file(1))))),
    })
}

/// A task of the runtime reads the kernel's announcements. Here it ends with its runtime, as it would by a panic,
/// and whoever waits for news learns of it.
pub fn a_reader_of_announcements_that_has_ended() -> Outcome {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let first = runtime()?;
    let mut events = {
        let _inside = first.enter();
        Events::listen(None)?
    };
    drop(first);
    let news = runtime()?.block_on(async { tokio::time::timeout(LIMIT, events.news()).await });
    assert!(
        matches!(news, Ok(Err(_))),
        "the reader of the kernel's announcements has ended, and who waits for news is not told"
    );
    Ok(())
}
