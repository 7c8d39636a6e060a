//! bridge + host-local: the common behaviour of ours and the reference plugins, then where ours differ.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use attachment::record::{DIRECTORY, list};
use kernel::Kernel;
use kernel::diff::Step;
use kernel::message::link::SeenLink;
use kernel::nft::{Nft, TableKey};
use kernel::state::{AddressKey, Bridge, Link, LinkKind, RouteKey, Veth};
use kernel::types::{IfName, TableId};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Caller, Pod, Whose};

pub fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// A dual-stack gateway bridge, the usual configuration in these tests.
pub fn conf(caller: &Caller) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
        "hairpinMode": true, "mtu": 1450,
        "ipam": {
            "type": "host-local", "dataDir": caller.data(),
            "ranges": [[{ "subnet": "10.9.1.0/24" }], [{ "subnet": "fd09:1::/64" }]],
            "routes": [{ "dst": "10.9.0.0/16" }],
        },
    })
}

pub fn with(conf: &Value, more: Value) -> Value {
    let mut conf = conf.clone();
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

pub fn v4_only(conf: &Value, subnet: &str) -> Value {
    let mut conf = conf.clone();
    conf["ipam"]["ranges"] = json!([[{ "subnet": subnet }]]);
    conf["ipam"]["routes"] = json!([]);
    conf
}

pub fn link(kernel: &mut Kernel, link: &str) -> SeenLink {
    kernel.link(&name(link)).unwrap().unwrap_or_else(|| panic!("no link {link}"))
}

pub fn addresses(kernel: &mut Kernel, dev: &str) -> Vec<String> {
    let index = kernel.index(&name(dev)).unwrap();
    let seen = kernel.addresses_of(index).unwrap();
    let mut texts: Vec<_> = seen.iter().filter(|a| a.global).map(|a| a.key.net.to_string()).collect();
    texts.sort();
    texts
}

/// The attachments of a network that have a record, as the files are named.
pub fn records(network: &str) -> Vec<String> {
    let all = list(Path::new(DIRECTORY), network).unwrap();
    let mut names: Vec<String> = all.into_iter().map(|(container, ifname)| format!("{container}@{ifname}")).collect();
    names.sort();
    names
}

fn routes(kernel: &mut Kernel) -> Vec<String> {
    let seen = kernel.routes(TableId::MAIN).unwrap();
    let via = |(key, route): &(RouteKey, kernel::state::Route)| route.via.map(|via| format!("{} via {via}", key.dst));
    let mut texts: Vec<_> = seen.iter().filter_map(via).collect();
    texts.sort();
    texts
}

/// Links of this namespace but lo and those that every namespace has.
pub fn links(kernel: &mut Kernel) -> Vec<String> {
    let seen = kernel.links().unwrap();
    let made = |l: &&SeenLink| !matches!(l.link.kind, LinkKind::Loopback) && l.name.as_str() != "lo";
    seen.iter().filter(made).map(|l| l.name.to_string()).collect()
}

/// CHECK right after ADD. The reference plugin looks for a route without a gateway literally, does not find it, and
/// fails.
fn check(whose: Whose, caller: &Caller, pod: &Pod, conf: &Value) {
    let answer = caller.call("CHECK", pod, conf);
    match whose {
        Whose::Ours => drop(answer.ok()),
        Whose::Reference => assert!(answer.error().contains("not found in routing table"), "{answer:?}"),
    }
}

/// The whole life of a dual-stack attachment: the kernel's objects after ADD, CHECK, and nothing after DEL.
pub fn a_pod_lives_and_goes(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let (mut host, mut inside) = (Kernel::open()?, room.kernel()?);
    let conf = conf(&caller);
    let result = caller.call("ADD", &pod, &conf).ok();

    assert_eq!(addresses(&mut inside, "eth0"), ["10.9.1.2/24", "fd09:1::2/64"]);
    assert_eq!(routes(&mut inside), ["0.0.0.0/0 via 10.9.1.1", "10.9.0.0/16 via 10.9.1.1", "::/0 via fd09:1::1"]);
    assert_eq!(addresses(&mut host, "cni0"), ["10.9.1.1/24", "fd09:1::1/64"]);
    let veth = result["interfaces"][1]["name"].as_str().unwrap();
    let (veth, eth0, cni0) = (link(&mut host, veth), link(&mut inside, "eth0"), link(&mut host, "cni0"));
    assert!(veth.running && eth0.running && veth.link.up, "{veth:?} {eth0:?}");
    assert_eq!(veth.master, Some(cni0.index.0));
    assert!(veth.port.unwrap().hairpin && !veth.port.unwrap().isolated);
    assert_eq!((veth.link.mtu.unwrap().0, eth0.link.mtu.unwrap().0), (1450, 1450));
    let mac = |link: &SeenLink| json!(link.link.mac.unwrap().to_string());
    assert_eq!(
        result["interfaces"],
        json!([
            { "name": "cni0", "mac": mac(&cni0) },
            { "name": veth.name.as_str(), "mac": mac(&veth) },
            { "name": "eth0", "mac": mac(&eth0), "sandbox": room.path() },
        ])
    );
    assert_eq!(result["ips"][0], json!({ "interface": 2, "address": "10.9.1.2/24", "gateway": "10.9.1.1" }));
    assert_eq!(result["routes"].as_array().unwrap().len(), 3);
    for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        assert_eq!(kernel::sysctl::read(&format!("net/{key}"))?.as_deref(), Some(value), "{key}");
    }
    assert_eq!(kernel::sysctl::read("net/ipv6/conf/cni0/accept_ra")?.as_deref(), Some("0"));

    check(whose, &caller, &pod, &with(&conf, json!({ "prevResult": result })));
    caller.call("DEL", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
    assert!(inside.link(&name("eth0"))?.is_none() && host.link(&veth.name)?.is_none());
    assert_eq!(caller.reserved("net"), Vec::<String>::new());
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// Every version gets its own shape of result, and prevResult of that shape is taken.
pub fn every_version_is_spoken(whose: Whose) -> Outcome {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        if whose == Whose::Reference && version == "1.1.0" {
            continue; // Debian's are older than it
        }
        let caller = Caller::new(whose);
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let conf = with(&conf(&caller), json!({ "cniVersion": version }));
        let result = caller.call("ADD", &pod, &conf).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ip4"].is_object(), version < "0.3.0", "{result}");
        assert_eq!(result["ips"][0]["version"] == "4", ("0.3.0"..="0.4.0").contains(&version), "{result}");
        if version >= "0.4.0" {
            check(whose, &caller, &pod, &with(&conf, json!({ "prevResult": result })));
        }
        caller.call("DEL", &pod, &conf).ok();
        room.remove()?;
    }
    Ok(())
}

/// DEL without a namespace, with one that is gone, with an interface that is gone: the address is released.
pub fn del_needs_nothing(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let conf = conf(&caller);
    for lost in ["path", "variable", "interface"] {
        let room = Room::create("pod")?;
        let mut pod = Pod::of(&room, "cid");
        caller.call("ADD", &pod, &conf).ok();
        assert_eq!(caller.reserved("net").len(), 2);
        match lost {
            "path" => room.remove()?,
            "variable" => {
                pod.netns = "".into();
                room.remove()?;
            }
            _ => {
                room.kernel()?.apply(&[Step::DeleteLink(name("eth0"))]).ok()?;
                caller.call("DEL", &pod, &conf).ok();
                room.remove()?;
            }
        }
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!(caller.reserved("net"), Vec::<String>::new(), "{lost}");
    }
    Ok(())
}

/// The pod's MAC from CNI_ARGS and from runtimeConfig, which wins.
pub fn a_mac_can_be_asked_for(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let room = Room::create("pod")?;
    let pod = Pod { args: "IgnoreUnknown=1;MAC=02:00:00:00:00:0a", ..Pod::of(&room, "cid") };
    let mut inside = room.kernel()?;
    for (more, mac) in [
        (json!({}), "02:00:00:00:00:0a"),
        (json!({ "runtimeConfig": { "mac": "02:00:00:00:00:0b" } }), "02:00:00:00:00:0b"),
    ] {
        let conf = with(&conf(&caller), more);
        caller.call("ADD", &pod, &conf).ok();
        assert_eq!(link(&mut inside, "eth0").link.mac.unwrap().to_string(), mac);
        caller.call("DEL", &pod, &conf).ok();
    }
    Ok(())
}

/// The pod has a link of that name: ADD says so, and the first attachment stays.
pub fn a_taken_name_harms_nothing(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = conf(&caller);
    caller.call("ADD", &pod, &conf).ok();
    let (before, reserved) = (links(&mut Kernel::open()?), caller.reserved("net"));
    let again = caller.call("ADD", &pod, &conf).error();
    assert!(again.contains("already exists"), "{again}");
    assert_eq!(links(&mut Kernel::open()?), before);
    assert_eq!(caller.reserved("net"), reserved);
    Ok(())
}

/// A bridge that is another kind of link is left alone.
pub fn a_bridge_that_is_none_is_refused(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let room = Room::create("pod")?;
    let mut host = Kernel::open()?;
    host.apply(&[Step::CreateLink(name("cni0"), Link::up(LinkKind::Veth(Veth { peer: None })))]).ok()?;
    let before = links(&mut host);
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf(&caller)).error();
    assert!(error.contains(r#""cni0" already exists but is not a bridge"#), "{error}");
    assert_eq!(links(&mut host), before);
    assert_eq!(caller.reserved("net"), Vec::<String>::new());
    Ok(())
}

/// The bridge has another subnet's address, with a pod on it: ADD refuses, or replaces it if configured to.
pub fn another_subnets_bridge_is_refused_or_forced(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let (old, new) = (Room::create("old")?, Room::create("new")?);
    let mut host = Kernel::open()?;
    let first = v4_only(&conf(&caller), "10.9.1.0/24");
    let second = with(&v4_only(&conf(&caller), "10.9.2.0/24"), json!({ "name": "net2" }));
    caller.call("ADD", &Pod::of(&old, "old"), &first).ok();
    let error = caller.call("ADD", &Pod::of(&new, "new"), &second).error();
    assert!(error.contains(r#""cni0" already has an IP address different from 10.9.2.1/24"#), "{error}");
    if whose == Whose::Ours {
        assert!(
            error.contains("10.9.1.0/24") && error.contains("10.9.2.0/24") && error.contains("ip addr del"),
            "{error}"
        );
        assert_eq!(links(&mut host).len(), 2, "the failed ADD's pair is gone: {:?}", links(&mut host));
        assert_eq!(caller.reserved("net2"), Vec::<String>::new());
    } else {
        caller.call("DEL", &Pod::of(&new, "new"), &second).ok();
    }
    assert_eq!(addresses(&mut host, "cni0"), ["10.9.1.1/24"]);
    caller.call("ADD", &Pod::of(&new, "new"), &with(&second, json!({ "forceAddress": true }))).ok();
    assert_eq!(addresses(&mut host, "cni0"), ["10.9.2.1/24"]);
    Ok(())
}

/// Isolated ports, promiscuous bridge, dns of the configuration, routes with metrics and a table.
pub fn the_smaller_fields_do_what_they_say(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = with(
        &v4_only(&conf(&caller), "10.9.1.0/24"),
        json!({ "hairpinMode": false, "promiscMode": true, "dns": { "nameservers": ["10.9.1.1"], "search": ["a.test"] } }),
    );
    let result = caller.call("ADD", &pod, &conf).ok();
    assert_eq!(result["dns"], json!({ "nameservers": ["10.9.1.1"], "search": ["a.test"] }));
    let mut host = Kernel::open()?;
    assert_eq!(link(&mut host, "cni0").link.promisc, Some(true));
    assert!(!link(&mut host, result["interfaces"][1]["name"].as_str().unwrap()).port.unwrap().hairpin);
    caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
    Ok(())
}

/// A bridge of the second layer: no addresses, the pod's link up. Upstream's CHECK of it always fails; ours does not.
pub fn a_switch_without_ipam_is_checked_too() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf =
        json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "portIsolation": true });
    let result = caller.call("ADD", &pod, &conf).ok();
    assert!(result.get("ips").is_none(), "{result}");
    assert!(link(&mut room.kernel()?, "eth0").running);
    let conf = with(&conf, json!({ "prevResult": result }));
    caller.call("CHECK", &pod, &conf).ok();
    caller.call("DEL", &pod, &conf).ok();

    let raw = with(&conf, json!({ "disableContainerInterface": true, "prevResult": null }));
    caller.call("ADD", &pod, &raw).ok();
    assert!(!link(&mut room.kernel()?, "eth0").link.up);
    Ok(())
}

/// CHECK lists every difference, each as the command that repairs it.
pub fn check_lists_every_difference() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = conf(&caller);
    let result = caller.call("ADD", &pod, &conf).ok();
    let (mut host, mut inside) = (Kernel::open()?, room.kernel()?);
    let eth0 = name("eth0");
    let gone =
        |net: &str, dev: &IfName| Step::DeleteAddress(AddressKey { dev: dev.clone(), net: net.parse().unwrap() });
    inside.apply(&[gone("fd09:1::2/64", &eth0)]).ok()?;
    host.apply(&[gone("10.9.1.1/24", &name("cni0"))]).ok()?;
    let error = caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).error();
    for command in ["ip addr add 10.9.1.1/24 dev cni0", "in the pod: ip addr add fd09:1::2/64 dev eth0"] {
        assert!(error.contains(command), "{command} is not in: {error}");
    }
    Ok(())
}

