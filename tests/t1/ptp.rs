//! ptp + host-local: what ours and the reference do alike, then where ours does better.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use attachment::rules::masquerade;
use kernel::Kernel;
use kernel::diff::Step;
use kernel::nft::Nft;
use kernel::state::{Route, RouteKey};
use kernel::types::{RouteProtocol, TableId};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::births::make_pair;
use crate::bridge::{addresses, link, links, name, records, v4_only, with};
use crate::call::{Caller, Pod, Whose};

/// Of both families.
pub fn conf(caller: &Caller) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "ptp", "mtu": 1400,
        "ipam": {
            "type": "host-local", "dataDir": caller.data(),
            "ranges": [[{ "subnet": "10.9.1.0/24" }], [{ "subnet": "fd09:1::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    })
}

pub fn one_family(caller: &Caller) -> Value {
    let mut conf = v4_only(&conf(caller), "10.9.1.0/24");
    conf["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
    conf
}

/// The routes of the main table that the kernel did not make itself.
fn routes(kernel: &mut Kernel) -> Vec<String> {
    let seen = kernel.routes(TableId::MAIN).unwrap();
    let text = |(key, route): &(RouteKey, Route)| {
        let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
        let src = route.src.map(|src| format!(" src {src}")).unwrap_or_default();
        format!("{}{via}{src}", key.dst)
    };
    let own = |(_, route): &&(RouteKey, Route)| route.protocol != RouteProtocol::KERNEL;
    let mut texts: Vec<_> = seen.iter().filter(own).map(text).collect();
    texts.sort();
    texts
}

fn masqueraded() -> usize {
    Nft::open().unwrap().rules(&masquerade::table(), Some("masq_checks")).map_or(0, |rules| rules.len())
}

/// On the host and in the pod: links, routes, reservations, records, masquerade rules.
fn left(caller: &Caller, room: &Room) -> Vec<String> {
    let mut host = Kernel::open().unwrap();
    let mut left = links(&mut host);
    left.extend(routes(&mut host));
    left.extend(links(&mut room.kernel().unwrap()).into_iter().map(|link| format!("{link} in the pod")));
    left.extend(caller.reserved("net"));
    left.extend(records("net"));
    left.extend((masqueraded() > 0).then(|| "a masquerade rule".to_owned()));
    left
}

/// The whole life of an attachment of both families.
pub fn a_pod_lives_and_goes(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let (mut host, room) = (Kernel::open()?, Room::create("pod")?);
    let (pod, conf) = (Pod::of(&room, "cid"), conf(&caller));
    let mut inside = room.kernel()?;
    let result = caller.call("ADD", &pod, &conf).ok();

    assert_eq!(addresses(&mut inside, "eth0"), ["10.9.1.2/24", "fd09:1::2/64"]);
    let wanted = [
        "0.0.0.0/0 via 10.9.1.1",
        "10.9.1.0/24 via 10.9.1.1 src 10.9.1.2",
        "10.9.1.1/32 src 10.9.1.2",
        "::/0 via fd09:1::1",
        "fd09:1::/64 via fd09:1::1 src fd09:1::2",
        "fd09:1::1/128 src fd09:1::2",
    ];
    assert_eq!(routes(&mut inside), wanted);
    let connected = inside.routes(TableId::MAIN)?.into_iter().any(|(key, route)| {
        route.protocol == RouteProtocol::KERNEL && ["10.9.1.0/24", "fd09:1::/64"].contains(&&*key.dst.to_string())
    });
    assert!(!connected, "the pod reaches its own network by the gateway only");
    let veth = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(addresses(&mut host, &veth), ["10.9.1.1/32", "fd09:1::1/128"]);
    assert_eq!(routes(&mut host), ["10.9.1.2/32", "fd09:1::2/128"]);
    let (end, eth0) = (link(&mut host, &veth), link(&mut inside, "eth0"));
    assert!(end.link.up && eth0.link.up && end.master.is_none());
    assert_eq!((end.link.mtu.unwrap().0, eth0.link.mtu.unwrap().0), (1400, 1400));
    for (path, value) in [
        (format!("net/ipv6/conf/{veth}/accept_ra"), "0"),
        ("net/ipv4/ip_forward".to_owned(), "1"),
        ("net/ipv6/conf/all/forwarding".to_owned(), "1"),
    ] {
        assert_eq!(kernel::sysctl::read(&path)?.as_deref(), Some(value), "{path}");
    }
    let mac = |link: &kernel::message::link::SeenLink| link.link.mac.unwrap().to_string();
    let expected = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": veth, "mac": mac(&end) },
            { "name": "eth0", "mac": mac(&eth0), "sandbox": room.path() },
        ],
        "ips": [
            { "interface": 1, "address": "10.9.1.2/24", "gateway": "10.9.1.1" },
            { "interface": 1, "address": "fd09:1::2/64", "gateway": "fd09:1::1" },
        ],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    });
    // Debian's writes an empty "dns"
    let said = result.as_object().unwrap().iter().filter(|(_, value)| **value != json!({}));
    assert_eq!(said.map(|(key, value)| (key.clone(), value.clone())).collect::<Value>(), expected);
    let conf = with(&conf, json!({ "prevResult": result }));
    caller.call("CHECK", &pod, &conf).ok();
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!(left(&caller, &room), Vec::<String>::new());
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// Every version gets its own shape of result.
pub fn every_version_is_spoken(whose: Whose) -> Outcome {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        if whose == Whose::Reference && version == "1.1.0" {
            continue; // Debian's are older than it
        }
        let (caller, room) = (Caller::new(whose), Room::create("pod")?);
        let pod = Pod::of(&room, "cid");
        let conf = with(&one_family(&caller), json!({ "cniVersion": version }));
        let result = caller.call("ADD", &pod, &conf).ok();
        let shape = (&result["cniVersion"], result["ip4"].is_object());
        assert_eq!(shape, (&json!(version), version < "0.3.0"), "{result}");
        if version >= "0.4.0" {
            caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
        }
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!(left(&caller, &room), Vec::<String>::new(), "{version}");
        room.remove()?;
    }
    Ok(())
}

/// DEL without a namespace, with one that is gone, with an interface that is gone: the address is released.
pub fn del_needs_nothing(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let conf = one_family(&caller);
    for lost in ["path", "variable", "interface"] {
        let room = Room::create("pod")?;
        let mut pod = Pod::of(&room, "cid");
        caller.call("ADD", &pod, &conf).ok();
        match lost {
            "path" => pod.netns = "/run/netns/gone".into(),
            "variable" => pod.netns = PathBuf::new(),
            _ => room.kernel()?.apply(&[Step::DeleteLink(name("eth0"))]).ok()?,
        }
        caller.call("DEL", &pod, &conf).ok();
        if whose == Whose::Ours {
            assert_eq!(left(&caller, &room), Vec::<String>::new(), "{lost}");
        }
        assert_eq!(caller.reserved("net"), Vec::<String>::new(), "{lost}");
        room.remove()?;
    }
    Ok(())
}

/// A datagram from the first place to the second.
fn reaches(from: impl FnOnce() -> std::io::Result<usize>, receiver: &UdpSocket) -> Outcome {
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    from()?;
    let mut text = [0; 16];
    let (length, _) = receiver.recv_from(&mut text)?;
    assert_eq!(&text[..length], b"hello");
    Ok(())
}

fn send(to: &str) -> std::io::Result<usize> {
    let from = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    UdpSocket::bind(from).and_then(|socket| socket.send_to(b"hello", to))
}

/// Pods of one network, and host and pod in both directions, in both families.
pub fn pods_and_host_reach_each_other(whose: Whose) -> Outcome {
    let caller = Caller::new(whose);
    let rooms = [Room::create("one")?, Room::create("two")?];
    for (room, id) in rooms.iter().zip(["one", "two"]) {
        caller.call("ADD", &Pod::of(room, id), &conf(&caller)).ok();
    }
    let [one, two] = &rooms;
    for (pod, gateway) in [("10.9.1.2:9999", "10.9.1.1:9998"), ("[fd09:1::2]:9999", "[fd09:1::1]:9998")] {
        let receiver = one.enter(|| UdpSocket::bind(pod))??;
        reaches(|| two.enter(|| send(pod)).map_err(std::io::Error::other)?, &receiver)?;
        reaches(|| send(pod), &receiver)?;
        let host = UdpSocket::bind(gateway)?;
        reaches(|| two.enter(|| send(gateway)).map_err(std::io::Error::other)?, &host)?;
    }
    Ok(())
}

/// What one suite made, the other checks and removes.
pub fn either_suite_takes_over_the_others_pod() -> Outcome {
    let (ours, theirs) = (Caller::new(Whose::Ours), Caller::new(Whose::Reference));
    // both by the reservations of the first
    let conf = with(&conf(&ours), json!({ "ipMasq": true }));
    for (adds, then) in [(&ours, &theirs), (&theirs, &ours)] {
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let result = adds.call("ADD", &pod, &conf).ok();
        let conf = with(&conf, json!({ "prevResult": result }));
        // each masquerades in a table of its own
        then.call("CHECK", &pod, &with(&conf, json!({ "ipMasq": false }))).ok();
        // where there is no rule of its own, Debian's DEL fails
        let masquerades = then.bin() == ours.bin();
        then.call("DEL", &pod, &with(&conf, json!({ "ipMasq": masquerades }))).ok();
        let mut found = left(&ours, &room);
        // Debian's knows neither our record nor our table; GC removes both
        found.retain(|left| masquerades || (left != "cid@eth0" && left != "a masquerade rule"));
        assert_eq!(found, Vec::<String>::new());
        let nobody = json!({ "cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": [] });
        ours.call("GC", &Pod::new("", Path::new("")), &with(&conf, nobody)).ok();
        assert_eq!(left(&ours, &room), Vec::<String>::new());
        room.remove()?;
    }
    Ok(())
}

/// The chains of pods in the nat tables of iptables.
fn chains() -> Vec<String> {
    let of = |program: &str| {
        let output = Command::new(program).args(["-t", "nat", "-S"]).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = ["iptables", "ip6tables"].map(of).join("\n");
    all.lines().filter(|line| line.contains("CNI-")).map(str::to_owned).collect()
}

/// With `ipMasqBackend` iptables either suite checks and removes what the other made, rules and all.
pub fn masquerade_by_iptables_is_shared_with_the_other_suite() -> Outcome {
    let (ours, theirs) = (Caller::new(Whose::Ours), Caller::new(Whose::Reference));
    let conf = with(&conf(&ours), json!({ "ipMasq": true, "ipMasqBackend": "iptables" }));
    let mut made = Vec::new();
    for (adds, then) in [(&ours, &theirs), (&theirs, &ours), (&ours, &ours)] {
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let result = adds.call("ADD", &pod, &conf).ok();
        let rules = chains().into_iter().map(|line| line.replace(".3", ".2").replace("::3", "::2"));
        made.push(rules.map(|line| line.replace(".4", ".2").replace("::4", "::2")).collect::<Vec<_>>());
        let conf = with(&conf, json!({ "prevResult": result }));
        then.call("CHECK", &pod, &conf).ok();
        then.call("DEL", &pod, &conf).ok();
        assert_eq!(chains(), Vec::<String>::new());
        ours.call("DEL", &pod, &conf).ok();
        assert_eq!(left(&ours, &room), Vec::<String>::new());
        room.remove()?;
    }
    assert!(made[0].len() == 8 && made[0] == made[1], "{made:#?}");
    Ok(())
}

/// Masquerade comes and goes with the pod.
pub fn rules_come_and_go_with_the_pod() -> Outcome {
    let (caller, room) = (Caller::new(Whose::Ours), Room::create("pod")?);
    let (pod, conf) = (Pod::of(&room, "cid"), with(&conf(&caller), json!({ "ipMasq": true })));
    let result = caller.call("ADD", &pod, &conf).ok();
    assert_eq!(masqueraded(), 2, "one per address");
    caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!(left(&caller, &room), Vec::<String>::new());
    Ok(())
}

/// Refused by the pod's last batch, and by IPAM.
pub fn a_failed_add_leaves_nothing() -> Outcome {
    let (caller, room) = (Caller::new(Whose::Ours), Room::create("pod")?);
    let good = with(&conf(&caller), json!({ "ipMasq": true }));
    let (mut late, mut late_ipv6, mut none) = (good.clone(), good.clone(), good.clone());
    late["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    late_ipv6["ipam"]["routes"] = json!([{ "dst": "2001:db8::/64", "gw": "2001:db8:1::1" }]);
    none["ipam"]["type"] = json!("no-such-plugin");
    for (conf, part) in [(late, "192.0.2.0/24"), (late_ipv6, "2001:db8::/64"), (none, "no-such-plugin")] {
        let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
        assert!(error.contains(part), "{part:?} is not in: {error}");
        assert_eq!(left(&caller, &room), Vec::<String>::new(), "{part}");
    }
    caller.call("ADD", &Pod::of(&room, "cid"), &good).ok();
    Ok(())
}

/// By this attachment, or by a link of the pod's own.
pub fn a_taken_name_harms_nothing() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (room, own) = (Room::create("pod")?, Room::create("own")?);
    let conf = one_family(&caller);
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).ok();
    make_pair(&mut own.kernel()?, "eth0", "other");
    for (room, id) in [(&room, "cid"), (&own, "own")] {
        let before = left(&caller, room);
        let error = caller.call("ADD", &Pod::of(room, id), &conf).error();
        assert!(error.contains("already exists"), "{error}");
        assert_eq!(left(&caller, room), before);
    }
    Ok(())
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Another program's route to the pod's address stays. Ours precedes it, and where that is impossible ADD fails.
pub fn another_programs_route_to_the_pods_address() -> Outcome {
    let (caller, room) = (Caller::new(Whose::Ours), Room::create("pod")?);
    let mut host = Kernel::open()?;
    make_pair(&mut host, "up0", "wire");
    ip("link set up0 up");
    ip("link set wire up");
    ip("addr add fd00::1/64 dev up0 nodad");
    ip("route add 10.9.1.2/32 dev up0");
    let (pod, conf) = (Pod::of(&room, "cid"), conf(&caller));
    let v4 = one_family(&caller);
    let result = caller.call("ADD", &pod, &v4).ok();
    let veth = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let shown = Command::new("ip").args(["route", "get", "10.9.1.2"]).output()?;
    assert!(String::from_utf8(shown.stdout)?.contains(&veth), "packets go to the pod");
    caller.call("CHECK", &pod, &with(&v4, json!({ "prevResult": result }))).ok();
    caller.call("DEL", &pod, &v4).ok();
    assert_eq!(routes(&mut host), ["10.9.1.2/32"], "the other program's");
    ip("-6 route add fd09:1::2/128 via fd00::2 dev up0");
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.contains("fd09:1::2"), "{error}");
    assert_eq!(routes(&mut host), ["10.9.1.2/32", "fd09:1::2/128 via fd00::2"]);
    assert_eq!((caller.reserved("net"), records("net")), (vec![], vec![]));
    Ok(())
}

/// Pods that died without a DEL.
pub fn gc_takes_dead_pods() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let rooms = [Room::create("dead")?, Room::create("lives")?];
    let conf = with(&one_family(&caller), json!({ "cniVersion": "1.1.0", "ipMasq": true }));
    caller.call("ADD", &Pod::of(&rooms[0], "dead"), &conf).ok();
    let result = caller.call("ADD", &Pod::of(&rooms[1], "lives"), &conf).ok();
    let valid = json!([{ "containerID": "lives", "ifname": "eth0" }]);
    let gc = |valid: Value| {
        let conf = with(&conf, json!({ "cni.dev/valid-attachments": valid, "mtu": 100_000 }));
        caller.call("GC", &Pod::new("", Path::new("")), &conf).ok();
    };
    gc(valid);
    let mut host = Kernel::open()?;
    assert_eq!((routes(&mut host), masqueraded()), (vec!["10.9.1.3/32".to_owned()], 1));
    assert_eq!((caller.reserved("net"), records("net")), (vec!["10.9.1.3".into()], vec!["lives@eth0".into()]));
    caller.call("CHECK", &Pod::of(&rooms[1], "lives"), &with(&conf, json!({ "prevResult": result }))).ok();
    gc(json!([]));
    assert_eq!(left(&caller, &rooms[1]), Vec::<String>::new());
    Ok(())
}

