//! portmap behind bridge: the common behaviour of ours and the reference plugins, then where ours differ.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use kernel::state::{Link, LinkKind, State, Veth, VethPeer};
use kernel::types::Family;
use lab::netns::Room;
use lab::wait::eventually;
use lab::world::establish;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf, name, records, with};
use crate::call::{Caller, Pod, Whose};

/// Ample on a machine whose cores are all busy.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A host with an uplink to a client, and a bridge for pods.
pub struct Host {
    pub caller: Caller,
    pub client: Room,
}

/// The host's addresses on the uplink. The second ones have no mapping of their own.
pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub const SECOND: [&str; 2] = ["192.0.2.3", "2001:db8::3"];
pub const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The bridge's addresses, from which masqueraded connections come.
pub const BRIDGE: [&str; 2] = ["10.9.1.1", "fd09:1::1"];

impl Host {
    pub fn new(whose: Whose) -> Result<Self, Box<dyn std::error::Error>> {
        let client = Room::create("client")?;
        let peer = VethPeer { name: name("eth0"), mac: None, mtu: None, netns: Some(client.netns().as_raw_fd()) };
        let ends = [("up0", Some(Box::new(peer)), [HOST, SECOND]), ("eth0", None, [CLIENT, CLIENT])];
        for (link, peer, addresses) in ends {
            let mut state = State::default();
            state.links.insert(name(link), Link::up(LinkKind::Veth(Veth { peer })));
            for (address, length) in addresses.iter().flat_map(|both| both.iter().zip([24, 64])) {
                state.address(&name(link), format!("{address}/{length}").parse()?, true);
            }
            match link {
                "up0" => kernel::Kernel::open()?.converge(&state, &Default::default(), None).map(drop)?,
                _ => establish(&client, &state)?,
            }
        }
        ip("link set lo up");
        for (mut kernel, link) in [(kernel::Kernel::open()?, "up0"), (client.kernel()?, "eth0")] {
            assert!(kernel.wait_running(&name(link), LIMIT)?.is_some_and(|link| link.running), "{link} does not run");
        }
        Ok(Self { caller: Caller::new(whose), client })
    }

    /// Attaches a pod with the bridge plugin, and returns the result for portmap.
    pub fn attach(&self, pod: &Pod) -> Value {
        self.caller.call("ADD", pod, &self.bridge()).ok()
    }

    pub fn bridge(&self) -> Value {
        conf(&self.caller)
    }

    pub fn detach(&self, pod: &Pod) {
        self.caller.call("DEL", pod, &self.bridge()).ok();
    }
}

/// A pod's room with its name for plugins.
pub fn room(id: &'static str) -> Result<(Room, Pod), Box<dyn std::error::Error>> {
    let room = Room::create(id)?;
    let pod = Pod::of(&room, id);
    Ok((room, pod))
}

/// Runs `ip` in this namespace.
pub fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {output:?}");
}

pub fn nft(script: &str) -> String {
    let output = Command::new("nft").args(script.split(' ')).output().unwrap();
    assert!(output.status.success(), "nft {script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// One mapping of TCP.
pub fn mapping(host: u16, pod: u16) -> Value {
    json!({ "hostPort": host, "containerPort": pod, "protocol": "tcp" })
}

/// The plugin's configuration behind `result`.
pub fn portmap(mappings: &Value, result: &Value) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "portmap", "runtimeConfig": { "portMappings": mappings },
        "prevResult": result,
    })
}

