//! The udp backend: pods' packets as plain datagrams, fast between our own, and understood by upstream's.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use etherparse::{Icmpv4Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4};
use ipnetwork::IpNetwork;
use kernel::diff::Step;
use kernel::state::{Link, LinkKind, Route, RouteKey, State, TunTap};
use kernel::tuntap::Queue;
use kernel::types::{Family, IfName, Mtu, TableId, host_net};
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::{Mode, NETWORK};
use lab::netns::Room;
use lab::topology::Topology;
use lab::traffic::Traffic;
use lab::wait::eventually;
use lab::world::establish;
use overlay::status::Status;
use rustix::net::{AddressFamily, RecvFlags, SocketType, recv, socket, sockopt};
use tests::harness::{executables, figure};
use tests::plain::Plain;

use crate::{Failure, Outcome, all_pairs_answer, up};

const PORT: u16 = 8285;
const LIMIT: Duration = Duration::from_secs(20);

pub fn every_pod_reaches_every_pod() -> Outcome {
    all_pairs_answer(&up(Topology::every_third_routed(3), Mode::Udp, false)?, Mode::Udp)
}

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251 + n / 65_521) as u8).collect()
}

fn v4(addr: IpAddr) -> Result<Ipv4Addr, Failure> {
    match addr {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(_) => Err("not IPv4".into()),
    }
}

/// Sends `bytes` by TCP from one namespace to `to` in the other, and has them sent back: nothing is changed.
fn there_and_back(from: &Room, at: &Room, to: IpAddr, bytes: &[u8]) -> Outcome {
    let listener = at.enter(|| TcpListener::bind((to, 0)))??;
    let address = listener.local_addr()?;
    let mut near = from.enter(|| TcpStream::connect_timeout(&address, LIMIT))??;
    let (mut far, _) = listener.accept()?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    let (there, back) = std::thread::scope(|scope| {
        let other = scope.spawn(move || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes)?;
            far.write_all(&bytes)?;
            far.shutdown(Shutdown::Write)?;
            Ok(bytes)
        });
        let own = near.write_all(bytes).and_then(|()| near.shutdown(Shutdown::Write)).and_then(|()| {
            let mut back = Vec::new();
            near.read_to_end(&mut back).map(|_| back)
        });
        (other.join(), own)
    });
    let there = there.map_err(|_| "the other end has panicked")??;
    assert!(there == bytes, "{} of {} bytes arrived, or others", there.len(), bytes.len());
    assert!(back? == bytes, "what came back is not what was sent");
    Ok(())
}

pub fn a_stream_arrives_whole() -> Outcome {
    let cluster = up(Topology::every_third_routed(3), Mode::Udp, false)?;
    let bytes = content(16 << 20);
    for (from, to) in [(1, 2), (2, 3)] {
        there_and_back(&cluster.pod(from)?.room, &cluster.pod(to)?.room, cluster.address(to, Family::V4)?, &bytes)?;
    }
    let crossed = counted(&cluster, 1)?;
    // the larger part in trains: what is fast is at work
    assert!(crossed.sent_bytes > bytes.len() as u64 && crossed.received_bytes > bytes.len() as u64, "{crossed:?}");
    assert!(crossed.dropped.keys().all(|why| why == "not-ipv4"), "{crossed:?}");
    Ok(())
}

/// What a host's data path has counted. It is in the status after a pass that changed something.
fn counted(cluster: &Cluster, host: usize) -> Result<overlay::status::Udp, Failure> {
    let before = Cluster::status(host).and_then(|status| status.udp).unwrap_or_default();
    let network: IpNetwork = NETWORK.parse()?;
    let mut kernel = cluster.world.host(host)?.kernel()?;
    let routes = kernel.routes(TableId::MAIN)?;
    let (key, route) = routes.into_iter().find(|(key, _)| key.dst == network).ok_or("no route for the network")?;
    kernel.apply(&[Step::DeleteRoute(key, route)]).ok()?;
    Ok(eventually("the status has new counters", PATIENCE, || {
        let now = Cluster::status(host).and_then(|status| status.udp).unwrap_or_default();
        if now != before { Ok(now) } else { Err(format!("{now:?}")) }
    })?)
}

