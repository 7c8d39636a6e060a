//! flanneld restores what plugins made on a host for its pods after another program has changed it.

use std::collections::BTreeSet;
use std::path::Path;

use cni::result::AddResult;
use cni::runtime::{Attachment, NetworkList, Runtime};
use gojson::Json;
use kernel::Kernel;
use kernel::state::{Port, RouteScope, Scope, State};
use kernel::types::IfName;
use lab::cluster::{Cluster, PATIENCE, Spec, host_dir, subnet_file};
use lab::mode::Mode;
use lab::netns::Room;
use lab::topology::Topology;
use lab::wait::eventually;
use serde_json::{Value, json};
use tests::dbus::{Bus, Manner};

use crate::disturb::{cluster, cluster_with, repaired, run, set_sysctl, sysctl};
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
/// The limits of its rate.
const RATES: &[u8] =
    br#"{ "ingressRate": 80000000, "ingressBurst": 8000000, "egressRate": 80000000, "egressBurst": 8000000 }"#;

/// Attaches one more pod to host 1. The result, and what detaches the pod.
fn attach<'a>(
    cluster: &'a Cluster,
    delegate: &Value,
) -> Result<(AddResult, impl FnOnce() -> Outcome + use<'a>), Failure> {
    attach_by(cluster, delegate, ["nftables"; 2])
}

/// The same, with the backends of `portmap` and `firewall`.
fn attach_by<'a>(
    cluster: &'a Cluster,
    delegate: &Value,
    [portmap, firewall]: [&str; 2],
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
            "backend": portmap,
            "capabilities": { "portMappings": true },
        }, {
            "type": "firewall",
            "backend": firewall,
            // a pair has no bridge
            "ingressPolicy": if delegate["type"] == "ptp" { "open" } else { "isolated" },
        }, {
            "type": "bandwidth",
            "capabilities": { "bandwidth": true },
        }],
    });
    let list = NetworkList::parse(list.to_string().as_bytes())?;
    let attachment = Attachment {
        container_id: "ruled".into(),
        netns: room.path().to_string_lossy().into_owned(),
        ifname: "eth0".into(),
        capability_args: [
            ("portMappings".to_owned(), Json::parse(PORTS)?),
            ("bandwidth".to_owned(), Json::parse(RATES)?),
        ]
        .into(),
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

/// The links of the pod's limits: the port, and the device of what the pod sends.
fn limited(result: &AddResult) -> Result<[IfName; 2], Failure> {
    let named = |prefix: &str| result.interfaces.iter().find(|interface| interface.name.starts_with(prefix));
    let [port, device] = ["veth", "bwp"].map(named);
    Ok([IfName::new(&port.ok_or("no port")?.name)?, IfName::new(&device.ok_or("no device")?.name)?])
}

/// After `line`, in which VETH is the pod's port and DEVICE what limits its sending, the limits are as before.
fn limits_are_repaired(what: &str, line: &str) -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let (result, detach) = attach(&cluster, &json!({ "isDefaultGateway": true }))?;
    let [port, device] = limited(&result)?;
    let room = cluster.world.host(1)?;
    let mut kernel = room.kernel()?;
    let scope = Scope { links: vec![device.clone()], queues: vec![port.clone(), device.clone()], ..Scope::default() };
    let before = kernel.observe(&scope)?;
    assert_eq!((before.links.len(), before.qdiscs.len(), before.filters.len()), (1, 3, 1), "{before:?}");
    run(room, &line.replace("VETH", port.as_str()).replace("DEVICE", device.as_str()))?;
    repaired(what, || {
        let now = kernel.observe(&scope)?;
        Ok((now != before).then(|| format!("{now:?}, and before {before:?}")))
    })?;
    detach()?;
    let left = kernel.observe(&scope)?;
    assert_eq!((left.links.len(), left.qdiscs.len()), (0, 0), "{left:?}");
    Ok(())
}

pub fn a_limit_of_what_the_pod_receives() -> Outcome {
    limits_are_repaired("the limit of what a pod receives, after it was removed", "tc qdisc del dev VETH root")
}

pub fn a_limit_of_what_the_pod_sends() -> Outcome {
    limits_are_repaired("the limit of what a pod sends, after it was removed", "tc qdisc del dev DEVICE root")
}

pub fn a_limit_with_another_rate() -> Outcome {
    let line = "tc qdisc change dev VETH root handle 1: tbf rate 1gbit burst 1m limit 1m";
    limits_are_repaired("the limit of what a pod receives, after it was raised", line)
}

pub fn a_way_past_the_limit() -> Outcome {
    limits_are_repaired("the filter of what a pod sends, after it was removed", "tc filter del dev VETH ingress")
}

