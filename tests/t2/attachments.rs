//! flanneld restores what plugins made on a host for its pods after another program has changed it.

use std::collections::BTreeSet;
use std::path::Path;

use cni::result::AddResult;
use cni::runtime::{Attachment, NetworkList, Runtime};
use gojson::Json;
use kernel::Kernel;
use kernel::state::{Port, RouteScope, Scope, State};
use kernel::types::IfName;
use lab::cluster::{Cluster, host_dir, subnet_file};
use lab::mode::Mode;
use lab::netns::Room;
use lab::topology::Topology;
use serde_json::json;

use crate::disturb::{cluster, repaired, run, set_sysctl, sysctl};
use crate::{Failure, Outcome};

/// The bridge with its addresses, the pod's port, and the port's flags.
#[derive(Debug, PartialEq)]
struct Look(State, Option<Port>);

fn look(kernel: &mut Kernel, veth: &IfName) -> Result<Look, Failure> {
    let bridge = IfName::new("cni0")?;
    let scope = Scope { links: vec![bridge.clone(), veth.clone()], addresses: vec![bridge], ..Scope::default() };
    let mut state = kernel.observe(&scope)?;
    // the kernel's own
    state.addresses.retain(|key, _| key.net.is_ipv4());
    Ok(Look(state, kernel.link(veth)?.and_then(|link| link.port)))
}

/// After `line`, in which VETH is the pod's port, everything is as before.
fn is_repaired(what: &str, line: &str) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let room = cluster.world.host(1)?;
    let veth = IfName::new(&cluster.pod(1)?.veth)?;
    let mut kernel = room.kernel()?;
    let before = look(&mut kernel, &veth)?;
    run(room, &line.replace("VETH", veth.as_str()))?;
    repaired(what, || {
        let now = look(&mut kernel, &veth)?;
        Ok((now != before).then(|| format!("{now:?}, and before {before:?}")))
    })
}

pub fn a_deleted_bridge() -> Outcome {
    is_repaired("cni0 after it was deleted", "ip link del cni0")
}

pub fn a_bridge_that_is_down() -> Outcome {
    is_repaired("cni0 after it was set down", "ip link set cni0 down")
}

pub fn a_bridge_without_its_address() -> Outcome {
    is_repaired("cni0 after its address was removed", "ip addr flush dev cni0")
}

pub fn a_bridge_with_another_mac() -> Outcome {
    is_repaired("cni0 after its MAC was changed", "ip link set cni0 address 02:00:00:00:00:99")
}

pub fn a_bridge_that_does_not_forward() -> Outcome {
    const FORWARDING: &str = "net/ipv4/conf/cni0/forwarding";
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let room = cluster.world.host(1)?;
    set_sysctl(room, FORWARDING, "0")?;
    repaired("cni0 after it was told not to forward", || {
        let now = sysctl(room, FORWARDING)?;
        Ok((now != "1").then_some(now))
    })
}

pub fn a_port_that_is_unplugged() -> Outcome {
    is_repaired("a pod's port after it was unplugged", "ip link set VETH nomaster")
}

pub fn a_port_that_is_down() -> Outcome {
    is_repaired("a pod's port after it was set down", "ip link set VETH down")
}

pub fn a_port_without_hairpin() -> Outcome {
    is_repaired("a pod's port after hairpin was changed", "bridge link set dev VETH hairpin off")
}

pub fn a_port_that_is_isolated() -> Outcome {
    is_repaired("a pod's port after isolation was changed", "bridge link set dev VETH isolated on")
}

/// Attaches one more pod to host 1, with packet rules: masquerade, and the check of its MAC. What detaches it.
fn attach_with_rules(cluster: &Cluster) -> Result<impl FnOnce() -> Outcome + '_, Failure> {
    let delegate = json!({ "hairpinMode": true, "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true });
    let (_, detach) = attach(cluster, &delegate)?;
    Ok(detach)
}

/// The pod's host ports.
const PORTS: &[u8] = br#"[{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]"#;

/// Attaches one more pod to host 1. The result, and what detaches the pod.
fn attach<'a>(
    cluster: &'a Cluster,
    delegate: &serde_json::Value,
) -> Result<(AddResult, impl FnOnce() -> Outcome + use<'a>), Failure> {
    let (room, files) = (Room::create("ruled")?, host_dir(1).join("cni"));
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "ruled",
        "plugins": [{
            "type": "flannel",
            "subnetFile": subnet_file(1),
            "dataDir": files.join("flannel"),
            "ipam": { "type": "host-local", "dataDir": files.join("networks") },
            "delegate": delegate,
        }, {
            "type": "portmap",
            "capabilities": { "portMappings": true },
        }, {
            "type": "firewall",
            // a pair has no bridge
            "ingressPolicy": if delegate["type"] == "ptp" { "open" } else { "isolated" },
        }],
    });
    let list = NetworkList::parse(list.to_string().as_bytes())?;
    let attachment = Attachment {
        container_id: "ruled".into(),
        netns: room.path().to_string_lossy().into_owned(),
        ifname: "eth0".into(),
        capability_args: [("portMappings".to_owned(), Json::parse(PORTS)?)].into(),
        ..Attachment::default()
    };
    let runtime = Runtime::new(Path::new("/run/lab/bin").to_string_lossy(), files);
    let host = cluster.world.host(1)?;
    let result = host.enter(|| runtime.add(&list, &attachment))??;
    let detach = move || {
        host.enter(|| runtime.del(&list, &attachment))??;
        drop(room);
        Ok(())
    };
    Ok((result, detach))
}

