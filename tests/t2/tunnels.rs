//! The backends that need more than the kernel of every machine has: commands, and modules.

use std::fs;

use kernel::types::TableId;
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::{Mode, NETWORK};
use lab::topology::Topology;
use lab::wait::eventually;
use overlay::backend::extension;
use overlay::status::{Reach, Status};
use serde_json::json;
use store::config_path;
use store::files;

use crate::{Failure, Outcome, all_pairs_answer, harness, up};

/// What host 1 says, once it is `good`.
fn says(what: &str, good: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
    Ok(eventually(what, PATIENCE, || match Cluster::status(1) {
        Some(status) if good(&status) => Ok(status),
        other => Err(format!("{other:?}")),
    })?)
}

/// Where host 1 has a route to, by a gateway.
fn routed(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let routes = cluster.world.host(1)?.kernel()?.routes(TableId::MAIN)?;
    let by_gateway = routes.iter().filter(|(_, route)| route.via.is_some());
    Ok(by_gateway.map(|(key, _)| key.dst.to_string()).collect())
}

pub fn extension_routes_by_commands() -> Outcome {
    let mut cluster = up(Topology::flat(3), Mode::Extension, false)?;
    all_pairs_answer(&cluster, Mode::Extension)?;
    let status = says("host1 knows both", |status| status.peers.len() == 2)?;
    assert!(status.peers.iter().all(|peer| peer.path == Reach::Through(extension::TUNNEL)), "{status:?}");
    assert_eq!((status.last_error, status.mtu), (None, 1500));
    for entry in fs::read_dir(Cluster::leases_dir())? {
        let text = fs::read_to_string(entry?.path())?;
        assert!(
            text.ends_with(r#""PublicIPv6":null,"BackendType":"extension","BackendData":"data of a host"}"#),
            "{text}"
        );
    }
    // A host goes, with its lease; the commands of the others run for it.
    let gone = Cluster::status(3).and_then(|status| status.subnets.first().copied()).ok_or("no lease")?;
    cluster.take_daemon(3)?.kill()?;
    fs::remove_file(Cluster::leases_dir().join(gone.to_string().replace('/', "-")))?;
    eventually("the route to host3 is gone", PATIENCE, || {
        let routed = routed(&cluster).map_err(|error| error.to_string())?;
        if routed.len() == 1 && !routed.contains(&gone.to_string()) { Ok(()) } else { Err(format!("{routed:?}")) }
    })?;
    // commands' own routes are nobody else's to clean up, whatever else changes
    cluster.take_daemon(1)?.kill()?;
    let before = routed(&cluster)?;
    cluster.start_daemon(1)?;
    let pid = cluster.pids().find(|(host, _)| *host == 1).map(|(_, pid)| pid);
    says("the new daemon of host1 knows host2", |status| Some(status.pid) == pid && status.peers.len() == 1)?;
    assert_eq!(routed(&cluster)?, before);
    Ok(())
}

pub fn a_command_that_fails_is_shown_and_told_again() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Extension, false)?;
    let broken = json!({
        "Network": NETWORK,
        "Backend": { "Type": "extension", "SubnetAddCommand": "sh -c 'echo no way to $SUBNET; exit 7'" }
    });
    files::replace(&config_path(&Cluster::store_dir(), "/coreos.com/network"), broken.to_string().as_bytes())?;
    let status = says("the failure is shown", |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("SubnetAddCommand for"))
    })?;
    let error = status.last_error.unwrap_or_default();
    assert!(error.contains("exit status: 7: no way to 10.244."), "{error}");
    cluster.configure(Mode::Extension)?;
    says("all is well again", |status| status.last_error.is_none())?;
    all_pairs_answer(&cluster, Mode::Extension)
}

pub fn wireguard_works_or_names_its_module() -> Outcome {
    works_or_names(Mode::Wireguard, "wireguard")
}

pub fn ipip_works_or_names_its_module() -> Outcome {
    works_or_names(Mode::Ipip, "ipip")
}

/// A kernel without the module: the status says what is missing and what to do, and the lease invites no peer.
fn works_or_names(mode: Mode, module: &str) -> Outcome {
    let spec = Spec { topology: Topology::flat(2), mode, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    cluster.start_daemons()?;
    let status = says("host1 has tried", |status| status.last_error.is_some() || status.mtu > 0)?;
    let Some(error) = status.last_error else {
        cluster.wait_ready()?;
        cluster.attach_pods()?;
        return all_pairs_answer(&cluster, mode);
    };
    let wanted = format!("this kernel has no {module}: `modprobe {module}` as root, or boot a kernel that has it");
    assert!(error.contains("EOPNOTSUPP") && error.contains(&wanted), "{error}");
    assert!(!lab::cluster::subnet_file(1).exists(), "a pod would be cut off");
    Ok(())
}