/// Serves TCP in a room, both families: a client is told its own address, as it arrives.
pub fn serve(room: &Room, port: u16) {
    let any = SocketAddr::from(("::".parse::<IpAddr>().unwrap(), port));
    let listener = room.enter(|| TcpListener::bind(any)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            // a client that has gone misses the answer
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
}

/// The address by which a client appears to the server behind `to`; `from` is its namespace, or the host.
pub fn seen(from: Option<&Room>, to: (&str, u16)) -> Result<String, String> {
    let to = SocketAddr::new(to.0.parse().unwrap(), to.1);
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let asked: std::io::Result<String> = from.map_or_else(ask, |room| room.enter(ask).unwrap());
    asked.map_err(|error| error.to_string())
}

#[track_caller]
pub fn refused(from: Option<&Room>, to: (&str, u16)) {
    let error = seen(from, to).unwrap_err();
    assert!(error.contains("refused"), "{to:?}: {error}");
}

/// CHECK right after ADD. The reference plugin looks for each rule in the tables of both families, and fails.
fn check(whose: Whose, host: &Host, pod: &Pod, conf: &Value) {
    let answer = host.caller.call("CHECK", pod, conf);
    match whose {
        Whose::Ours => drop(answer.ok()),
        Whose::Reference => assert!(answer.error().contains("could not check ipv"), "{answer:?}"),
    }
}

/// A port is reached from outside, from the host, by its loopback address and from the pod itself, and no more after
/// DEL. Connections whose replies would not come back are masqueraded.
pub fn a_port_leads_to_the_pod(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let (room, pod) = room("cid")?;
    let result = host.attach(&pod);
    serve(&room, 80);
    let conf = portmap(&json!([mapping(8080, 80), mapping(8081, 80)]), &result);
    for at in HOST {
        refused(Some(&host.client), (at, 8080));
    }
    assert_eq!(host.caller.call("ADD", &pod, &conf).ok(), result, "the result is passed on");
    for (family, ((at, client), bridge)) in HOST.into_iter().zip(CLIENT).zip(BRIDGE).enumerate() {
        assert_eq!(seen(Some(&host.client), (at, 8080)).unwrap(), client, "from outside");
        assert_eq!(seen(Some(&host.client), (SECOND[family], 8081)).unwrap(), client, "at another address");
        assert_eq!(seen(None, (at, 8080)).unwrap(), at, "from the host");
        assert_eq!(seen(Some(&room), (at, 8080)).unwrap(), bridge, "from the pod itself");
    }
    assert_eq!(seen(None, ("127.0.0.1", 8080)).unwrap(), BRIDGE[0], "by the loopback address");
    if whose == Whose::Ours {
        // the reference takes such a connection too, and it goes nowhere
        refused(None, ("::1", 8080));
    }
    check(whose, &host, &pod, &conf);
    host.caller.call("DEL", &pod, &conf).ok();
    for at in HOST {
        refused(Some(&host.client), (at, 8080));
    }
    host.caller.call("DEL", &pod, &conf).ok();
    host.detach(&pod);
    assert_eq!(records("net"), Vec::<String>::new());
    Ok(())
}

/// A mapping of one address leaves the others alone, and one of a family the other family.
pub fn a_port_of_one_address(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let (room, pod) = room("cid")?;
    let result = host.attach(&pod);
    serve(&room, 80);
    let at = |mut mapping: Value, address: &str| {
        mapping["hostIP"] = address.into();
        mapping
    };
    let mappings = json!([
        at(mapping(8080, 80), HOST[0]),
        at(mapping(8081, 80), HOST[1]),
        at(mapping(8082, 80), "0.0.0.0"),
        at(mapping(8083, 80), "::"),
    ]);
    let conf = portmap(&mappings, &result);
    host.caller.call("ADD", &pod, &conf).ok();
    check(whose, &host, &pod, &conf);
    let client = Some(&host.client);
    for (family, port, all) in [(0, 8080, false), (1, 8081, false), (0, 8082, true), (1, 8083, true)] {
        assert_eq!(seen(client, (HOST[family], port)).unwrap(), CLIENT[family], "{port}");
        match all {
            true => assert_eq!(seen(client, (SECOND[family], port)).unwrap(), CLIENT[family], "{port}"),
            false => refused(client, (SECOND[family], port)),
        }
        refused(client, (HOST[1 - family], port));
    }
    host.caller.call("DEL", &pod, &conf).ok();
    refused(client, (HOST[0], 8080));
    refused(client, (HOST[1], 8081));
    Ok(())
}

/// Connections through the host to other hosts' ports of the same number are not taken (CVE-2025-67499).
pub fn other_hosts_ports_are_not_taken(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let ((room, pod), (other, beside)) = (room("cid")?, room("other")?);
    let result = host.attach(&pod);
    let neighbour = host.attach(&beside);
    serve(&room, 80);
    serve(&other, 8080);
    let conf = portmap(&json!([mapping(8080, 80)]), &result);
    host.caller.call("ADD", &pod, &conf).ok();
    for (family, bridge) in BRIDGE.iter().enumerate() {
        let net = neighbour["ips"][family]["address"].as_str().unwrap().split_once('/').unwrap().0.to_owned();
        let route = format!("-n client route add {net} via {}", HOST[family]);
        ip(if family == 0 { route } else { format!("-6 {route}") }.as_str());
        // the pod's own server says the client's address, too: it does not listen at this port
        assert_eq!(seen(Some(&host.client), (&net, 8080)).unwrap(), CLIENT[family], "{bridge}");
        assert_eq!(seen(Some(&room), (&net, 8080)).unwrap(), address(&result, family), "between pods");
    }
    Ok(())
}

pub fn address(result: &Value, family: usize) -> String {
    result["ips"][family]["address"].as_str().unwrap().split_once('/').unwrap().0.to_owned()
}

/// Without `snat` nothing is masqueraded, and the host's loopback addresses are not opened.
pub fn nothing_is_masqueraded_without_snat(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let (room, pod) = room("cid")?;
    let result = host.attach(&pod);
    serve(&room, 80);
    let conf = with(&portmap(&json!([mapping(8080, 80)]), &result), json!({ "snat": false }));
    host.caller.call("ADD", &pod, &conf).ok();
    check(whose, &host, &pod, &conf);
    assert_eq!(seen(Some(&host.client), (HOST[0], 8080)).unwrap(), CLIENT[0]);
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/conf/cni0/route_localnet")?.trim(), "0");
    host.caller.call("DEL", &pod, &conf).ok();
    refused(Some(&host.client), (HOST[0], 8080));
    Ok(())
}

/// Datagrams of a sender that keeps its port go to the pod from the ADD on, although the kernel knows the connection.
pub fn a_sender_from_before_is_served(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let (room, pod) = room("cid")?;
    let result = host.attach(&pod);
    let udp = json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "udp" }]);
    let conf = portmap(&udp, &result);
    for (family, at) in HOST.into_iter().enumerate() {
        let any: IpAddr = if family == 0 { [0, 0, 0, 0].into() } else { "::".parse()? };
        let on_host = socket(None, SocketAddr::new(any, 5353));
        let in_pod = socket(Some(&room), SocketAddr::new(any, 53));
        let sender = socket(Some(&host.client), SocketAddr::new(any, 7777));
        let to = SocketAddr::new(at.parse()?, 5353);
        track();
        arrives(&sender, to, &on_host, "before ADD");
        host.caller.call("ADD", &pod, &conf).ok();
        arrives(&sender, to, &in_pod, "after ADD");
        host.caller.call("DEL", &pod, &conf).ok();
        if whose == Whose::Ours {
            // the reference leaves the sender to the pod that was deleted
            arrives(&sender, to, &on_host, "after DEL");
        }
    }
    Ok(())
}