/// A route to everywhere without a gateway of its own is the default route. Upstream's ADD fails with EEXIST.
pub fn a_default_route_of_ipam_satisfies_the_bridge() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let mut conf = v4_only(&conf(&caller), "10.9.1.0/24");
    conf["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
    assert_eq!(routes(&mut room.kernel()?), ["0.0.0.0/0 via 10.9.1.1"]);
    Ok(())
}

/// The mtu, advmss, priority and table of routes reach the kernel, and CHECK finds them. Upstream drops the first two
/// and its CHECK fails for other tables.
pub fn every_attribute_of_a_route_is_applied() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut conf = with(&v4_only(&conf(&caller), "10.9.1.0/24"), json!({ "cniVersion": "1.1.0" }));
    conf["ipam"]["routes"] = json!([
        { "dst": "192.0.2.0/24", "mtu": 1300, "advmss": 1200, "priority": 50 },
        { "dst": "198.51.100.0/24", "table": 100, "gw": "10.9.1.9" },
    ]);
    let result = caller.call("ADD", &pod, &conf).ok();
    let mut inside = room.kernel()?;
    let (key, route) =
        inside.routes(TableId::MAIN)?.into_iter().find(|(k, _)| k.dst.to_string() == "192.0.2.0/24").unwrap();
    assert_eq!((key.metric, route.mtu.unwrap().0, route.advmss), (Some(50), 1300, Some(1200)));
    assert_eq!(inside.routes(TableId(100))?.len(), 1);
    caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
    Ok(())
}

