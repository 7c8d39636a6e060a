//! Hosts with real daemons whose packets go in IPIP and in WireGuard.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use kernel::Kernel;
use kernel::state::{LinkKind, PublicKey, Scope, WireguardDevice};
use kernel::types::{Family, IfName};
use lab::cluster::{Cluster, PATIENCE, Spec, key_file, subnet_file};
use lab::mode::{Mode, Path};
use lab::topology::Topology;
use lab::traffic::Traffic;
use lab::wait::eventually;
use tests::harness::{Outcome, executables, figure};

type Failure = Box<dyn std::error::Error>;

fn up(topology: Topology, mode: Mode, dual_stack: bool) -> Result<Cluster, Failure> {
    Ok(Cluster::up(Spec { topology, mode, dual_stack, outlive: false }, &executables()?)?)
}

/// Every pod gets an echo from every other that `mode` reaches, by the path that `mode` wants.
fn all_pairs_answer(cluster: &Cluster, mode: Mode) -> Outcome {
    cluster.wait_paths(mode)?;
    for (from, to) in cluster.pairs() {
        if mode.path(cluster.spec.topology.on_one_segment(from, to)) == Path::None {
            continue;
        }
        for family in cluster.families() {
            // the other end may not know this one yet
            eventually(format_args!("pod{from} reaches pod{to} {family:?}"), PATIENCE, || {
                let pinger = cluster.pinger(from, to, *family).map_err(|error| error.to_string());
                pinger?.echo(Duration::from_secs(1)).map_err(|error| error.to_string())
            })?;
        }
    }
    Ok(())
}

fn link(kernel: &mut Kernel, name: &str) -> Result<kernel::message::link::SeenLink, Failure> {
    kernel.link(&IfName::new(name)?)?.ok_or_else(|| format!("no {name}").into())
}

/// What a host's `flannel-wg` holds.
fn wireguard(cluster: &Cluster, host: usize) -> Result<WireguardDevice, Failure> {
    let name = IfName::new("flannel-wg")?;
    let scope = Scope { wireguard: vec![name.clone()], ..Scope::default() };
    let mut observed = cluster.world.host(host)?.kernel()?.observe(&scope)?;
    observed.wireguard.remove(&name).ok_or_else(|| format!("host{host} has no flannel-wg").into())
}

