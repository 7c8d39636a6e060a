//! A pod is no router: the host takes no router advertisement from the links it shares with pods.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv6Addr, SocketAddrV6};
use std::process::Command;
use std::time::Duration;

use kernel::Kernel;
use kernel::diff::{LinkChange, Step};
use kernel::state::{Link, LinkKind};
use kernel::types::{IfName, TableId};
use lab::netns::Room;
use lab::wait::eventually;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt};
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Caller, Pod, Whose};

/// How long a packet may take from one end of a pair to the other's counters.
const SOON: Duration = Duration::from_secs(10);

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn dual(caller: &Caller) -> Value {
    let mut conf = caller.gateway();
    conf["ipam"]["ranges"] = json!([[{ "subnet": "10.9.1.0/24" }], [{ "subnet": "fd09:1::/64" }]]);
    conf
}

fn accept_ra(dev: &str) -> String {
    kernel::sysctl::read(&format!("net/ipv6/conf/{dev}/accept_ra")).unwrap().unwrap_or_default()
}

fn set_accept_ra(dev: &str, value: &str) {
    kernel::sysctl::write(&format!("net/ipv6/conf/{dev}/accept_ra"), value).unwrap();
}

fn make_bridge(up: bool) {
    let mut host = Kernel::open().unwrap();
    let bridge = Link::up(LinkKind::Bridge(kernel::state::Bridge::default()));
    host.apply(&[Step::CreateLink(name("cni0"), bridge)]).ok().unwrap();
    if up {
        host.apply(&[Step::ChangeLink(name("cni0"), LinkChange::up())]).ok().unwrap();
    }
}

/// Router advertisements that this namespace has received.
fn received() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp6").unwrap();
    let line = text.lines().find(|line| line.starts_with("Icmp6InRouterAdvertisements")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Advertises from the pod that it is a router, until the host has received it.
fn advertise(room: &Room) -> Outcome {
    // RFC 4861, 4.2: type 134, hop limit 64, a lifetime of 1800 s; the kernel fills the checksum in
    let advertisement = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let before = received();
    let index = room.kernel()?.index(&name("eth0"))?.0;
    let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    let socket = room
        .enter(|| socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6)))??;
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    eventually("the host receives the pod's advertisement", SOON, || {
        // the link-local address that it is sent from may not be usable yet
        let sent = sendto(&socket, &advertisement, SendFlags::empty(), &all_nodes);
        if received() > before { Ok(()) } else { Err(format!("sent: {sent:?}, received: {}", received())) }
    })?;
    Ok(())
}

/// The default route that the host has of a router.
fn learnt() -> Option<String> {
    let routes = Kernel::open().unwrap().routes(TableId::MAIN).unwrap();
    // RTPROT_RA, linux/rtnetlink.h
    routes.iter().find(|(_, route)| route.protocol.0 == 9).map(|(key, route)| format!("{} by {:?}", key.dst, route.dev))
}

#[track_caller]
fn assert_no_router(result: &Value, what: &str) {
    for interface in result["interfaces"].as_array().unwrap() {
        if interface.get("sandbox").is_none() {
            let dev = interface["name"].as_str().unwrap();
            assert_eq!(accept_ra(dev), "0", "{what}: {dev} takes router advertisements");
        }
    }
}

/// The test's advertisements work: with accept_ra=2 the host learns the route.
pub fn an_advertisement_is_taken_where_it_may_be() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    caller.call("ADD", &Pod::of(&room, "cid"), &caller.gateway()).ok();
    set_accept_ra("cni0", "2");
    advertise(&room)?;
    eventually("the host takes the pod for a router", SOON, || learnt().ok_or("no route of a router"))?;
    Ok(())
}

/// A bridge that somebody else made, up or down, with each value that takes routers; a host that forwards IPv6 and one
/// that does not.
pub fn a_bridge_of_somebody_else_takes_no_router_from_a_pod() -> Outcome {
    for (value, up, forwards) in [("1", false, false), ("1", true, false), ("2", true, true), ("2", false, false)] {
        let caller = Caller::new(Whose::Ours);
        let room = Room::create("pod")?;
        make_bridge(up);
        set_accept_ra("cni0", value);
        let conf = if forwards { dual(&caller) } else { caller.gateway() };
        let result = caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
        advertise(&room)?;
        let what = format!("accept_ra={value}, up: {up}, dual-stack: {forwards}");
        assert_eq!(learnt(), None, "{what}: the pod is the host's router");
        assert_no_router(&result, &what);
        caller
            .call("CHECK", &Pod::of(&room, "cid"), &{
                let mut conf = conf.clone();
                conf["prevResult"] = result;
                conf
            })
            .ok();
        caller.call("DEL", &Pod::of(&room, "cid"), &conf).ok();
        Kernel::open()?.apply(&[Step::DeleteLink(name("cni0"))]).ok()?;
        room.remove()?;
    }
    Ok(())
}

