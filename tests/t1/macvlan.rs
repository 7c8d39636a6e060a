//! macvlan + host-local: what ours and the reference do alike, then where ours does better.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kernel::Kernel;
use kernel::diff::Step;
use kernel::state::{LinkKind, MacvlanMode};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::births::make_pair;
use crate::bridge::{addresses, link, links, name, records, v4_only, with};
use crate::call::{Caller, Pod, Whose};

/// A host with a link `up0` to elsewhere.
pub fn host() -> Kernel {
    let mut host = Kernel::open().unwrap();
    make_pair(&mut host, "up0", "wire");
    host
}

/// Of both families.
fn conf(caller: &Caller) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "up0", "mtu": 1400,
        "ipam": {
            "type": "host-local", "dataDir": caller.data(),
            "ranges": [[{ "subnet": "10.9.1.0/24" }], [{ "subnet": "fd09:1::/64" }]],
            "routes": [{ "dst": "10.9.0.0/16" }, { "dst": "fd09::/32", "gw": "fd09:1::1" }],
        },
    })
}

pub fn one_family(caller: &Caller) -> Value {
    v4_only(&conf(caller), "10.9.1.0/24")
}

/// On the host and in the pod: links, reservations, records.
pub fn left(caller: &Caller, room: &Room) -> Vec<String> {
    let mut left = links(&mut Kernel::open().unwrap());
    left.retain(|link| link != "up0" && link != "wire");
    left.extend(links(&mut room.kernel().unwrap()).into_iter().map(|link| format!("{link} in the pod")));
    left.extend(caller.reserved("net"));
    left.extend(records("net"));
    left
}

fn mode(kernel: &mut Kernel) -> MacvlanMode {
    match link(kernel, "eth0").link.kind {
        LinkKind::Macvlan(macvlan) => macvlan.mode,
        other => panic!("eth0 is {other:?}"),
    }
}

/// The whole life of an attachment of both families.
pub fn a_pod_lives_and_goes(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let mut host = host();
    let room = Room::create("pod")?;
    let (pod, conf) = (Pod::of(&room, "cid"), conf(&caller));
    let mut inside = room.kernel()?;
    let result = caller.call("ADD", &pod, &conf).ok();

    let eth0 = link(&mut inside, "eth0");
    assert_eq!(addresses(&mut inside, "eth0"), ["10.9.1.2/24", "fd09:1::2/64"]);
    assert_eq!((mode(&mut inside), eth0.link.up), (MacvlanMode::Bridge, true));
    assert_eq!((eth0.link.mtu.unwrap().0, eth0.lower_elsewhere), (1400, Some(link(&mut host, "up0").index.0)));
    let mac = eth0.link.mac.unwrap().to_string();
    let expected = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "mac": mac, "sandbox": room.path() }],
        "ips": [
            { "interface": 0, "address": "10.9.1.2/24", "gateway": "10.9.1.1" },
            { "interface": 0, "address": "fd09:1::2/64", "gateway": "fd09:1::1" },
        ],
        "routes": [{ "dst": "10.9.0.0/16" }, { "dst": "fd09::/32", "gw": "fd09:1::1" }],
    });
    // Debian's writes an empty "dns"
    let said = result.as_object().unwrap().iter().filter(|(_, value)| **value != json!({}));
    assert_eq!(said.map(|(key, value)| (key.clone(), value.clone())).collect::<Value>(), expected);
    let told = ["ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/ndisc_notify"];
    // Debian's are older than the second
    for key in &told[..if whose == Whose::Ours { 2 } else { 1 }] {
        let value = room.enter(|| kernel::sysctl::read(&format!("net/{key}")))??;
        assert_eq!(value.as_deref(), Some("1"), "{key}");
    }
    let conf = with(&conf, json!({ "prevResult": result }));
    let check = caller.call("CHECK", &pod, &conf);
    match whose {
        Whose::Ours => drop(check.ok()),
        // the reference looks for a route without a gateway as it is written
        Whose::Reference => assert!(check.error().contains("not found in routing table"), "{check:?}"),
    }
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!(left(&caller, &room), Vec::<String>::new());
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// Every version gets its own shape of result.
pub fn every_version_is_spoken(whose: Whose) -> Outcome {
    let _host = host();
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        if whose == Whose::Reference && version == "1.1.0" {
            continue; // Debian's are older than it
        }
        let caller = Caller::new(whose);
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let conf = with(&one_family(&caller), json!({ "cniVersion": version }));
        let result = caller.call("ADD", &pod, &conf).ok();
        assert_eq!(
            (&result["cniVersion"], result["ip4"].is_object()),
            (&json!(version), version < "0.3.0"),
            "{result}"
        );
        if version >= "0.4.0" {
            caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
        }
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!(left(&caller, &room), Vec::<String>::new(), "{version}");
        room.remove()?;
    }
    Ok(())
}

