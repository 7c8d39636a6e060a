//! From Go flanneld to ours and back, one host at a time, while packets flow.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use kernel::KernelError;
use kernel::diff::Step;
use kernel::message::Request;
use kernel::message::link;
use kernel::state::{FdbKey, NeighbourKey, Route, RouteKey, RouteKind, Scope, State};
use kernel::types::{Family, IfIndex, IfName, Mac, RouteProtocol, TableId};
use lab::cluster::{Cluster, PATIENCE, Spec, log_file, subnet_file};
use lab::mode::Mode;
use lab::process::{Daemon, last_lines};
use lab::topology::Topology;
use lab::traffic::Traffic;
use lab::wait::eventually;
use lab::world::{World, establish};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo};
use overlay::status::{Reach, Status};
use tests::harness::{self, figure};

use self::go::{HOST, Peer};
use crate::{Failure, Outcome};

pub mod go;

/// What passes in each state: half a second's.
const PASS: u64 = 5_000;

pub fn vxlan() -> Outcome {
    there_and_back(&GoCluster::up(Topology::every_third_routed(3), Mode::Vxlan, false)?)
}

pub fn vxlan_dual_stack() -> Outcome {
    there_and_back(&GoCluster::up(Topology::flat(2), Mode::Vxlan, true)?)
}

pub fn direct_routing() -> Outcome {
    there_and_back(&GoCluster::up(Topology::every_third_routed(3), Mode::DirectRouting, false)?)
}

pub fn host_gw() -> Outcome {
    there_and_back(&GoCluster::up(Topology::flat(3), Mode::HostGw, false)?)
}

/// A cluster in which host 1 is as Go flanneld left it, and the others have our daemon.
struct GoCluster {
    cluster: Cluster,
    peers: Vec<Peer>,
    lease: (String, String),
    /// Host 1's.
    store: PathBuf,
    stale: State,
    foreign: State,
}

impl GoCluster {
    fn up(topology: Topology, mode: Mode, dual_stack: bool) -> Result<Self, Failure> {
        let spec = Spec { topology, mode, dual_stack, outlive: false };
        let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
        let store = go::own_store(HOST, &mode.config(dual_stack))?;
        let lease = go::lease(&cluster)?;
        let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 20 * 3600;
        fs::write(Cluster::leases_dir().with_file_name("ttl").join(&lease.0), end.to_string())?;
        fs::write(Cluster::leases_dir().join(&lease.0), &lease.1)?;
        for host in cluster.spec.topology.hosts().into_iter().filter(|host| *host != HOST) {
            cluster.start_daemon(host)?;
        }
        cluster.wait_ready()?;
        let peers = go::peers(&cluster, &lease.0)?;
        go::write_subnet_env(&cluster)?;
        go::run(&cluster, &peers)?;
        let (stale, foreign) = (stale(&cluster, &peers)?, foreign(&cluster, &peers)?);
        for more in [&stale, &foreign] {
            establish(cluster.world.host(HOST)?, more)?;
        }
        cluster.attach_pods()?;
        cluster.wait_paths(mode)?;
        Ok(Self { cluster, peers, lease, store, stale, foreign })
    }

    fn traffic(&self) -> Result<Traffic, Failure> {
        let others = self.cluster.spec.topology.hosts().into_iter().filter(|host| *host != HOST);
        let pairs: Vec<_> = others.flat_map(|host| [(HOST, host), (host, HOST)]).collect();
        Ok(Traffic::start(&self.cluster, &pairs)?)
    }

    /// Starts our daemon on the host, and waits until it has done what it has to.
    fn start(&self) -> Result<Daemon, Failure> {
        let daemon = go::start(&self.cluster, HOST, &self.store, &["--iface=eth0"])?;
        is_at_work(&daemon, self.peers.len())?;
        Ok(daemon)
    }

