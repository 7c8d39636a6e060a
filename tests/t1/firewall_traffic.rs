//! `firewall` behind `bridge`: which packets pass, in both families.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use lab::netns::Room;
use lab::ping::Pinger;
use lab::wait::eventually;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf, with};
use crate::call::Whose;
use crate::firewall::Attached;
use crate::iptables::{self, VARIANTS};
use crate::portmap::{self, CLIENT, HOST, LIMIT, ip, mapping, refused, seen, serve};

/// How long a reply is waited for. One that comes later is waited for with the next request.
const REPLY: Duration = Duration::from_millis(500);

/// The pods' addresses, and those of their gateway.
const ONE: [&str; 2] = ["10.9.1.2", "fd09:1::2"];
const TWO: [&str; 2] = ["10.9.1.3", "fd09:1::3"];
const OTHER: [&str; 2] = ["10.9.2.2", "fd09:2::2"];
const GATEWAY: [&str; 2] = ["10.9.1.1", "fd09:1::1"];

/// A host that forwards, with a client outside.
pub fn host(whose: Whose) -> Result<portmap::Host, Box<dyn std::error::Error>> {
    let host = portmap::Host::new(whose)?;
    for (path, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        // what a bridge itself carries is then no matter of FORWARD
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
    ] {
        let path = Path::new("/proc/sys/net").join(path);
        if path.exists() {
            std::fs::write(path, value)?;
        }
    }
    for (net, gateway) in ["10.9.0.0/16", "fd09::/16"].iter().zip(HOST) {
        ip(&format!("-n client route add {net} via {gateway}"));
    }
    Ok(host)
}

fn ping(from: &Room, to: &str) -> std::io::Result<Duration> {
    // a new identifier: a tracked connection of before would be established
    static PINGS: AtomicU16 = AtomicU16::new(1);
    let (to, id): (IpAddr, _) = (to.parse().unwrap(), PINGS.fetch_add(1, Ordering::Relaxed));
    from.enter(|| Pinger::open(to, id)?.echo(REPLY)).unwrap()
}

/// A packet gets there, and one comes back.
#[track_caller]
pub fn reaches(what: &str, from: &Room, to: [&str; 2]) {
    for to in to {
        eventually(format_args!("{what}: a reply of {to}"), LIMIT, || ping(from, to)).unwrap();
    }
}

/// No reply comes.
#[track_caller]
pub fn misses(what: &str, from: &Room, to: [&str; 2]) {
    for to in to {
        assert!((0..2).all(|_| ping(from, to).is_err()), "{what}: {to} replies");
    }
}

#[track_caller]
fn expect(expected: bool, what: &str, from: &Room, to: [&str; 2]) {
    if expected { reaches(what, from, to) } else { misses(what, from, to) }
}

/// Where `FORWARD` drops: a pod reaches the outside, and is not reached from there; without the plugin neither.
pub fn a_pod_reaches_the_outside_where_forward_drops(whose: Whose) -> Outcome {
    let mut host = host(whose)?;
    for variant in VARIANTS {
        let programs = iptables::Host::new(variant);
        host.caller = programs.caller(whose);
        let pod = Attached::new(&host.caller, "cid");
        reaches("before", &pod.room, CLIENT);
        reaches("before", &host.client, ONE);
        for program in ["iptables", "ip6tables"] {
            programs.run(program, &["-P", "FORWARD", "DROP"]);
        }
        let by_nftables = (whose, variant) == (Whose::Ours, VARIANTS[0]);
        for backend in ["iptables", "nftables"].into_iter().filter(|name| *name == "iptables" || by_nftables) {
            misses("without the plugin", &pod.room, CLIENT);
            pod.call(&host.caller, "ADD", json!({ "backend": backend })).ok();
            reaches(backend, &pod.room, CLIENT);
            misses(backend, &host.client, ONE);
            pod.call(&host.caller, "DEL", json!({ "backend": backend })).ok();
        }
        misses("after DEL", &pod.room, CLIENT);
        for program in ["iptables", "ip6tables"] {
            programs.run(program, &["-P", "FORWARD", "ACCEPT"]);
        }
        programs.clear("filter");
        pod.leave(&host.caller)?;
    }
    Ok(())
}