/// The first ADD is killed when it has made the bridge and not yet written accept_ra.
pub fn a_bridge_of_a_killed_add_takes_no_router_from_a_pod() -> Outcome {
    for default in ["1", "2"] {
        let caller = Caller::new(Whose::Ours);
        set_accept_ra("default", default);
        let (first, second) = (Room::create("first")?, Room::create("second")?);
        let conf = caller.gateway();
        killed_add(&caller, &Pod::of(&first, "first"), &conf);
        assert_eq!(accept_ra("cni0"), default, "the first ADD was to be killed before");
        caller.call("DEL", &Pod::of(&first, "first"), &conf).ok();
        let result = caller.call("ADD", &Pod::of(&second, "second"), &conf).ok();
        advertise(&second)?;
        assert_eq!(learnt(), None, "the default is {default}: the pod is the host's router");
        assert_no_router(&result, default);
        caller.call("DEL", &Pod::of(&second, "second"), &conf).ok();
        Kernel::open()?.apply(&[Step::DeleteLink(name("cni0"))]).ok()?;
        first.remove()?;
        second.remove()?;
    }
    Ok(())
}

/// An ADD that is killed when it opens the bridge's accept_ra.
fn killed_add(caller: &Caller, pod: &Pod, conf: &Value) {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-P", "/proc/sys/net/ipv6/conf/cni0/accept_ra"]);
    strace.args(["-e", "trace=openat,open", "-e", "inject=openat,open:signal=KILL", "--"]);
    let output = caller.under(strace, "ADD", pod, conf);
    assert!(!output.status.success(), "ADD was to be killed: {output:?}");
}

/// Where /proc/sys is read-only, ADD works if the values are right, and otherwise reports them.
pub fn parameters_that_are_right_need_not_be_written() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let rooms = ["a", "b", "c"].map(|name| Room::create(name).unwrap());
    make_bridge(true);
    set_accept_ra("cni0", "0");
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        kernel::sysctl::write(key, "1")?;
    }
    mount_bind("/proc/sys", "/proc/sys")?;
    mount_remount("/proc/sys", MountFlags::RDONLY | MountFlags::BIND, "")?;
    for (room, conf) in rooms.iter().zip([caller.gateway(), dual(&caller)]) {
        caller.call("ADD", &Pod::of(room, "cid"), &conf).ok();
        caller.call("DEL", &Pod::of(room, "cid"), &conf).ok();
    }
    // a bridge is made on a host that forwards: it takes no router
    let mut other = caller.gateway();
    (other["name"], other["bridge"]) = (json!("other"), json!("cni1"));
    other["ipam"]["ranges"] = json!([[{ "subnet": "10.9.2.0/24" }]]);
    caller.call("ADD", &Pod::of(&rooms[2], "cid"), &other).ok();
    caller.call("DEL", &Pod::of(&rooms[2], "cid"), &other).ok();
    Ok(())
}

/// The same where they are wrong: a bridge that takes routers, and a host that does not forward.
pub fn a_parameter_that_is_wrong_and_cannot_be_written_is_named() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    make_bridge(true);
    kernel::sysctl::write("net/ipv4/ip_forward", "0")?;
    mount_bind("/proc/sys", "/proc/sys")?;
    let lock = |locked: bool| {
        let read_only = if locked { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount("/proc/sys", read_only | MountFlags::BIND, "")
    };
    for (wrong, right) in [("net/ipv6/conf/cni0/accept_ra", "0"), ("net/ipv4/ip_forward", "1")] {
        lock(true)?;
        let error = caller.call("ADD", &Pod::of(&room, "cid"), &caller.gateway()).error();
        assert!(
            error.contains(&format!("sysctl -w {wrong}={right}")) || error.contains(&wrong.replace('/', ".")),
            "{error}"
        );
        assert!(error.contains("EROFS"), "{error}");
        assert_eq!(caller.reserved("net"), Vec::<String>::new());
        lock(false)?;
        kernel::sysctl::write(wrong, right)?;
    }
    lock(true)?;
    caller.call("ADD", &Pod::of(&room, "cid"), &caller.gateway()).ok();
    Ok(())
}
