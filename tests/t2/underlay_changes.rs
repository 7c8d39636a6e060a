//! The host's own network changes under a running daemon.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::diff::{LinkChange, Step};
use kernel::state::{Address, AddressKey, FdbKey, Link, LinkKind, Route, RouteKey, Scope, Veth, VethPeer};
use kernel::types::{Family, IfName, Mac, Mtu};
use lab::cluster::{Cluster, PATIENCE, Spec, log_file, subnet_file};
use lab::mode::{Mode, Path};
use lab::process::{Daemon, last_lines};
use lab::topology::{Node, Topology};
use lab::wait::eventually;
use overlay::lease::LeaseAttrs;
use overlay::status::Status;
use tests::harness::{self, figure};

use crate::takeover::go;
use crate::{Failure, Outcome, all_pairs_answer, up};

/// How soon pods must answer again after the underlay has become something else.
const SOON: Duration = Duration::from_secs(2);

fn dev(name: &str) -> Result<IfName, Failure> {
    Ok(IfName::new(name)?)
}

fn apply(cluster: &Cluster, node: Node, steps: &[Step]) -> Outcome {
    Ok(cluster.world.room(node)?.kernel()?.apply(steps).ok()?)
}

fn on_host_1(cluster: &Cluster, steps: &[Step]) -> Outcome {
    apply(cluster, Node::Host(1), steps)
}

fn key(link: &str, net: &str) -> Result<AddressKey, Failure> {
    Ok(AddressKey { dev: dev(link)?, net: net.parse()? })
}

fn add(link: &str, net: &str) -> Result<Step, Failure> {
    let key = key(link, net)?;
    let broadcast = match key.net {
        IpNetwork::V4(v4) if v4.prefix() < 31 => Some(v4.broadcast()),
        _ => None,
    };
    Ok(Step::AddAddress(key, Address { nodad: true, noprefixroute: false, broadcast }))
}

fn delete(link: &str, net: &str) -> Result<Step, Failure> {
    Ok(Step::DeleteAddress(key(link, net)?))
}

fn set(link: &str, change: LinkChange) -> Result<Step, Failure> {
    Ok(Step::ChangeLink(dev(link)?, change))
}

fn is_up(up: bool) -> LinkChange {
    LinkChange { up: Some(up), ..LinkChange::default() }
}

fn env(host: usize, name: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(subnet_file(host))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("no {name} in {text}"))?.to_owned())
}

/// A host's VXLAN device.
fn device(cluster: &Cluster, host: usize, family: Family) -> Result<Link, Failure> {
    let (mut kernel, name) = (cluster.world.host(host)?.kernel()?, go::device(family)?);
    let observed = kernel.observe(&Scope { links: vec![name.clone()], ..Scope::default() })?;
    Ok(observed.links.get(&name).cloned().ok_or_else(|| format!("host{host} has no {name}"))?)
}

fn local(link: &Link) -> Option<IpAddr> {
    match &link.kind {
        LinkKind::Vxlan(vxlan) => vxlan.local,
        _ => None,
    }
}

/// Where host 2 sends what is for the VTEP with this MAC.
fn sent_to(cluster: &Cluster, mac: Mac) -> Result<Option<IpAddr>, Failure> {
    let name = dev("flannel.1")?;
    let mut kernel = cluster.world.host(2)?.kernel()?;
    let links = vec![name.clone()];
    let observed = kernel.observe(&Scope { links: links.clone(), neighbours: links, ..Scope::default() })?;
    Ok(observed.fdb.get(&FdbKey { dev: name, mac }).map(|entry| entry.dst))
}

fn subnet(host: usize) -> Result<IpNetwork, Failure> {
    Ok(Cluster::status(host).and_then(|s| s.subnets.first().copied()).ok_or("no subnet")?)
}

