//! What the plugins' drill is run for.

use serde_json::{Value, json};

use super::stage::{SWITCH, Stage};

/// A plugin and its configuration.
#[derive(Debug)]
pub struct Row {
    /// The row's name, for people.
    pub name: &'static str,
    /// The configuration.
    pub conf: fn(&Stage<'_>) -> Value,
    /// Which ends clean up after it.
    pub reach: Reach,
}

/// Which ends can clean up after a killed ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every end, and the next ADD.
    Every,
    /// DEL and GC. As upstream, the next ADD refuses an address that the attachment already has.
    DelAndGc,
    /// DEL by the path: all there is belongs to the pod's namespace.
    Path,
}

/// Bridge and host-local.
pub const BRIDGE: Row = Row { name: "bridge", conf: bridge, reach: Reach::Every };
/// The same with masquerade and MAC check.
pub const BRIDGE_RULES: Row = Row {
    name: "bridge with ipMasq and macspoofchk",
    conf: |stage| merged(bridge(stage), json!({ "ipMasq": true, "ipMasqBackend": "nftables", "macspoofchk": true })),
    reach: Reach::Every,
};
/// The same with masquerade by iptables.
pub const BRIDGE_IPTABLES: Row = Row {
    name: "bridge with ipMasq by iptables",
    conf: |stage| merged(bridge(stage), json!({ "ipMasq": true, "ipMasqBackend": "iptables" })),
    reach: Reach::Every,
};
/// The same with a VLAN.
pub const BRIDGE_VLAN: Row = Row {
    name: "bridge with vlan",
    conf: |stage| merged(bridge(stage), json!({ "vlan": 100, "isGateway": false })),
    reach: Reach::Every,
};
/// macvlan and host-local.
pub const MACVLAN: Row = Row {
    name: "macvlan",
    conf: |stage| merged(bridge(stage), json!({ "type": "macvlan", "master": "eth0" })),
    reach: Reach::Every,
};
/// ptp and host-local, with masquerade.
pub const PTP: Row = Row {
    name: "ptp",
    conf: |stage| merged(bridge(stage), json!({ "type": "ptp", "ipMasq": true, "ipMasqBackend": "nftables" })),
    reach: Reach::Every,
};
/// bridge and static.
pub const STATIC: Row = Row {
    name: "bridge with static",
    conf: |stage| {
        let ipam = json!({ "type": "static", "addresses": [{ "address": "10.9.1.2/24" }] });
        merged(bridge(stage), json!({ "ipam": ipam }))
    },
    reach: Reach::Every,
};
/// portmap behind a plugin of another suite. The other pod has the next host port.
pub const PORTMAP: Row = Row { name: "portmap", conf: portmap, reach: Reach::Every };
/// firewall behind a plugin of another suite.
pub const FIREWALL: Row = Row { name: "firewall", conf: |stage| firewall(stage, "nftables"), reach: Reach::Every };
/// The same with iptables.
pub const FIREWALL_IPTABLES: Row =
    Row { name: "firewall by iptables", conf: |stage| firewall(stage, "iptables"), reach: Reach::Every };
/// portmap by iptables.
pub const PORTMAP_IPTABLES: Row = Row {
    name: "portmap by iptables",
    conf: |stage| merged(portmap(stage), json!({ "backend": "iptables" })),
    reach: Reach::Every,
};
/// flannel, bridge and host-local.
pub const FLANNEL: Row = Row { name: "flannel", conf: flannel, reach: Reach::Every };
/// VXLAN without a flanneld.
pub const VXLAN: Row = Row { name: "vxlan", conf: |stage| daemonless(stage, "vxlan"), reach: Reach::Every };
/// Direct routes without a flanneld.
pub const HOST_GW: Row = Row { name: "host-gw", conf: |stage| daemonless(stage, "host-gw"), reach: Reach::Every };
/// VXLAN and direct routes without a flanneld.
pub const DIRECT_ROUTING: Row =
    Row { name: "direct-routing", conf: |stage| daemonless(stage, "direct-routing"), reach: Reach::Every };
