//! Two hosts and the three ways between them. Each way has a network of its own, so all exist at the same time.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;

use flanneld::udp::counters::Counters;
use flanneld::udp::table::Table;
use flanneld::udp::{DataPath, Settings};
use ipnetwork::{IpNetwork, Ipv4Network};
use kernel::state::{FdbKey, Link, LinkKind, NeighbourKey, Route, RouteKey, State, TunTap, Vxlan};
use kernel::tuntap::Queue;
use kernel::types::{Family, IfName, InvalidValue, Mac, Mtu, Vni, host_net};
use lab::netns::Room;
use lab::topology::Topology;
use lab::world::{World, establish};
use lab::{Doing, Error};

use tests::plain::Plain;

/// The ways, by the second byte of their networks.
const UDP: u8 = 5;
const PLAIN: u8 = 6;
const VXLAN: u8 = 7;
const HOSTS: [usize; 2] = [1, 2];
/// Upstream's, and another one for the plain loop.
const PORT: u16 = 8285;
const PLAIN_PORT: u16 = 8286;

/// The two hosts, wired and with all that moves packets at work.
pub struct Paths {
    pub world: World,
    udp: Vec<DataPath>,
    plain: Vec<Plain>,
}

/// The address of a host in a way's network: that of its device.
fn address(way: u8, host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, way, host as u8, 0)
}

fn subnet(way: u8, host: usize) -> Result<Ipv4Network, Error> {
    Ipv4Network::new(address(way, host), 24).doing("make a subnet")
}

fn network(way: u8) -> Result<Ipv4Network, Error> {
    Ipv4Network::new(Ipv4Addr::new(10, way, 0, 0), 16).doing("make a network")
}

impl Paths {
    /// Builds it. `queues`: of the udp backend.
    pub fn build(queues: usize) -> Result<Self, Error> {
        let world = World::build(Topology::flat(2))?;
        let mut paths = Self { world, udp: Vec::new(), plain: Vec::new() };
        for host in HOSTS {
            paths.host(host, queues)?;
        }
        Ok(paths)
    }

    fn underlay(&self, host: usize) -> Result<Ipv4Addr, Error> {
        match self.world.topology.underlay(host, Family::V4) {
            Some(IpAddr::V4(v4)) => Ok(v4),
            other => Err(Error::Wrong(format!("host{host} has the address {other:?}"))),
        }
    }

    fn host(&mut self, host: usize, queues: usize) -> Result<(), Error> {
        let other = HOSTS.iter().sum::<usize>() - host;
        let (own, theirs) = (self.underlay(host)?, self.underlay(other)?);
        let room = self.world.host(host)?;
        let name = |name| IfName::new(name).doing("name a link");
        let mut state = State::default();
        tun(&mut state, &name("flannel0")?, UDP, host)?;
        tun(&mut state, &name("plain0")?, PLAIN, host)?;
        vxlan(&mut state, host, own, other, theirs).doing("plan the VXLAN device")?;
        establish(room, &state)?;
        let device = name("flannel0")?;
        let index = room.kernel()?.index(&device).doing("find flannel0")?.0;
        let settings = Settings { device, index, local: SocketAddrV4::new(own, PORT), queues };
        let table = Table::new(network(UDP)?, subnet(UDP, host)?, [(subnet(UDP, other)?, theirs)]);
        let path = room.enter(|| DataPath::start(settings, table, Arc::new(Counters::default())))?;
        self.udp.push(path.doing("start the udp backend")?);
        let plain = plain(room, &name("plain0")?, own, theirs)?;
        self.plain.push(plain);
        Ok(())
    }

    /// The ways by name, each with the address of the second host.
    pub fn ways() -> [(&'static str, Ipv4Addr); 3] {
        [("udp backend", address(UDP, 2)), ("plain loop", address(PLAIN, 2)), ("kernel VXLAN", address(VXLAN, 2))]
    }

    /// Stops the programs that move packets, and returns what the backend has dropped, by host.
    pub fn stop(self) -> Result<Vec<String>, Error> {
        for plain in self.plain {
            plain.stop().doing("stop the plain loop")?;
        }
        let words = |path: &DataPath| {
            let drops: Vec<_> = path.counters().drops().map(|(why, count)| format!("{count} {why}")).collect();
            if drops.is_empty() { "none".to_owned() } else { drops.join(", ") }
        };
        Ok(self.udp.iter().map(words).collect())
    }
}

fn plain(room: &Room, device: &IfName, own: Ipv4Addr, theirs: Ipv4Addr) -> Result<Plain, Error> {
    let queue = room.enter(|| Queue::plain(device))?.doing("attach the plain loop")?;
    let socket = room.enter(|| UdpSocket::bind((own, PLAIN_PORT)))?.doing("bind the plain loop")?;
    Plain::start(queue, socket, SocketAddrV4::new(theirs, PLAIN_PORT)).doing("start the plain loop")
}

/// What an Ethernet of 1500 bytes leaves behind IPv4's and UDP's header.
const TUN_MTU: Mtu = Mtu(1472);

fn tun(state: &mut State, device: &IfName, way: u8, host: usize) -> Result<(), Error> {
    let kind = LinkKind::TunTap(TunTap { multi_queue: true, ..TunTap::default() });
    state.links.insert(device.clone(), Link { mtu: Some(TUN_MTU), ..Link::up(kind) });
    state.address(device, host_net(address(way, host).into()), true);
    state.routes.insert(RouteKey::main(IpNetwork::V4(network(way)?)), Route::by(device));
    Ok(())
}

fn vxlan(state: &mut State, host: usize, own: Ipv4Addr, other: usize, theirs: Ipv4Addr) -> Result<(), InvalidValue> {
    let dev = IfName::new("flannel.1")?;
    let mac = |host: usize| Mac([2, 0, 0, 0, 0, host as u8]);
    let kind = LinkKind::Vxlan(Vxlan {
        lower: Some(IfName::new("eth0")?),
        local: Some(own.into()),
        ..Vxlan::new(Vni::new(1)?)
    });
    state.links.insert(dev.clone(), Link { mtu: Some(Mtu(1450)), mac: Some(mac(host)), ..Link::up(kind) });
    state.address(&dev, host_net(address(VXLAN, host).into()), true);
    let peer = IpAddr::V4(address(VXLAN, other));
    state.neighbours.insert(NeighbourKey { dev: dev.clone(), addr: peer }, mac(other));
    state.fdb.insert(FdbKey { dev: dev.clone(), mac: mac(other) }, std::net::IpAddr::from(theirs).into());
    let route = Route { via: Some(peer), onlink: true, ..Route::by(&dev) };
    // a host's subnet: 24 bits are a valid prefix length
    if let Ok(subnet) = IpNetwork::new(peer, 24) {
        state.routes.insert(RouteKey::main(subnet), route);
    }
    Ok(())
}