/// Every mode works, with IPAM and without.
pub fn every_mode_is_made(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let _host = host();
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let bare = json!({ "cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "up0" });
    for (text, wanted) in [
        ("bridge", MacvlanMode::Bridge),
        ("private", MacvlanMode::Private),
        ("vepa", MacvlanMode::Vepa),
        ("passthru", MacvlanMode::Passthru),
        ("source", MacvlanMode::Source),
    ] {
        if whose == Whose::Reference && wanted == MacvlanMode::Source {
            let error = caller.call("ADD", &pod, &with(&bare, json!({ "mode": text }))).error();
            assert!(error.contains("unknown macvlan mode: \"source\""), "{error}");
            continue; // Debian's does not know it
        }
        for conf in [&one_family(&caller), &bare] {
            let conf = with(conf, json!({ "mode": text }));
            let result = caller.call("ADD", &pod, &conf).ok();
            let mut inside = room.kernel()?;
            assert_eq!(mode(&mut inside), wanted, "{text}");
            assert!(link(&mut inside, "eth0").link.up);
            caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
            caller.call("DEL", &pod, &conf).ok();
            assert_eq!(left(&caller, &room), Vec::<String>::new(), "{text}");
        }
    }
    Ok(())
}

/// From the configuration, CNI_ARGS and runtimeConfig, the later ones before the earlier.
pub fn a_mac_can_be_asked_for(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let _host = host();
    let room = Room::create("pod")?;
    let plain = with(&one_family(&caller), json!({ "mac": "02:00:00:00:00:0a" }));
    let runtime = with(&plain, json!({ "runtimeConfig": { "mac": "02:00:00:00:00:0c" } }));
    let args = "IgnoreUnknown=1;MAC=02:00:00:00:00:0b";
    for (conf, args, mac) in [(&plain, "", "0a"), (&plain, args, "0b"), (&runtime, args, "0c")] {
        let pod = Pod { args, ..Pod::of(&room, "cid") };
        let result = caller.call("ADD", &pod, conf).ok();
        let seen = link(&mut room.kernel()?, "eth0").link.mac.unwrap().to_string();
        assert_eq!((&seen[..], &result["interfaces"][0]["mac"]), (&format!("02:00:00:00:00:{mac}")[..], &json!(seen)));
        caller.call("DEL", &pod, conf).ok();
    }
    Ok(())
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Without a `master`: IPv4's default route, or IPv6's where there is no other.
pub fn the_default_routes_link_is_the_master(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let mut host = host();
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = with(&one_family(&caller), json!({ "master": "" }));
    let none = caller.call("ADD", &pod, &conf).error();
    assert!(none.contains("no default route interface"), "{none}");
    make_pair(&mut host, "second", "far");
    for (route, master) in [("-6 route add default dev second", "second"), ("route add default dev up0", "up0")] {
        ip(route);
        caller.call("ADD", &pod, &conf).ok();
        let lower = link(&mut room.kernel()?, "eth0").lower_elsewhere;
        assert_eq!(lower, Some(link(&mut host, master).index.0), "{route}");
        caller.call("DEL", &pod, &conf).ok();
    }
    Ok(())
}

/// DEL without a namespace, with one that is gone, with an interface or a master that is gone: the address is released.
pub fn del_needs_nothing(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let conf = one_family(&caller);
    for lost in ["path", "variable", "interface", "master"] {
        if whose == Whose::Reference && ["interface", "master"].contains(&lost) {
            continue; // Debian's: Link not found (containernetworking/plugins#953)
        }
        let mut host = host();
        let room = Room::create("pod")?;
        let mut pod = Pod::of(&room, "cid");
        caller.call("ADD", &pod, &conf).ok();
        match lost {
            "path" => pod.netns = "/run/netns/gone".into(),
            "variable" => pod.netns = PathBuf::new(),
            "interface" => room.kernel()?.apply(&[Step::DeleteLink(name("eth0"))]).ok()?,
            _ => host.apply(&[Step::DeleteLink(name("up0"))]).ok()?,
        }
        caller.call("DEL", &pod, &conf).ok();
        if whose == Whose::Ours {
            assert_eq!(left(&caller, &room), Vec::<String>::new(), "{lost}");
        }
        assert_eq!(caller.reserved("net"), Vec::<String>::new(), "{lost}");
        room.remove()?;
        // it may be gone
        let _ = host.apply(&[Step::DeleteLink(name("up0"))]);
    }
    Ok(())
}

/// As the reference says it; nothing is left.
pub fn an_mtu_above_the_masters_is_refused(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let _host = host();
    let room = Room::create("pod")?;
    for mtu in [1501, 9000] {
        let conf = with(&one_family(&caller), json!({ "mtu": mtu }));
        let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
        assert!(error.contains(&format!("invalid MTU {mtu}, must be [0, master MTU(1500)]")), "{error}");
        assert_eq!(left(&caller, &room), Vec::<String>::new());
    }
    Ok(())
}

/// A datagram from one to the other, in bridge mode.
pub fn pods_of_one_master_reach_each_other() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    let rooms = [Room::create("one")?, Room::create("two")?];
    let conf = one_family(&caller);
    for (room, id) in rooms.iter().zip(["one", "two"]) {
        caller.call("ADD", &Pod::of(room, id), &conf).ok();
    }
    let [one, two] = &rooms;
    let receiver = one.enter(|| UdpSocket::bind("10.9.1.2:9999"))??;
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    two.enter(|| UdpSocket::bind("10.9.1.3:0").and_then(|socket| socket.send_to(b"hello", "10.9.1.2:9999")))??;
    let mut text = [0; 16];
    let (length, from) = receiver.recv_from(&mut text)?;
    assert_eq!((&text[..length], from.ip().to_string()), (&b"hello"[..], "10.9.1.3".to_owned()));
    Ok(())
}

/// Refused by the pod's last batch, by IPAM, and by a master that is not there or is no Ethernet device.
pub fn a_failed_add_leaves_nothing() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    ip("tuntap add dev raw mode tun");
    let room = Room::create("pod")?;
    let good = conf(&caller);
    let (mut late, mut late_ipv6, mut none) = (good.clone(), good.clone(), good.clone());
    late["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    late_ipv6["ipam"]["routes"] = json!([{ "dst": "2001:db8::/64", "gw": "2001:db8:1::1" }]);
    none["ipam"]["type"] = json!("no-such-plugin");
    for (conf, part) in [
        (late, "192.0.2.0/24"),
        (late_ipv6, "2001:db8::/64"),
        (none, "no-such-plugin"),
        (with(&good, json!({ "master": "nosuch" })), "failed to lookup master \"nosuch\": Link not found"),
        (with(&good, json!({ "master": "raw", "mtu": 0 })), "ip link add link raw name eth0"),
    ] {
        let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
        assert!(error.contains(part), "{part:?} is not in: {error}");
        let mut left = left(&caller, &room);
        left.retain(|link| link != "raw");
        assert_eq!(left, Vec::<String>::new(), "{part}");
    }
    caller.call("ADD", &Pod::of(&room, "cid"), &good).ok();
    Ok(())
}

/// By this attachment, or by a link of the pod's own.
pub fn a_taken_name_harms_nothing() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    let (room, own) = (Room::create("pod")?, Room::create("own")?);
    let conf = one_family(&caller);
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
    make_pair(&mut own.kernel()?, "eth0", "other");
    for (room, id) in [(&room, "cid"), (&own, "own")] {
        let before = left(&caller, room);
        let error = caller.call("ADD", &Pod::of(room, id), &conf).error();
        assert!(error.contains("container interface name \"eth0\" already exists"), "{error}");
        assert_eq!(left(&caller, room), before);
    }
    Ok(())
}

/// The host's link may have the name that the pod's interface asks for: the pod's own link of that name stays as it is.
pub fn a_master_with_the_interfaces_name_is_no_other_link() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let mut host = host();
    make_pair(&mut host, "eth0", "eth0-wire");
    let (room, own) = (Room::create("pod")?, Room::create("own")?);
    let conf = with(&one_family(&caller), json!({ "master": "eth0" }));
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
    let lower = link(&mut room.kernel()?, "eth0").lower_elsewhere;
    assert_eq!(lower, Some(link(&mut host, "eth0").index.0));
    let mut inside = own.kernel()?;
    make_pair(&mut inside, "eth0", "other");
    let before = link(&mut inside, "eth0");
    for more in [json!({}), json!({ "linkInContainer": true })] {
        let error = caller.call("ADD", &Pod::of(&own, "own"), &with(&conf, more)).error();
        assert!(error.contains("container interface name \"eth0\" already exists"), "{error}");
        let after = link(&mut inside, "eth0");
        assert_eq!((after.index, &after.link.mac, after.link.mtu), (before.index, &before.link.mac, before.link.mtu));
        assert_eq!(addresses(&mut inside, "eth0"), Vec::<String>::new());
        assert_eq!(links(&mut inside).len(), 2, "{:?}", links(&mut inside));
    }
    Ok(())
}