/// Waits until the host's present daemon has done its first pass.
fn is_at_work(cluster: &Cluster, host: usize) -> Outcome {
    let pid = cluster.pids().find(|(of, _)| *of == host).map(|(_, pid)| pid).ok_or("no daemon")?;
    eventually("the new daemon reports", PATIENCE, || match Cluster::status(host) {
        Some(status) if status.pid == pid && status.last_reconcile.is_some() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

fn mtu(host: usize) -> Result<String, Failure> {
    let text = fs::read_to_string(subnet_file(host))?;
    let line = text.lines().find_map(|line| line.strip_prefix("FLANNEL_MTU="));
    Ok(line.ok_or("no FLANNEL_MTU")?.to_owned())
}

pub fn ipip() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Ipip, false)?;
    all_pairs_answer(&cluster, Mode::Ipip)?;
    let seen = link(&mut cluster.world.host(1)?.kernel()?, "flannel.ipip")?;
    let LinkKind::Ipip(ipip) = &seen.link.kind else { return Err(format!("{seen:?}").into()) };
    let local = cluster.spec.topology.underlay(1, Family::V4);
    assert_eq!((ipip.local.map(Into::into), ipip.remote, seen.link.mtu.map(|mtu| mtu.0)), (local, None, Some(1480)));
    assert_eq!(mtu(1)?, "1480");
    for entry in fs::read_dir(Cluster::leases_dir())? {
        let text = fs::read_to_string(entry?.path())?;
        assert!(text.contains(r#","PublicIPv6":null,"BackendType":"ipip"}"#), "{text}");
    }
    Ok(())
}

pub fn ipip_with_direct_routing_and_back() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Ipip, false)?;
    // what a processor that is only imitated carries with ease
    let traffic = Traffic::at(&cluster, &cluster.pairs(), 1_000)?;
    for mode in [Mode::IpipDirect, Mode::Ipip] {
        cluster.configure(mode)?;
        cluster.wait_paths(mode)?;
        traffic.pass(500)?;
    }
    let counts = traffic.stop()?;
    figure(format_args!("ipip, DirectRouting on and off: {counts:?}"));
    assert_eq!((counts.lost, counts.duplicated), (0, 0), "{counts:?}");
    all_pairs_answer(&cluster, Mode::Ipip)
}

pub fn wireguard_dual_stack() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Wireguard, true)?;
    all_pairs_answer(&cluster, Mode::Wireguard)?;
    assert_eq!(mtu(1)?, "1420");
    let mut kernel = cluster.world.host(1)?.kernel()?;
    for name in ["flannel-wg", "flannel-wg-v6"] {
        assert_eq!(link(&mut kernel, name)?.link.kind, LinkKind::Wireguard);
    }
    let device = wireguard(&cluster, 1)?;
    assert_eq!((device.listen_port, device.peers.len()), (Some(51820), 2));
    assert!(device.peers.values().all(|peer| peer.live), "{device:?}");
    let key = fs::read_to_string(key_file(1))?;
    let log = fs::read_to_string(lab::cluster::log_file(1))?;
    assert!(key.len() == 44 && !log.contains(&key), "the key is in the log");
    for entry in fs::read_dir(Cluster::leases_dir())? {
        let text = fs::read_to_string(entry?.path())?;
        let wanted =
            [r#""BackendType":"wireguard","BackendData":{"PublicKey":""#, r#"","Port":51820},"BackendV6Data":{"#];
        assert!(wanted.iter().all(|part| text.contains(part)) && text.contains(r#","Port":51821}}"#), "{text}");
    }
    Ok(())
}

/// Killed and started again under traffic: the device, its keys and its peers stay.
pub fn wireguard_restarts_without_a_gap() -> Outcome {
    let mut cluster = up(Topology::every_third_routed(3), Mode::Wireguard, false)?;
    all_pairs_answer(&cluster, Mode::Wireguard)?;
    let before = (link(&mut cluster.world.host(1)?.kernel()?, "flannel-wg")?.index, wireguard(&cluster, 1)?);
    // what a processor that is only imitated encrypts with ease
    let traffic = Traffic::at(&cluster, &cluster.pairs(), 1_000)?;
    for host in [1, 3] {
        cluster.take_daemon(host)?.kill()?;
        traffic.pass(500)?;
        cluster.start_daemon(host)?;
        is_at_work(&cluster, host)?;
        traffic.pass(500)?;
    }
    let counts = traffic.stop()?;
    figure(format_args!("wireguard, two daemons killed and restarted: {counts:?}"));
    assert_eq!((counts.lost, counts.duplicated), (0, 0), "{counts:?}");
    let after = (link(&mut cluster.world.host(1)?.kernel()?, "flannel-wg")?.index, wireguard(&cluster, 1)?);
    assert_eq!(after, before, "the same device");
    all_pairs_answer(&cluster, Mode::Wireguard)
}

pub fn one_wireguard_device_for_both_families() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Wireguard, true)?;
    cluster.configure(Mode::WireguardAuto)?;
    let gone = IfName::new("flannel-wg-v6")?;
    eventually("the second device is gone", PATIENCE, || {
        let mut kernel = cluster.world.host(1).and_then(|room| room.kernel()).map_err(|error| error.to_string())?;
        match kernel.link(&gone).map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(link) => Err(format!("{link:?}")),
        }
    })?;
    all_pairs_answer(&cluster, Mode::WireguardAuto)?;
    for (_, peer) in wireguard(&cluster, 1)?.peers {
        assert_eq!((peer.allowed_ips.len(), peer.preshared_key.is_some()), (2, true), "{peer:?}");
        assert!(peer.endpoint.is_some_and(|endpoint| endpoint.is_ipv4()), "{peer:?}");
    }
    Ok(())
}

/// As after a reboot, when the file is gone: the subnet stays, and the peer of the old key goes.
pub fn a_host_with_a_new_key_replaces_itself() -> Outcome {
    let mut cluster = up(Topology::flat(2), Mode::Wireguard, false)?;
    all_pairs_answer(&cluster, Mode::Wireguard)?;
    let keys = |cluster: &Cluster| -> Result<BTreeSet<PublicKey>, Failure> {
        Ok(wireguard(cluster, 1)?.peers.into_keys().collect())
    };
    let before = keys(&cluster)?;
    cluster.take_daemon(2)?.kill()?;
    fs::remove_file(key_file(2))?;
    cluster.start_daemon(2)?;
    is_at_work(&cluster, 2)?;
    eventually("host1 has the new key alone", PATIENCE, || {
        let now = keys(&cluster).map_err(|error| error.to_string())?;
        if now.len() == 1 && now.is_disjoint(&before) { Ok(()) } else { Err(format!("{now:?}, before {before:?}")) }
    })?;
    all_pairs_answer(&cluster, Mode::Wireguard)
}

pub fn backends_change_live() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let devices = |cluster: &Cluster| -> Result<Vec<String>, Failure> {
        let links = cluster.world.host(1)?.kernel()?.links()?;
        let names = links.into_iter().map(|link| link.name.to_string());
        Ok(names.filter(|name| name.starts_with("flannel")).collect())
    };
    for (mode, device) in [
        (Mode::Ipip, "flannel.ipip"),
        (Mode::Wireguard, "flannel-wg"),
        (Mode::Vxlan, "flannel.1"),
        (Mode::Wireguard, "flannel-wg"),
    ] {
        cluster.configure(mode)?;
        all_pairs_answer(&cluster, mode)?;
        eventually(format_args!("{mode}: the device before is gone"), PATIENCE, || {
            let have = devices(&cluster).map_err(|error| error.to_string())?;
            if have == [device] { Ok(()) } else { Err(format!("{have:?}")) }
        })?;
    }
    Ok(())
}