/// Another subnet's address without a pod is replaced automatically.
pub fn an_idle_bridge_takes_the_new_subnet() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let first = v4_only(&conf(&caller), "10.9.1.0/24");
    caller.call("ADD", &pod, &first).ok();
    caller.call("DEL", &pod, &first).ok();
    let second = with(&v4_only(&conf(&caller), "10.9.2.0/24"), json!({ "name": "net2" }));
    caller.call("ADD", &pod, &second).ok();
    assert_eq!(addresses(&mut Kernel::open()?, "cni0"), ["10.9.2.1/24"]);
    Ok(())
}

/// The bridge keeps its MAC address when ports come and go, even a bridge that another program made and that lost its
/// last port.
pub fn the_bridges_mac_stays() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut host = Kernel::open()?;
    host.apply(&[Step::CreateLink(name("cni0"), Link::up(LinkKind::Bridge(Bridge::default())))]).ok()?;
    let conf = conf(&caller);
    caller.call("ADD", &pod, &conf).ok();
    let mac = link(&mut host, "cni0").link.mac;
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!(link(&mut host, "cni0").link.mac, mac);
    assert!(mac.unwrap().is_unicast());
    caller.call("ADD", &pod, &conf).ok();
    assert_eq!(link(&mut host, "cni0").link.mac, mac);
    Ok(())
}

