//! A WireGuard peer that sends from another endpoint than its lease says is left there until its lease changes.

use kernel::diff::{Step, diff};
use kernel::state::{Scope, State};

use super::host::{Host, nth_key, nth_value};
use crate::render::MANY;

const KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

fn host() -> Host {
    let mut host = Host::default();
    for line in [
        "link eth0 index 2 mtu 1500",
        "address eth0 10.99.0.2/24",
        "route default via 10.99.0.1 dev eth0",
        r#"conf {"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#,
        "wireguard-keys xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "own 10.5.1.0-24",
    ] {
        host.learn(line);
    }
    at(&mut host, "10.98.0.3");
    host
}

fn at(host: &mut Host, public: &str) {
    let data = format!(r#"{{"PublicKey":"{KEY}","Port":4000}}"#);
    let lease =
        format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"wireguard","BackendData":{data}}}"#);
    host.lease("10.5.2.0-24", &lease);
}

/// The endpoint that is written to a kernel in which the peer is at `seen`, when the plan is made and carried out whole.
fn written(host: &mut Host, seen: Option<(&str, bool)>) -> Option<String> {
    let leased = host.plan().leased.unwrap();
    let desired = leased.written(host.memory.desired().unwrap());
    let mut observed = seen.map_or_else(State::default, |_| (*desired).clone());
    for peer in observed.wireguard.values_mut().flat_map(|device| device.peers.values_mut()) {
        let (endpoint, live) = seen.unwrap();
        (peer.endpoint, peer.live) = (endpoint.parse().ok(), live);
    }
    host.memory.settle();
    diff(&desired, &observed, &Scope::default()).steps.into_iter().find_map(|step| match step {
        Step::PutWireguardPeer(_, _, change) => change.endpoint.map(|at| at.to_string()),
        _ => None,
    })
}

#[test]
fn it_is_left_where_it_is_until_its_lease_changes() {
    let behind_nat = Some(("10.98.0.3:1234", true));
    let mut first = host();
    assert_eq!(written(&mut first, behind_nat), None, "after a restart");
    assert_eq!(written(&mut first, behind_nat), None);
    assert_eq!(written(&mut first, Some(("10.98.0.3:1234", false))).unwrap(), "10.98.0.3:4000", "it sends nothing");
    assert_eq!(written(&mut first, None).unwrap(), "10.98.0.3:4000", "it is new");
    at(&mut first, "10.98.0.9");
    assert_eq!(written(&mut first, behind_nat).unwrap(), "10.98.0.9:4000", "it has moved");
    assert_eq!(written(&mut first, behind_nat), None, "and may roam from there");
}

#[test]
fn a_lease_that_has_moved_it_counts_until_a_plan_is_carried_out() {
    let mut host = host();
    written(&mut host, None);
    at(&mut host, "10.98.0.9");
    host.plan();
    assert_eq!(written(&mut host, Some(("10.98.0.3:1234", true))).unwrap(), "10.98.0.9:4000");
}

/// At some sizes everything is rendered anew.
#[test]
fn it_has_moved_when_everything_is_rendered_anew() {
    let mut host = host();
    host.learn(r#"conf {"Network":"10.0.0.0/8","Backend":{"Type":"wireguard"}}"#);
    host.learn(&format!("leases {}", MANY - 1));
    written(&mut host, None);
    at(&mut host, "10.98.0.9");
    host.lease(&nth_key(2_000), &nth_value(2_000));
    assert_eq!(written(&mut host, Some(("10.98.0.3:1234", true))).unwrap(), "10.98.0.9:4000");
}