/// CHECK follows no default route: it may have moved since ADD, or have gone.
pub fn check_without_a_named_master_follows_no_route() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let mut host = host();
    make_pair(&mut host, "second", "far");
    ip("route add default dev up0");
    let room = Room::create("pod")?;
    let (pod, conf) = (Pod::of(&room, "cid"), with(&one_family(&caller), json!({ "master": "" })));
    let result = caller.call("ADD", &pod, &conf).ok();
    let conf = with(&conf, json!({ "prevResult": result }));
    for change in ["route replace default dev second", "route del default"] {
        ip(change);
        caller.call("CHECK", &pod, &conf).ok();
    }
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// The port of a bridge cannot be a master, nor can two interfaces have one MAC: the error says what to look at.
pub fn a_master_that_is_in_use_says_so() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let mut host = host();
    let (one, two) = (Room::create("one")?, Room::create("two")?);
    let conf = with(&one_family(&caller), json!({ "mac": "02:00:00:00:00:0a" }));
    caller.call("ADD", &Pod::of(&one, "one"), &conf).ok();
    let refused = |why: &str| {
        let error = caller.call("ADD", &Pod::of(&two, "two"), &conf).error();
        let busy = error.contains("EADDRINUSE") || error.contains("EBUSY");
        assert!(busy && error.contains("ip -d link show up0"), "{why}: {error}");
        let indexes = error.contains("index that was tried") && !error.contains("up0 is in use");
        assert!(!indexes, "{why}, which is no matter of indexes: {error}");
        assert_eq!(links(&mut two.kernel().unwrap()), Vec::<String>::new(), "{why}");
    };
    refused("the first has that MAC");
    caller.call("DEL", &Pod::of(&one, "one"), &conf).ok();
    ip("link add br0 type bridge");
    ip("link set up0 master br0");
    refused("the master is a bridge's port");
    // before Linux 6.13 the kernel looks for the name on the host
    make_pair(&mut host, "eth0", "far");
    refused("and the host has an eth0");
    assert_eq!((caller.reserved("net"), records("net")), (vec![], vec![]));
    Ok(())
}

