//! Host ports and services on a host of the network, beside kube-proxy's rules of each mode.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use cni::result::AddResult;
use cni::runtime::{Attachment, NetworkList, Runtime};
use gojson::Json;
use kernel::types::Family;
use lab::cluster::{Cluster, PATIENCE, host_dir, subnet_file};
use lab::netns::Room;
use lab::pods::NETWORK;
use lab::wait::eventually;
use serde_json::json;
use tests::kube_proxy::{IPTABLES, Mode, NFTABLES, NODE_PORT, SERVICE};

use crate::disturb::run;
use crate::rules::{OUTSIDE, connect_outside, prepare, start, underlay};
use crate::sources::{own, seen};
use crate::{Failure, Outcome};

/// The host ports of a pod on host 1. kube-proxy's node port is among them.
const PORT: u16 = 8080;
const PORTS: [u16; 2] = [PORT, NODE_PORT];
const PODS: &str = "10.244.0.0/16";

/// A pod on host 1 with [`PORTS`], which lead to its port 80.
struct Published {
    room: Room,
    list: NetworkList,
    attachment: Attachment,
}

impl Published {
    fn new() -> Result<Self, Failure> {
        let (room, files) = (Room::create("published")?, host_dir(1).join("cni"));
        let list = json!({
            "cniVersion": "1.0.0",
            // the other pods' network: its addresses are leased once
            "name": NETWORK,
            "plugins": [{
                "type": "flannel",
                "subnetFile": subnet_file(1),
                "dataDir": files.join("flannel"),
                "ipam": { "type": "host-local", "dataDir": files.join("networks") },
                "delegate": { "hairpinMode": true, "isDefaultGateway": true },
            }, {
                "type": "portmap",
                "capabilities": { "portMappings": true },
            }],
        });
        let port = |port: &u16| json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" });
        let ports = PORTS.iter().map(port).collect::<Vec<_>>();
        let attachment = Attachment {
            container_id: "published".into(),
            netns: room.path().to_string_lossy().into_owned(),
            ifname: "eth0".into(),
            capability_args: [("portMappings".to_owned(), Json::parse(json!(ports).to_string().as_bytes())?)].into(),
            ..Attachment::default()
        };
        Ok(Self { room, list: NetworkList::parse(list.to_string().as_bytes())?, attachment })
    }

    fn runtime() -> Runtime<'static> {
        Runtime::new(Path::new("/run/lab/bin").to_string_lossy(), host_dir(1).join("cni"))
    }

    fn attach(&self, host: &Room) -> Result<AddResult, Failure> {
        Ok(host.enter(|| Self::runtime().add(&self.list, &self.attachment))??)
    }

    fn detach(&self, host: &Room) -> Outcome {
        Ok(host.enter(|| Self::runtime().del(&self.list, &self.attachment))??)
    }
}

/// Serves TCP in a room: whoever connects gets `name` and its own address as it arrives.
fn serve(room: &Room, name: &'static str) -> Outcome {
    let listener = room.enter(|| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 80))))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // a client that has gone misses the answer
            if let Ok(peer) = stream.peer_addr() {
                let _ = stream.write_all(format!("{name} {}", peer.ip()).as_bytes());
            }
        }
    });
    Ok(())
}

fn ask(from: &Room, to: (IpAddr, u16)) -> Result<String, String> {
    let connect = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    from.enter(connect).map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Who answers is `name`. A first packet may be lost while neighbours are looked up.
fn answers(what: &str, from: &Room, to: (IpAddr, u16), name: &str) -> Outcome {
    Ok(eventually(format_args!("{what}: {name} answers at {}:{}", to.0, to.1), PATIENCE, || match ask(from, to) {
        Ok(text) if text.starts_with(name) => Ok(()),
        Ok(text) => Err(text),
        Err(error) => Err(error),
    })?)
}

fn load(room: &Room, mode: Mode, rules: &str) -> Outcome {
    let mut words = mode.load.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    let child = room.enter(|| command.args(words).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn())??;
    let mut stdin = child.stdin.as_ref().ok_or("no stdin")?;
    stdin.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}

/// Every way that a packet can take to and from the pod, and to the service, whose endpoint is host 2's pod.
fn every_way(cluster: &Cluster, pod: &Room, address: IpAddr) -> Outcome {
    let (first, outside) = (cluster.world.host(1)?, cluster.world.host(OUTSIDE)?);
    let (neighbour, remote) = (&cluster.pod(1)?.room, &cluster.pod(2)?.room);
    let (host, there) = (underlay(cluster, 1, Family::V4)?, underlay(cluster, OUTSIDE, Family::V4)?);
    let published = (host, PORT);
    assert_eq!(ask(outside, published)?, format!("published {there}"), "from outside, with its own address");
    answers("from the host itself", first, published, "published")?;
    answers("by the loopback address", first, ([127, 0, 0, 1].into(), PORT), "published")?;
    answers("from the pod itself", pod, published, "published")?;
    answers("from a pod of the host", neighbour, published, "published")?;
    answers("from another host's pod", remote, published, "published")?;
    let service = (SERVICE.0.parse()?, SERVICE.1);
    answers("a pod to the service", neighbour, service, "endpoint")?;
    answers("the pod with the port to the service", pod, service, "endpoint")?;
    answers("the host to the service", first, service, "endpoint")?;
    answers("a node port has precedence", outside, (host, NODE_PORT), "endpoint")?;
    assert_eq!(seen(pod, outside, there)?, host, "the pod to the outside");
    assert_eq!(seen(outside, pod, address)?, own(outside, address)?, "the outside to the pod");
    Ok(())
}

fn beside(mode: Mode) -> Outcome {
    let mut cluster = prepare(OUTSIDE, true)?;
    start(&mut cluster, &["--ip-masq"])?;
    connect_outside(&cluster)?;
    let first = cluster.world.host(1)?;
    // a connection of the host's own needs a route before it is translated
    run(first, &format!("ip route add {} via {}", SERVICE.0, underlay(&cluster, OUTSIDE, Family::V4)?))?;
    serve(&cluster.pod(2)?.room, "endpoint")?;
    let (endpoint, host) = (cluster.address(2, Family::V4)?, underlay(&cluster, 1, Family::V4)?);
    let rules = mode.rules(PODS, &host.to_string(), &endpoint.to_string());
    load(first, mode, &rules)?;
    let before = run(first, mode.list)?;
    let published = Published::new()?;
    serve(&published.room, "published")?;
    // a port that was there, and one that comes again
    for turn in ["first", "second"] {
        let result = published.attach(first)?;
        let address = result.ips.iter().map(|ip| ip.address.ip()).find(IpAddr::is_ipv4).ok_or("no address")?;
        every_way(&cluster, &published.room, address).map_err(|error| format!("{turn}: {error}"))?;
        published.detach(first)?;
        assert_eq!(run(first, mode.list)?, before, "{turn}");
        assert!(ask(cluster.world.host(OUTSIDE)?, (host, PORT)).is_err(), "{turn}: the port is gone");
    }
    Ok(())
}

pub fn beside_kube_proxys_iptables() -> Outcome {
    beside(IPTABLES)
}

pub fn beside_kube_proxys_nftables() -> Outcome {
    beside(NFTABLES)
}