/// After `line`, in which VETH is the host's end of a ptp pod, its addresses and the route to the pod are as before.
fn pair_is_repaired(what: &str, line: &str) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let room = cluster.world.host(1)?;
    let (result, detach) = attach(&cluster, &json!({ "type": "ptp" }))?;
    let veth = IfName::new(&result.interfaces[0].name)?;
    let mut kernel = room.kernel()?;
    let scope = Scope {
        links: vec![veth.clone()],
        addresses: vec![veth.clone()],
        routes: Some(RouteScope { dev: Some(veth.clone()), ..RouteScope::default() }),
        ..Scope::default()
    };
    let mut look = || -> Result<State, Failure> {
        let mut state = kernel.observe(&scope)?;
        state.addresses.retain(|key, _| key.net.is_ipv4());
        state.routes.retain(|key, _| key.dst.is_ipv4());
        Ok(state)
    };
    let before = look()?;
    assert_eq!((before.addresses.len(), before.routes.len()), (1, 1), "{before:?}");
    run(room, &line.replace("VETH", veth.as_str()))?;
    repaired(what, || {
        let now = look()?;
        Ok((now != before).then(|| format!("{now:?}, and before {before:?}")))
    })?;
    detach()
}

pub fn a_pair_without_its_address() -> Outcome {
    pair_is_repaired("a pod's pair after its address was removed", "ip addr flush dev VETH")
}

pub fn a_pair_that_is_down() -> Outcome {
    pair_is_repaired("a pod's pair after it was set down", "ip link set VETH down")
}

pub fn a_pair_without_its_route() -> Outcome {
    pair_is_repaired("a pod's pair after its route was removed", "ip route flush dev VETH scope host")
}

/// All tables, in no order: nft shows the newest last.
fn tables(room: &Room) -> Result<BTreeSet<String>, Failure> {
    Ok(run(room, "nft list ruleset")?.split("table ").map(str::to_owned).collect())
}

/// After `line` the rules are as before, and DEL finds those that were made again.
fn rules_are_repaired(what: &str, line: &str) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let detach = attach_with_rules(&cluster)?;
    let room = cluster.world.host(1)?;
    let before = tables(room)?;
    let expected =
        ["inet cni_plugins_masquerade", "bridge nat", "inet cni_portmap", "inet cni_firewall", "bridge cni_firewall"];
    for table in expected {
        assert!(before.iter().any(|text| text.starts_with(table)), "{table}: {before:?}");
    }
    run(room, line)?;
    repaired(what, || {
        let now = tables(room)?;
        Ok((now != before).then(|| format!("{now:?}")))
    })?;
    detach()?;
    let left = run(room, "nft list ruleset")?;
    assert!(!left.contains("ruled"), "{left}");
    Ok(())
}

pub fn a_flushed_ruleset() -> Outcome {
    rules_are_repaired("the packet rules after `nft flush ruleset`", "nft flush ruleset")
}

pub fn a_deleted_masquerade_table() -> Outcome {
    rules_are_repaired("the packet rules after their table was deleted", "nft delete table inet cni_plugins_masquerade")
}

pub fn a_deleted_table_of_host_ports() -> Outcome {
    rules_are_repaired("the host ports after their table was deleted", "nft delete table inet cni_portmap")
}

pub fn a_deleted_host_port() -> Outcome {
    rules_are_repaired("the host ports after one was deleted", "nft flush map inet cni_portmap ports4")
}

pub fn deleted_tables_of_the_firewall() -> Outcome {
    let line = "nft delete table inet cni_firewall; delete table bridge cni_firewall";
    rules_are_repaired("the firewall after its tables were deleted", line)
}

/// `FORWARD` of iptables-nft drops. The pod's accepts are in it, and come back after that table was flushed.
pub fn flushed_accepts_in_forward() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let room = cluster.world.host(1)?;
    run(room, "iptables -P FORWARD DROP")?;
    let detach = attach_with_rules(&cluster)?;
    let accepts = || -> Result<Vec<String>, Failure> {
        let text = run(room, "iptables -S")?;
        Ok(text.lines().filter(|line| line.contains("CNI-FORWARD")).map(str::to_owned).collect())
    };
    let before = accepts()?;
    assert_eq!(before.len(), 5, "{before:#?}");
    run(room, "iptables -F")?;
    repaired("the firewall's accepts after `iptables -F`", || {
        let now = accepts()?;
        Ok((now != before).then(|| format!("{now:#?}")))
    })?;
    detach()?;
    let left = accepts()?;
    assert_eq!(left.len(), 3, "only what all pods share stays: {left:#?}");
    Ok(())
}
