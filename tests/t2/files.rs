//! The files that a daemon writes: whole, with the modes that they should have, and nothing beside them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lab::cluster::{Cluster, PATIENCE, Spec, host_dir, log_file};
use lab::mode::Mode;
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use tests::harness;

use crate::{Failure, Outcome};

/// More than a start makes of any call.
const MOST: usize = 40;

fn prepare(mode: Mode) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(1), mode, dual_stack: false, outlive: false };
    Ok(Cluster::prepare(spec, &harness::executables()?)?)
}

/// A directory that is not there yet: the daemon makes it.
fn run_dir() -> PathBuf {
    host_dir(1).join("run/flannel")
}

fn store_dir() -> PathBuf {
    Cluster::leases_dir().with_file_name("")
}

/// The daemon on host 1, started by `before`.
fn start(cluster: &Cluster, before: &[&str]) -> Result<Daemon, Failure> {
    let flanneld = harness::executables()?.flanneld;
    let words = before.iter().map(Into::into).chain([
        flanneld.into(),
        format!("--store-dir={}", Cluster::store_dir().display()).into(),
        "--iface=eth0".into(),
        format!("--subnet-file={}", run_dir().join("subnet.env").display()).into(),
    ]);
    let mut words: Vec<std::ffi::OsString> = words.collect();
    let launch = Launch {
        program: words.remove(0).into(),
        args: words,
        env: vec![("WIREGUARD_KEY_FILE".into(), run_dir().join("wgkey").into())],
        netns: cluster.world.host(1)?.path().to_owned(),
        log: log_file(1),
        outlive: false,
    };
    Ok(launch.start()?)
}

/// The process that the status names, if it is there and runs.
fn running() -> Option<Pid> {
    let status: overlay::status::Status =
        serde_json::from_slice(&fs::read(run_dir().join("status.json")).ok()?).ok()?;
    let pid = Pid::from_raw(status.pid.try_into().ok()?)?;
    (status.last_reconcile.is_some() && rustix::process::test_kill_process(pid).is_ok()).then_some(pid)
}

/// Names below `dir` that begin with a dot, and what lies in the store's folder for drafts.
fn drafts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![run_dir(), store_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".") && name != ".subnet.env.lock";
            if path.is_dir() {
                dirs.push(path);
            } else if hidden || dir.ends_with("tmp") {
                found.push(path);
            }
        }
    }
    found
}

/// Kills the first start at its first such call, the next one at its second, and so on; after each a start succeeds.
fn killed_at_each(cluster: &Cluster, call: &str, made: &[&str]) -> Outcome {
    let is_made = || made.iter().all(|name| run_dir().join(name).exists());
    for number in 1..=MOST {
        let _ = fs::remove_dir_all(run_dir());
        let inject = format!("inject={call}:signal=KILL:when={number}");
        let mut traced = start(cluster, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject])?;
        let killed = eventually(format_args!("killed at {call} {number}, or done"), PATIENCE, || {
            match (traced.ended(), running().filter(|_| is_made())) {
                (Ok(Some(_)), _) => Ok(true),
                (_, Some(_)) => Ok(false),
                (ended, None) => Err(format!("{ended:?}; {}", last_lines(&log_file(1)))),
            }
        })?;
        if let Some(pid) = running() {
            kill_process(pid, Signal::KILL)?;
        }
        traced.kill()?;
        let next = start(cluster, &[])?;
        eventually(format_args!("the start after a kill at {call} {number}"), PATIENCE, || match running() {
            Some(pid) if is_made() && pid.as_raw_nonzero().get() as u32 == next.pid() => Ok(()),
            other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
        })?;
        eventually(format_args!("a kill at {call} {number} leaves no draft"), PATIENCE, || match &drafts()[..] {
            [] => Ok(()),
            drafts => Err(format!("left: {drafts:?}")),
        })?;
        next.kill()?;
        if !killed {
            assert!(number > 1, "{call} was not called");
            return Ok(());
        }
    }
    Err(format!("more than {MOST} times {call}").into())
}

pub fn killed_before_a_file_has_a_name_it_leaves_nothing() -> Outcome {
    killed_at_each(&prepare(Mode::HostGw)?, "linkat", &["subnet.env", "status.json"])
}