pub fn a_limit_without_its_discipline() -> Outcome {
    limits_are_repaired("the discipline of what a pod sends, after it was removed", "tc qdisc del dev VETH ingress")
}

pub fn a_deleted_device_of_a_limit() -> Outcome {
    limits_are_repaired("the device of what a pod sends, after it was deleted", "ip link del DEVICE")
}

pub fn a_device_of_a_limit_that_is_down() -> Outcome {
    limits_are_repaired("the device of what a pod sends, after it was set down", "ip link set DEVICE down")
}

/// A dual-stack cluster whose host 1 checks other programs' objects once a second.
fn cluster_that_resyncs() -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(2), mode: Mode::Vxlan, dual_stack: true, outlive: false };
    cluster_with(spec, &["--iptables-resync=1"])
}

/// Waits for more than a period of checks until `look` finds nothing wrong.
fn resynced(what: &str, mut look: impl FnMut() -> Result<Option<String>, Failure>) -> Outcome {
    let outcome = eventually(what, PATIENCE, || match look() {
        Ok(None) => Ok(Ok(())),
        Ok(Some(seen)) => Err(seen),
        Err(failure) => Ok(Err(failure)),
    });
    outcome.map_err(|error| format!("not repaired: {error}"))?
}

/// The rules of plugins in the tables of iptables, in no order.
fn in_iptables(room: &Room) -> Result<BTreeSet<String>, Failure> {
    let mut all = BTreeSet::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let text = run(room, program)?;
        all.extend(text.lines().filter(|line| line.contains("CNI-")).map(|line| format!("{program} {line}")));
    }
    Ok(all)
}

/// Masquerade, host ports and accepts by iptables come back after each table was flushed, and DEL finds them.
pub fn flushed_tables_of_iptables() -> Outcome {
    let cluster = cluster_that_resyncs()?;
    let delegate = json!({ "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "iptables" });
    let (_, detach) = attach_by(&cluster, &delegate, ["iptables"; 2])?;
    let room = cluster.world.host(1)?;
    let before = in_iptables(room)?;
    for part in ["-j MASQUERADE", "-j DNAT", "ctstate RELATED,ESTABLISHED"] {
        assert_eq!(before.iter().filter(|line| line.contains(part)).count().min(2), 2, "{part}: {before:#?}");
    }
    for line in ["iptables -t nat -F", "ip6tables -t nat -F", "iptables -F", "ip6tables -F"] {
        run(room, line)?;
        resynced(&format!("the rules after `{line}`"), || {
            let now = in_iptables(room)?;
            Ok((now != before).then(|| format!("{:#?}", before.symmetric_difference(&now).collect::<Vec<_>>())))
        })?;
    }
    let healed = Cluster::status(1).and_then(|status| status.attachments).ok_or("no status")?.healed;
    assert!(healed.get("rules").is_some_and(|count| *count >= 4), "{healed:?}");
    detach()?;
    let left = in_iptables(room)?;
    assert!(!left.iter().any(|line| line.contains("ruled") || line.contains("-j ACCEPT")), "{left:#?}");
    Ok(())
}

/// firewalld forgets the pod's sources: they come back. It does not answer: the status says so.
pub fn forgotten_sources_of_firewalld() -> Outcome {
    let bus = Bus::start(Manner::Answers);
    let cluster = cluster_that_resyncs()?;
    let (_, detach) = attach_by(&cluster, &json!({ "isDefaultGateway": true }), ["nftables", "firewalld"])?;
    let before = bus.sources();
    assert_eq!(before.len(), 2, "{before:?}");
    bus.forget();
    let are_back = || {
        let now = bus.sources();
        Ok((now != before).then(|| format!("{now:?}")))
    };
    resynced("the sources after firewalld forgot them", are_back)?;
    let reported = |part: &str| {
        let reported = Cluster::status(1).and_then(|status| status.attachments).ok_or("no status")?.reported;
        Ok((!reported.iter().any(|text| text.contains(part))).then(|| format!("{reported:?}")))
    };
    bus.behave(Manner::Silent);
    resynced("the status of a firewalld that is silent", || reported("did not answer within 5 s"))?;
    bus.behave(Manner::Absent);
    resynced("the status of a firewalld that does not run", || reported("firewalld does not run"))?;
    bus.behave(Manner::Answers);
    resynced("the status of a firewalld that answers again", || {
        let reported = Cluster::status(1).and_then(|status| status.attachments).ok_or("no status")?.reported;
        Ok((!reported.is_empty()).then(|| format!("{reported:?}")))
    })?;
    detach()?;
    assert_eq!(bus.sources(), Vec::<String>::new());
    Ok(())
}