/// What is gone or changed is listed; what the pod may change is not.
pub fn check_lists_every_difference() -> Outcome {
    for (in_pod, change, part) in [
        (true, "link set eth0 mtu 1300", ""),
        (true, "route del default", ""),
        (true, "link set eth0 down", "ip link set eth0 up"),
        (true, "addr del 10.9.1.2/24 dev eth0", "ip addr add 10.9.1.2/24 dev eth0"),
        (true, "route del 10.9.1.0/24", "10.9.1.0/24 via 10.9.1.1"),
        (true, "link del eth0", "eth0"),
        (false, "link set VETH down", "ip link set VETH up"),
        (false, "link set VETH address 02:00:00:00:00:0f", "VETH"),
        (false, "addr del 10.9.1.1/32 dev VETH", "ip addr add 10.9.1.1/32 dev VETH"),
        (false, "route del 10.9.1.2/32", "10.9.1.2/32 dev VETH"),
    ] {
        let (caller, room) = (Caller::new(Whose::Ours), Room::create("pod")?);
        let (pod, conf) = (Pod::of(&room, "cid"), one_family(&caller));
        let result = caller.call("ADD", &pod, &conf).ok();
        let veth = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let (change, part) = (change.replace("VETH", &veth), part.replace("VETH", &veth));
        if in_pod {
            room.enter(|| ip(&change))?
        } else {
            ip(&change)
        }
        let answer = caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result })));
        if part.is_empty() {
            answer.ok();
        } else {
            assert!(answer.error().contains(&part), "after `ip {change}` {part:?} is not in: {answer:?}");
        }
        caller.call("DEL", &pod, &conf).ok();
        room.remove()?;
    }
    Ok(())
}

/// STATUS says what ADD would say.
pub fn status_needs_what_add_needs() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let conf = with(&one_family(&caller), json!({ "cniVersion": "1.1.0" }));
    let status = |more: Value| caller.call("STATUS", &Pod::new("", Path::new("")), &with(&conf, more));
    status(json!({})).ok();
    status(json!({ "ipMasq": true })).ok();
    let error = status(json!({ "ipam": {} })).error();
    assert!(error.starts_with("7 ") && error.contains("needs an IPAM plugin"), "{error}");
    Ok(())
}
