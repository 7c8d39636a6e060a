//! Bridges that filter by VLAN: the gateway link of a VLAN, which all its pods share.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kernel::Kernel;
use kernel::diff::Step;
use kernel::state::Scope;
use kernel::types::IfName;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{addresses, conf, link, name, v4_only, with};
use crate::call::{Answer, Caller, Pod, Whose};

const GATEWAY: &str = "cni0.100";

fn vlan(caller: &Caller, more: Value) -> Value {
    with(&with(&v4_only(&conf(caller), "10.9.1.0/24"), json!({ "vlan": 100, "hairpinMode": false })), more)
}

/// The VLANs of a port, and whether untagged frames belong to it.
fn carried(host: &mut Kernel, port: IfName) -> Vec<(u16, bool)> {
    let seen = host.observe(&Scope { vlans: vec![port], ..Scope::default() }).unwrap().vlans;
    seen.iter().map(|(key, vlan)| (key.id.get(), vlan.pvid)).collect()
}

/// The bridge's port that leads to the gateway link: the one that is no pod's.
fn gateway_port(host: &mut Kernel, result: &Value) -> IfName {
    let bridge = link(host, "cni0").index.0;
    let pods = result["interfaces"][1]["name"].as_str().unwrap();
    let ports = host.links().unwrap().into_iter().filter(|link| link.master == Some(bridge));
    let mut others: Vec<IfName> = ports.map(|port| port.name).filter(|port| port.as_str() != pods).collect();
    assert_eq!(others.len(), 1, "{others:?}");
    others.remove(0)
}

fn gateway_port_carries(more: Value, wanted: &[(u16, bool)]) -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let mut host = Kernel::open()?;
    let result = caller.call("ADD", &Pod::of(&room, "cid"), &vlan(&caller, more)).ok();
    let port = gateway_port(&mut host, &result);
    assert_eq!(carried(&mut host, port), wanted, "VLANs of the gateway link's port");
    Ok(())
}

pub fn the_gateways_port_leaves_the_default_vlan() -> Outcome {
    gateway_port_carries(json!({ "preserveDefaultVlan": false }), &[(100, true)])
}

/// The key is left out, and the pods have further VLANs, which the gateway has not.
pub fn the_gateways_port_of_a_trunk_leaves_the_default_vlan() -> Outcome {
    gateway_port_carries(json!({ "vlanTrunk": [{ "minID": 200, "maxID": 202 }] }), &[(100, true)])
}

pub fn the_gateways_port_keeps_the_default_vlan_when_told_to() -> Outcome {
    gateway_port_carries(json!({ "preserveDefaultVlan": true }), &[(1, false), (100, true)])
}

/// Two pods, the second one's ADD made while the first one's is stopped.
struct Race {
    caller: Caller,
    one: Room,
    two: Room,
    good: Value,
}

impl Race {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let caller = Caller::new(Whose::Ours);
        let good = vlan(&caller, json!({}));
        Ok(Self { caller, one: Room::create("one")?, two: Room::create("two")?, good })
    }

    /// The call behind which the first is to be stopped is `before` calls before that with all of `parts`; an ADD that
    /// nobody disturbs shows which it is.
    fn run(&self, conf: &Value, parts: &[&str], before: usize) -> Result<[Answer; 2], Box<dyn std::error::Error>> {
        let (one, two, dir) = (Pod::of(&self.one, "one"), Pod::of(&self.two, "two"), self.caller.files.path());
        let (_, found) = self.caller.traced("ADD", &one, conf, |traced| traced.find(dir, "sendto", parts))?;
        let nth = found.ok_or_else(|| format!("no call with {parts:?}"))? - before;
        self.caller.call("DEL", &one, conf).ok();
        // links that the ADD made and DEL leaves, if there are any
        let _ = Kernel::open()?.apply(&[Step::DeleteLink(name(GATEWAY)), Step::DeleteLink(name("cni0"))]);
        let stopped = self.caller.traced("ADD", &one, conf, |traced| traced.stop_behind(dir, "sendto", nth))?;
        let stopped = stopped.ok_or_else(|| format!("it ended before call {nth}"))?;
        let second = self.caller.call("ADD", &two, &self.good);
        Ok([stopped.go_on()?.into(), second])
    }
}

/// The second pod has its gateway.
fn has_gateway(second: &Answer) -> Outcome {
    second.ok();
    let mut host = Kernel::open()?;
    let there = host.link(&name(GATEWAY))?.is_some();
    assert!(there, "the gateway link of a pod that was attached is gone");
    assert_eq!(addresses(&mut host, GATEWAY), ["10.9.1.1/24"], "the gateway's address is gone");
    Ok(())
}

/// Both find that there is no gateway link; the second makes it first.
pub fn the_loser_of_a_race_for_the_gateway_link_deletes_nothing() -> Outcome {
    let race = Race::new()?;
    let [_, second] = race.run(&race.good, &["RTM_NEWLINK", GATEWAY], 1)?;
    has_gateway(&second)
}

/// And takes the one that is there.
pub fn the_loser_of_a_race_for_the_gateway_link_is_attached() -> Outcome {
    let race = Race::new()?;
    let [first, second] = race.run(&race.good, &["RTM_NEWLINK", GATEWAY], 1)?;
    second.ok();
    assert_eq!(first.status, 0, "the ADD that lost the race fails: {first:?}");
    Ok(())
}

/// The first makes the gateway link and fails late.
pub fn a_failed_add_leaves_the_gateway_link_to_others() -> Outcome {
    let race = Race::new()?;
    let mut bad = race.good.clone();
    bad["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    let [first, second] = race.run(&bad, &["RTM_NEWADDR", "10.9.1.1"], 0)?;
    assert!(first.error().contains("Nexthop has invalid gateway"), "{first:?}");
    has_gateway(&second)
}