pub fn killed_before_a_file_is_replaced_it_leaves_nothing() -> Outcome {
    killed_at_each(&prepare(Mode::HostGw)?, "/^rename", &["subnet.env", "status.json"])
}

pub fn killed_while_a_file_is_written_it_leaves_nothing() -> Outcome {
    killed_at_each(&prepare(Mode::HostGw)?, "fsync", &["subnet.env", "status.json"])
}

/// There need not be a wireguard module: the key comes first.
pub fn killed_while_the_wireguard_key_is_made_it_makes_another() -> Outcome {
    let cluster = prepare(Mode::Wireguard)?;
    for call in ["fsync", "linkat", "/^f?chmod"] {
        killed_at_each(&cluster, call, &["wgkey", "status.json"])?;
    }
    Ok(())
}

fn mode(path: &Path) -> Result<u32, Failure> {
    let meta = fs::symlink_metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(meta.permissions().mode() & 0o7777)
}

pub fn modes_do_not_depend_on_the_umask() -> Outcome {
    let cluster = prepare(Mode::Wireguard)?;
    for umask in ["0", "027", "0777"] {
        let _ = fs::remove_dir_all(host_dir(1).join("run"));
        let _ = fs::remove_dir_all(Cluster::leases_dir());
        let _ = fs::remove_dir_all(store_dir().join("ttl"));
        let _ = fs::remove_file(store_dir().join("lock"));
        let line = format!(r#"umask {umask}; exec "$0" "$@""#);
        let daemon = start(&cluster, &["sh", "-c", &line])?;
        let wanted = [
            (host_dir(1).join("run"), 0o755),
            (run_dir(), 0o755),
            (run_dir().join("status.json"), 0o644),
            (run_dir().join("wgkey"), 0o400),
            (store_dir().join("ttl"), 0o755),
            (Cluster::leases_dir(), 0o755),
            (store_dir().join("lock"), 0o600),
        ];
        eventually(format_args!("the files are as they should be with umask {umask}"), PATIENCE, || {
            let lease = fs::read_dir(Cluster::leases_dir()).into_iter().flatten().flatten().next();
            let lease = lease.map(|entry| (entry.path(), 0o644)).ok_or("no lease".to_owned())?;
            for (path, wanted) in wanted.iter().chain([&lease]) {
                let seen = mode(path).map_err(|error| format!("{error}; {}", last_lines(&log_file(1))))?;
                if seen != *wanted {
                    return Err(format!("{} has mode {seen:o}, not {wanted:o}", path.display()));
                }
            }
            Ok(())
        })?;
        daemon.kill()?;
    }
    Ok(())
}

/// Every flag of upstream's at its default, but for what a lab needs.
pub fn a_unit_of_upstreams_starts() -> Outcome {
    let cluster = prepare(Mode::HostGw)?;
    let line = r#"exec "$0" -etcd-endpoints=http://127.0.0.1:4001,http://127.0.0.1:2379 -etcd-prefix /coreos.com/network -etcd-keyfile= \
        -etcd-certfile= -etcd-cafile= -etcd-username "" -etcd-password= -iface= -iface-regex= -iface-can-reach= -public-ip= \
        -public-ipv6= -subnet-lease-renew-margin 60 -ip-masq=false -ip-masq-fully-random-disable=false \
        -kube-subnet-mgr=f -kube-api-url= -kube-annotation-prefix=flannel.alpha.coreos.com -kubeconfig-file= -version=0 \
        -healthz-ip=0.0.0.0 -healthz-port=0 -iptables-resync=5 -iptables-forward-rules=true -ip-blackhole-route=False \
        -net-config-path=/etc/kube-flannel/net-conf.json -set-node-network-unavailable -v=0 -vmodule= \
        -log_backtrace_at=:0 "$@""#;
    let mut daemon = start(&cluster, &["sh", "-c", line])?;
    eventually("a unit of upstream's starts", PATIENCE, || match (daemon.ended(), running()) {
        (Ok(None), Some(_)) => Ok(()),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?;
    assert!(daemon.stop(PATIENCE)?.success());
    Ok(())
}