/// A link in mode passthru carries one interface alone, whichever came first: the error says so.
pub fn a_second_interface_beside_passthru_says_so() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    let (one, two) = (Room::create("one")?, Room::create("two")?);
    for (first, second) in [("passthru", "passthru"), ("passthru", "bridge"), ("bridge", "passthru")] {
        let [first_conf, second_conf] = [first, second].map(|mode| with(&one_family(&caller), json!({ "mode": mode })));
        caller.call("ADD", &Pod::of(&one, "one"), &first_conf).ok();
        let error = caller.call("ADD", &Pod::of(&two, "two"), &second_conf).error();
        let wanted = "a macvlan interface in mode passthru is the only one on its link: detach what else stands on up0";
        assert!(error.contains("EINVAL") && error.contains(wanted), "{second} behind {first}: {error}");
        assert_eq!(links(&mut two.kernel()?), Vec::<String>::new());
        caller.call("DEL", &Pod::of(&one, "one"), &first_conf).ok();
        assert_eq!(left(&caller, &one), Vec::<String>::new());
    }
    // EINVAL of something else is no matter of modes
    let mut conf = one_family(&caller);
    conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "0.0.0.1" }]);
    let error = caller.call("ADD", &Pod::of(&two, "two"), &conf).error();
    assert!(!error.contains("passthru"), "{error}");
    Ok(())
}

