//! bandwidth behind bridge: the common behaviour of ours and the reference plugin, the way from one to the other, then
//! where ours differ.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kernel::Kernel;
use kernel::state::{Filter, FilterAction, Qdisc, QdiscPlace, Scope, Selects, State};
use lab::netns::Room;
use lab::wait::eventually;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf as bridge_conf, link, links, name, records, with};
use crate::call::{Answer, Caller, Pod, Whose};

/// The reference plugin's name of the device for container `cid` in network `net`.
const DEVICE: &str = "bwpf74d2f3ccf98";

/// A pod on a bridge, and the configuration of what comes behind the bridge.
struct Stage {
    caller: Caller,
    room: Room,
    bridge: Value,
    /// What the bridge plugin answered.
    before: Value,
    veth: String,
}

impl Stage {
    fn new(whose: Whose) -> Result<Self, Box<dyn std::error::Error>> {
        let (caller, room) = (Caller::new(whose), Room::create("pod")?);
        let bridge = bridge_conf(&caller);
        let before = caller.call("ADD", &Pod::of(&room, "cid"), &bridge).ok();
        let veth = before["interfaces"][1]["name"].as_str().unwrap().to_owned();
        Ok(Self { caller, room, bridge, before, veth })
    }

    fn pod(&self) -> Pod {
        Pod::of(&self.room, "cid")
    }

    fn conf(&self, more: Value) -> Value {
        let conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "prevResult": self.before });
        with(&conf, more)
    }

    fn call(&self, command: &str, more: Value) -> Answer {
        self.caller.call(command, &self.pod(), &self.conf(more))
    }

    /// The disciplines and filters of the pod's link and of the device.
    fn queues(&self) -> State {
        let scope = Scope { queues: vec![name(&self.veth), name(DEVICE)], ..Scope::default() };
        Kernel::open().unwrap().observe(&scope).unwrap()
    }

    fn leave(self) -> Outcome {
        self.caller.call("DEL", &self.pod(), &with(&self.bridge, json!({ "prevResult": self.before }))).ok();
        assert_eq!(left(), Vec::<String>::new());
        self.room.remove()?;
        Ok(())
    }
}

/// What attachments leave on the host.
fn left() -> Vec<String> {
    let mut left: Vec<String> = links(&mut Kernel::open().unwrap()).into_iter().filter(|link| link != "cni0").collect();
    left.extend(records("net"));
    left
}

fn both() -> Value {
    json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000 })
}

/// What `both` makes: rate, burst and limit in bytes, as the reference plugin rounds them.
fn assert_limited(state: &State, veth: &str) {
    let numbers =
        |dev: &str| match state.qdiscs.iter().find(|(key, _)| key.dev == name(dev) && key.place == QdiscPlace::Root) {
            Some((_, Qdisc::Tbf(tbf))) => (tbf.rate, tbf.burst, tbf.limit),
            other => panic!("{dev}: {other:?}"),
        };
    assert_eq!(numbers(veth), (1_000_000, 100_000, 125_000));
    assert_eq!(numbers(DEVICE), (2_000_000, 200_000, 250_000));
    let filters: Vec<&Filter> = state.filters.values().collect();
    let redirect = Filter { selects: Selects::All, action: FilterAction::Redirect(Some(name(DEVICE))) };
    assert_eq!(filters, [&redirect]);
}