/// A late failure of ADD leaves nothing of its pod: no pair, no reservation, no record. The bridge stays, because it
/// is shared.
pub fn a_failed_add_leaves_nothing() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut conf = v4_only(&conf(&caller), "10.9.1.0/24");
    // a gateway that is not on the link: the pod's last batch fails
    conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.contains("192.0.2.0/24") && error.contains("Nexthop has invalid gateway"), "{error}");
    assert_eq!(links(&mut Kernel::open()?), ["cni0"]);
    assert_eq!(links(&mut room.kernel()?), Vec::<String>::new());
    assert_eq!(caller.reserved("net"), Vec::<String>::new());
    assert_eq!(records("net"), Vec::<String>::new());
    Ok(())
}

/// ADD makes masquerade and MAC check, CHECK finds them, and DEL removes them even without the namespace.
pub fn rules_come_and_go_with_the_pod() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let mut pod = Pod::of(&room, "cid");
    let conf = with(&conf(&caller), json!({ "ipMasq": true, "ipMasqBackend": "nftables", "macspoofchk": true }));
    let result = caller.call("ADD", &pod, &conf).ok();
    let prev = with(&conf, json!({ "prevResult": result }));
    caller.call("CHECK", &pod, &prev).ok();
    let count = |chain: &str, table: &TableKey| Nft::open().unwrap().rules(table, Some(chain)).map_or(0, |r| r.len());
    let masquerade = attachment::rules::masquerade::table();
    let check = attachment::rules::macspoof::table();
    assert_eq!(count("masq_checks", &masquerade), 2);
    assert_eq!(count("PREROUTING", &check), 1);
    room.remove()?;
    pod.netns = "/run/netns/gone".into();
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!((count("masq_checks", &masquerade), count("PREROUTING", &check)), (0, 0));
    Ok(())
}