    fn look(&self) -> Result<Look, Failure> {
        let mut kernel = self.cluster.world.host(HOST)?.kernel()?;
        let names = go::DEVICES.into_iter().chain(["eth0"]).map(IfName::new).collect::<Result<Vec<_>, _>>()?;
        let scope = Scope { links: names.clone(), neighbours: names.clone(), ..Scope::default() };
        let observed = kernel.observe(&scope)?;
        let index = |name| Ok(kernel.link(name)?.map(|seen| seen.index));
        let indexes = names.iter().map(index).collect::<Result<_, KernelError>>()?;
        Ok(Look { routes: kernel.routes(TableId::MAIN)?, state: observed, indexes })
    }
}

/// The host's kernel.
#[derive(Debug, PartialEq)]
struct Look {
    routes: Vec<(RouteKey, Route)>,
    state: State,
    /// Of both flannel devices and eth0: another index is another device.
    indexes: Vec<Option<IfIndex>>,
}

impl Look {
    fn routes_to(&self, dst: IpNetwork) -> Vec<&Route> {
        self.routes.iter().filter(|(key, _)| key.dst == dst).map(|(_, route)| route).collect()
    }
}

/// Subnets that no host has.
fn unleased(peers: &[Peer]) -> [String; 4] {
    let free = |net: &String| peers.iter().all(|peer| peer.subnet.to_string() != *net);
    let mut nets = (210..).map(|n| format!("10.244.{n}.0/24")).filter(free);
    std::array::from_fn(|_| nets.next().unwrap_or_default())
}

/// A host without a lease any more; `mac`: its VTEP's.
fn gone(subnet: &str, public: &str, mac: Option<Mac>) -> Result<Peer, Failure> {
    Ok(Peer { subnet: subnet.parse()?, public: public.parse()?, mac })
}

/// Left by hosts that are gone and by a peer's former device, of any age.
fn stale(cluster: &Cluster, peers: &[Peer]) -> Result<State, Failure> {
    let mut state = State::default();
    let [first, ..] = unleased(peers);
    let vxlan = cluster.spec.mode != Mode::HostGw;
    if vxlan {
        let mac = Some("0e:00:00:00:00:77".parse()?);
        go::add_peer(&mut state, &gone(&first, "192.168.1.77", mac)?)?;
        if cluster.spec.dual_stack {
            go::add_peer(&mut state, &gone("fd10:244:0:210::/64", "fd00:1::77", mac)?)?;
        }
    }
    for (peer, n) in peers.iter().filter(|_| vxlan).zip(0..) {
        let (dev, mac) = (go::device(Family::from(peer.subnet))?, Mac([0x0e, 0, 0, 0, 0, n]));
        state.fdb.insert(FdbKey { dev: dev.clone(), mac }, peer.public.into());
        // what is left when DirectRouting comes
        let left = NeighbourKey { dev, addr: peer.subnet.network() };
        state.neighbours.extend(peer.mac.is_none().then_some((left, mac)));
    }
    Ok(state)
}

/// Somebody else's: in the network but nothing that Go makes, or Go's shape but outside of it, or on another link. Go's route
/// to a host that is gone, by its address, is not told from an administrator's.
fn foreign(cluster: &Cluster, peers: &[Peer]) -> Result<State, Failure> {
    let [_, direct, fixed_net, hole] = unleased(peers);
    let mut state = State::default();
    go::add_peer(&mut state, &gone(&direct, "192.168.1.78", None)?)?;
    let eth0 = IfName::new("eth0")?;
    let by = |via: &str| -> Result<Route, Failure> { Ok(Route { via: Some(via.parse()?), ..Route::by(&eth0) }) };
    let fixed = |via: &str| -> Result<Route, Failure> { Ok(Route { protocol: RouteProtocol(4), ..by(via)? }) };
    let blackhole = Route { kind: RouteKind::Blackhole, dev: None, ..by("192.168.1.12")? };
    let mut put = |dst: &str, route| -> Outcome {
        state.routes.insert(RouteKey::main(dst.parse()?), route);
        Ok(())
    };
    put(&fixed_net, fixed("192.168.1.12")?)?;
    put(&hole, Route { via: None, ..blackhole.clone() })?;
    put("10.244.0.0/16", Route { via: None, ..blackhole })?;
    put("10.99.0.0/24", by("192.168.1.12")?)?;
    if cluster.spec.dual_stack {
        put("fd10:244:0:220::/64", fixed("fd00:1::c")?)?;
    }
    let key = NeighbourKey { dev: eth0, addr: "192.168.1.99".parse()? };
    state.neighbours.insert(key, "0e:00:00:00:00:99".parse()?);
    Ok(state)
}