/// The objects after ADD, the result, CHECK, and nothing of it after DEL.
pub fn a_limited_pod_lives_and_goes(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    let result = stage.call("ADD", both()).ok();
    assert_limited(&stage.queues(), &stage.veth);
    let device = link(&mut Kernel::open()?, DEVICE);
    assert_eq!((device.link.up, device.link.mtu.unwrap().0, device.link.kind.word()), (true, 1450, "ifb"));
    let mut expected = stage.before.clone();
    let mac = device.link.mac.unwrap().to_string();
    expected["interfaces"].as_array_mut().unwrap().push(json!({ "name": DEVICE, "mac": mac }));
    assert_eq!(result, expected);
    stage.call("CHECK", with(&both(), json!({ "prevResult": result }))).ok();
    let wrong = json!({ "ingressRate": 8_000_008, "ingressBurst": 800_000 });
    assert_ne!(stage.call("CHECK", with(&wrong, json!({ "prevResult": result }))).status, 0);
    stage.call("DEL", with(&both(), json!({ "prevResult": result }))).ok();
    assert!(Kernel::open()?.link(&name(DEVICE))?.is_none());
    stage.call("DEL", both()).ok();
    stage.leave()
}

pub fn each_direction_is_limited_alone(whose: Whose) -> Outcome {
    for (more, qdiscs, filters) in [
        (json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000 }), 1, 0),
        (json!({ "egressRate": 8_000_000, "egressBurst": 800_000 }), 2, 1),
    ] {
        let stage = Stage::new(whose)?;
        let result = stage.call("ADD", more.clone()).ok();
        let state = stage.queues();
        assert_eq!((state.qdiscs.len(), state.filters.len()), (qdiscs, filters), "{more}: {state:#?}");
        let interfaces = result["interfaces"].as_array().unwrap().len();
        assert_eq!(interfaces, 3 + filters, "{result}");
        stage.call("CHECK", with(&more, json!({ "prevResult": result }))).ok();
        stage.call("DEL", more).ok();
        stage.leave()?;
    }
    Ok(())
}

/// The capability's numbers count where the configuration has none.
pub fn the_runtimes_limits_are_taken(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    stage.call("ADD", json!({ "runtimeConfig": { "bandwidth": both() } })).ok();
    assert_limited(&stage.queues(), &stage.veth);
    stage.call("DEL", json!({})).ok();
    stage.leave()?;
    let stage = Stage::new(whose)?;
    let ours = json!({ "ingressRate": 0, "ingressBurst": 0, "runtimeConfig": { "bandwidth": both() } });
    let result = stage.call("ADD", ours.clone()).ok();
    assert_eq!((result, stage.queues()), (stage.before.clone(), State::default()));
    stage.call("DEL", ours).ok();
    stage.leave()
}

pub fn without_limits_nothing_is_made(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let previous = json!({ "cniVersion": version, "interfaces": stage.before["interfaces"], "ips": [] });
        let result = stage.call("ADD", json!({ "cniVersion": version, "prevResult": previous })).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"], stage.before["interfaces"]);
    }
    assert_eq!(stage.queues(), State::default());
    let answer = stage.call("ADD", json!({ "cniVersion": "0.2.0" }));
    assert!(answer.error().starts_with("1 incompatible CNI versions"), "{answer:?}");
    let alone = json!({ "cniVersion": "1.0.0", "name": "net", "type": "bandwidth" });
    let alone = stage.caller.call("ADD", &stage.pod(), &with(&alone, both()));
    assert!(alone.error().contains("must be called as chained plugin"), "{alone:?}");
    stage.call("DEL", json!({})).ok();
    stage.leave()
}

/// Without a namespace, without the pod's link, without a previous result.
pub fn del_needs_nothing(whose: Whose) -> Outcome {
    for (netns, detached, previous) in [(true, true, true), (false, false, true), (false, true, false)] {
        let stage = Stage::new(whose)?;
        stage.call("ADD", both()).ok();
        let pod = Pod { netns: if netns { stage.pod().netns } else { PathBuf::new() }, ..stage.pod() };
        if detached {
            Kernel::open()?.apply(&[kernel::diff::Step::DeleteLink(name(&stage.veth))]).ok()?;
        }
        let mut conf = stage.conf(both());
        if !previous {
            conf.as_object_mut().unwrap().remove("prevResult");
        }
        stage.caller.call("DEL", &pod, &conf).ok();
        assert!(Kernel::open()?.link(&name(DEVICE))?.is_none(), "{netns} {detached} {previous}");
        stage.leave()?;
    }
    Ok(())
}

