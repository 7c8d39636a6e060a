//! What else is in the store: rivals, garbage and lies.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use kernel::types::TableId;
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::Mode;
use lab::topology::Topology;
use lab::wait::eventually;
use rustix::fs::{FlockOperation, flock};

use crate::{Failure, Outcome, all_pairs_answer, harness, up};

pub fn daemons_that_race_get_different_subnets() -> Outcome {
    let spec = Spec { topology: Topology::flat(12), mode: Mode::HostGw, dual_stack: true, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    let mut subnets = BTreeSet::new();
    for host in cluster.spec.topology.hosts() {
        let status = eventually(format_args!("host{host} knows the others"), PATIENCE, || {
            let status = Cluster::status(host).ok_or("no status")?;
            let peers: BTreeSet<_> = status.peers.iter().map(|peer| peer.public_ip).collect();
            // one entry per host and family
            if status.peers.len() == 22 && peers.len() == 22 { Ok(status) } else { Err(format!("{status:?}")) }
        })?;
        assert_eq!(status.subnets.len(), 2, "{status:?}");
        subnets.extend(status.subnets);
    }
    assert_eq!(subnets.len(), 24);
    Ok(())
}

/// Puts files into the folder of leases and waits until both hosts have seen the last of them.
fn poison(files: &[(&str, String)]) -> Outcome {
    for (name, content) in files {
        fs::write(Cluster::leases_dir().join(name), content)?;
    }
    Ok(())
}

/// The routes of host 1 as text, without those of its own links.
fn routes(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let routes = cluster.world.host(1)?.kernel()?.routes(TableId::MAIN)?;
    Ok(routes.iter().map(|(key, route)| format!("{} {:?} {:?}", key.dst, route.dev, route.via)).collect())
}

pub fn garbage_disturbs_nobody() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let before = routes(&cluster)?;
    let free = free();
    let [folder, cut, empty, list, long, ..] = &free[..] else { return Err("no free subnets".into()) };
    poison(&[
        ("README", "not a lease".into()),
        ("..hidden", String::new()),
        (cut, "{".into()),
        (empty, String::new()),
        (list, "[1,2]".into()),
        (long, "x".repeat(1 << 20)),
        ("10.244.254.0-99", r#"{"PublicIP":"192.168.1.50","PublicIPv6":null,"BackendType":"vxlan"}"#.into()),
    ])?;
    fs::create_dir(Cluster::leases_dir().join(folder))?;
    // a change that comes after the garbage is followed: it was read, and it stopped nothing
    cluster.configure(Mode::DirectRouting)?;
    all_pairs_answer(&cluster, Mode::DirectRouting)?;
    cluster.configure(Mode::Vxlan)?;
    all_pairs_answer(&cluster, Mode::Vxlan)?;
    assert_eq!(routes(&cluster)?, before);
    is_named(&[cut, list])
}

/// Keys of subnets that neither host has leased; overwriting a host's own lease is a different test.
fn free() -> Vec<String> {
    let leased: Vec<_> = [1, 2].into_iter().filter_map(Cluster::status).flat_map(|status| status.subnets).collect();
    let is_free = |key: &String| leased.iter().all(|net| *key != format!("{}-24", net.network()));
    (230..255).map(|n| format!("10.244.{n}.0-24")).filter(is_free).collect()
}

pub fn hostile_leases_disturb_nobody() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let before = routes(&cluster)?;
    let own = Cluster::status(1).and_then(|status| status.subnets.first().copied()).ok_or("no lease")?;
    let liar = |public_ip: &str, mac: &str| {
        format!(
            r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    };
    let good = "02:00:00:00:00:01";
    let half = format!("{}-25", own.network());
    let free = free();
    let lies = [
        ("0.0.0.0-0", liar("192.168.1.50", good)),
        ("10.0.0.0-8", liar("192.168.1.51", good)),
        ("10.244.0.0-16", liar("192.168.1.52", good)),
        ("192.168.1.0-24", liar("192.168.1.53", good)),
        (half.as_str(), liar("192.168.1.54", good)),
        (free[0].as_str(), liar("0.0.0.0", good)),
        (free[1].as_str(), liar("127.0.0.1", good)),
        (free[2].as_str(), liar("224.0.0.1", good)),
        (free[3].as_str(), liar("192.168.1.55", "ff:ff:ff:ff:ff:ff")),
        (free[4].as_str(), liar("192.168.1.56", "no MAC")),
    ];
    poison(&lies)?;
    is_named(&lies.each_ref().map(|(key, _)| *key))?;
    all_pairs_answer(&cluster, Mode::Vxlan)?;
    assert_eq!(routes(&cluster)?, before);
    Ok(())
}

/// Both hosts say of each key that they ignore it.
fn is_named(keys: &[&str]) -> Outcome {
    for host in [1, 2] {
        eventually(format_args!("host{host} names what it ignores"), PATIENCE, || {
            let status = Cluster::status(host).ok_or("no status")?;
            let named = |key: &&&str| status.rejected.iter().any(|rejected| rejected.key.contains(**key));
            let unnamed: Vec<_> = keys.iter().filter(|key| !named(key)).collect();
            if unnamed.is_empty() { Ok(()) } else { Err(format!("not {unnamed:?} in {:?}", status.rejected)) }
        })?;
    }
    Ok(())
}

/// Another process holds the store's lock: the daemons name it, keep what they have, and continue when it is free.
pub fn a_lock_that_is_held_is_said_and_waited_for() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let lock = Cluster::leases_dir().with_file_name("lock");
    let mode = fs::metadata(&lock)?.permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600, "others can open the lock, and hold it");
    let held = fs::File::open(&lock)?;
    flock(&held, FlockOperation::LockExclusive)?;
    cluster.configure(Mode::DirectRouting)?;
    let holder = format!("lock: cannot lock: process {} (", std::process::id());
    for host in [1, 2] {
        eventually(format_args!("host{host} says who holds the lock"), PATIENCE, || {
            let status = Cluster::status(host).ok_or("no status")?;
            let said = [&status.store_error, &status.last_error].map(|error| error.clone().unwrap_or_default());
            if said.iter().all(|said| said.contains(&holder)) { Ok(()) } else { Err(format!("{said:?}")) }
        })?;
    }
    all_pairs_answer(&cluster, Mode::Vxlan)?;
    drop(held);
    cluster.wait_paths(Mode::DirectRouting)?;
    all_pairs_answer(&cluster, Mode::DirectRouting)?;
    for host in [1, 2] {
        eventually(format_args!("host{host} follows the store"), PATIENCE, || match Cluster::status(host) {
            Some(status) if status.store_error.is_none() && status.last_error.is_none() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    Ok(())
}