pub fn datagrams_of_every_size_arrive() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Udp, false)?;
    let bind = |host: usize| -> Result<UdpSocket, Failure> {
        let address = cluster.address(host, Family::V4)?;
        let socket = cluster.pod(host)?.room.enter(|| UdpSocket::bind((address, 0)))??;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    };
    let (from, to) = (bind(1)?, bind(2)?);
    from.connect(to.local_addr()?)?;
    let mut buffer = vec![0; 65_535];
    // the last one that fits is 1472 - 28; larger ones are cut by the pod into fragments
    for length in [0, 1, 7, 8, 100, 1_400, 1_443, 1_444, 1_445, 4_000, 20_000, 60_000] {
        let bytes = content(length);
        from.send(&bytes)?;
        let arrived = to.recv(&mut buffer)?;
        assert!(buffer[..arrived] == bytes, "{arrived} of {length} bytes");
    }
    Ok(())
}

/// Host 3 as upstream has it: no daemon of ours, a plain TUN device, one packet per datagram.
struct GoHost {
    address: Ipv4Addr,
    plain: Plain,
}

const GO_SUBNET: &str = "10.244.200.0-24";
const GO_DEVICE: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 0);

impl GoHost {
    /// `to`: the host that all its packets go to.
    fn start(cluster: &Cluster, host: usize, to: usize) -> Result<Self, Failure> {
        let underlay = |host: usize| -> Result<Ipv4Addr, Failure> {
            v4(cluster.spec.topology.underlay(host, Family::V4).ok_or("no such host")?)
        };
        let room = cluster.world.host(host)?;
        let device = device()?;
        let mut state = State::default();
        let kind = LinkKind::TunTap(TunTap { multi_queue: true, ..TunTap::default() });
        state.links.insert(device.clone(), Link { mtu: Some(Mtu(1472)), ..Link::up(kind) });
        state.address(&device, host_net(GO_DEVICE.into()), true);
        state.routes.insert(RouteKey::main(NETWORK.parse()?), Route::by(&device));
        establish(room, &state)?;
        let queue = room.enter(|| Queue::plain(&device))??;
        let address = underlay(host)?;
        let socket = room.enter(|| UdpSocket::bind((address, PORT)))??;
        let plain = Plain::start(queue, socket, SocketAddrV4::new(underlay(to)?, PORT))?;
        Ok(Self { address, plain })
    }

    fn lease(&self) -> Outcome {
        let value = format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, self.address);
        Ok(fs::write(Cluster::leases_dir().join(GO_SUBNET), value)?)
    }
}

/// Hosts 1 and 2 run our daemon, host 3 does not.
fn with_a_go_host() -> Result<(Cluster, GoHost), Failure> {
    let spec = Spec { topology: Topology::flat(3), mode: Mode::Udp, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &executables()?)?;
    for host in [1, 2] {
        cluster.start_daemon(host)?;
    }
    cluster.wait_ready()?;
    cluster.attach_pod(1)?;
    cluster.attach_pod(2)?;
    let go = GoHost::start(&cluster, 3, 1)?;
    Ok((cluster, go))
}

