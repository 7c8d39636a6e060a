//! The time of day is set while daemons run. Only a virtual machine's: no namespace has one of its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lab::cluster::{Cluster, PATIENCE, Spec, log_file};
use lab::mode::Mode;
use lab::process::last_lines;
use lab::topology::Topology;
use lab::wait::eventually;
use rustix::time::{ClockId, Timespec, clock_settime};
use tests::harness::{Outcome, executables};
use tests::vm;

type Failure = Box<dyn std::error::Error>;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// From then on until its end a lease is renewed: upstream's default.
const MARGIN: u64 = 3600;

/// The time of day before it was set; it is put right at the end.
struct Set {
    before: SystemTime,
    since: Instant,
}

impl Set {
    /// Sets the time of day by so many seconds.
    fn by(seconds: i64) -> Result<Self, Failure> {
        if !vm::is_inside() {
            return Err("this is no virtual machine: its clock stays as it is".into());
        }
        let set = Self { before: SystemTime::now(), since: Instant::now() };
        write(set.before, seconds)?;
        Ok(set)
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // the next test says so
        let _ = write(self.before + self.since.elapsed(), 0);
    }
}

fn unix(time: SystemTime) -> Result<i64, Failure> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs().try_into()?)
}

fn write(time: SystemTime, by: i64) -> Outcome {
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: unix(time)? + by, tv_nsec: 0 })?)
}

fn prepare(hosts: usize) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(hosts), mode: Mode::HostGw, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &executables()?)?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    Ok(cluster)
}

fn ttl_file(key: &str) -> PathBuf {
    Cluster::leases_dir().with_file_name("ttl").join(key)
}

/// The lease of a host that no daemon here speaks for.
fn third_host(ttl: i64) -> Outcome {
    let key = "10.244.250.0-24";
    fs::write(ttl_file(key), format!("{}\n", unix(SystemTime::now())? + ttl))?;
    let value = r#"{"PublicIP":"192.168.1.50","PublicIPv6":null,"BackendType":"host-gw"}"#;
    Ok(fs::write(Cluster::leases_dir().join(key), value)?)
}

/// Changes the configuration, and waits until the daemons have followed it: they have looked at everything.
fn look(cluster: &Cluster) -> Outcome {
    for (mode, backend) in [(Mode::DirectRouting, "vxlan"), (Mode::HostGw, "host-gw")] {
        cluster.configure(mode)?;
        for (host, _) in cluster.pids() {
            eventually(format_args!("host{host} follows"), PATIENCE, || match Cluster::status(host) {
                Some(status) if status.backend == backend => Ok(()),
                other => Err(format!("{other:?}; {}", last_lines(&log_file(host)))),
            })?;
        }
    }
    Ok(())
}

/// The own lease of host 1 is to be renewed in a few seconds; then the clock is set.
fn renewed_in_time(set: i64) -> Outcome {
    let _cluster = prepare(1)?;
    let subnet = eventually("host1 tells its lease", PATIENCE, || {
        Cluster::status(1).and_then(|status| status.subnets.first().copied()).ok_or("no lease in the status")
    })?;
    let file = ttl_file(&format!("{}-{}", subnet.network(), subnet.prefix()));
    let soon = format!("{}\n", unix(SystemTime::now())? + MARGIN as i64 + 6);
    fs::write(&file, &soon)?;
    third_host(24 * HOUR)?;
    eventually("the daemon looks at its lease", PATIENCE, || match Cluster::status(1) {
        Some(status) if status.peers.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(fs::read_to_string(&file)?, soon, "it is not time yet");
    let _set = Set::by(set)?;
    eventually(format_args!("renewed with the clock set by {set} s"), PATIENCE, || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text == soon { Err(format!("the lease runs out: {text}; {}", last_lines(&log_file(1)))) } else { Ok(()) }
    })?;
    Ok(())
}

pub fn a_lease_is_renewed_when_the_clock_is_set_back_an_hour() -> Outcome {
    renewed_in_time(-HOUR)
}

pub fn a_lease_is_renewed_when_the_clock_is_set_back_eight_hours() -> Outcome {
    renewed_in_time(-8 * HOUR)
}

pub fn no_lease_ends_when_the_clock_is_set_a_year_ahead() -> Outcome {
    let mut cluster = prepare(2)?;
    third_host(24 * HOUR)?;
    let leases = || -> Result<Vec<_>, Failure> {
        let mut names: Vec<_> = fs::read_dir(Cluster::leases_dir())?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        names.sort();
        Ok(names)
    };
    look(&cluster)?;
    let before = leases()?;
    assert_eq!(before.len(), 3, "{before:?}");
    let _set = Set::by(YEAR)?;
    look(&cluster)?;
    look(&cluster)?;
    assert_eq!(leases()?, before, "a lease has ended: {}", last_lines(&log_file(1)));
    // and one that is started then
    cluster.take_daemon(2)?.kill()?;
    cluster.start_daemon(2)?;
    look(&cluster)?;
    assert_eq!(leases()?, before, "a lease has ended: {}", last_lines(&log_file(2)));
    for host in [1, 2] {
        let log = fs::read_to_string(log_file(host))?;
        assert!(!log.contains("a lease has expired"), "a lease has ended, and was made again: {log}");
    }
    Ok(())
}