/// The lease of a host by its subnet.
fn lease(cluster: &Cluster, subnets: &[IpNetwork]) -> Result<LeaseAttrs, Failure> {
    assert_eq!(fs::read_dir(Cluster::leases_dir())?.count(), cluster.spec.topology.hosts().len(), "no second lease");
    let key: Vec<_> = subnets.iter().map(|net| net.to_string().replace('/', "-")).collect();
    Ok(LeaseAttrs::parse(&fs::read(Cluster::leases_dir().join(key.join("&")))?)?)
}

/// Pods of host 1 and host 2 answer each other, and how long after `since` they do.
fn pods_answer(cluster: &Cluster, since: Instant, what: &str) -> Outcome {
    for (from, to) in [(1, 2), (2, 1)] {
        for family in cluster.families() {
            let mut pinger = cluster.pinger(from, to, *family)?;
            eventually(format_args!("pod{from} reaches pod{to} {family:?} after: {what}"), PATIENCE, || {
                pinger
                    .echo(Duration::from_millis(50))
                    .map_err(|error| format!("{error}; {:?}\n{}", Cluster::status(1), last_lines(&log_file(1))))
            })?;
        }
    }
    figure(format_args!("{what}: pods answer after {:.0} ms", since.elapsed().as_secs_f64() * 1e3));
    assert!(since.elapsed() < SOON, "{what}: pods answer after {:?}", since.elapsed());
    Ok(())
}

/// Everything follows host 1's address, and nothing else changes.
fn follows(cluster: &Cluster, address: &str, what: &str, steps: &[Step]) -> Outcome {
    let address: IpAddr = address.parse()?;
    let before =
        (device(cluster, 1, Family::V4)?.mac, env(1, "FLANNEL_SUBNET")?, Cluster::status(1).map(|s| s.subnets));
    let mac = before.0.ok_or("no MAC")?;
    let index = cluster.world.host(1)?.kernel()?.index(&dev("flannel.1")?)?;
    let started = Instant::now();
    on_host_1(cluster, steps)?;
    eventually(format_args!("host2 sends to {address}"), PATIENCE, || {
        let to = sent_to(cluster, mac).map_err(|error| error.to_string())?;
        if to == Some(address) { Ok(()) } else { Err(format!("{to:?}\n{}", last_lines(&log_file(1)))) }
    })?;
    pods_answer(cluster, started, what)?;
    let link = device(cluster, 1, Family::V4)?;
    assert_eq!((link.mac, env(1, "FLANNEL_SUBNET")?, Cluster::status(1).map(|s| s.subnets)), before);
    assert_eq!(local(&link), Some(address));
    assert_eq!(cluster.world.host(1)?.kernel()?.index(&dev("flannel.1")?)?, index, "the same device");
    let subnets = before.2.unwrap_or_default();
    assert_eq!(lease(cluster, &subnets)?.public(Family::V4), Some(address));
    Ok(())
}