pub fn a_plain_host_is_served() -> Outcome {
    let (cluster, go) = with_a_go_host()?;
    go.lease()?;
    eventually("host1 knows the plain host", PATIENCE, || match Cluster::status(1) {
        Some(Status { peers, .. }) if peers.iter().any(|peer| peer.public_ip == go.address) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let (pod, plain) = (&cluster.pod(1)?.room, cluster.world.host(3)?);
    let bytes = content(4 << 20);
    // to the plain host as trains that are cut for it, and from it as single datagrams that are joined
    there_and_back(pod, plain, GO_DEVICE.into(), &bytes)?;
    there_and_back(plain, pod, cluster.address(1, Family::V4)?, &bytes)?;
    go.plain.stop()?;
    Ok(())
}

/// A datagram from `room`, in it a UDP packet from `source` for port 7 of the pod.
fn knock(room: &Room, host: Ipv4Addr, source: Ipv4Addr, pod: Ipv4Addr, word: &[u8]) -> Outcome {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(source.octets(), pod.octets(), 64).udp(9, 7).write(&mut packet, word)?;
    // upstream takes any port of the sender's
    let socket = room.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.send_to(&packet, (host, PORT))?;
    Ok(())
}

pub fn strangers_and_liars_are_not_heard() -> Outcome {
    let (cluster, go) = with_a_go_host()?;
    let pod = v4(cluster.address(1, Family::V4)?)?;
    let there = v4(cluster.address(2, Family::V4)?)?;
    let host = v4(cluster.spec.topology.underlay(1, Family::V4).ok_or("host1")?)?;
    let member = v4(cluster.spec.topology.underlay(2, Family::V4).ok_or("host2")?)?;
    let socket = cluster.pod(1)?.room.enter(|| UdpSocket::bind((pod, 7)))??;
    socket.set_read_timeout(Some(LIMIT))?;
    let [second, third] = [cluster.world.host(2)?, cluster.world.host(3)?];
    eventually("host1 lists host2", PATIENCE, || match Cluster::status(1) {
        Some(status) if status.peers.iter().any(|peer| peer.public_ip == IpAddr::V4(member)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    knock(third, host, there, pod, b"a stranger's")?;
    knock(third, host, GO_DEVICE, pod, b"a stranger's own")?;
    knock(second, host, GO_DEVICE, pod, b"for another")?;
    knock(second, host, pod, pod, b"as if from here")?;
    knock(second, host, there, Ipv4Addr::new(10, 244, 200, 1), b"by way of here")?;
    // the first that must be accepted, and after it a host's own address, as that of a service's client
    knock(second, host, there, pod, b"a pod's")?;
    knock(second, host, member, pod, b"a host's")?;
    let mut buffer = [0; 64];
    for expected in [b"a pod's".as_slice(), b"a host's"] {
        let length = socket.recv(&mut buffer)?;
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), String::from_utf8_lossy(expected));
    }
    let counts = counted(&cluster, 1)?.dropped;
    let of = |why: &str| counts.get(why).copied().unwrap_or_default();
    assert_eq!((of("unknown-sender"), of("foreign-source"), of("foreign-destination")), (2, 2, 1), "{counts:?}");
    go.plain.stop()?;
    Ok(())
}

pub fn a_destination_without_a_host_is_unreachable() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Udp, false)?;
    let pod = cluster.pod(1)?;
    let address = cluster.address(1, Family::V4)?;
    let ears = pod.room.enter(|| socket(AddressFamily::INET, SocketType::RAW, Some(rustix::net::ipproto::ICMP)))??;
    sockopt::set_socket_timeout(&ears, sockopt::Timeout::Recv, Some(LIMIT))?;
    let mouth = pod.room.enter(|| UdpSocket::bind((address, 0)))??;
    let free = Ipv4Addr::new(10, 244, 222, 9);
    mouth.send_to(b"anybody?", (free, 7))?;
    let mut buffer = [0; 256];
    let (length, _) = recv(&ears, &mut buffer, RecvFlags::empty())?;
    let sliced = SlicedPacket::from_ip(&buffer[..length])?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { return Err("no IPv4".into()) };
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { return Err("no ICMP".into()) };
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Network);
    assert_eq!(icmp.icmp_type(), unreachable);
    let subnet = Cluster::status(1).and_then(|status| status.subnets.first().copied()).ok_or("no lease")?;
    assert_eq!((IpAddr::V4(ip.header().source_addr()), ip.header().ttl()), (subnet.network(), 8));
    // the packet as the device got it: the host has counted a hop
    let quoted = etherparse::Ipv4HeaderSlice::from_slice(icmp.payload())?;
    assert_eq!((quoted.destination_addr(), quoted.protocol(), quoted.ttl()), (free, IpNumber::UDP, 63));
    assert_eq!(icmp.payload().len(), 28);
    Ok(())
}

