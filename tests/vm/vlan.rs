//! The gateway link of the pods' VLAN, whoever made it and however far they came.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use kernel::Kernel;
use kernel::diff::{LinkChange, Step};
use kernel::state::{Link, LinkKind, VethPeer};
use kernel::types::IfName;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Caller, Pod, Whose};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn conf(caller: &Caller) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "vlan": 100,
        "ipam": { "type": "host-local", "dataDir": caller.data(), "ranges": [[{ "subnet": "10.9.1.0/24" }]] },
    })
}

fn accept_ra(dev: &str) -> String {
    kernel::sysctl::read(&format!("net/ipv6/conf/{dev}/accept_ra")).unwrap().unwrap_or_default()
}

/// The gateway answers the pod, which says that the port is in the bridge, up and in the VLAN.
fn reaches_its_gateway(room: &Room) -> Outcome {
    let gateway = TcpListener::bind("10.9.1.1:0")?;
    let address: SocketAddr = gateway.local_addr()?;
    room.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))??;
    Ok(())
}

/// What an ADD leaves that is killed at one moment or another: the next one finishes it.
pub fn a_half_made_gateway_is_finished() -> Outcome {
    for (moment, attached, up) in
        [("the pair is made", false, false), ("it is a port", true, false), ("the port is down again", true, true)]
    {
        for value in ["1", "2"] {
            let caller = Caller::new(Whose::Ours);
            let room = Room::create("pod")?;
            let mut host = Kernel::open()?;
            let filtering = Link::up(LinkKind::Bridge(kernel::state::Bridge {
                vlan_filtering: true,
                ..kernel::state::Bridge::default()
            }));
            host.apply(&[Step::CreateLink(name("cni0"), filtering)]).ok()?;
            let peer = VethPeer { name: name("vethgate"), mac: None, mtu: None, netns: None };
            let pair = Link::up(LinkKind::Veth(kernel::state::Veth { peer: Some(Box::new(peer)) }));
            host.apply(&[Step::CreateLink(name("cni0.100"), pair)]).ok()?;
            for dev in ["cni0", "cni0.100", "vethgate"] {
                kernel::sysctl::write(&format!("net/ipv6/conf/{dev}/accept_ra"), value)?;
            }
            let port = LinkChange { master: attached.then(|| Some(name("cni0"))), ..LinkChange::default() };
            host.apply(&[Step::ChangeLink(name("vethgate"), port)]).ok()?;
            if up {
                host.apply(&[Step::ChangeLink(name("cni0.100"), LinkChange::up())]).ok()?;
            }
            let result = caller.call("ADD", &Pod::of(&room, "cid"), &conf(&caller)).ok();
            let what = format!("killed when {moment}, accept_ra={value}");
            assert_eq!(result["interfaces"][3]["name"], "cni0.100", "{what}");
            for dev in ["cni0", "cni0.100", "vethgate"] {
                assert_eq!(accept_ra(dev), "0", "{what}: {dev} takes router advertisements");
            }
            let reached = reaches_its_gateway(&room);
            assert!(reached.is_ok(), "{what}: the pod does not reach its gateway: {reached:?}");
            caller.call("DEL", &Pod::of(&room, "cid"), &conf(&caller)).ok();
            host.apply(&["cni0", "cni0.100"].map(|dev| Step::DeleteLink(name(dev)))).ok()?;
            room.remove()?;
        }
    }
    Ok(())
}

/// A first ADD that is not killed, and a gateway link of another make.
pub fn a_gateway_link_of_somebody_else_takes_no_router() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (first, second) = (Room::create("first")?, Room::create("second")?);
    kernel::sysctl::write("net/ipv6/conf/default/accept_ra", "2")?;
    let mut host = Kernel::open()?;
    caller.call("ADD", &Pod::of(&first, "first"), &conf(&caller)).ok();
    reaches_its_gateway(&first)?;
    for link in host.links()?.iter().filter(|seen| seen.name.as_str() != "lo") {
        assert_eq!(accept_ra(link.name.as_str()), "0", "{} takes router advertisements", link.name);
    }
    // somebody changes it under a pod that lives: the next ADD sees it
    kernel::sysctl::write("net/ipv6/conf/cni0.100/accept_ra", "2")?;
    caller.call("ADD", &Pod::of(&second, "second"), &conf(&caller)).ok();
    assert_eq!(accept_ra("cni0.100"), "0", "cni0.100 takes router advertisements");
    reaches_its_gateway(&second)?;
    Ok(())
}