pub fn a_pod_without_a_veth_is_refused(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    let other =
        json!({ "interfaces": [{ "name": "eth7" }, { "name": "eth0", "sandbox": stage.room.path() }], "ips": [] });
    let answer = stage.call("ADD", with(&both(), json!({ "prevResult": other })));
    assert!(answer.error().contains("no veth peer of container interface found in host ns"), "{answer:?}");
    let pod = Pod { ifname: "lo", ..stage.pod() };
    let answer = stage.caller.call("ADD", &pod, &with(&stage.conf(both()), json!({ "prevResult": other })));
    assert!(answer.error().contains("container interface lo has no veth peer"), "{answer:?}");
    assert_eq!(stage.queues(), State::default());
    stage.leave()
}

/// Sends as much as it can, and counts what arrives until `enough` has.
struct Flood {
    from: UdpSocket,
    to: UdpSocket,
    target: SocketAddr,
    started: Instant,
    offered: u64,
    arrived: u64,
}

/// Bytes of a datagram. With its headers it is longer on the wire, where it is counted.
const SIZE: usize = 1200;

impl Flood {
    fn new(from: UdpSocket, to: UdpSocket) -> std::io::Result<Self> {
        from.set_nonblocking(true)?;
        to.set_nonblocking(true)?;
        let target = to.local_addr()?;
        Ok(Self { from, to, target, started: Instant::now(), offered: 0, arrived: 0 })
    }

    fn step(&mut self) {
        let mut packet = [0; SIZE];
        for _ in 0..64 {
            // a full queue refuses
            let _ = self.from.send_to(&packet, self.target);
            self.offered += SIZE as u64;
        }
        while let Ok(length) = self.to.recv(&mut packet) {
            self.arrived += length as u64;
        }
    }

    /// What may have passed by now, bytes.
    fn allowed(&self, rate: u64, burst: u64) -> u64 {
        burst + (self.started.elapsed().as_secs_f64() * rate as f64) as u64
    }
}

/// At least four times as much is offered as may pass. However slow the machine is, no more than that passes.
fn is_held_to(what: &str, (from, to): (UdpSocket, UdpSocket), (rate, burst): (u64, u64)) -> Outcome {
    let mut flood = Flood::new(from, to)?;
    eventually(what, Duration::from_secs(60), || {
        flood.step();
        let allowed = flood.allowed(rate, burst);
        assert!(flood.arrived <= allowed, "{what}: {} bytes passed, {allowed} are allowed", flood.arrived);
        let done = flood.offered >= 4 * allowed && flood.arrived > 2 * burst;
        let seen = || format!("{} bytes sent, {} arrived, {allowed} allowed", flood.offered, flood.arrived);
        if done { Ok(()) } else { Err(seen()) }
    })?;
    Ok(())
}

/// Both directions, both families.
pub fn no_more_passes_than_the_rate_and_the_burst(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    stage.call("ADD", both()).ok();
    // the reference plugins' IPv6 gateway is tentative at first
    let bound = |addr: &str| eventually(addr, Duration::from_secs(30), || UdpSocket::bind((addr, 0)));
    let inside = |addr: &str| stage.room.enter(|| bound(addr)).unwrap();
    for (of_host, of_pod) in [("10.9.1.1", "10.9.1.2"), ("fd09:1::1", "fd09:1::2")] {
        is_held_to("to the pod", (bound(of_host)?, inside(of_pod)?), (1_000_000, 100_000))?;
        is_held_to("from the pod", (inside(of_pod)?, bound(of_host)?), (2_000_000, 200_000))?;
    }
    stage.call("DEL", both()).ok();
    stage.leave()
}