/// Where `FORWARD` drops, a published port is reached from outside. The reference plugin has no rule for that.
pub fn a_published_port_is_reached_where_forward_drops() -> Outcome {
    let mut host = host(Whose::Ours)?;
    let programs = iptables::Host::new(VARIANTS[0]);
    host.caller = programs.caller(Whose::Ours);
    for program in ["iptables", "ip6tables"] {
        programs.run(program, &["-P", "FORWARD", "DROP"]);
    }
    let pod = Attached::new(&host.caller, "cid");
    serve(&pod.room, 80);
    let ports = portmap::portmap(&json!([mapping(8080, 80)]), &pod.result);
    host.caller.call("ADD", &pod.pod(), &ports).ok();
    pod.call(&host.caller, "ADD", json!({})).ok();
    for (at, client) in HOST.into_iter().zip(CLIENT) {
        assert_eq!(seen(Some(&host.client), (at, 8080)).as_deref(), Ok(client));
    }
    misses("not by its own address", &host.client, ONE);
    pod.call(&host.caller, "DEL", json!({})).ok();
    host.caller.call("DEL", &pod.pod(), &ports).ok();
    for at in HOST {
        refused(Some(&host.client), (at, 8080));
    }
    pod.leave(&host.caller)
}

/// Two pods on a bridge, and one on another.
struct Pods {
    one: Attached,
    two: Attached,
    other: Attached,
}

impl Pods {
    fn attach(host: &portmap::Host) -> Self {
        let (one, two) = (Attached::new(&host.caller, "one"), Attached::new(&host.caller, "two"));
        let mut bridge = with(&conf(&host.caller), json!({ "name": "other", "bridge": "cni1" }));
        bridge["ipam"]["ranges"] = json!([[{ "subnet": "10.9.2.0/24" }], [{ "subnet": "fd09:2::/64" }]]);
        Self { one, two, other: Attached::behind(&host.caller, "other", bridge) }
    }

    fn call(&self, host: &portmap::Host, command: &str, more: &Value) {
        self.one.call(&host.caller, command, more.clone()).ok();
        self.two.call(&host.caller, command, more.clone()).ok();
        self.other.call(&host.caller, command, with(more, json!({ "name": "other" }))).ok();
    }

    /// Everything that a policy is about. The outside and the gateway are reached under each.
    fn judge(&self, what: &str, client: &Room, (within, between): (bool, bool)) {
        expect(within, what, &self.two.room, ONE);
        expect(within, what, &self.one.room, TWO);
        expect(between, what, &self.other.room, ONE);
        expect(between, what, &self.one.room, OTHER);
        reaches(what, client, ONE);
        reaches(what, &self.one.room, CLIENT);
        reaches(what, &self.one.room, GATEWAY);
    }

    fn leave(self, host: &portmap::Host) -> Outcome {
        self.other.leave(&host.caller)?;
        self.one.leave(&host.caller)?;
        self.two.leave(&host.caller)
    }
}

/// The ingress policies by nftables. After DEL everything passes.
pub fn policies_keep_other_bridges_away() -> Outcome {
    let host = host(Whose::Ours)?;
    let pods = Pods::attach(&host);
    let policies = [("open", (true, true)), ("same-bridge", (true, false)), ("isolated", (false, false))];
    for (policy, passes) in policies {
        pods.call(&host, "ADD", &json!({ "ingressPolicy": policy }));
        pods.judge(policy, &host.client, passes);
        pods.call(&host, "DEL", &json!({}));
        pods.judge("after DEL", &host.client, (true, true));
    }
    pods.leave(&host)
}

/// `same-bridge` by iptables, as the reference plugin has it.
pub fn same_bridge_by_iptables(whose: Whose) -> Outcome {
    let mut host = host(whose)?;
    for variant in VARIANTS {
        let programs = iptables::Host::new(variant);
        host.caller = programs.caller(whose);
        let pods = Pods::attach(&host);
        pods.judge("before", &host.client, (true, true));
        let more = json!({ "backend": "iptables", "ingressPolicy": "same-bridge" });
        pods.call(&host, "ADD", &more);
        pods.judge(variant, &host.client, (true, false));
        pods.call(&host, "DEL", &more);
        programs.clear("filter");
        pods.judge("after the chains are gone", &host.client, (true, true));
        pods.leave(&host)?;
    }
    Ok(())
}
