//! Nodes of a large cluster on a double of the API server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use kernel::types::Family;
use lab::world::World;
use lab::{Doing, Error};
use serde_json::{Value, json};
use tests::apiserver::{Apiserver, Objects, Streaming, node};

use crate::daemon::ROOT;
use crate::leases;

/// The size of a Node's text, in bytes, as it is in a cluster: most of it are the names of images.
const SIZE: usize = 11_500;
/// The name of this host's Node.
pub const OWN: &str = "own";

/// The server, on the other host.
pub struct Nodes {
    server: Apiserver,
}

impl Nodes {
    /// `peers` Nodes that flannelds have claimed, and this host's.
    pub fn start(world: &World, peers: usize, streaming: Streaming) -> Result<Self, Error> {
        let mut objects = Objects::default();
        objects.put(sized(node(OWN, &["10.0.1.0/25"])));
        (0..peers).for_each(|n| objects.put(peer(n)));
        let address = world.topology.underlay(2, Family::V4).ok_or_else(|| Error::Wrong("no second host".into()))?;
        let bind = || TcpListener::bind(SocketAddr::new(address, 0));
        let listener = world.host(2)?.enter(bind)?.doing("bind the API server")?;
        let server = Apiserver::start(listener, objects).doing("start the API server")?;
        server.faults(|faults| faults.streaming = streaming);
        std::fs::write(Path::new(ROOT).join("net-conf.json"), leases::CONFIG).doing("write the configuration")?;
        Ok(Self { server })
    }

    /// The flags of a flanneld that uses this API server.
    pub fn flags(&self) -> Vec<String> {
        vec![
            "--kube-subnet-mgr".into(),
            format!("--kube-api-url={}", self.server.url()),
            format!("--net-config-path={ROOT}/net-conf.json"),
        ]
    }

    /// The kubelet of peer `n` says that it lives.
    pub fn beat(&self, n: usize, beat: usize) {
        self.server.objects(|all| {
            all.change(&name(n), |node| node["status"]["conditions"][0]["lastHeartbeatTime"] = beat.into());
        });
    }

    /// Another peer comes.
    pub fn join(&self, n: usize) {
        self.server.objects(|all| all.put(peer(n)));
    }

    /// A peer goes.
    pub fn leave(&self, n: usize) {
        self.server.objects(|all| all.delete(&name(n)));
    }
}

fn name(n: usize) -> String {
    format!("node-{n:05}.example.org")
}

/// A Node that a flanneld with the backend vxlan has claimed.
fn peer(n: usize) -> Value {
    let mut node = node(&name(n), &[&leases::subnet(n).to_string()]);
    let public = Ipv4Addr::from((172 << 24) | (16 << 16) | (n as u32 + 1));
    let [_, b, c, d] = (n as u32).to_be_bytes();
    let data = format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:{b:02x}:{c:02x}:{d:02x}"}}"#);
    for (key, value) in [
        ("kube-subnet-manager", "true".to_owned()),
        ("backend-type", "vxlan".to_owned()),
        ("backend-data", data),
        ("public-ip", public.to_string()),
    ] {
        node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{key}")] = value.into();
    }
    sized(node)
}

/// Adds images until the Node has its size.
fn sized(mut node: Value) -> Value {
    let image = |n: usize| {
        let (name, digest) = (format!("registry.example.org/team-{n}/service-{n}"), format!("{n:064x}"));
        json!({ "names": [format!("{name}@sha256:{digest}"), format!("{name}:v1.{n}")], "sizeBytes": 123_456_789 + n })
    };
    let room = SIZE.saturating_sub(node.to_string().len());
    let count = room / image(10).to_string().len();
    node["status"]["images"] = (0..count).map(image).collect();
    node
}