/// Each suite checks and removes what the other has made.
pub fn either_suite_takes_over_the_others() -> Outcome {
    for (first, second) in [(Whose::Reference, Whose::Ours), (Whose::Ours, Whose::Reference)] {
        let (stage, other) = (Stage::new(first)?, Caller::new(second));
        let result = stage.call("ADD", both()).ok();
        let conf = stage.conf(with(&both(), json!({ "prevResult": result })));
        other.call("CHECK", &stage.pod(), &conf).ok();
        other.call("DEL", &stage.pod(), &conf).ok();
        assert!(Kernel::open()?.link(&name(DEVICE))?.is_none(), "{first:?} {second:?}");
        let bridge = with(&stage.bridge, json!({ "prevResult": stage.before }));
        other.call("DEL", &stage.pod(), &bridge).ok();
        // a record of ours stays until a DEL or a GC of ours
        Caller::new(Whose::Ours).call("DEL", &stage.pod(), &conf).ok();
        stage.leave()?;
    }
    Ok(())
}

pub fn del_restores_the_links() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let before = stage.queues();
    stage.call("ADD", both()).ok();
    stage.call("DEL", both()).ok();
    assert_eq!(stage.queues(), before, "packets of the pod pass");
    stage.call("ADD", both()).ok();
    assert_limited(&stage.queues(), &stage.veth);
    // again, with other numbers
    let slower = json!({ "ingressRate": 4_000_000, "ingressBurst": 800_000 });
    stage.call("ADD", slower.clone()).ok();
    let state = stage.queues();
    assert_eq!((state.qdiscs.len(), state.filters.len()), (1, 0), "{state:#?}");
    stage.call("CHECK", slower.clone()).ok();
    stage.call("DEL", slower).ok();
    stage.leave()
}

/// What is missing, what is wrong: CHECK names the commands that repair it.
pub fn check_lists_every_difference() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let result = stage.call("ADD", both()).ok();
    let checked = with(&both(), json!({ "prevResult": result }));
    tc(&format!("filter del dev {} ingress", stage.veth))?;
    tc(&format!("qdisc change dev {DEVICE} root handle 1: tbf rate 5mbit burst 20000 limit 30000"))?;
    let said = stage.call("CHECK", checked.clone()).error();
    for part in [
        "999 bandwidth: eth0 is not as ADD left it; to repair it: ",
        &format!("tc qdisc change dev {DEVICE} root handle 1: tbf rate 2000000bps burst 200000 limit 250000"),
        &format!("tc filter add dev {} ingress prio 1 protocol all u32 match u32 0 0 action mirred", stage.veth),
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    tc(&format!("qdisc del dev {} root", stage.veth))?;
    Command::new("ip").args(["link", "del", DEVICE]).status()?;
    let said = stage.call("CHECK", checked).error();
    assert!(said.contains(&format!("ip link add {DEVICE}")) && said.contains("tc qdisc add dev veth"), "{said}");
    stage.call("DEL", both()).ok();
    stage.leave()
}

fn tc(arguments: &str) -> Outcome {
    let output = Command::new("tc").args(arguments.split(' ')).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("tc {arguments}: {said}").into()) }
}

/// Other programs attach eBPF to `clsact` on pods' links (containernetworking/plugins#894).
pub fn anothers_clsact_is_shared() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    tc(&format!("qdisc add dev {} clsact", stage.veth))?;
    tc(&format!("filter add dev {} ingress prio 9 protocol ip u32 match ip src 192.0.2.9 flowid 1:1", stage.veth))?;
    let before = stage.queues();
    let result = stage.call("ADD", both()).ok();
    stage.call("CHECK", with(&both(), json!({ "prevResult": result }))).ok();
    assert_eq!(stage.queues().filters.len(), 2);
    stage.call("DEL", both()).ok();
    assert_eq!(stage.queues(), before);
    stage.leave()
}

