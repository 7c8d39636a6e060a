//! What is not flanneld's stays: other programs' objects stand on its host and in its pods, and no start, stop, restart,
//! attachment or change of the backend changes one of them.

use std::process::Command;

use lab::cluster::{Cluster, PATIENCE};
use lab::mode::{Mode, NETWORK, Path};
use lab::netns::Room;
use lab::topology::Topology;
use lab::wait::eventually;
use serde_json::json;
use store::{config_path, files};
use tests::drill::snapshot::{self, Lines};

use crate::disturb::{cluster, get, rests, start_first};
use crate::foreign_routes::free;
use crate::{Failure, Outcome};

/// On the host. FREE is a subnet of the network that no host has leased, PEER the other host's.
const ON_HOST: &[&str] = &[
    "ip route add $FREE via 192.168.1.12",
    "ip route add $FREE via 192.168.1.12 proto static metric 50",
    "ip route add 10.244.0.0/17 via 192.168.1.12 proto bgp",
    "ip route add blackhole 10.244.128.0/17 proto bird",
    "ip route add 10.244.0.0/16 via 192.168.1.12 proto dhcp metric 100",
    "ip route add $PEER via 192.168.1.12 metric 900",
    "ip route add $PEER via 192.168.1.12 table 99",
    "ip rule add priority 100 from 198.51.100.0/24 lookup 99",
    "ip neigh replace 192.168.1.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    "ip link add docker0 up type bridge; ip addr add 172.17.0.1/16 dev docker0",
    "ip link add br0 up type bridge; ip addr add 10.245.1.1/24 dev br0; ip link add port0 up type veth peer port1; ip link set port0 master br0",
    "ip link add flannel.99 up type vxlan id 99 dstport 8473 nolearning; ip link set flannel.99 alias 'flannel 10.99.0.0/16'; \
     ip addr add 10.99.1.0/32 dev flannel.99; ip route add 10.99.2.0/24 via 10.99.2.0 dev flannel.99 onlink proto 70; \
     ip neigh add 10.99.2.0 lladdr 02:00:00:00:00:99 dev flannel.99 nud permanent",
    "ip link add vethbeef up type veth peer lost",
    "nft add table inet other '{ chain c { type filter hook forward priority 0; ip saddr 10.244.0.0/16 counter accept; }; }'",
    "nft add table ip nat '{ chain theirs { ip saddr 10.244.0.0/16 accept comment \"theirs\"; }; }'",
    "nft add table inet cni_plugins_masquerade; nft add chain inet cni_plugins_masquerade theirs",
];

/// In a pod.
const IN_POD: &[&str] = &[
    "ip link add net1 up type veth peer end1; ip link set end1 up; ip addr add 172.20.0.2/16 dev net1",
    "ip route add 10.244.0.0/17 via 172.20.0.1 metric 10",
    "ip neigh add 172.20.0.7 lladdr 02:00:00:00:00:07 dev net1",
    "ip rule add priority 50 from 172.20.0.2 lookup 50",
];

fn sh(room: &Room, script: &str, vars: &[(&str, String)]) -> Outcome {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).envs(vars.iter().map(|(name, value)| (name, value.as_str())));
    let output = room.enter(|| command.output())??;
    let text = || format!("`{script}`: {}", String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(text().into()) }
}

/// Others' objects on host 1 and in its pod.
struct Theirs {
    host: Lines,
    pod: Lines,
}

impl Theirs {
    fn put(cluster: &Cluster) -> Result<Self, Failure> {
        let (host, pod) = (cluster.world.host(1)?, &cluster.pod(1)?.room);
        let peer = Cluster::status(2).and_then(|status| status.subnets.first().copied()).ok_or("no lease")?;
        let vars = [("FREE", free()), ("PEER", peer.to_string())];
        let before = (snapshot::namespace(host)?, snapshot::inside(pod)?);
        ON_HOST.iter().try_for_each(|script| sh(host, script, &vars))?;
        IN_POD.iter().try_for_each(|script| sh(pod, script, &vars))?;
        let more = |now: Lines, before: &Lines| -> Lines { now.difference(before).cloned().collect() };
        let (on_host, in_pod) = (snapshot::namespace(host)?, snapshot::inside(pod)?);
        Ok(Self { host: more(on_host, &before.0), pod: more(in_pod, &before.1) })
    }

    fn stand(&self, cluster: &Cluster, after: &str) -> Outcome {
        let now = (snapshot::namespace(cluster.world.host(1)?)?, snapshot::inside(&cluster.pod(1)?.room)?);
        let lost: Vec<_> = self.host.difference(&now.0).chain(self.pod.difference(&now.1)).collect();
        if lost.is_empty() { Ok(()) } else { Err(format!("after {after} these are changed: {lost:#?}").into()) }
    }
}

/// Sets a backend, and waits until it is in use and nothing changes any more.
fn change(cluster: &Cluster, backend: serde_json::Value, path: Path) -> Outcome {
    let config = json!({ "Network": NETWORK, "Backend": backend }).to_string();
    files::replace(&config_path(&Cluster::store_dir(), "/coreos.com/network"), config.as_bytes())?;
    let name = backend["Type"].as_str().unwrap_or_default().to_owned();
    eventually(format_args!("{backend} is in use"), PATIENCE, || {
        let status = Cluster::status(1).ok_or("no status")?;
        let way = cluster.path(1, 2, kernel::types::Family::V4).map_err(|error| error.to_string())?;
        if status.backend == name && way == path { Ok(()) } else { Err(format!("{} {way}", status.backend)) }
    })?;
    rests(cluster.world.host(1)?)
}

pub fn what_others_made_stays() -> Outcome {
    let mut cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let theirs = Theirs::put(&cluster)?;
    rests(cluster.world.host(1)?)?;
    theirs.stand(&cluster, "they were made")?;
    assert!(cluster.take_daemon(1)?.stop(PATIENCE)?.success());
    theirs.stand(&cluster, "a stop")?;
    start_first(&mut cluster, &["--ip-masq"])?;
    let room = cluster.world.host(1)?;
    eventually("the new daemon is ready", PATIENCE, || match get(room, "/readyz") {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    rests(cluster.world.host(1)?)?;
    theirs.stand(&cluster, "a start")?;
    for (backend, path) in [
        (json!({ "Type": "host-gw" }), Path::Direct),
        (json!({ "Type": "vxlan", "DirectRouting": true }), Path::Direct),
        (json!({ "Type": "vxlan", "VNI": 5 }), Path::Vxlan),
        (json!({ "Type": "vxlan", "VNI": 5, "Port": 8475 }), Path::Vxlan),
        (json!({ "Type": "vxlan" }), Path::Vxlan),
    ] {
        change(&cluster, backend.clone(), path)?;
        theirs.stand(&cluster, &format!("a change to {backend}"))?;
    }
    cluster.take_daemon(1)?.kill()?;
    theirs.stand(&cluster, "a kill")
}