/// Makes the kernel track connections, as any rule of NAT does.
pub fn track() {
    nft("add table inet track");
    nft("add chain inet track c { type nat hook prerouting priority -100 ; }");
}

pub fn socket(room: Option<&Room>, at: SocketAddr) -> UdpSocket {
    let bind = || UdpSocket::bind(at).unwrap();
    let socket = room.map_or_else(bind, |room| room.enter(bind).unwrap());
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends datagrams until one arrives at this receiver. What the kernel knew of the sender goes just after ADD and DEL.
pub fn arrives(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket, when: &str) {
    eventually(format_args!("a datagram to {to} {when}"), LIMIT, || {
        from.send_to(b"x", to).map_err(|error| error.to_string())?;
        receiver.recv(&mut [0; 8]).map_err(|_| "it was not received".to_owned())
    })
    .unwrap();
}

/// DEL needs neither a namespace, nor a configuration that ADD takes, nor rules that are still there, nor a mapping.
pub fn del_needs_nothing(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let (room, pod) = room("cid")?;
    let result = host.attach(&pod);
    let conf = portmap(&json!([mapping(8080, 80)]), &result);
    host.caller.call("DEL", &pod, &conf).ok();
    host.caller.call("ADD", &pod, &conf).ok();
    room.remove()?;
    let mut bare = conf.clone();
    bare.as_object_mut().unwrap().remove("prevResult");
    host.caller.call("DEL", &pod, &bare).ok();
    refused(Some(&host.client), (HOST[0], 8080));
    host.caller.call("DEL", &pod, &with(&bare, json!({ "runtimeConfig": {} }))).ok();
    Ok(())
}

/// Every version has the result in its own shape, and CHECK where it has one.
pub fn every_version_is_spoken(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    for (at, version) in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"].into_iter().enumerate() {
        let room = Room::create(&format!("pod{at}"))?;
        let pod = Pod::of(&room, "cid");
        let bridge = with(&host.bridge(), json!({ "cniVersion": version }));
        let bridge = if at == 1 { with(&bridge, json!({ "cniVersion": "0.2.0" })) } else { bridge };
        let result = host.caller.call("ADD", &pod, &bridge).ok();
        let conf = with(&portmap(&json!([mapping(8080, 80)]), &result), json!({ "cniVersion": version }));
        assert_eq!(host.caller.call("ADD", &pod, &conf).ok(), result, "{version}");
        if at >= 4 {
            check(whose, &host, &pod, &conf);
        }
        host.caller.call("DEL", &pod, &conf).ok();
        host.caller.call("DEL", &pod, &bridge).ok();
        room.remove()?;
    }
    Ok(())
}

