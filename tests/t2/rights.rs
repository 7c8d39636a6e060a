//! A daemon that may not change the kernel.

use std::fs;

use lab::cluster::{Cluster, PATIENCE, Spec, host_dir, log_file, subnet_file};
use lab::mode::Mode;
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use store::config_path;
use tests::harness;

use crate::disturb::{set_sysctl, sysctl};
use crate::{Failure, Outcome};

const FORWARDING: &str = "net/ipv4/ip_forward";

fn host(mode: Mode) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(1), mode, dual_stack: false, outlive: false };
    let cluster = Cluster::prepare(spec, &harness::executables()?)?;
    set_sysctl(cluster.world.host(1)?, FORWARDING, "0")?;
    Ok(cluster)
}

/// The daemon, as root without CAP_NET_ADMIN.
fn start(cluster: &Cluster) -> Result<Daemon, Failure> {
    fs::create_dir_all(host_dir(1))?;
    let words = [
        "--inh-caps=-net_admin".to_owned(),
        "--bounding-set=-net_admin".to_owned(),
        harness::executables()?.flanneld.display().to_string(),
        format!("--store-dir={}", Cluster::store_dir().display()),
        "--iface=eth0".to_owned(),
        format!("--subnet-file={}", subnet_file(1).display()),
    ];
    let launch = Launch {
        program: "setpriv".into(),
        args: words.map(Into::into).to_vec(),
        env: Vec::new(),
        netns: cluster.world.host(1)?.path().to_owned(),
        log: log_file(1),
        outlive: false,
    };
    Ok(launch.start()?)
}

/// It ends with the capability's name, and has changed and leased nothing.
fn ends(mode: Mode, backend: &str) -> Outcome {
    let cluster = host(mode)?;
    let mut daemon = start(&cluster)?;
    let status = eventually("the daemon ends", PATIENCE, || match daemon.ended() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?;
    assert_eq!(status.code(), Some(1));
    let wanted = format!("flanneld needs CAP_NET_ADMIN in this network namespace for the backend {backend}");
    let said = last_lines(&log_file(1));
    assert!(said.contains(&wanted), "{said}");
    let status = Cluster::status(1).ok_or("no status")?;
    assert!(status.last_error.is_some_and(|error| error.contains(&wanted)), "the status says it, too");
    assert!(status.drift.is_empty(), "{:?}", status.drift);
    assert_eq!(sysctl(cluster.world.host(1)?, FORWARDING)?, "0", "nothing is changed");
    let leases = fs::read_dir(Cluster::leases_dir()).map(Iterator::count).unwrap_or_default();
    assert_eq!(leases, 0, "no subnet is leased");
    Ok(())
}

pub fn vxlan_without_the_capability_ends() -> Outcome {
    ends(Mode::Vxlan, "vxlan")
}

pub fn host_gw_without_the_capability_ends() -> Outcome {
    ends(Mode::HostGw, "host-gw")
}

/// The backend alloc leaves the kernel to others.
pub fn alloc_needs_no_capability() -> Outcome {
    let cluster = host(Mode::HostGw)?;
    let config = config_path(&Cluster::store_dir(), "/coreos.com/network");
    fs::write(config, r#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#)?;
    let mut daemon = start(&cluster)?;
    eventually("subnet.env is written", PATIENCE, || match (daemon.ended(), subnet_file(1).exists()) {
        (Ok(None), true) => Ok(()),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?;
    assert!(daemon.stop(PATIENCE)?.success());
    Ok(())
}
