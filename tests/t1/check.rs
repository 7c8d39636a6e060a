//! CHECK ignores what belongs to others, and what others may change.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use kernel::Kernel;
use kernel::diff::Step;
use kernel::state::{Bridge, Link, LinkKind};
use lab::netns::Room;
use serde_json::json;
use tests::harness::Outcome;

use crate::bridge::{conf, link, name, v4_only, with};
use crate::call::{Answer, Caller, Pod, Whose};

/// Runs in the pod, as a later plugin or the pod itself would.
fn in_pod(room: &Room, command: &str) {
    let status = room.enter(|| Command::new("sh").args(["-c", command]).status()).unwrap().unwrap();
    assert!(status.success(), "{command}");
}

pub fn what_others_may_change_is_no_difference() -> Outcome {
    for change in [
        "ip link set eth0 mtu 1280",
        "echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_notify",
        "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_dad",
        "ip route replace default via 10.9.1.77 dev eth0",
        "ip route del default",
        "ip link add other type veth peer name other2; ip link set other up; ip route add 198.51.100.0/24 dev other",
    ] {
        let caller = Caller::new(Whose::Ours);
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let mut conf = v4_only(&conf(&caller), "10.9.1.0/24");
        conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24" }, { "dst": "203.0.113.0/24", "gw": "0.0.0.0" }]);
        let result = caller.call("ADD", &pod, &conf).ok();
        let conf = with(&conf, json!({ "prevResult": result }));
        in_pod(&room, change);
        let answer = caller.call("CHECK", &pod, &conf);
        assert_eq!(answer.status, 0, "CHECK behind `{change}`: {answer:?}");
        in_pod(&room, "ip route del 192.0.2.0/24");
        let error = caller.call("CHECK", &pod, &conf).error();
        assert!(error.contains("192.0.2.0/24"), "a route of its own is gone: {error}");
        room.remove()?;
    }
    Ok(())
}

/// A bridge that another program made without a MAC address changes it with its ports.
pub fn the_answer_has_the_bridges_own_mac() -> Outcome {
    for gateway in [json!({ "isDefaultGateway": false }), json!({})] {
        let caller = Caller::new(Whose::Ours);
        let rooms = [Room::create("one")?, Room::create("two")?, Room::create("three")?];
        let mut host = Kernel::open()?;
        let bridge = Link::up(LinkKind::Bridge(Bridge::default()));
        host.apply(&[Step::CreateLink(name("cni0"), bridge)]).ok()?;
        let conf = with(&v4_only(&conf(&caller), "10.9.1.0/24"), gateway);
        let mut results = Vec::new();
        for (room, id) in rooms.iter().zip(["one", "two", "three"]) {
            let result = caller.call("ADD", &Pod::of(room, id), &conf).ok();
            let real = link(&mut host, "cni0").link.mac.unwrap().to_string();
            assert_eq!(result["interfaces"][0]["mac"], real, "the bridge's MAC behind the ADD of {id}");
            results.push(result);
        }
        for ((room, id), result) in rooms.iter().zip(["one", "two", "three"]).zip(results) {
            caller.call("CHECK", &Pod::of(room, id), &with(&conf, json!({ "prevResult": result }))).ok();
        }
        host.apply(&[Step::DeleteLink(name("cni0"))]).ok()?;
        rooms.into_iter().try_for_each(Room::remove)?;
    }
    Ok(())
}

/// Both ADDs find no bridge, and the second makes it. The first one is stopped after its look, and continues then.
pub fn the_loser_of_a_race_for_the_bridge_has_its_mac() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let rooms = [Room::create("one")?, Room::create("two")?];
    let (one, two) = (Pod::of(&rooms[0], "one"), Pod::of(&rooms[1], "two"));
    for conf in [conf(&caller), with(&v4_only(&conf(&caller), "10.9.1.0/24"), json!({ "isDefaultGateway": false }))] {
        let dir = caller.files.path();
        let (_, look) =
            caller.traced("ADD", &one, &conf, |traced| traced.find(dir, "sendto", &["RTM_GETLINK", "cni0"]))?;
        let mut host = Kernel::open()?;
        caller.call("DEL", &one, &conf).ok();
        host.apply(&[Step::DeleteLink(name("cni0"))]).ok()?;
        let stopped = caller.traced("ADD", &one, &conf, |traced| traced.stop_behind(dir, "sendto", look.unwrap()))?;
        let stopped = stopped.unwrap();
        let second = caller.call("ADD", &two, &conf).ok();
        let first = Answer::from(stopped.go_on()?).ok();
        let real = json!(link(&mut host, "cni0").link.mac.unwrap().to_string());
        assert_eq!([&first["interfaces"][0]["mac"], &second["interfaces"][0]["mac"]], [&real, &real]);
        for (pod, result) in [(&one, first), (&two, second)] {
            caller.call("CHECK", pod, &with(&conf, json!({ "prevResult": result }))).ok();
            caller.call("DEL", pod, &conf).ok();
        }
        host.apply(&[Step::DeleteLink(name("cni0"))]).ok()?;
    }
    Ok(())
}