/// The families of a pod that has one.
pub fn a_pod_with_one_family(whose: Whose) -> Outcome {
    for family in Family::ALL {
        let host = Host::new(whose)?;
        let (room, pod) = room("cid")?;
        let at = if family == Family::V4 { 0 } else { 1 };
        let mut bridge = host.bridge();
        bridge["ipam"]["ranges"] = json!([bridge["ipam"]["ranges"][at]]);
        bridge["ipam"]["routes"] = json!([]);
        let result = host.caller.call("ADD", &pod, &bridge).ok();
        serve(&room, 80);
        let conf = portmap(&json!([mapping(8080, 80)]), &result);
        host.caller.call("ADD", &pod, &conf).ok();
        check(whose, &host, &pod, &conf);
        assert_eq!(seen(Some(&host.client), (HOST[at], 8080)).unwrap(), CLIENT[at]);
        refused(Some(&host.client), (HOST[1 - at], 8080));
        host.caller.call("DEL", &pod, &conf).ok();
        host.caller.call("DEL", &pod, &bridge).ok();
        ip("link del cni0");
        ip("link del up0");
        room.remove()?;
        host.client.remove()?;
    }
    Ok(())
}

/// Without mappings the plugin makes nothing.
pub fn without_mappings_nothing_is_made(whose: Whose) -> Outcome {
    let host = Host::new(whose)?;
    let (_room, pod) = room("cid")?;
    let result = host.attach(&pod);
    let before = nft("list ruleset");
    let conf = portmap(&json!([]), &result);
    assert_eq!(host.caller.call("ADD", &pod, &conf).ok(), result);
    host.caller.call("CHECK", &pod, &conf).ok();
    assert_eq!(nft("list ruleset"), before);
    host.caller.call("DEL", &pod, &conf).ok();
    Ok(())
}
