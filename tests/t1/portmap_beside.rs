//! portmap beside kube-proxy: services keep their ports, host ports work, and neither suite's rules change.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use lab::netns::Room;
use serde_json::json;
use tests::harness::Outcome;
use tests::kube_proxy::{IPTABLES, Mode, NFTABLES, NODE_PORT, SERVICE};

use crate::call::Whose;
use crate::portmap::{CLIENT, HOST, Host, address, ip, mapping, portmap, room, seen};

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

/// Pod `one` has the host ports 8080 and 30080; pod `two` is the service's endpoint. The service's rules are those of
/// `mode`.
fn beside(mode: Mode) -> Outcome {
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
        run(mode.load, &mode.rules("10.9.0.0/16", HOST[0], &address(&endpoint, 0)));
        let before = run(mode.list, "");
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
        assert_eq!(run(mode.list, ""), before);
        run("nft flush ruleset", "");
    }
    Ok(())
}

pub fn kube_proxys_iptables() -> Outcome {
    beside(IPTABLES)
}

pub fn kube_proxys_nftables() -> Outcome {
    beside(NFTABLES)
}