/// GC removes what belongs to no valid attachment, masquerade rules and reservations, and STATUS answers.
pub fn gc_removes_what_nobody_owns() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (a, b) = (Room::create("a")?, Room::create("b")?);
    let conf = with(&conf(&caller), json!({ "cniVersion": "1.1.0", "ipMasq": true }));
    caller.call("ADD", &Pod::of(&a, "keep"), &conf).ok();
    caller.call("ADD", &Pod::of(&b, "lost"), &conf).ok();
    caller.call("STATUS", &Pod::of(&a, ""), &conf).ok();
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "keep", "ifname": "eth0" }] });
    caller.call("GC", &Pod::of(&a, ""), &with(&conf, valid)).ok();
    assert_eq!(caller.reserved("net"), ["10.9.1.2", "fd09:1::2"]);
    let rules = Nft::open()?.rules(&attachment::rules::masquerade::table(), Some("masq_checks"))?;
    assert_eq!(rules.len(), 2);
    Ok(())
}

/// A bridge without a free port, with its pairs up or down: the error says what to do, and nothing is left.
pub fn a_full_bridge_says_so() -> Outcome {
    // BR_MAX_PORTS, net/bridge/br_private.h, without number 0
    const PORTS: usize = 1023;
    let caller = Caller::new(Whose::Ours);
    let (last, room) = (Room::create("last")?, Room::create("pod")?);
    let conf = v4_only(&conf(&caller), "10.9.1.0/24");
    let mut host = Kernel::open()?;
    host.apply(&[Step::CreateLink(name("cni0"), Link::up(LinkKind::Bridge(kernel::state::Bridge::default())))]).ok()?;
    for n in 1..PORTS {
        let port =
            Link { master: Some(Some(name("cni0"))), ..Link::up(LinkKind::Veth(kernel::state::Veth { peer: None })) };
        host.apply(&[Step::CreateLink(name(&format!("port{n}")), port)]).ok()?;
    }
    caller.call("ADD", &Pod::of(&last, "last"), &conf).ok();
    let (before, reserved) = (links(&mut host).len(), caller.reserved("net"));
    for command in ["ADD", "ADD"] {
        let error = caller.call(command, &Pod::of(&room, "cid"), &conf).error();
        assert!(error.contains("the bridge cni0 has no free port: it takes 1023"), "{error}");
        assert!(error.contains("EXFULL: ") && error.contains("another \"bridge\""), "{error}");
        assert_eq!((links(&mut host).len(), caller.reserved("net")), (before, reserved.clone()));
    }
    caller.call("DEL", &Pod::of(&last, "last"), &conf).ok();
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
    Ok(())
}

