//! portmap beside kube-proxy: services keep their ports, host ports work, and neither suite's rules change.
//!
//! The rule sets are small ones of the form that kube-proxy gives them (Kubernetes 1.33, pkg/proxy/iptables,
//! pkg/proxy/nftables): one service with a cluster IP and a node port, and one endpoint.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use lab::netns::Room;
use serde_json::json;
use tests::harness::Outcome;

use crate::call::Whose;
use crate::portmap::{CLIENT, HOST, Host, address, ip, mapping, portmap, room, seen};

/// The service's cluster IP and port, and its node port.
const SERVICE: (&str, u16) = ("10.96.0.10", 8080);
const NODE_PORT: u16 = 30080;

/// kube-proxy in mode `iptables`; ENDPOINT is the pod's address.
const IPTABLES: &str = r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-EXT-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/two:http cluster IP" -m tcp --dport 8080 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/two:http" -m tcp --dport 30080 -j KUBE-EXT-AAAAAAAAAAAAAAAA
-A KUBE-EXT-AAAAAAAAAAAAAAAA -m comment --comment "masquerade traffic for default/two:http external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SVC-AAAAAAAAAAAAAAAA ! -s 10.9.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment "default/two:http cluster IP" -m tcp --dport 8080 -j KUBE-MARK-MASQ
-A KUBE-SVC-AAAAAAAAAAAAAAAA -m comment --comment "default/two:http -> ENDPOINT:80" -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s ENDPOINT/32 -m comment --comment "default/two:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m comment --comment "default/two:http" -m tcp -j DNAT --to-destination ENDPOINT:80
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
COMMIT
"#;

/// The same in mode `nftables`.
const NFTABLES: &str = r#"table ip kube-proxy {
    set nodeport-ips { type ipv4_addr; elements = { 192.0.2.1 }; }
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.10 . tcp . 8080 : goto service-AAAAAAAA-default/two/tcp/http }
    }
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 30080 : goto external-AAAAAAAA-default/two/tcp/http }
    }
    chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain endpoint-BBBBBBBB-default/two/tcp/http__ENDPOINT/80 {
        ip saddr ENDPOINT jump mark-for-masquerade
        meta l4proto tcp dnat to ENDPOINT:80
    }
    chain service-AAAAAAAA-default/two/tcp/http {
        ip daddr 10.96.0.10 tcp dport 8080 ip saddr != 10.9.0.0/16 jump mark-for-masquerade
        numgen random mod 1 vmap { 0 : goto endpoint-BBBBBBBB-default/two/tcp/http__ENDPOINT/80 }
    }
    chain external-AAAAAAAA-default/two/tcp/http {
        jump mark-for-masquerade
        goto service-AAAAAAAA-default/two/tcp/http
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
"#;

/// Runs a program with this input, and returns what it prints.
fn run(words: &str, stdin: &str) -> String {
    let mut words = words.split(' ');
    let mut child =
        Command::new(words.next().unwrap()).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{stdin}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Serves TCP in a room: a client is told `name`, and its own address as it arrives.
fn serve(room: &Room, name: &'static str) {
    let any = SocketAddr::from((IpAddr::from([0, 0, 0, 0]), 80));
    let listener = room.enter(|| TcpListener::bind(any)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let text = format!("{name} {}", stream.peer_addr().unwrap().ip());
            // a client that has gone misses the answer
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

/// Pod `one` has the host ports 8080 and 30080; pod `two` is the service's endpoint. `load` makes the service's rules,
/// and `list` prints them.
fn beside(load: (&str, &str), list: &str) -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let ((one, first), (two, second)) = (room("one")?, room("two")?);
    let (result, endpoint) = (host.attach(&first), host.attach(&second));
    serve(&one, "one");
    serve(&two, "two");
    ip(&format!("-n client route add {} via {}", SERVICE.0, HOST[0]));
    // the host's own connections to services need a route before they are translated
    ip(&format!("route add default via {}", CLIENT[0]));
    let conf = portmap(&json!([mapping(8080, 80), mapping(NODE_PORT, 80)]), &result);
    // once before kube-proxy's rules, and once behind them
    for ports_first in [true, false] {
        if ports_first {
            host.caller.call("ADD", &first, &conf).ok();
        }
        run(load.0, &load.1.replace("ENDPOINT", &address(&endpoint, 0)));
        let before = run(list, "");
        if !ports_first {
            host.caller.call("ADD", &first, &conf).ok();
        }
        let client = Some(&host.client);
        let is = |from, to, expected: String| assert_eq!(seen(from, to), Ok(expected), "{to:?}, {ports_first}");
        is(client, (HOST[0], 8080), format!("one {}", CLIENT[0]));
        is(client, (HOST[0], NODE_PORT), "two 10.9.1.1".to_owned());
        is(client, SERVICE, "two 10.9.1.1".to_owned());
        is(None, SERVICE, "two 10.9.1.1".to_owned());
        is(None, ("127.0.0.1", 8080), "one 10.9.1.1".to_owned());
        is(Some(&one), (HOST[0], 8080), "one 10.9.1.1".to_owned());
        is(Some(&two), (HOST[0], 8080), "one 10.9.1.1".to_owned());
        host.caller.call("CHECK", &first, &conf).ok();
        host.caller.call("DEL", &first, &conf).ok();
        assert_eq!(run(list, ""), before);
        run("nft flush ruleset", "");
    }
    Ok(())
}

/// What `iptables-save` prints, without times and counters.
pub fn kube_proxys_iptables() -> Outcome {
    beside(("iptables-restore --noflush", IPTABLES), "iptables -t nat -S")
}

pub fn kube_proxys_nftables() -> Outcome {
    beside(("nft -f -", NFTABLES), "nft list table ip kube-proxy")
}
