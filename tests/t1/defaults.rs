//! Routes of a pod with several attachments: each has its own, and leaves those of the others alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use kernel::diff::diff;
use kernel::state::{Link, LinkKind, Route, RouteKey, Scope, State};
use kernel::types::Family;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{name, with};
use crate::call::{Caller, Pod, Whose};

/// A network of its own, of both families, whose gateway is the pod's default.
fn network(caller: &Caller, number: usize) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": format!("net{number}"), "type": "bridge", "bridge": format!("br{number}"),
        "isDefaultGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": caller.data(),
            "ranges": [[{ "subnet": format!("10.9.{number}.0/24") }], [{ "subnet": format!("fd09:{number}::/64") }]],
        },
    })
}

/// What `ip route show` says of `dst` in the pod: gateway and link of each hop, in the kernel's order.
fn hops(room: &Room, family: &str, dst: &str) -> Vec<String> {
    let mut ip = Command::new("ip");
    ip.args([family, "route", "show", dst]);
    let output = room.enter(|| ip.output()).unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let hop = |words: &[&str]| match words {
        ["via", gateway, "dev", dev] => Some(format!("{gateway} {dev}")),
        _ => None,
    };
    words.windows(4).filter_map(hop).collect()
}

/// A pod with two attachments.
struct Two {
    caller: Caller,
    room: Room,
    first: (Pod, Value),
    second: (Pod, Value),
}

impl Two {
    fn new(whose: Whose) -> Result<Self, Box<dyn std::error::Error>> {
        let (caller, room) = (Caller::new(whose), Room::create("pod")?);
        let first = (Pod::of(&room, "cid"), network(&caller, 1));
        let second = (Pod { ifname: "net1", ..Pod::of(&room, "cid") }, network(&caller, 2));
        Ok(Self { caller, room, first, second })
    }

    fn add(&self, (pod, conf): &(Pod, Value)) -> Value {
        self.caller.call("ADD", pod, conf).ok()
    }

    /// With a route of both that is not the default.
    fn with_route(mut self, dst: &str) -> Self {
        for (_, conf) in [&mut self.first, &mut self.second] {
            conf["ipam"]["routes"] = json!([{ "dst": dst }]);
        }
        self
    }
}

pub fn a_second_default_route_leaves_the_first_ipv4(whose: Whose) -> Outcome {
    let two = Two::new(whose)?;
    two.add(&two.first);
    two.add(&two.second);
    let have = hops(&two.room, "-4", "default");
    // the later one goes first
    assert_eq!(have, ["10.9.2.1 net1", "10.9.1.1 eth0"], "both attachments' default routes");
    Ok(())
}

pub fn a_second_default_route_leaves_the_first_ipv6(whose: Whose) -> Outcome {
    let two = Two::new(whose)?;
    two.add(&two.first);
    two.add(&two.second);
    let have = hops(&two.room, "-6", "default");
    // one route with two hops
    assert_eq!(have, ["fd09:1::1 eth0", "fd09:2::1 net1"], "both attachments' default routes");
    Ok(())
}

/// A route that is not the default, and that both attachments have.
pub fn a_route_that_both_attachments_have_is_there_twice(whose: Whose) -> Outcome {
    let two = Two::new(whose)?.with_route("198.51.100.0/24");
    two.add(&two.first);
    two.add(&two.second);
    let have = hops(&two.room, "-4", "198.51.100.0/24");
    assert_eq!(have, ["10.9.2.1 net1", "10.9.1.1 eth0"], "both attachments' routes");
    Ok(())
}

pub fn del_of_the_second_leaves_the_firsts_default_route(whose: Whose) -> Outcome {
    let two = Two::new(whose)?;
    two.add(&two.first);
    two.add(&two.second);
    two.caller.call("DEL", &two.second.0, &two.second.1).ok();
    let have = [hops(&two.room, "-4", "default"), hops(&two.room, "-6", "default")].concat();
    assert_eq!(have, ["10.9.1.1 eth0", "fd09:1::1 eth0"], "the first attachment's default routes");
    Ok(())
}

pub fn check_of_the_first_is_content_beside_a_second(whose: Whose) -> Outcome {
    let two = Two::new(whose)?;
    let result = two.add(&two.first);
    two.add(&two.second);
    let conf = with(&two.first.1, json!({ "prevResult": result }));
    let answer = two.caller.call("CHECK", &two.first.0, &conf);
    assert_eq!(answer.status, 0, "CHECK of the first attachment fails: {answer:?}");
    Ok(())
}

/// A route of both that is not the default: of IPv6 the kernel makes one with two hops. CHECK of each finds its own hop,
/// and says which is missing.
pub fn check_finds_its_hop_of_a_route_that_two_attachments_share() -> Outcome {
    for (family, dst) in [("-6", "2001:db8:5::/64"), ("-4", "198.51.100.0/24")] {
        let two = Two::new(Whose::Ours)?.with_route(dst);
        let sides = [&two.first, &two.second];
        let checked = sides.map(|side| with(&side.1, json!({ "prevResult": two.add(side) })));
        let check = |n: usize| two.caller.call("CHECK", &sides[n].0, &checked[n]);
        assert_eq!(hops(&two.room, family, dst).len(), 2, "{dst}");
        check(0).ok();
        check(1).ok();
        let gateway = if family == "-6" { "fd09:2::1" } else { "10.9.2.1" };
        let mut ip = Command::new("ip");
        ip.args([family, "route", "del", dst, "via", gateway, "dev", "net1"]);
        assert!(two.room.enter(|| ip.status())??.success(), "ip route del {dst} via {gateway}");
        check(0).ok();
        let error = check(1).error();
        assert!(error.contains(&format!("{dst} via {gateway} dev net1")), "{error}");
        two.room.remove()?;
    }
    Ok(())
}

