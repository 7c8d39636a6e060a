//! flanneld restores subnet.env and the status whatever another program does to the files.

use std::fs;
use std::path::{Path, PathBuf};

use lab::cluster::{Cluster, PATIENCE, Spec, log_file};
use lab::mode::Mode;
use lab::process::last_lines;
use lab::topology::Topology;
use lab::wait::eventually;
use overlay::status::path_beside;
use store::config_path;
use tests::harness;

use crate::disturb::{repaired, rests, start_first};
use crate::tracer::Tracer;
use crate::{Failure, Outcome};

/// Upstream's place; in the sandbox `/run` is empty.
const ENV: &str = "/run/flannel/subnet.env";

fn status() -> PathBuf {
    path_beside(Path::new(ENV))
}

/// A host whose daemon has said all that it has to say.
fn host() -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(1), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    start_first(&mut cluster, &[&format!("--subnet-file={ENV}")])?;
    eventually("both files are written", PATIENCE, || {
        if Path::new(ENV).exists() && status().exists() { Ok(()) } else { Err(last_lines(&log_file(1))) }
    })?;
    rests(cluster.world.host(1)?)?;
    Ok(cluster)
}

/// strace(1) pauses the daemon whenever a file has got its name. A reader of subnet.env finds this host's subnet in
/// the status.
pub fn the_status_is_there_when_subnet_env_is() -> Outcome {
    let spec = Spec { topology: Topology::flat(1), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    fs::remove_file(config_path(&Cluster::store_dir(), "/coreos.com/network"))?;
    cluster.start_daemon(1)?;
    eventually("the daemon waits for a configuration", PATIENCE, || match Cluster::status(1) {
        Some(status) if status.last_error.is_some() => Ok(()),
        _ => Err(last_lines(&log_file(1))),
    })?;
    let pid = cluster.pids().next().map(|(_, pid)| pid).ok_or("no daemon")?;
    let _tracer = Tracer::attach(pid, "rename:delay_exit=300000", &["-e", "trace=rename"])?;
    cluster.configure(Mode::Vxlan)?;
    cluster.wait_ready()?;
    let status = Cluster::status(1).ok_or("there is a subnet.env and no status")?;
    assert!(status.subnets.len() == 1 && status.mtu == 1450, "there is a subnet.env, and the status says {status:?}");
    Ok(())
}

/// After `harm` the file at `path` is as it was; of the status only the daemon's process is compared.
fn is_written_again(path: &Path, what: &str, harm: impl FnOnce() -> std::io::Result<()>) -> Outcome {
    let _cluster = host()?;
    let part = |text: &str| {
        let pid = text.lines().find(|line| line.contains(r#""pid""#)).map(str::to_owned);
        pid.unwrap_or_else(|| text.to_owned())
    };
    let before = part(&fs::read_to_string(path)?);
    harm()?;
    repaired(what, || match fs::read_to_string(path) {
        Ok(text) if part(&text) == before => Ok(None),
        other => Ok(Some(format!("{other:?}"))),
    })
}

pub fn a_deleted_subnet_env() -> Outcome {
    is_written_again(Path::new(ENV), "subnet.env after `rm`", || fs::remove_file(ENV))
}

pub fn an_edited_subnet_env() -> Outcome {
    is_written_again(Path::new(ENV), "subnet.env after an edit", || {
        let text = fs::read_to_string(ENV)?;
        fs::write(ENV, text.replace("FLANNEL_MTU=1450", "FLANNEL_MTU=9000"))
    })
}

/// As an editor saves, and as a program that ran out of space leaves it.
pub fn a_replaced_subnet_env() -> Outcome {
    is_written_again(Path::new(ENV), "subnet.env after another file took its name", || {
        fs::write("/run/flannel/new", "")?;
        fs::rename("/run/flannel/new", ENV)
    })
}

pub fn a_removed_folder() -> Outcome {
    is_written_again(Path::new(ENV), "subnet.env after its folder was removed", || fs::remove_dir_all("/run/flannel"))
}

pub fn a_deleted_status() -> Outcome {
    is_written_again(&status(), "status.json after `rm`", || fs::remove_file(status()))
}

pub fn an_emptied_status() -> Outcome {
    is_written_again(&status(), "status.json after it was emptied", || fs::write(status(), ""))
}