pub fn an_address_changes() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, true)?;
    let promote = Step::WriteSysctl("net/ipv4/conf/eth0/promote_secondaries".into(), "1".into());
    let (old, new) = ("192.168.1.11/24", "192.168.1.111/24");
    // while both are there the one that the peers know stays
    on_host_1(&cluster, &[promote, add("eth0", new)?])?;
    follows(&cluster, "192.168.1.111", "a new address beside the old one, which goes", &[delete("eth0", old)?])?;
    // as by DHCP: first there is none
    on_host_1(&cluster, &[delete("eth0", new)?])?;
    eventually("the daemon misses its address", PATIENCE, || match Cluster::status(1).and_then(|s| s.last_error) {
        Some(error) if error.contains("no usable IPv4 address") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert!(device(&cluster, 1, Family::V4).is_ok(), "what is there stays");
    follows(&cluster, "192.168.1.11", "no address, and then one", &[add("eth0", old)?])?;
    // IPv6 follows by itself
    let (old, new) = ("fd00:1::b/64", "fd00:1::111");
    let started = Instant::now();
    on_host_1(&cluster, &[add("eth0", &format!("{new}/64"))?, delete("eth0", old)?])?;
    let subnets = Cluster::status(1).unwrap_or_default().subnets;
    eventually("IPv6's address is published", PATIENCE, || {
        let public = lease(&cluster, &subnets).map_err(|error| error.to_string())?.public(Family::V6);
        if public == new.parse().ok() { Ok(()) } else { Err(format!("{public:?}")) }
    })?;
    assert_eq!(local(&device(&cluster, 1, Family::V6)?), new.parse().ok());
    pods_answer(&cluster, started, "another IPv6 address")?;
    all_pairs_answer(&cluster, Mode::Vxlan)
}

pub fn the_mtu_changes() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, true)?;
    let before = env(1, "FLANNEL_SUBNET")?;
    for mtu in [1400, 1500] {
        on_host_1(&cluster, &[set("eth0", LinkChange { mtu: Some(Mtu(mtu)), ..LinkChange::default() })?])?;
        let want = (Some(Mtu(mtu - 50)), Some(Mtu(mtu - 70)), (mtu - 50).to_string());
        eventually(format_args!("the overlay fits into {mtu} bytes"), PATIENCE, || {
            let link = |family| device(&cluster, 1, family).map(|link| link.mtu).unwrap_or_default();
            let have = (link(Family::V4), link(Family::V6), env(1, "FLANNEL_MTU").unwrap_or_default());
            if have == want { Ok(()) } else { Err(format!("{have:?}\n{}", last_lines(&log_file(1)))) }
        })?;
        assert_eq!(env(1, "FLANNEL_SUBNET")?, before);
    }
    all_pairs_answer(&cluster, Mode::Vxlan)
}

/// The kernel drops the link's routes, and of IPv6 its addresses, which whoever configures the host gives back.
fn down_and_up(mode: Mode) -> Outcome {
    let cluster = up(Topology::flat(2), mode, true)?;
    on_host_1(&cluster, &[set("eth0", is_up(false))?])?;
    if mode == Mode::HostGw {
        eventually("the route is gone", PATIENCE, || match cluster.path(1, 2, Family::V4) {
            Ok(Path::None) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    let started = Instant::now();
    on_host_1(&cluster, &[set("eth0", is_up(true))?, add("eth0", "fd00:1::b/64")?])?;
    pods_answer(&cluster, started, &format!("{mode}: eth0 goes down and up"))?;
    let subnets = Cluster::status(1).unwrap_or_default().subnets;
    assert_eq!(lease(&cluster, &subnets)?.public(Family::V6), "fd00:1::b".parse().ok());
    all_pairs_answer(&cluster, mode)
}

/// Nobody gives the address back: the other family must not wait for it, and a link-local one is not published for it.
pub fn one_family_is_missing() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::HostGw, true)?;
    let subnets = Cluster::status(1).unwrap_or_default().subnets;
    let attrs = lease(&cluster, &subnets)?;
    let started = Instant::now();
    on_host_1(&cluster, &[set("eth0", is_up(false))?, set("eth0", is_up(true))?])?;
    let mut pinger = cluster.pinger(1, 2, Family::V4)?;
    eventually("IPv4 is back", SOON, || {
        let echo = pinger.echo(Duration::from_millis(50));
        echo.map_err(|error| format!("{error}; {:?}\n{}", Cluster::status(1), last_lines(&log_file(1))))
    })?;
    figure(format_args!("eth0 loses IPv6: IPv4 is back after {:.0} ms", started.elapsed().as_secs_f64() * 1e3));
    eventually("the status names what is missing", PATIENCE, || match Cluster::status(1).and_then(|s| s.last_error) {
        Some(error) if error.contains("no usable IPv6 address") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // as long as the link-local address that the kernel makes at "up" is there to be chosen
    let mut kernel = cluster.world.host(1)?.kernel()?;
    let index = kernel.index(&dev("eth0")?)?;
    eventually("eth0 has a link-local address", PATIENCE, || {
        let addresses = kernel.addresses_of(index).map_err(|error| error.to_string())?;
        if addresses.iter().any(|seen| seen.key.net.is_ipv6()) { Ok(()) } else { Err("none".to_owned()) }
    })?;
    assert_eq!(lease(&cluster, &subnets)?, attrs);
    let started = Instant::now();
    on_host_1(&cluster, &[add("eth0", "fd00:1::b/64")?])?;
    pods_answer(&cluster, started, "IPv6 is back")?;
    all_pairs_answer(&cluster, Mode::HostGw)
}

pub fn the_link_goes_down_and_up() -> Outcome {
    down_and_up(Mode::HostGw)
}

pub fn the_link_below_vxlan_goes_down_and_up() -> Outcome {
    down_and_up(Mode::Vxlan)
}

/// A cable from a host to the switch of a segment.
fn plug(cluster: &Cluster, link: &str, port: &str, segment: usize, addresses: &[&str]) -> Outcome {
    let switch = Node::Switch(segment);
    let netns = Some(cluster.world.room(switch)?.netns().as_raw_fd());
    let peer = VethPeer { name: dev(port)?, mac: None, mtu: None, netns };
    let cable = Link { up: false, ..Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) })) };
    on_host_1(cluster, &[Step::CreateLink(dev(link)?, cable)])?;
    let port_up = LinkChange { master: Some(Some(dev("br0")?)), ..is_up(true) };
    apply(cluster, switch, &[set(port, port_up)?])?;
    let mut steps = vec![
        Step::WriteSysctl(format!("net/ipv4/conf/{link}/rp_filter"), "0".into()),
        Step::WriteSysctl(format!("net/ipv6/conf/{link}/accept_dad"), "0".into()),
        set(link, is_up(true))?,
    ];
    steps.extend(addresses.iter().map(|net| add(link, net)).collect::<Result<Vec<_>, _>>()?);
    on_host_1(cluster, &steps)
}