/// The second one's ADD fails late, and the runtime undoes it.
pub fn a_failed_add_of_the_second_leaves_the_firsts_default_route(whose: Whose) -> Outcome {
    let mut two = Two::new(whose)?;
    two.second.1["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    two.add(&two.first);
    two.caller.call("ADD", &two.second.0, &two.second.1).error();
    two.caller.call("DEL", &two.second.0, &two.second.1).ok();
    let have = [hops(&two.room, "-4", "default"), hops(&two.room, "-6", "default")].concat();
    assert_eq!(have, ["10.9.1.1 eth0", "fd09:1::1 eth0"], "the first attachment's default routes");
    Ok(())
}

pub fn a_default_route_of_the_pods_own_stays_ipv4(whose: Whose) -> Outcome {
    own_default(whose, "-4", "192.0.2.2/24", "192.0.2.1")
}

pub fn a_default_route_of_the_pods_own_stays_ipv6(whose: Whose) -> Outcome {
    own_default(whose, "-6", "2001:db8::2/64", "2001:db8::1")
}

/// A link and a default route that no plugin made are there before, with the attachment and after it.
fn own_default(whose: Whose, family: &str, address: &str, gateway: &str) -> Outcome {
    let two = Two::new(whose)?;
    let own = name("own0");
    let via: IpAddr = gateway.parse()?;
    let mut state = State::default();
    state.links.insert(own.clone(), Link::up(LinkKind::Veth(kernel::state::Veth { peer: None })));
    state.address(&own, address.parse()?, true);
    let key = RouteKey::main(Family::from(via).default_net());
    state.routes.insert(key, Route { via: Some(via), ..Route::by(&own) });
    two.room.kernel()?.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok()?;
    let wanted = format!("{gateway} own0");
    assert_eq!(hops(&two.room, family, "default"), [wanted.as_str()]);
    two.add(&two.first);
    let have = hops(&two.room, family, "default");
    assert!(have.contains(&wanted), "ADD has taken the pod's own default route away: {have:?}");
    two.caller.call("DEL", &two.first.0, &two.first.1).ok();
    let have = hops(&two.room, family, "default");
    assert_eq!(have, [wanted], "DEL has taken the pod's own default route away");
    Ok(())
}

/// The kernel's own route to the pod's subnet, on the link.
fn connected(room: &Room, dev: &str) -> bool {
    let mut ip = Command::new("ip");
    ip.args(["-4", "route", "show", "dev", dev, "proto", "kernel", "scope", "link"]);
    !room.enter(|| ip.output()).unwrap().unwrap().stdout.is_empty()
}

/// IPAM's routes name the pod's own subnet and one behind it.
pub fn a_route_to_the_own_subnet_leaves_the_connected_one(whose: Whose) -> Outcome {
    let mut two = Two::new(whose)?;
    let conf = &mut two.first.1;
    (conf["isDefaultGateway"], conf["isGateway"]) = (json!(false), json!(true));
    conf["ipam"]["routes"] = json!([{ "dst": "198.51.100.0/24" }, { "dst": "10.9.1.0/24" }]);
    let answer = two.caller.call("ADD", &two.first.0, &two.first.1);
    assert_eq!(answer.status, 0, "ADD fails by the route to the pod's own subnet: {answer:?}");
    assert!(connected(&two.room, "eth0"), "the connected route is gone");
    assert_eq!(hops(&two.room, "-4", "198.51.100.0/24"), ["10.9.1.1 eth0"]);
    Ok(())
}

/// No other route, so that nothing fails: the neighbours in the subnet are still on the link.
pub fn a_route_to_the_own_subnet_alone_leaves_the_connected_one(whose: Whose) -> Outcome {
    let mut two = Two::new(whose)?;
    let conf = &mut two.first.1;
    (conf["isDefaultGateway"], conf["isGateway"]) = (json!(false), json!(true));
    conf["ipam"]["routes"] = json!([{ "dst": "10.9.1.0/24" }]);
    two.add(&two.first);
    assert!(connected(&two.room, "eth0"), "the connected route is gone");
    Ok(())
}

/// A network of one host: flanneld's NETWORK is the host's own subnet.
pub fn a_network_that_is_the_hosts_subnet_is_attached_to() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let env = "FLANNEL_NETWORK=10.244.0.0/24\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write(caller.files.path().join("subnet.env"), env)?;
    let conf = json!({
        "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel",
        "subnetFile": caller.files.path().join("subnet.env"), "dataDir": caller.files.path().join("flannel"),
        "ipam": { "type": "host-local", "dataDir": caller.data(), "routes": [{ "dst": "198.51.100.0/24" }] },
        "delegate": { "isDefaultGateway": false },
    });
    let answer = caller.call("ADD", &Pod::of(&room, "cid"), &conf);
    assert_eq!(answer.status, 0, "ADD fails by the route to the pod's own subnet: {answer:?}");
    assert!(connected(&room, "eth0"), "the connected route is gone");
    assert_eq!(hops(&room, "-4", "198.51.100.0/24"), ["10.244.0.1 eth0"]);
    Ok(())
}