/// Waits until the daemon has seen all peers and made its host right.
fn is_at_work(daemon: &Daemon, peers: usize) -> Result<Status, Failure> {
    Ok(eventually("the daemon has taken over", PATIENCE, || match Cluster::status(HOST) {
        Some(status) if status.pid == daemon.pid() && status.peers.len() == peers && status.mtu > 0 => Ok(status),
        other => Err(format!("{other:?}\n{}", last_lines(&log_file(HOST)))),
    })?)
}

/// Go, ours, Go, ours.
fn there_and_back(host: &GoCluster) -> Outcome {
    let before = host.look()?;
    let env = fs::read_to_string(subnet_file(HOST))?;
    let traffic = host.traffic()?;
    traffic.pass(PASS)?;
    let daemon = host.start()?;
    let taken_over = host.look()?;
    is_taken_over(host, &before, &taken_over)?;
    assert_eq!(fs::read_to_string(subnet_file(HOST))?, env, "pods have addresses by it");
    traffic.pass(PASS)?;
    assert!(daemon.stop(PATIENCE)?.success());
    assert_eq!(host.look()?, taken_over, "nothing is torn down");

    for family in host.cluster.families().iter().filter(|_| host.cluster.spec.mode != Mode::HostGw) {
        go_keeps_the_device(host, *family)?;
    }
    go::run(&host.cluster, &host.peers)?;
    let gos = host.look()?;
    has_one_route_each(host, &gos, RouteProtocol::BOOT);
    assert_eq!(gos.state.neighbours, taken_over.state.neighbours);
    assert_eq!(gos.state.fdb, taken_over.state.fdb);
    traffic.pass(PASS)?;

    let daemon = host.start()?;
    assert_eq!(host.look()?, taken_over, "taken over again");
    traffic.pass(PASS)?;
    assert!(daemon.stop(PATIENCE)?.success());
    let counts = traffic.stop()?;
    figure(format_args!("{} from Go to ours, back and again: {counts:?}", host.cluster.spec.mode));
    assert_eq!((counts.lost, counts.duplicated), (0, 0), "{counts:?}");
    Ok(())
}

fn is_taken_over(host: &GoCluster, before: &Look, after: &Look) -> Outcome {
    let mut kernel = host.cluster.world.host(HOST)?.kernel()?;
    for family in host.cluster.families().iter().filter(|_| host.cluster.spec.mode != Mode::HostGw) {
        let device = go::device(*family)?;
        let link = kernel.link(&device)?.ok_or("no device")?;
        let mark =
            if host.cluster.spec.dual_stack { "flannel 10.244.0.0/16 fd10:244::/48" } else { "flannel 10.244.0.0/16" };
        assert_eq!((link.link.mac, link.link.alias.as_deref()), (Some(go::mac(*family)?), Some(mark)));
        let addresses: Vec<_> = kernel.addresses_of(link.index)?.into_iter().map(|seen| seen.key.net).collect();
        assert!(addresses.contains(&go::subnet(*family)?.network().into()), "{addresses:?}");
        let (was, is) = (&before.state.links[&device], &after.state.links[&device]);
        assert_eq!((&was.kind, was.mtu, was.up), (&is.kind, is.mtu, is.up));
    }
    assert_eq!(before.indexes, after.indexes);
    let (key, value) = &host.lease;
    assert_eq!(&fs::read_to_string(Cluster::leases_dir().join(key))?, value, "the lease is kept");
    assert_eq!(fs::read_dir(Cluster::leases_dir())?.count(), host.cluster.spec.topology.hosts().len());

    has_one_route_each(host, after, RouteProtocol::FLANNEL);
    for dst in host.stale.routes.keys().map(|key| key.dst) {
        assert!(!before.routes_to(dst).is_empty() && after.routes_to(dst).is_empty(), "{dst}: {after:?}");
    }
    for (key, route) in &host.foreign.routes {
        let foreign = |look: &Look| look.routes.iter().any(|(k, r)| k == key && same(r, route));
        assert!(foreign(before) && foreign(after), "{key:?}: {after:?}");
    }
    let named = Cluster::status(HOST).map(|status| status.foreign_routes).unwrap_or_default();
    let [_, direct, ..] = unleased(&host.peers);
    assert!(named.contains(&format!("{direct} via 192.168.1.78 dev eth0")), "{named:?}");
    assert!(!named.iter().any(|route| route.contains("10.99.0.0/24")), "{named:?}");
    let wanted = go::state(&host.cluster, &host.peers)?;
    let mut neighbours = wanted.neighbours;
    neighbours.extend(host.foreign.neighbours.clone());
    assert_eq!((&after.state.neighbours, &after.state.fdb), (&neighbours, &wanted.fdb));
    assert!(host.stale.fdb.keys().all(|key| before.state.fdb.contains_key(key)));
    assert!(host.stale.neighbours.keys().all(|key| before.state.neighbours.contains_key(key)));
    Ok(())
}