/// host-local alone.
pub const HOST_LOCAL: Row = Row {
    name: "host-local",
    conf: |stage| merged(bridge(stage), json!({ "type": "host-local" })),
    reach: Reach::DelAndGc,
};
/// bandwidth, for a pod that another suite has attached.
pub const BANDWIDTH: Row = Row {
    name: "bandwidth",
    conf: |stage| {
        let limits = json!({ "ingressRate": 8000, "ingressBurst": 80_000, "egressRate": 8000, "egressBurst": 80_000 });
        merged(chained(stage, "bandwidth"), limits)
    },
    reach: Reach::Every,
};
/// tuning, for a pod that another suite has attached. Its files are in the pod's container's name.
pub const TUNING: Row = Row {
    name: "tuning",
    conf: |stage| {
        let data = stage.folder().join("tuning");
        let settings = json!({ "dataDir": data, "mtu": 1400, "allmulti": true, "mac": "02:00:00:00:09:07" });
        merged(chained(stage, "tuning"), settings)
    },
    reach: Reach::Path,
};
/// loopback.
pub const LOOPBACK: Row = Row {
    name: "loopback",
    conf: |_| json!({ "cniVersion": "1.1.0", "name": "lo", "type": "loopback" }),
    reach: Reach::Path,
};

fn merged(mut conf: Value, more: Value) -> Value {
    if let (Some(conf), Value::Object(more)) = (conf.as_object_mut(), more) {
        conf.extend(more);
    }
    conf
}

fn bridge(stage: &Stage<'_>) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": { "type": "host-local", "dataDir": stage.data(), "ranges": [[{ "subnet": "10.9.1.0/24" }]] },
    })
}

fn portmap(stage: &Stage<'_>) -> Value {
    let mapping = |protocol: &str| json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol });
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "portmap",
        "runtimeConfig": { "portMappings": [mapping("tcp"), mapping("udp")] },
        "prevResult": {
            "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": stage.pod.netns }],
            "ips": [{ "address": "10.9.1.2/24", "interface": 0 }, { "address": "fd09:1::2/64", "interface": 0 }],
        },
    })
}

fn firewall(stage: &Stage<'_>, backend: &str) -> Value {
    let settings = json!({ "backend": backend, "ingressPolicy": "same-bridge" });
    let mut conf = merged(chained(stage, "firewall"), settings);
    let result = &mut conf["prevResult"];
    result["interfaces"].as_array_mut().into_iter().for_each(|links| links.insert(0, json!({ "name": SWITCH })));
    result["ips"] =
        json!([{ "address": "10.9.1.2/24", "interface": 3 }, { "address": "fd09:1::2/64", "interface": 3 }]);
    conf
}

/// The configuration for the other pod: a host port and an address have one pod.
pub fn of_other(conf: &Value) -> Value {
    let mut conf = conf.clone();
    for (ip, other) in
        conf["prevResult"]["ips"].as_array_mut().into_iter().flatten().zip(["10.9.1.3/24", "fd09:1::3/64"])
    {
        ip["address"] = other.into();
    }
    for mapping in conf["runtimeConfig"]["portMappings"].as_array_mut().into_iter().flatten() {
        mapping["hostPort"] = 8081.into();
    }
    conf
}

/// A plugin behind one that makes veth pairs.
fn chained(stage: &Stage<'_>, kind: &str) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": kind, "prevResult": stage.paired() })
}

/// What flanneld leased, for the chain of flannel.
pub const SUBNET_ENV: &str =
    "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn flannel(stage: &Stage<'_>) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "flannel",
        "subnetFile": stage.folder().join("subnet.env"), "dataDir": stage.folder().join("flannel"),
        "ipam": { "type": "host-local", "dataDir": stage.data() },
        "delegate": { "hairpinMode": true, "isDefaultGateway": true, "ipMasqBackend": "nftables" },
    })
}

fn daemonless(stage: &Stage<'_>, kind: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": kind, "iface": "eth0",
        "subnetFile": stage.folder().join("none.env"), "dataDir": stage.folder().join("flannel"),
        "network": "10.44.0.0/16", "subnet": "10.44.1.0/24",
        "peers": [{ "subnet": "10.44.2.0/24", "publicIP": "192.0.2.2" }],
        "ipam": { "type": "host-local", "dataDir": stage.data() },
        "delegate": { "bridge": "br44", "isGateway": true },
    })
}