/// A failed ADD leaves what was there, and nothing of its own.
pub fn anothers_discipline_stays_and_is_named() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    tc(&format!("qdisc add dev {} root handle 7: htb default 1", stage.veth))?;
    let before = stage.queues();
    let said = stage.call("ADD", both()).error();
    let words = format!("{} has another queueing discipline, htb, where tbf should be", stage.veth);
    assert!(said.contains(&words), "{said}");
    assert_eq!((stage.queues(), records("net")), (before, vec!["cid@eth0".to_owned()]));
    assert!(Kernel::open()?.link(&name(DEVICE))?.is_none());
    stage.leave()
}

/// The reference plugin's name of the device does not contain the interface's, so it refuses a second interface.
pub fn two_interfaces_of_a_container_have_a_device_each() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let second = Pod { ifname: "net1", ..stage.pod() };
    let before = stage.caller.call("ADD", &second, &with(&stage.bridge, json!({ "isDefaultGateway": false }))).ok();
    let of_second = stage.conf(with(&both(), json!({ "prevResult": before })));
    stage.call("ADD", both()).ok();
    let result = stage.caller.call("ADD", &second, &of_second).ok();
    let device = result["interfaces"][3]["name"].as_str().unwrap().to_owned();
    assert!(device.starts_with("bwp") && device != DEVICE, "{device}");
    stage.call("CHECK", both()).ok();
    stage.call("DEL", both()).ok();
    assert!(Kernel::open()?.link(&name(DEVICE))?.is_none());
    stage.caller.call("CHECK", &second, &of_second).ok();
    // the record names the device: DEL of the first, again, does not touch it
    stage.call("DEL", both()).ok();
    stage.caller.call("CHECK", &second, &of_second).ok();
    stage.caller.call("DEL", &second, &of_second).ok();
    assert!(Kernel::open()?.link(&name(&device))?.is_none());
    stage.caller.call("DEL", &second, &stage.bridge).ok();
    stage.leave()
}

/// GC removes the limits of pods that are gone, and those alone; so does DEL of the bridge.
pub fn gc_takes_dead_pods_limits_only() -> Outcome {
    for by_bridge in [false, true] {
        let stage = Stage::new(Whose::Ours)?;
        stage.call("ADD", both()).ok();
        let gc = |valid: &[&str]| {
            let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
            let more = json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid });
            stage.caller.call("GC", &Pod::new("", &PathBuf::new()), &with(&stage.conf(json!({})), more)).ok()
        };
        gc(&["cid"]);
        assert_limited(&stage.queues(), &stage.veth);
        if by_bridge {
            stage.caller.call("DEL", &stage.pod(), &stage.bridge).ok();
        } else {
            gc(&["another"]);
            assert_eq!(stage.queues(), State::default());
        }
        assert!(Kernel::open()?.link(&name(DEVICE))?.is_none(), "{by_bridge}");
        stage.leave()?;
    }
    Ok(())
}

/// Each field wrong, and all at once. DEL takes any of it.
pub fn every_mistake_is_said_at_once() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let wrong = json!({
        "ingressRate": "8", "ingressBurst": -1, "egressRate": 80, "egressBurst": 34_359_738_360_u64,
        "runtimeConfig": { "bandwidth": { "ingressRate": true, "egressBurst": 80 } },
    });
    let said = stage.call("ADD", wrong.clone()).error();
    for part in [
        "7 ingressRate must be a whole number",
        "ingressBurst must be a whole number",
        "egressBurst burst cannot be more than 4GB",
        "runtimeConfig.bandwidth.ingressRate must be",
        "runtimeConfig.bandwidth.egressRate is missing",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let status = with(&stage.conf(wrong.clone()), json!({ "cniVersion": "1.1.0" }));
    assert!(stage.caller.call("STATUS", &Pod::new("", &PathBuf::new()), &status).error().starts_with("7 "));
    let status = with(&stage.conf(both()), json!({ "cniVersion": "1.1.0" }));
    stage.caller.call("STATUS", &Pod::new("", &PathBuf::new()), &status).ok();
    stage.call("ADD", both()).ok();
    stage.call("DEL", wrong).ok();
    assert!(Kernel::open()?.link(&name(DEVICE))?.is_none());
    stage.leave()
}