/// The number of a host's device.
fn device_index(cluster: &Cluster, host: usize) -> Result<u32, Failure> {
    let link = cluster.world.host(host)?.kernel()?.link(&device()?)?;
    Ok(link.ok_or("no flannel0")?.index.0)
}

fn answers(cluster: &Cluster) -> Outcome {
    let echo = || cluster.pinger(1, 2, Family::V4)?.echo(Duration::from_millis(500)).map_err(Failure::from);
    eventually("pod2 answers pod1", PATIENCE, || echo().map_err(|error| error.to_string()))?;
    Ok(())
}

pub fn vxlan_and_back_under_traffic() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Vxlan, false)?;
    let traffic = Traffic::start(&cluster, &cluster.pairs())?;
    traffic.pass(5_000)?;
    for mode in [Mode::Udp, Mode::Vxlan, Mode::Udp, Mode::HostGw, Mode::Udp, Mode::DirectRouting] {
        cluster.configure(mode)?;
        cluster.wait_paths(mode)?;
        traffic.pass(5_000)?;
    }
    let counts = traffic.stop()?;
    figure(format_args!("vxlan, udp and back, host-gw and back: {counts:?}"));
    assert_eq!((counts.lost, counts.duplicated), (0, 0), "{counts:?}");
    eventually("flannel0 is gone", PATIENCE, || match device_index(&cluster, 1) {
        Ok(index) => Err(format!("it is there, number {index}")),
        Err(_) => Ok(()),
    })?;
    Ok(())
}

fn device() -> Result<IfName, Failure> {
    Ok(IfName::new("flannel0")?)
}

pub fn a_restarted_daemon_goes_on_with_the_same_device() -> Outcome {
    let mut cluster = up(Topology::flat(2), Mode::Udp, false)?;
    let index = device_index(&cluster, 1)?;
    let traffic = Traffic::start(&cluster, &cluster.pairs())?;
    traffic.pass(2_000)?;
    cluster.take_daemon(1)?.kill()?;
    assert_eq!(device_index(&cluster, 1)?, index, "the device outlives the daemon");
    cluster.wait_paths(Mode::Udp)?;
    cluster.start_daemon(1)?;
    answers(&cluster)?;
    traffic.pass(2_000)?;
    let counts = traffic.stop()?;
    figure(format_args!("a daemon of the udp backend killed and restarted: {counts:?}"));
    assert_eq!(device_index(&cluster, 1)?, index);
    all_pairs_answer(&cluster, Mode::Udp)
}

pub fn a_deleted_device_is_back() -> Outcome {
    let cluster = up(Topology::flat(2), Mode::Udp, false)?;
    let index = device_index(&cluster, 1)?;
    cluster.world.host(1)?.kernel()?.apply(&[Step::DeleteLink(device()?)]).ok()?;
    answers(&cluster)?;
    assert_ne!(device_index(&cluster, 1)?, index);
    all_pairs_answer(&cluster, Mode::Udp)
}

pub fn a_port_that_is_taken_is_said_and_waited_for() -> Outcome {
    let spec = Spec { topology: Topology::flat(2), mode: Mode::Udp, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &executables()?)?;
    let address = cluster.spec.topology.underlay(1, Family::V4).ok_or("host1")?;
    let other = cluster.world.host(1)?.enter(|| UdpSocket::bind(SocketAddr::new(address, PORT)))??;
    cluster.start_daemons()?;
    let error = eventually("host1 says why", PATIENCE, || match Cluster::status(1).and_then(|s| s.last_error) {
        Some(error) if error.contains("EADDRINUSE") => Ok(error),
        other => Err(format!("{other:?}")),
    })?;
    assert!(error.contains(&format!("listen on UDP {address}:{PORT}")), "{error}");
    drop(other);
    cluster.wait_ready()?;
    cluster.attach_pods()?;
    all_pairs_answer(&cluster, Mode::Udp)
}
