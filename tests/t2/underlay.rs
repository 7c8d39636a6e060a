//! The lab itself.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::state::{FdbKey, Link, LinkKind, NeighbourKey, State, Vxlan};
use kernel::types::{Family, IfName, Mac, Vni};
use lab::capture::{Echo, Place, Tap, follow};
use lab::flow;
use lab::ping::Pinger;
use lab::process::{Daemon, Launch};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::{World, establish, users_of};

use crate::{Failure, Outcome};

const SECOND: Duration = Duration::from_secs(1);

pub fn every_host_reaches_every_host() -> Outcome {
    let world = World::build(Topology::every_third_routed(4))?;
    for family in Family::ALL {
        for from in world.topology.hosts() {
            for to in world.topology.hosts().into_iter().filter(|to| *to != from) {
                let addr = world.topology.underlay(to, family).ok_or("no address")?;
                let mut pinger = world.host(from)?.enter(|| Pinger::open(addr, 1))??;
                pinger.echo(SECOND).map_err(|error| format!("host{from} to host{to} at {addr}: {error}"))?;
            }
        }
    }
    Ok(())
}

fn sleeper(world: &World, outlive: bool) -> Result<Launch, Box<dyn std::error::Error>> {
    Ok(Launch {
        program: PathBuf::from("/bin/sleep"),
        args: vec!["1000".into()],
        env: Vec::new(),
        netns: world.host(1)?.path().to_owned(),
        log: PathBuf::from("/run/sleep.log"),
        outlive,
    })
}

pub fn a_process_dies_with_the_thread_that_started_it() -> Outcome {
    let world = World::build(Topology::flat(1))?;
    let (mut bound, mut free) = (started_by_a_thread(&world, false)?, started_by_a_thread(&world, true)?);
    eventually("the bound one's end", SECOND, || match bound.ended() {
        Ok(Some(status)) if status.signal() == Some(9) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(free.ended()?, None);
    free.kill()?;
    Ok(())
}

/// A sleeper whose thread has ended, but not before the sleeper was one.
fn started_by_a_thread(world: &World, outlive: bool) -> Result<Daemon, Failure> {
    let launch = sleeper(world, outlive)?;
    let start = move || -> Result<Daemon, String> {
        let daemon = launch.start().map_err(|error| error.to_string())?;
        eventually("the program runs", SECOND, || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", daemon.pid())).unwrap_or_default();
            if name == "sleep\n" { Ok(()) } else { Err(name) }
        })
        .map_err(|error| error.to_string())?;
        Ok(daemon)
    };
    Ok(std::thread::spawn(start).join().map_err(|_| "the thread panicked")??)
}

fn is_in(netns: u64, pid: u32) -> Outcome {
    let user = format!("process {pid}");
    eventually(format_args!("{user} is in the host"), SECOND, || {
        let users = users_of(&[netns]).map_err(|error| error.to_string())?;
        if users.contains(&user) { Ok(()) } else { Err(format!("{users:?}")) }
    })?;
    Ok(())
}

pub fn ten_thousand_a_second_cross_the_router() -> Outcome {
    let world = World::build(Topology::every_third_routed(3))?;
    let socket = |host: usize| {
        let addr = world.topology.underlay(host, Family::V4).ok_or("no underlay")?;
        Ok::<_, Failure>(world.host(host)?.enter(|| flow::socket(addr))??)
    };
    let flow = flow::start(socket(1)?, socket(3)?, 10_000)?;
    eventually("a second of datagrams", 10 * SECOND, || if flow.sent() > 10_000 { Ok(()) } else { Err(flow.sent()) })?;
    let counts = flow.stop()?;
    assert_eq!((counts.lost, counts.duplicated), (0, 0), "{counts:?}");
    assert!(counts.rate() > 9_000, "{counts:?}");
    Ok(())
}

/// Two hosts' VXLAN devices, made by hand, and what a tap sees of a ping through them.
pub fn a_vxlan_packet_is_seen_and_opened() -> Outcome {
    let world = World::build(Topology::every_third_routed(3))?;
    let tunnel = |host: u8| -> Result<(Mac, IpNetwork), Failure> {
        Ok((Mac([2, 0, 0, 0, 0, host]), format!("10.9.0.{host}/24").parse()?))
    };
    for (host, peer) in [(1_u8, 3_u8), (3, 1)] {
        let device = IfName::new("vx0")?;
        let local = world.topology.underlay(host.into(), Family::V4);
        let kind = Vxlan { lower: Some(IfName::new("eth0")?), local, port: Some(8472), ..Vxlan::new(Vni::new(77)?) };
        let mut state = State::default();
        state.links.insert(device.clone(), Link { mac: Some(tunnel(host)?.0), ..Link::up(LinkKind::Vxlan(kind)) });
        state.address(&device, tunnel(host)?.1, true);
        let (mac, net) = tunnel(peer)?;
        let behind = world.topology.underlay(peer.into(), Family::V4).ok_or("no underlay")?;
        state.neighbours.insert(NeighbourKey { dev: device.clone(), addr: net.ip() }, mac);
        state.fdb.insert(FdbKey { dev: device, mac }, behind.into());
        establish(world.host(host.into())?, &state)?;
    }
    let listen = |name: &str| Tap::open(name).map(|tap| Place { name: name.into(), tap });
    let room = world.host(1)?;
    let places = room.enter(|| ["vx0", "eth0"].map(listen).into_iter().collect::<Result<Vec<_>, _>>())??;
    let mut pinger = room.enter(|| Pinger::open(tunnel(3)?.1.ip(), 7).map_err(Failure::from))??;
    pinger.echo(SECOND)?;
    let sights = follow(&places, Echo { request: true, id: 7, seq: 1 }, 8472, SECOND)?;
    let [inside, wire] = &sights[..] else { return Err("not two sights".into()) };
    let (outer, vni) = wire.frame.outer.clone().ok_or("no VXLAN on the wire")?;
    assert_eq!((inside.frame.outer.is_none(), vni), (true, 77));
    assert_eq!(wire.frame.inner, inside.frame.inner);
    assert_eq!(wire.frame.length() - inside.frame.length(), 50);
    assert_eq!(outer.ips.1.to_string(), "192.168.2.13");
    Ok(())
}

pub fn nothing_is_left() -> Outcome {
    let world = World::build(Topology::every_third_routed(3))?;
    assert_eq!(world.size(), 6);
    let daemon = sleeper(&world, false)?.start()?;
    let host = world.host(1)?.netns().id()?.1;
    is_in(host, daemon.pid())?;
    let inside = format!("process {}", daemon.pid());
    assert_eq!(users_of(&[host])?, [inside.clone(), "mount /run/netns/host1".into()]);
    let numbers = world.take_down()?;
    // what still holds a namespace is found …
    assert_eq!(users_of(&numbers)?, [inside]);
    let status = daemon.stop(SECOND)?;
    assert!(!status.success(), "sleep ends by the signal");
    // … and nothing is, when nothing does
    assert_eq!(users_of(&numbers)?, Vec::<String>::new());
    assert_eq!(std::fs::read_dir("/run/netns")?.count(), 0);
    Ok(())
}