pub fn hostile_wireguard_leases_disturb_nobody() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Wireguard, false)?;
    all_pairs_answer(&cluster, Mode::Wireguard)?;
    let before = wireguard(&cluster, 1)?.peers.into_keys().collect::<Vec<_>>();
    let key = |host: usize| -> Result<PublicKey, Failure> {
        let other = 3 - host;
        Ok(*wireguard(&cluster, other)?.peers.keys().next().ok_or("no peer")?)
    };
    let lease = |public: &str, data: &str| {
        format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"wireguard","BackendData":{data}}}"#)
    };
    let lies = [
        ("10.244.250.0-24", lease("192.168.1.50", r#"{"PublicKey":"no key","Port":1}"#)),
        ("10.244.251.0-24", lease("192.168.1.51", &format!(r#"{{"PublicKey":"{}","Port":70000}}"#, key(2)?))),
        // this comes before every other in the store, and host2 has it beside host1's own
        ("10.244.0.0-24", lease("192.168.1.52", &format!(r#"{{"PublicKey":"{}","Port":51820}}"#, key(1)?))),
        ("10.244.253.0-24", lease("192.168.1.53", "{}")),
    ];
    for (name, text) in &lies {
        fs::write(Cluster::leases_dir().join(name), text)?;
    }
    for host in [1, 2] {
        eventually(format_args!("host{host} names what it ignores"), PATIENCE, || {
            let rejected = Cluster::status(host).ok_or("no status")?.rejected;
            let named = |key: &str| rejected.iter().any(|rejected| rejected.key == key);
            if lies.iter().all(|(key, _)| named(key)) { Ok(()) } else { Err(format!("{rejected:?}")) }
        })?;
    }
    let after = [1, 2].map(|host| wireguard(&cluster, host).map(|device| device.peers));
    let [first, second] = after;
    assert_eq!(first?.into_keys().collect::<Vec<_>>(), before);
    let second = second?;
    let host1 = Cluster::status(1).and_then(|status| status.subnets.first().copied()).ok_or("no lease")?;
    let nets: Vec<_> = second.values().flat_map(|peer| &peer.allowed_ips).collect();
    assert_eq!(nets, [&host1], "the key stays with who speaks with it: {second:?}");
    all_pairs_answer(&cluster, Mode::Wireguard)
}

/// A second is promised, and this machine's processor is imitated. A peer that receives nothing from a device that was made
/// anew finds out after 15 s (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, drivers/net/wireguard/messages.h).
const SOON: Duration = Duration::from_secs(3);

/// Host 1's device is another one with the same key, and no pod there has sent anything yet: the other host's packets
/// arrive all the same.
fn the_peer_hears_of_it(cluster: &Cluster, index: u32) -> Outcome {
    eventually("host1 has another device with its peer", PATIENCE, || {
        let mut kernel = cluster.world.host(1).and_then(|room| room.kernel()).map_err(|error| error.to_string())?;
        let seen = link(&mut kernel, "flannel-wg").map_err(|error| error.to_string())?;
        let peers = wireguard(cluster, 1).map_err(|error| error.to_string())?.peers.len();
        if seen.index.0 != index && peers == 1 { Ok(()) } else { Err(format!("{seen:?}, {peers} peers")) }
    })?;
    let mut pinger = cluster.pinger(2, 1, Family::V4)?;
    eventually("pod2 reaches pod1 by the new device", SOON, || {
        let device = || wireguard(cluster, 1).map_or_else(|error| error.to_string(), |device| format!("{device:?}"));
        pinger.echo(Duration::from_millis(200)).map_err(|error| format!("{error}; host1 has {}", device()))
    })?;
    all_pairs_answer(cluster, Mode::Wireguard)
}

fn device_index(cluster: &Cluster) -> Result<u32, Failure> {
    Ok(link(&mut cluster.world.host(1)?.kernel()?, "flannel-wg")?.index.0)
}

fn delete_device(cluster: &Cluster) -> Outcome {
    let step = kernel::diff::Step::DeleteLink(IfName::new("flannel-wg")?);
    Ok(cluster.world.host(1)?.kernel()?.apply(&[step]).ok()?)
}

/// As when a host goes from Go flanneld to ours, and Go's device is made anew.
pub fn a_device_made_at_the_start_reaches_its_peers() -> Outcome {
    let mut cluster = up(Topology::flat(2), Mode::Wireguard, false)?;
    all_pairs_answer(&cluster, Mode::Wireguard)?;
    let index = device_index(&cluster)?;
    cluster.take_daemon(1)?.kill()?;
    delete_device(&cluster)?;
    cluster.start_daemon(1)?;
    is_at_work(&cluster, 1)?;
    the_peer_hears_of_it(&cluster, index)
}

pub fn a_device_that_was_deleted_reaches_its_peers() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Wireguard, false)?;
    all_pairs_answer(&cluster, Mode::Wireguard)?;
    let index = device_index(&cluster)?;
    delete_device(&cluster)?;
    the_peer_hears_of_it(&cluster, index)
}