fn made_anew(mode: Mode) -> Outcome {
    let cluster = up(Topology::flat(2), mode, true)?;
    let subnets = Cluster::status(1).unwrap_or_default().subnets;
    let attrs = lease(&cluster, &subnets)?;
    on_host_1(&cluster, &[Step::DeleteLink(dev("eth0")?)])?;
    eventually("the daemon misses its link", PATIENCE, || match Cluster::status(1).and_then(|s| s.last_error) {
        Some(error) if error.contains("Failed to find interface") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let started = Instant::now();
    plug(&cluster, "eth0", "host1", 1, &["192.168.1.11/24", "fd00:1::b/64"])?;
    pods_answer(&cluster, started, &format!("{mode}: eth0 is deleted and made anew"))?;
    assert_eq!(lease(&cluster, &subnets)?, attrs, "with its MAC");
    all_pairs_answer(&cluster, mode)
}

pub fn the_interface_is_made_anew() -> Outcome {
    made_anew(Mode::HostGw)
}

pub fn the_interface_below_vxlan_is_made_anew() -> Outcome {
    made_anew(Mode::Vxlan)
}

fn default_by(link: &str, via: &str, metric: u32) -> Result<(RouteKey, Route), Failure> {
    let key = RouteKey { metric: Some(metric).filter(|m| *m > 0), ..RouteKey::main("0.0.0.0/0".parse()?) };
    Ok((key, Route { via: Some(via.parse()?), ..Route::by(&dev(link)?) }))
}

/// Starts a daemon with further flags for its choice of an interface, with the cluster's store, and waits for it.
fn start(cluster: &Cluster, host: usize, flags: &[&str]) -> Result<Daemon, Failure> {
    let daemon = go::start(cluster, host, &Cluster::store_dir(), flags)?;
    eventually(format_args!("host{host} is ready"), PATIENCE, || {
        if subnet_file(host).exists() { Ok(()) } else { Err(last_lines(&log_file(host))) }
    })?;
    Ok(daemon)
}

fn prepare(topology: Topology) -> Result<Cluster, Failure> {
    let spec = Spec { topology, mode: Mode::Vxlan, dual_stack: false, outlive: false };
    Ok(Cluster::prepare(spec, &harness::executables()?)?)
}

/// The daemon of host 1 says that this is the link below its overlay.
fn is_by(link: &str) -> Outcome {
    Ok(eventually(format_args!("the status names {link}"), PATIENCE, || {
        match Cluster::status(1).and_then(|status| status.underlay) {
            Some(underlay) if underlay.dev == link => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?)
}

/// Without --iface it is the link of the default route with the lowest metric, and that changes.
pub fn the_default_route_is_followed() -> Outcome {
    let mut cluster = prepare(Topology::every_third_routed(3))?;
    plug(&cluster, "eth1", "second", 2, &["192.168.2.91/24"])?;
    let (first, second) = (default_by("eth0", "192.168.1.1", 0)?, default_by("eth1", "192.168.2.1", 200)?);
    on_host_1(&cluster, &[Step::PutRoute(second.0, second.1)])?;
    let daemon = start(&cluster, 1, &[])?;
    for host in [2, 3] {
        cluster.start_daemon(host)?;
    }
    cluster.wait_ready()?;
    cluster.attach_pods()?;
    pods_answer(&cluster, Instant::now(), "the start")?;
    is_by("eth0")?;
    let put = |(key, route): &(RouteKey, Route)| Step::PutRoute(key.clone(), route.clone());
    let gone = Step::DeleteRoute(first.0.clone(), first.1.clone());
    follows(&cluster, "192.168.2.91", "the default route goes, another one is left", &[gone])?;
    is_by("eth1")?;
    let better = default_by("eth0", "192.168.1.1", 50)?;
    follows(&cluster, "192.168.1.11", "a default route with a lower metric comes", &[put(&better)])?;
    is_by("eth0")?;
    assert!(daemon.stop(PATIENCE)?.success());
    Ok(())
}

/// The published address is a router's, which passes what comes on to the host. Here it is on the loopback link.
pub fn behind_nat() -> Outcome {
    let mut cluster = prepare(Topology::flat(2))?;
    let public: IpAddr = "203.0.113.9".parse()?;
    on_host_1(&cluster, &[add("lo", "203.0.113.9/32")?])?;
    let route = Route { via: cluster.spec.topology.underlay(1, Family::V4), ..Route::by(&dev("eth0")?) };
    apply(&cluster, Node::Host(2), &[Step::PutRoute(RouteKey::main(public.into()), route)])?;
    let daemon = start(&cluster, 1, &["--iface=eth0", "--public-ip=203.0.113.9"])?;
    cluster.start_daemon(2)?;
    cluster.wait_ready()?;
    cluster.attach_pods()?;
    pods_answer(&cluster, Instant::now(), "the start")?;
    let link = device(&cluster, 1, Family::V4)?;
    assert_eq!(local(&link), cluster.spec.topology.underlay(1, Family::V4), "the interface's own");
    assert_eq!(sent_to(&cluster, link.mac.ok_or("no MAC")?)?, Some(public));
    assert_eq!(lease(&cluster, &[subnet(1)?])?.public(Family::V4), Some(public));
    assert!(daemon.stop(PATIENCE)?.success());
    Ok(())
}

/// All that a host's daemon says is wrong.
fn complaints(host: usize) -> Result<(Status, String), String> {
    let status = Cluster::status(host).ok_or("no status")?;
    let log = fs::read_to_string(log_file(host)).map_err(|error| error.to_string())?;
    Ok((status, log))
}

/// Status and log of both hosts name the address and the other's lease.
fn both_complain(address: &str, subnets: [IpNetwork; 2]) -> Outcome {
    for (host, other) in [(1, subnets[1]), (2, subnets[0])] {
        let key = other.to_string().replace('/', "-");
        eventually(format_args!("host{host} complains of {key}"), PATIENCE, || {
            let (status, log) = complaints(host)?;
            let rejected = status.rejected.iter().filter(|rejected| rejected.key == key).map(|r| &r.reason);
            let error = status.last_error.iter().filter(|error| error.contains(&key));
            let in_status = rejected.chain(error).any(|text| text.contains(address));
            let in_log = log.lines().any(|line| line.contains("WARN") && line.contains(&key) && line.contains(address));
            if in_status && in_log { Ok(()) } else { Err(format!("{status:?}\n{}", last_lines(&log_file(host)))) }
        })?;
    }
    Ok(())
}

/// Host 1 gets host 2's address while both run.
pub fn an_address_that_another_host_has() -> Outcome {
    let cluster = up(Topology::flat(3), Mode::Vxlan, false)?;
    let subnets = [subnet(1)?, subnet(2)?];
    on_host_1(&cluster, &[delete("eth0", "192.168.1.11/24")?, add("eth0", "192.168.1.12/24")?])?;
    both_complain("192.168.1.12", subnets)?;
    assert_eq!([subnet(1)?, subnet(2)?], subnets, "each keeps its subnet");
    lease(&cluster, &subnets[..1])?;
    lease(&cluster, &subnets[1..])?;
    // and nobody else is harmed: host 3 says so, too
    let shared = "publish the same address 192.168.1.12";
    eventually("host3 says so", PATIENCE, || {
        let (status, log) = complaints(3)?;
        if log.contains(shared) { Ok(()) } else { Err(format!("{status:?}")) }
    })?;
    // and it ends when the address does
    on_host_1(&cluster, &[delete("eth0", "192.168.1.12/24")?, add("eth0", "192.168.1.11/24")?])?;
    pods_answer(&cluster, Instant::now(), "the address is its own again")?;
    all_pairs_answer(&cluster, Mode::Vxlan)
}

/// Host 2 is new, and its --public-ip is host 1's.
pub fn a_public_ip_that_another_host_has() -> Outcome {
    let cluster = prepare(Topology::flat(2))?;
    let flags = ["--iface=eth0", "--public-ip=203.0.113.9"];
    let first = start(&cluster, 1, &flags)?;
    let (own, mac) = (subnet(1)?, device(&cluster, 1, Family::V4)?.mac);
    let second = start(&cluster, 2, &flags)?;
    let other = eventually("host2 has a subnet of its own", PATIENCE, || {
        let theirs = subnet(2).map_err(|error| error.to_string())?;
        if theirs != own { Ok(theirs) } else { Err(format!("{theirs}\n{}", last_lines(&log_file(2)))) }
    })?;
    both_complain("203.0.113.9", [own, other])?;
    assert_eq!((subnet(1)?, device(&cluster, 1, Family::V4)?.mac), (own, mac));
    eventually("host1's lease has its MAC", PATIENCE, || {
        let text = fs::read_to_string(Cluster::leases_dir().join(own.to_string().replace('/', "-")));
        let text = text.map_err(|error| error.to_string())?;
        if mac.is_some_and(|mac| text.contains(&mac.to_string())) { Ok(()) } else { Err(text) }
    })?;
    assert_eq!(env(2, "FLANNEL_SUBNET")?.split('.').nth(2), other.ip().to_string().split('.').nth(2));
    for daemon in [first, second] {
        assert!(daemon.stop(PATIENCE)?.success());
    }
    // a restart finds its own again
    let again = start(&cluster, 2, &flags)?;
    eventually("host2 has its subnet again", PATIENCE, || match Cluster::status(2) {
        Some(status) if status.pid == again.pid() && status.subnets == [other] => Ok(()),
        status => Err(format!("{status:?}")),
    })?;
    assert!(again.stop(PATIENCE)?.success());
    Ok(())
}