/// With `linkInContainer` the master is a link of the pod's, named or that of its default route; the host has none of it.
pub fn a_master_in_the_pod_is_stood_on() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let mut other = host();
    for (master, address) in [("own0", "10.9.1.2/24"), ("", "10.9.1.3/24")] {
        let room = Room::create("pod")?;
        let mut inside = room.kernel()?;
        make_pair(&mut inside, "own0", "own1");
        room.enter(|| ip("route add default dev own0"))?;
        let pod = Pod::of(&room, "cid");
        let conf = with(&one_family(&caller), json!({ "master": master, "linkInContainer": true }));
        let result = caller.call("ADD", &pod, &conf).ok();
        let (eth0, own) = (link(&mut inside, "eth0"), link(&mut inside, "own0").index.0);
        assert_eq!((eth0.lower, eth0.lower_elsewhere, eth0.link.up), (Some(own), None, true), "{master:?}");
        assert_eq!(addresses(&mut inside, "eth0"), [address]);
        let conf = with(&conf, json!({ "prevResult": result }));
        caller.call("CHECK", &pod, &conf).ok();
        let error = caller.call("CHECK", &pod, &with(&conf, json!({ "master": "own1" }))).error();
        assert!(error.contains("does not stand on own1"), "{error}");
        caller.call("DEL", &pod, &conf).ok();
        let mut found = left(&caller, &room);
        found.retain(|link| !link.starts_with("own"));
        assert_eq!(found, Vec::<String>::new());
        // a link of the host's is none of the pod's
        let error = caller.call("ADD", &pod, &with(&conf, json!({ "master": "up0" }))).error();
        assert!(error.contains("failed to lookup master \"up0\"") && error.contains("a link of the pod"), "{error}");
        assert!(link(&mut other, "up0").link.up);
        room.remove()?;
    }
    Ok(())
}

/// STATUS misses a default route only where an ADD would: not with a master that is named, or that is in the pod.
pub fn status_needs_a_default_route_where_add_does() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    let pod = Pod::new("", std::path::Path::new(""));
    let conf = with(&one_family(&caller), json!({ "cniVersion": "1.1.0" }));
    let status = |more: Value| caller.call("STATUS", &pod, &with(&conf, more));
    status(json!({})).ok();
    status(json!({ "master": "", "linkInContainer": true })).ok();
    let error = status(json!({ "master": "" })).error();
    assert!(error.starts_with("50 no default route interface name found"), "{error}");
    ip("route add default dev up0");
    status(json!({ "master": "" })).ok();
    Ok(())
}

/// What is gone or changed is listed; what the pod may change is not.
pub fn check_lists_every_difference() -> Outcome {
    for (change, part) in [
        ("link set eth0 mtu 1300", ""),
        ("link set eth0 down", "ip link set eth0 up"),
        ("link set eth0 type macvlan mode private", "mode bridge"),
        ("link set eth0 address 02:00:00:00:00:0f", "eth0"),
        ("addr del 10.9.1.2/24 dev eth0", "ip addr add 10.9.1.2/24"),
        ("route del 10.9.0.0/16", "10.9.0.0/16"),
        ("link del eth0", "eth0"),
    ] {
        let caller = Caller::new(Whose::Ours);
        let mut host = host();
        make_pair(&mut host, "second", "far");
        let room = Room::create("pod")?;
        let (pod, mut conf) = (Pod::of(&room, "cid"), one_family(&caller));
        conf["ipam"]["routes"] = json!([{ "dst": "10.9.0.0/16" }]);
        let result = caller.call("ADD", &pod, &conf).ok();
        let conf = with(&conf, json!({ "prevResult": result }));
        for (master, part) in [("second", "does not stand on second"), ("nosuch", "master nosuch is not there")] {
            let error = caller.call("CHECK", &pod, &with(&conf, json!({ "master": master }))).error();
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        room.enter(|| ip(change))?;
        let answer = caller.call("CHECK", &pod, &conf);
        if part.is_empty() {
            answer.ok();
        } else {
            assert!(answer.error().contains(part), "behind `ip {change}` {part:?} is not in: {answer:?}");
        }
        host.apply(&[Step::DeleteLink(name("up0")), Step::DeleteLink(name("second"))]).ok()?;
        room.remove()?;
    }
    Ok(())
}