/// All mistakes in the configuration are reported at once, and nothing is changed.
pub fn every_mistake_is_said_at_once() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let conf = with(
        &conf(&caller),
        json!({
            "bridge": "a/b", "vlan": 5000, "vlanTrunk": [{ "minID": 9, "maxID": 3 }, { "maxID": 7 }, { "id": 0 }], "mtu": 5,
            "promiscMode": true, "ipMasq": true, "ipMasqBackend": "ipfw", "ipMasqExclude": ["10.0.0.0"],
            "runtimeConfig": { "mac": "01:00:00:00:00:00" },
            "disableContainerInterface": true,
        }),
    );
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
    for part in [
        "\"a/b\" is not an interface name",
        "invalid VLAN ID 5000 (must be between 0 and 4094)",
        "minID is greater than maxID in trunk parameter",
        "minID and maxID should be configured simultaneously, minID is missing",
        "incorrect trunk id parameter",
        "invalid mtu 5",
        "cannot set hairpin mode and promiscuous mode at the same time",
        "unknown ipmasq backend \"ipfw\"",
        "ipMasqExclude: \"10.0.0.0\" is not a network (CIDR)",
        "01:00:00:00:00:00",
        "cannot use IPAM when DisableContainerInterface flag is set",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!(links(&mut Kernel::open()?), Vec::<String>::new());
    Ok(())
}

/// IPv6 with duplicate address detection: ADD answers when the address is usable.
pub fn dad_is_waited_for_when_asked() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let conf = with(&conf(&caller), json!({ "enabledad": true }));
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
    let mut inside = room.kernel()?;
    let index = inside.index(&name("eth0"))?;
    assert!(inside.addresses_of(index)?.iter().all(|a| !a.tentative), "a tentative address");
    Ok(())
}

/// VLANs need a kernel that filters by them; on another kernel the error says so, and nothing is left.
pub fn vlans_work_or_are_refused_cleanly() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut host = Kernel::open()?;
    let conf = with(
        &v4_only(&conf(&caller), "10.9.1.0/24"),
        json!({ "cniVersion": "1.0.0", "vlan": 100, "vlanTrunk": [{ "minID": 200, "maxID": 202 }] }),
    );
    let filtering = Link::up(LinkKind::Bridge(Bridge { vlan_filtering: true, ..Bridge::default() }));
    let filters = host.apply(&[Step::CreateLink(name("probe"), filtering)]).ok();
    if let Err(refused) = filters {
        assert_eq!(refused.errno.0, 95, "EOPNOTSUPP: {refused}");
        let error = caller.call("ADD", &pod, &conf).error();
        assert!(error.contains("type bridge vlan_filtering 1: EOPNOTSUPP"), "{error}");
        assert_eq!(links(&mut host), Vec::<String>::new());
        assert_eq!(caller.reserved("net"), Vec::<String>::new());
        return Ok(());
    }
    host.apply(&[Step::DeleteLink(name("probe"))]).ok()?;
    let result = caller.call("ADD", &pod, &conf).ok();
    assert_eq!(result["interfaces"][3]["name"], "cni0.100");
    assert_eq!(addresses(&mut host, "cni0.100"), ["10.9.1.1/24"]);
    let port = name(result["interfaces"][1]["name"].as_str().unwrap());
    let seen = host.observe(&kernel::state::Scope { vlans: vec![port], ..Default::default() })?.vlans;
    let carried: Vec<_> = seen.iter().map(|(key, vlan)| (key.id.get(), vlan.pvid)).collect();
    assert_eq!(carried, [(100, true), (200, false), (201, false), (202, false)]);
    caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}