/// What identifies the owner of a route.
fn same(have: &Route, want: &Route) -> bool {
    (have.kind, &have.dev, have.via, have.protocol) == (want.kind, &want.dev, want.via, want.protocol)
}

/// Go's way to every peer exists exactly once.
fn has_one_route_each(host: &GoCluster, look: &Look, protocol: RouteProtocol) {
    let wanted = go::state(&host.cluster, &host.peers).map(|state| state.routes).unwrap_or_default();
    assert_eq!(wanted.len(), host.peers.len());
    for (key, want) in wanted {
        let routes = look.routes_to(key.dst);
        assert!(
            routes.len() == 1
                && same(routes[0], &Route { protocol, ..want.clone() })
                && routes[0].onlink == want.onlink,
            "{key:?} {want:?}: {routes:?}"
        );
    }
}

/// What Go compares of a device that exists; of one that differs in any of this it makes a new one.
fn go_keeps_the_device(host: &GoCluster, family: Family) -> Outcome {
    let mut kernel = host.cluster.world.host(HOST)?.kernel()?;
    let (device, eth0) = (go::device(family)?, IfName::new("eth0")?);
    let lower = kernel.link(&eth0)?.ok_or("no eth0")?.index;
    let request = Request::new(link::get_by_name(&device), 0, "ip -d link show");
    let Some(RouteNetlinkMessage::NewLink(message)) = kernel.socket().ask(request)? else {
        return Err("no device".into());
    };
    let infos = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let data = infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    let data = data.ok_or("not a vxlan device")?;
    let local = match host.cluster.spec.topology.underlay(HOST, family).ok_or("no underlay")? {
        std::net::IpAddr::V4(v4) => InfoVxlan::Local(v4),
        std::net::IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    for want in [InfoVxlan::Id(1), InfoVxlan::Link(lower.0), local, InfoVxlan::L2Miss(false), InfoVxlan::Port(8472)] {
        assert!(data.contains(&want), "{want:?}: {data:?}");
    }
    let other = |info: &InfoVxlan| matches!(info, InfoVxlan::Group(_) | InfoVxlan::Group6(_) | InfoVxlan::Gbp);
    assert!(!data.iter().any(other), "{data:?}");
    Ok(())
}

/// While the store cannot be read, it is unknown which objects are stale.
pub fn nothing_is_removed_before_the_store_is_read() -> Outcome {
    let host = GoCluster::up(Topology::flat(2), Mode::Vxlan, false)?;
    let leases = go::own_leases(HOST);
    go::symlink_anew(FilePath::new("/dev/null"), &leases)?;
    let before = host.look()?;
    let daemon = go::start(&host.cluster, HOST, &host.store, &["--iface=eth0"])?;
    eventually("the daemon has tried", PATIENCE, || match Cluster::status(HOST) {
        Some(status) if status.store_error.is_some() && status.last_reconcile.is_some() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(host.look()?, before);
    go::symlink_anew(&Cluster::leases_dir(), &leases)?;
    is_at_work(&daemon, host.peers.len())?;
    is_taken_over(&host, &before, &host.look()?)
}

/// With thousands of peers our routes have different scopes. Go's "replace" must not leave them beside its own.
pub fn routes_of_any_scope_are_replaced() -> Outcome {
    let world = World::build(Topology::flat(1))?;
    let mut kernel = world.host(HOST)?.kernel()?;
    let key = RouteKey::main("10.244.9.0/24".parse()?);
    let gos = Route { via: Some("192.168.1.12".parse()?), ..Route::by(&IfName::new("eth0")?) };
    let ours = Route { scope: Some(9), protocol: RouteProtocol::FLANNEL, ..gos.clone() };
    for route in [&ours, &gos, &ours] {
        kernel.apply(&[Step::PutRoute(key.clone(), route.clone())]).ok()?;
        let routes = kernel.routes(TableId::MAIN)?;
        let have: Vec<_> = routes.into_iter().filter(|(have, _)| have.dst == key.dst).map(|(_, route)| route).collect();
        assert_eq!(have, std::slice::from_ref(route));
    }
    Ok(())
}

fn is_ready(host: usize) -> Outcome {
    Ok(eventually(format_args!("host{host} is ready"), PATIENCE, || {
        if subnet_file(host).exists() { Ok(()) } else { Err(last_lines(&log_file(host))) }
    })?)
}

/// The way of a host to another by its status.
fn way(from: usize, to: &IpNetwork) -> Result<(Reach, String), String> {
    let status = Cluster::status(from).ok_or("no status")?;
    let peer = status.peers.iter().find(|peer| peer.subnet == *to);
    peer.map(|peer| (peer.path, peer.reason.clone())).ok_or_else(|| format!("{to} is not in {:?}", status.peers))
}

/// vxlan, host-gw, host-gw behind a router, and alloc for which the test routes.
pub fn hosts_with_different_backends_reach_each_other() -> Outcome {
    let spec = Spec { topology: Topology::every_third_routed(4), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    let alloc = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"alloc"}}"#.to_owned();
    let configs = [Mode::Vxlan.config(false), Mode::HostGw.config(false), Mode::HostGw.config(false), alloc];
    let mut daemons = Vec::new();
    let mut subnets = Vec::new();
    for (host, config) in (1..).zip(&configs) {
        let store = go::own_store(host, config)?;
        daemons.push(go::start(&cluster, host, &store, &["--iface=eth0"])?);
        is_ready(host)?;
        subnets.push(Cluster::status(host).and_then(|s| s.subnets.first().copied()).ok_or("no subnet")?);
    }
    let none = "the peer has no VTEP";
    for (from, to, path, reason) in [
        (1, 2, Reach::Direct, none),
        (2, 1, Reach::Direct, "on the same segment"),
        (1, 3, Reach::Unreachable, none),
        (3, 1, Reach::Unreachable, "this host has no VTEP"),
        (2, 3, Reach::Unreachable, none),
        (3, 2, Reach::Unreachable, none),
        (1, 4, Reach::Direct, none),
        (2, 4, Reach::Direct, "on the same segment"),
    ] {
        let want = (path, reason.to_owned());
        eventually(format_args!("host{from} says how it reaches host{to}"), PATIENCE, || {
            let have = way(from, &subnets[to - 1])?;
            if have == want { Ok(()) } else { Err(format!("{have:?}")) }
        })?;
    }
    let mut by_hand = State::default();
    for peer in [1, 2] {
        let via = cluster.spec.topology.underlay(peer, Family::V4);
        let route = Route { via, ..Route::by(&IfName::new("eth0")?) };
        by_hand.routes.insert(RouteKey::main(subnets[peer - 1]), route);
    }
    establish(cluster.world.host(4)?, &by_hand)?;
    cluster.attach_pods()?;
    for (from, to) in [(1, 2), (2, 1), (1, 4), (4, 1), (2, 4), (4, 2)] {
        let echo = cluster.pinger(from, to, Family::V4)?.echo(Duration::from_secs(2));
        echo.map_err(|error| format!("pod{from} to pod{to}: {error}"))?;
    }
    for daemon in daemons {
        assert!(daemon.stop(PATIENCE)?.success());
    }
    Ok(())
}
