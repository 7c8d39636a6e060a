//! static with each plugin that gives a pod an interface, ours and the reference alike.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use kernel::Kernel;
use kernel::state::{Route, RouteKey};
use kernel::types::TableId;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::births::make_pair;
use crate::bridge::{addresses, links, records, with};
use crate::call::{Caller, Pod, Whose};

/// A network of this plugin with addresses of both families.
fn conf(plugin: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": plugin, "bridge": "cni0", "master": "up0",
        "ipam": {
            "type": "static",
            "addresses": [
                { "address": "10.9.1.7/24", "gateway": "10.9.1.1" },
                { "address": "fd09:1::7/64", "gateway": "fd09:1::1" },
            ],
            "routes": [{ "dst": "192.0.2.0/24", "gw": "10.9.1.1" }],
            "dns": { "nameservers": ["10.9.1.53"] },
        },
    })
}

fn route(kernel: &mut Kernel, table: TableId, dst: &str) -> (RouteKey, Route) {
    let seen = kernel.routes(table).unwrap();
    let found = seen.iter().find(|(key, _)| key.dst.to_string() == dst);
    found.unwrap_or_else(|| panic!("no route to {dst}: {seen:?}")).clone()
}

/// On the host and in the pod: links and records. The bridge stays.
fn left(room: &Room) -> Vec<String> {
    let mut left = links(&mut Kernel::open().unwrap());
    left.retain(|link| !["up0", "wire", "cni0"].contains(&link.as_str()));
    left.extend(links(&mut room.kernel().unwrap()));
    left.extend(records("net"));
    left
}

pub fn every_plugin_gives_its_addresses(whose: Whose) -> Outcome {
    make_pair(&mut Kernel::open()?, "up0", "wire");
    for plugin in ["bridge", "ptp", "macvlan"] {
        let (caller, room) = (Caller::new(whose), Room::create("pod")?);
        let (pod, conf) = (Pod::of(&room, "cid"), conf(plugin));
        let result = caller.call("ADD", &pod, &conf).ok();
        let given = |ip: &Value| (ip["address"].clone(), ip["gateway"].clone());
        let ips: Vec<_> = result["ips"].as_array().unwrap().iter().map(given).collect();
        let wanted = [("10.9.1.7/24", "10.9.1.1"), ("fd09:1::7/64", "fd09:1::1")];
        assert_eq!(ips, wanted.map(|(address, gateway)| (json!(address), json!(gateway))), "{plugin}");
        assert_eq!(result["routes"], json!([{ "dst": "192.0.2.0/24", "gw": "10.9.1.1" }]), "{plugin}");
        let mut inside = room.kernel()?;
        assert_eq!(addresses(&mut inside, "eth0"), ["10.9.1.7/24", "fd09:1::7/64"], "{plugin}");
        assert_eq!(route(&mut inside, TableId::MAIN, "192.0.2.0/24").1.via, "10.9.1.1".parse().ok(), "{plugin}");
        let conf = with(&conf, json!({ "prevResult": result }));
        caller.call("CHECK", &pod, &conf).ok();
        caller.call("DEL", &pod, &conf).ok();
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!(left(&room), Vec::<String>::new(), "{plugin}");
        room.remove()?;
    }
    Ok(())
}

/// CNI_ARGS, args and runtimeConfig name addresses; Debian's takes them from the same places.
pub fn the_runtime_names_addresses(whose: Whose) -> Outcome {
    for (more, args, wanted) in [
        (json!({}), "IgnoreUnknown=1;IP=10.9.1.8/24;GATEWAY=10.9.1.1", &["10.9.1.7/24", "10.9.1.8/24"][..]),
        (json!({ "args": { "cni": { "ips": ["10.9.1.9/24"] } } }), "", &["10.9.1.9/24"]),
        (
            json!({ "runtimeConfig": { "ips": ["10.9.1.10/24", "fd09:1::10/64"] } }),
            "",
            &["10.9.1.10/24", "fd09:1::10/64"],
        ),
    ] {
        let (caller, room) = (Caller::new(whose), Room::create("pod")?);
        let (pod, mut conf) = (Pod { args, ..Pod::of(&room, "cid") }, with(&conf("bridge"), more));
        conf["ipam"]["addresses"] = json!([{ "address": "10.9.1.7/24" }]);
        conf["ipam"]["routes"] = json!([]);
        caller.call("ADD", &pod, &conf).ok();
        assert_eq!(addresses(&mut room.kernel()?, "eth0"), wanted, "{conf}");
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!(left(&room), Vec::<String>::new());
        room.remove()?;
    }
    Ok(())
}

/// The keys of CNI 1.1 reach the kernel. Debian's plugins are older than they.
pub fn every_key_of_a_route_is_applied() -> Outcome {
    let (caller, room) = (Caller::new(Whose::Ours), Room::create("pod")?);
    let (pod, mut conf) = (Pod::of(&room, "cid"), with(&conf("bridge"), json!({ "cniVersion": "1.1.0" })));
    conf["ipam"]["routes"] = json!([
        { "dst": "192.0.2.0/24", "gw": "10.9.1.1", "mtu": 1300, "advmss": 1200, "priority": 7 },
        { "dst": "198.51.100.0/24", "gw": "0.0.0.0", "scope": 253, "table": 1001 },
    ]);
    let result = caller.call("ADD", &pod, &conf).ok();
    assert_eq!(result["routes"], conf["ipam"]["routes"]);
    let mut inside = room.kernel()?;
    let (key, first) = route(&mut inside, TableId::MAIN, "192.0.2.0/24");
    let numbers = (first.mtu.map(|mtu| mtu.0), first.advmss, key.metric);
    assert_eq!(numbers, (Some(1300), Some(1200), Some(7)));
    let (_, second) = route(&mut inside, TableId(1001), "198.51.100.0/24");
    assert_eq!(second.via, None);
    let conf = with(&conf, json!({ "prevResult": result }));
    caller.call("CHECK", &pod, &conf).ok();
    caller.call("STATUS", &Pod::new("", Path::new("")), &conf).ok();
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// An address that the configuration names, and that the pod does not have.
pub fn check_misses_an_address() -> Outcome {
    let (caller, room) = (Caller::new(Whose::Ours), Room::create("pod")?);
    let (pod, mut conf) = (Pod::of(&room, "cid"), conf("bridge"));
    let result = caller.call("ADD", &pod, &conf).ok();
    conf["ipam"]["addresses"][0]["address"] = json!("10.9.1.8/24");
    let error = caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).error();
    assert!(error.contains("static: Failed to match addr 10.9.1.8/24 with gateway 10.9.1.1"), "{error}");
    Ok(())
}
