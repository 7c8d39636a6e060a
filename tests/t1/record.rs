//! The record of a network without a flanneld: however an ADD ends, GC finds the routes that it made.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kernel::diff::diff;
use kernel::state::{Link, LinkKind, Scope, State, VethPeer};
use kernel::types::{IfName, RouteProtocol, TableId};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::with;
use crate::call::{Caller, Pod, Whose};

/// A host of its own, with an uplink.
struct Host {
    room: Room,
    caller: Caller,
}

impl Host {
    fn new(number: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let room = Room::create(&format!("host{number}"))?;
        let eth0 = IfName::new("eth0")?;
        let peer = VethPeer { name: IfName::new("wire")?, mac: None, mtu: None, netns: None };
        let mut state = State::default();
        state.links.insert(eth0.clone(), Link::up(LinkKind::Veth(kernel::state::Veth { peer: Some(Box::new(peer)) })));
        state.address(&eth0, "192.0.2.1/24".parse()?, true);
        state.address(&eth0, "2001:db8::1/64".parse()?, true);
        room.kernel()?.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok()?;
        Ok(Self { room, caller: Caller::new(Whose::Ours) })
    }

    /// The network 10.`second`.0.0/16, and fd`second`::/48, with a peer.
    fn conf(&self, kind: &str, second: usize) -> Value {
        let files = self.caller.files.path();
        json!({
            "cniVersion": "1.1.0", "name": "net", "type": kind, "dataDir": files.join("flannel"), "iface": "eth0",
            "subnetFile": files.join("subnet.env"),
            "network": format!("10.{second}.0.0/16"), "subnet": format!("10.{second}.1.0/24"),
            "ipv6Network": format!("fd{second}::/48"), "ipv6Subnet": format!("fd{second}:0:0:1::/64"),
            "peers": [{
                "subnet": format!("10.{second}.2.0/24"), "publicIP": "192.0.2.2",
                "ipv6Subnet": format!("fd{second}:0:0:2::/64"), "publicIPv6": "2001:db8::2",
            }],
            "ipam": { "type": "host-local", "dataDir": self.caller.data() },
            "delegate": { "bridge": format!("br{second}"), "isGateway": true, "ipMasq": false },
        })
    }

    /// The routes to peers.
    fn routes(&self) -> Vec<String> {
        let all = self.room.kernel().unwrap().routes(TableId::MAIN).unwrap();
        let ours = all.iter().filter(|(_, route)| route.protocol == RouteProtocol::FLANNEL_CNI);
        ours.map(|(key, _)| key.dst.to_string()).collect()
    }
}

/// The network changes, and the ADD that makes the change is disturbed at each of its calls of `call` in turn. Then
/// the network is removed from the host.
fn changed_under(kind: &str, call: &str, change: &str) -> Outcome {
    let mut orphans = Vec::new();
    for nth in 1.. {
        let host = Host::new(nth)?;
        let pods = ["one", "two"].map(|name| Room::create(&format!("{name}{nth}")));
        let [one, two] = pods;
        let (one, two) = (one?, two?);
        let (before, after) = (host.conf(kind, 44), host.conf(kind, 45));
        host.room.enter(|| {
            host.caller.traced("ADD", &Pod::of(&one, "one"), &before, |traced| traced.calls(host.caller.files.path()))
        })??;
        assert_eq!(host.routes().len(), 2, "a route per family: {:?}", host.routes());
        let disturbed = host.room.enter(|| {
            host.caller.traced("ADD", &Pod::of(&two, "two"), &after, |traced| {
                traced.disturbed(host.caller.files.path(), call, change, nth)
            })
        })??;
        if disturbed.is_none() {
            assert!(nth > 1, "{call} is not called");
            break;
        }
        let gc = with(&after, json!({ "cni.dev/valid-attachments": [] }));
        // by the program that disturbed the ADD: GC leaves what others attached
        let collected = host.room.enter(|| {
            host.caller.traced("GC", &Pod::of(&one, "one"), &gc, |traced| traced.calls(host.caller.files.path()))
        })??;
        assert!(collected.0.status.success(), "{:?}", collected.0);
        let left = host.routes();
        if !left.is_empty() {
            orphans.push(format!("{change} at call {nth} of {call}: {left:?}"));
        }
    }
    assert!(orphans.is_empty(), "GC leaves routes of the network: {orphans:#?}");
    Ok(())
}

pub fn host_gw_killed_at_any_write_leaves_no_route_behind_gc() -> Outcome {
    changed_under("host-gw", "write", "signal=KILL")
}

pub fn host_gw_on_a_full_disk_leaves_no_route_behind_gc() -> Outcome {
    changed_under("host-gw", "write", "error=ENOSPC")
}

pub fn direct_routing_killed_at_any_write_leaves_no_route_behind_gc() -> Outcome {
    changed_under("direct-routing", "write", "signal=KILL")
}
