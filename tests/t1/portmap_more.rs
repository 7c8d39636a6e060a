//! portmap where ours differ from the reference plugins: ports in use, what is left without a record, options.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;

use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{records, with};
use crate::call::{Answer, Pod, Whose};
use crate::portmap::{
    BRIDGE, CLIENT, HOST, Host, SECOND, address, ip, mapping, nft, portmap, refused, room, seen, serve,
};

/// How many elements our table has.
fn elements() -> usize {
    let table = nft("list ruleset");
    table.lines().filter(|line| line.contains(", net: ") && line.contains(" : ")).count()
}

fn newest(conf: &Value) -> Value {
    with(conf, json!({ "cniVersion": "1.1.0" }))
}

fn gc(host: &Host, conf: &Value, valid: &[&str]) -> Answer {
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
    let conf = with(&newest(conf), json!({ "cni.dev/valid-attachments": valid }));
    host.caller.call("GC", &Pod::new("", &PathBuf::new()), &conf)
}

fn forget(id: &str) {
    fs::remove_file(Path::new("/run/cni-attachments/net").join(format!("{id}@eth0"))).unwrap();
}

/// Attaches a pod that serves port 80, and maps the host's port 8080 to it.
fn served(host: &Host, id: &'static str) -> Result<(Room, Pod, Value), Box<dyn std::error::Error>> {
    let (room, pod) = room(id)?;
    let result = host.attach(&pod);
    serve(&room, 80);
    Ok((room, pod, portmap(&json!([mapping(8080, 80)]), &result)))
}

/// A port of a living pod is refused with its name, and nothing is left; that of a dead pod is taken over.
pub fn a_port_in_use_is_refused_by_name() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (one, first, of_first) = served(&host, "one")?;
    let (_two, second, of_second) = served(&host, "two")?;
    host.caller.call("ADD", &first, &of_first).ok();
    let before = nft("list ruleset");
    let error = host.caller.call("ADD", &second, &of_second).error();
    assert!(error.contains("host port 8080/tcp is in use by net/one@eth0"), "{error}");
    assert_eq!(nft("list ruleset"), before);
    assert_eq!(seen(Some(&host.client), (HOST[0], 8080))?, CLIENT[0]);
    // the same port of one address is another port, and the more exact one counts
    let exact = portmap(
        &json!([{ "hostPort": 8080, "containerPort": 81, "protocol": "tcp", "hostIP": HOST[0] }]),
        &of_second["prevResult"],
    );
    host.caller.call("ADD", &second, &exact).ok();
    refused(Some(&host.client), (HOST[0], 8080));
    assert_eq!(seen(Some(&host.client), (SECOND[0], 8080))?, CLIENT[0]);
    host.caller.call("DEL", &second, &exact).ok();
    // the pod is gone without DEL
    one.remove()?;
    host.caller.call("ADD", &second, &of_second).ok();
    assert_eq!(seen(Some(&host.client), (HOST[0], 8080))?, CLIENT[0]);
    host.caller.call("CHECK", &second, &of_second).ok();
    // its late DEL takes nothing of the new pod
    host.caller.call("DEL", &first, &of_first).ok();
    assert_eq!(seen(Some(&host.client), (HOST[0], 8080))?, CLIENT[0]);
    Ok(())
}

/// podman names the ports of a container for each of its networks: they lead to it by the first, and a second one changes
/// nothing, neither with its ADD nor with its DEL.
pub fn a_container_on_two_networks_has_its_port_once() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_one, pod, conf) = served(&host, "one")?;
    host.caller.call("ADD", &pod, &conf).ok();
    let other = Pod { ifname: "eth1", ..pod.clone() };
    let mut second = host.bridge();
    second["bridge"] = json!("cni1");
    second["name"] = json!("other");
    second["ipam"]["ranges"] = json!([[{ "subnet": "10.9.2.0/24" }], [{ "subnet": "fd09:2::/64" }]]);
    let result = host.caller.call("ADD", &other, &second).ok();
    // one port that it has already, and one that it has not
    let more = with(&portmap(&json!([mapping(8080, 80), mapping(8081, 80)]), &result), json!({ "name": "other" }));
    let before = elements();
    host.caller.call("ADD", &other, &more).ok();
    assert_eq!(elements(), 2 * before);
    for (pod, conf) in [(&pod, &conf), (&other, &more)] {
        host.caller.call("CHECK", pod, conf).ok();
    }
    for port in [8080, 8081] {
        assert_eq!(seen(Some(&host.client), (HOST[0], port))?, CLIENT[0], "{port}");
    }
    host.caller.call("DEL", &other, &more).ok();
    assert_eq!(elements(), before);
    assert_eq!(seen(Some(&host.client), (HOST[0], 8080))?, CLIENT[0]);
    host.caller.call("DEL", &pod, &conf).ok();
    assert_eq!(elements(), 0);
    Ok(())
}

/// The network that has the port goes first: the other one gets it, whoever deletes the first.
pub fn a_port_moves_to_the_containers_other_network() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_one, pod, conf) = served(&host, "one")?;
    let other = Pod { ifname: "eth1", ..pod.clone() };
    let mut second = with(&host.bridge(), json!({ "name": "other", "bridge": "cni1" }));
    second["ipam"]["ranges"] = json!([[{ "subnet": "10.9.2.0/24" }], [{ "subnet": "fd09:2::/64" }]]);
    let result = host.caller.call("ADD", &other, &second).ok();
    let more = with(&portmap(&json!([mapping(8080, 80)]), &result), json!({ "name": "other" }));
    let gc = json!({ "cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": [] });
    for way in ["DEL", "GC", "GC of bridge"] {
        host.caller.call("ADD", &pod, &conf).ok();
        let before = elements();
        host.caller.call("ADD", &other, &more).ok();
        assert_eq!(elements(), before, "{way}");
        match way {
            "DEL" => host.caller.call("DEL", &pod, &conf).ok(),
            "GC" => host.caller.call("GC", &pod, &with(&conf, gc.clone())).ok(),
            _ => host.caller.call("GC", &pod, &with(&host.bridge(), gc.clone())).ok(),
        };
        assert_eq!(elements(), before, "{way}: the other network has the port");
        for at in HOST {
            seen(Some(&host.client), (at, 8080)).map_err(|error| format!("{way}: {at}: {error}"))?;
        }
        host.caller.call("CHECK", &other, &more).ok();
        host.caller.call("DEL", &other, &more).ok();
        assert_eq!(elements(), 0, "{way}");
    }
    host.caller.call("DEL", &other, &second).ok();
    assert_eq!(records("other"), Vec::<String>::new());
    Ok(())
}

/// Another ADD of the same attachment replaces its ports, with or without its record.
pub fn a_repeated_add_replaces() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_room, pod, conf) = served(&host, "cid")?;
    host.caller.call("ADD", &pod, &conf).ok();
    let other = portmap(&json!([mapping(8081, 80)]), &conf["prevResult"]);
    host.caller.call("ADD", &pod, &other).ok();
    refused(Some(&host.client), (HOST[0], 8080));
    assert_eq!(seen(Some(&host.client), (HOST[0], 8081))?, CLIENT[0]);
    forget("cid");
    host.caller.call("ADD", &pod, &other).ok();
    assert_eq!(elements(), 4, "two per family");
    host.caller.call("DEL", &pod, &other).ok();
    assert_eq!(elements(), 0);
    Ok(())
}

/// DEL finds the elements without a record, and DEL of the main plugin removes what the record says.
pub fn nothing_is_left_without_the_record_or_without_del() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_room, pod, conf) = served(&host, "cid")?;
    host.caller.call("ADD", &pod, &conf).ok();
    forget("cid");
    host.caller.call("DEL", &pod, &conf).ok();
    assert_eq!(elements(), 0);
    host.caller.call("ADD", &pod, &conf).ok();
    assert_eq!(records("net"), ["cid@eth0"], "a record without a main plugin's part");
    host.detach(&pod);
    assert_eq!(elements(), 0);
    assert_eq!(records("net"), Vec::<String>::new());
    Ok(())
}

/// GC removes what no valid attachment owns, with and without a record, of this network only.
pub fn gc_removes_what_nobody_owns() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let mut pods = Vec::new();
    for (at, id) in ["dead", "lost", "lives", "else"].into_iter().enumerate() {
        let (room, pod) = room(id)?;
        let network = if id == "else" { "other" } else { "net" };
        let bridge = with(&host.bridge(), json!({ "name": network }));
        let result = host.caller.call("ADD", &pod, &bridge).ok();
        let conf = with(&portmap(&json!([mapping(8080 + at as u16, 80)]), &result), json!({ "name": network }));
        host.caller.call("ADD", &pod, &conf).ok();
        pods.push((room, pod, conf));
    }
    forget("lost");
    gc(&host, &pods[2].2, &["lives"]).ok();
    let left = nft("list ruleset");
    for (id, stays) in [("dead", false), ("lost", false), ("lives", true), ("else", true)] {
        assert_eq!(left.contains(&format!("id: {id}\"")), stays, "{id}: {left}");
    }
    assert!(records("net").contains(&"lives@eth0".to_owned()));
    assert!(left.contains("chain masq_10.9.1.0-24_13"), "{left}");
    // chains go with the last pod of their network
    for (_, _, conf) in &pods[2..] {
        gc(&host, conf, &[]).ok();
    }
    let left = nft("list ruleset");
    assert!(!left.contains("chain masq_") && left.contains("chain hostports"), "{left}");
    Ok(())
}

/// Upstream's backends: what Go's ADD made with iptables, our CHECK, DEL and GC know.
pub fn what_go_made_is_checked_and_removed() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let go = crate::call::Caller::new(Whose::Reference);
    let (_room, pod, conf) = served(&host, "cid")?;
    let rules = || {
        let output = std::process::Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().matches("CNI-DN-").count()
    };
    go.call("ADD", &pod, &conf).ok();
    assert!(rules() > 0);
    host.caller.call("CHECK", &pod, &conf).ok();
    host.caller.call("DEL", &pod, &conf).ok();
    assert_eq!(rules(), 0);
    let error = host.caller.call("CHECK", &pod, &conf).error();
    assert!(error.contains("nft create element inet cni_portmap") || error.contains("nft add table"), "{error}");
    go.call("ADD", &pod, &conf).ok();
    gc(&host, &conf, &["cid"]).ok();
    assert!(rules() > 0, "it is valid");
    gc(&host, &conf, &[]).ok();
    assert_eq!(rules(), 0);
    // the other way round
    let by_iptables = with(&conf, json!({ "backend": "iptables" }));
    host.caller.call("ADD", &pod, &by_iptables).ok();
    host.caller.call("CHECK", &pod, &by_iptables).ok();
    assert_eq!(seen(Some(&host.client), (HOST[0], 8080))?, CLIENT[0]);
    assert_eq!(seen(None, ("127.0.0.1", 8080))?, BRIDGE[0]);
    go.call("DEL", &pod, &conf).ok();
    assert_eq!(rules(), 0);
    host.caller.call("DEL", &pod, &by_iptables).ok();
    Ok(())
}

/// Today's reference plugins write nf_tables, with the container's ID as comment.
pub fn upstreams_nftables_rules_are_checked_and_removed() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_room, pod, conf) = served(&host, "cid")?;
    fs::write("/proc/sys/net/ipv4/conf/cni0/route_localnet", "1")?;
    let targets: Vec<String> = (0..2).map(|family| address(&conf["prevResult"], family)).collect();
    for (family, target) in ["ip", "ip6"].into_iter().zip(&targets) {
        let to = if family == "ip" { format!("{target}:80") } else { format!("[{target}]:80") };
        for line in [
            format!("add table {family} cni_hostport"),
            format!("add chain {family} cni_hostport hostports"),
            format!("add chain {family} cni_hostport masquerading {{ type nat hook postrouting priority 100 ; }}"),
            format!("add rule {family} cni_hostport hostports tcp dport 8080 dnat to {to} comment \"cid\""),
            format!("add rule {family} cni_hostport hostports tcp dport 8081 dnat to {to} comment \"cid2\""),
            format!(
                "add rule {family} cni_hostport masquerading {family} saddr {target} {family} daddr {target} masquerade comment \"cid\""
            ),
        ] {
            nft(&line);
        }
    }
    host.caller.call("CHECK", &pod, &conf).ok();
    host.caller.call("DEL", &pod, &conf).ok();
    let left = nft("list ruleset");
    assert!(!left.contains("comment \"cid\"") && left.matches("comment \"cid2\"").count() == 2, "{left}");
    Ok(())
}

/// `masqAll` masquerades every connection; Debian's plugin does not have it yet.
pub fn everything_is_masqueraded_when_asked() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_room, pod, conf) = served(&host, "cid")?;
    let conf = with(&conf, json!({ "masqAll": true, "markMasqBit": 5 }));
    host.caller.call("ADD", &pod, &conf).ok();
    host.caller.call("CHECK", &pod, &conf).ok();
    for (at, bridge) in HOST.into_iter().zip(BRIDGE) {
        assert_eq!(seen(Some(&host.client), (at, 8080))?, bridge);
    }
    assert!(nft("list ruleset").contains("0x00000020"));
    host.caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// Conditions in the syntax of `nft`: two pods share a port, each for its own clients.
pub fn conditions_divide_a_port() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (one, first, of_first) = served(&host, "one")?;
    let (_two, second, of_second) = served(&host, "two")?;
    let from = |conf: &Value, v4: &str, v6: &str| {
        with(conf, json!({ "conditionsV4": ["ip", "saddr", v4], "conditionsV6": [format!("ip6 saddr {v6}")] }))
    };
    let first_conf = from(&of_first, CLIENT[0], CLIENT[1]);
    let second_conf = from(&of_second, "198.51.100.0/24", "2001:db8:1::/48");
    host.caller.call("ADD", &first, &first_conf).ok();
    host.caller.call("ADD", &second, &second_conf).ok();
    host.caller.call("CHECK", &first, &first_conf).ok();
    for family in 0..2 {
        assert_eq!(seen(Some(&host.client), (HOST[family], 8080))?, CLIENT[family]);
        refused(None, (HOST[family], 8080));
    }
    one.remove()?;
    host.caller.call("DEL", &first, &first_conf).ok();
    refused(Some(&host.client), (HOST[0], 8080));
    // without its record, too
    forget("two");
    host.caller.call("DEL", &second, &second_conf).ok();
    assert_eq!(elements(), 0);
    Ok(())
}

/// kube-proxy's mode `ipvs` has the addresses of services on a link of the host. Their ports are not the host's
/// (CVE-2019-9946).
pub fn addresses_of_services_are_left_alone() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_room, pod, conf) = served(&host, "cid")?;
    ip("link add kube-ipvs0 type bridge");
    ip("addr add 10.96.0.1/32 dev kube-ipvs0");
    ip("addr add fd96::1/128 dev kube-ipvs0 nodad");
    host.caller.call("ADD", &pod, &conf).ok();
    host.caller.call("CHECK", &pod, &conf).ok();
    for (family, service) in ["10.96.0.1", "fd96::1"].into_iter().enumerate() {
        assert_eq!(seen(Some(&host.client), (HOST[family], 8080))?, CLIENT[family]);
        assert_eq!(seen(Some(&host.client), (SECOND[family], 8080))?, CLIENT[family]);
        refused(None, (service, 8080));
    }
    assert_eq!(seen(None, ("127.0.0.1", 8080))?, BRIDGE[0]);
    host.caller.call("DEL", &pod, &conf).ok();
    assert_eq!(elements(), 0);
    Ok(())
}

/// Every mistake of a configuration is in one error, and nothing is made.
pub fn every_mistake_is_said_at_once() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_room, pod, conf) = served(&host, "cid")?;
    let before = nft("list ruleset");
    let ask = |more: Value| host.caller.call("ADD", &pod, &with(&conf, more)).error();
    let mappings = json!([
        { "hostPort": 0, "containerPort": 65536, "protocol": "icmp", "hostIP": "host" },
        { "hostPort": -1, "containerPort": 80 },
        { "hostPort": 80, "containerPort": 80, "protocol": "TCP" },
        { "hostPort": 80, "containerPort": 81, "protocol": "tcp" },
    ]);
    let error = ask(json!({
        "runtimeConfig": { "portMappings": mappings }, "markMasqBit": 32, "externalSetMarkChain": "a b",
        "conditionsV4": ["ip", "saddr", "nowhere"], "backend": "nftables",
    }));
    for words in [
        "7 ",
        "Cannot specify externalSetMarkChain and markMasqBit",
        "MasqMarkBit must be between 0 and 31",
        "portMappings[0]: Invalid host port number: 0",
        "portMappings[0]: Invalid container port number: 65536",
        "portMappings[0]: protocol \"icmp\"",
        "portMappings[0]: hostIP \"host\"",
        "portMappings[1]: Invalid host port number: -1",
        "portMappings[1]: protocol \"\"",
        "host port 80/tcp is mapped to container ports [80, 81]",
        "nftables backend was requested but configuration contains iptables-specific options [\"externalSetMarkChain\"]",
        "conditionsV4: ip saddr nowhere",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    for (more, words) in [
        (json!({ "backend": "none" }), "7 unrecognized backend \"none\""),
        (
            json!({ "backend": "iptables", "conditionsV6": ["ip6", "saddr", "fd00::1"] }),
            "iptables backend was requested",
        ),
        (json!({ "backend": "iptables", "externalSetMarkChain": "" }), "externalSetMarkChain \"\""),
        (json!({ "snat": "yes" }), "6 error unmarshall network config: snat"),
        (json!({ "markMasqBit": 1.5 }), "6 "),
        (json!({ "runtimeConfig": { "portMappings": {} } }), "6 "),
        (json!({ "runtimeConfig": { "portMappings": [{ "hostPort": "80" }] } }), "hostPort"),
        (json!({ "prevResult": null }), "7 must be called as chained plugin"),
    ] {
        let error = ask(more.clone());
        assert!(error.contains(words), "{more}: {error}");
    }
    assert_eq!(nft("list ruleset"), before);
    assert_eq!(records("net"), ["cid@eth0"]);
    Ok(())
}

/// A rule set that was flushed is made again by the next ADD, reported by CHECK, and no obstacle for DEL.
pub fn a_flushed_rule_set_is_no_obstacle() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (_one, first, of_first) = served(&host, "one")?;
    let (_two, second, _) = served(&host, "two")?;
    host.caller.call("ADD", &first, &of_first).ok();
    for damage in ["flush ruleset", "delete table inet cni_portmap", "flush chain inet cni_portmap hostports"] {
        nft(damage);
        let error = host.caller.call("CHECK", &first, &of_first).error();
        assert!(error.contains("to repair it: nft "), "{damage}: {error}");
        host.caller.call("DEL", &first, &of_first).ok();
        host.caller.call("ADD", &first, &of_first).ok();
        if damage.starts_with("flush chain") {
            nft("flush ruleset");
        }
    }
    nft("flush ruleset");
    let other = portmap(&json!([mapping(8081, 80)]), &of_first["prevResult"]);
    host.caller.call("ADD", &second, &other).ok();
    assert_eq!(seen(Some(&host.client), (HOST[0], 8081))?, CLIENT[0]);
    host.caller.call("STATUS", &Pod::new("", &PathBuf::new()), &newest(&of_first)).ok();
    Ok(())
}

/// ADDs at the same time, the first of which makes the table, all succeed, and so do their DELs.
pub fn sixteen_at_once_are_served() -> Outcome {
    const PODS: [&str; 16] =
        ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b3", "b4", "b5"];
    let host = Host::new(Whose::Ours)?;
    let mut pods = Vec::new();
    for (at, id) in PODS.into_iter().enumerate() {
        let (room, pod) = room(id)?;
        let result = host.attach(&pod);
        pods.push((room, pod, portmap(&json!([mapping(8000 + at as u16, 80)]), &result)));
    }
    let all = |command: &str| {
        let barrier = Barrier::new(pods.len());
        thread::scope(|scope| {
            for (_, pod, conf) in &pods {
                scope.spawn(|| {
                    barrier.wait();
                    host.caller.call(command, pod, conf).ok();
                });
            }
        });
    };
    for _ in 0..3 {
        all("ADD");
        assert_eq!(elements(), 4 * PODS.len());
        all("DEL");
        assert_eq!(elements(), 0);
        nft("flush ruleset");
    }
    Ok(())
}

/// A pod that replaces another at a port serves the senders of before at once.
pub fn a_sender_follows_the_port_to_another_pod() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let ((one, first), (two, second)) = (room("one")?, room("two")?);
    let udp = json!([{ "hostPort": 5353, "containerPort": 53, "protocol": "udp" }]);
    let confs = [&first, &second].map(|pod| portmap(&udp, &host.attach(pod)));
    let any = SocketAddr::from((IpAddr::from([0, 0, 0, 0]), 53));
    let receivers = [&one, &two].map(|room| crate::portmap::socket(Some(room), any));
    let sender = crate::portmap::socket(Some(&host.client), SocketAddr::new(any.ip(), 7777));
    let to = SocketAddr::new(HOST[0].parse()?, 5353);
    let arrives = |at: usize, when| crate::portmap::arrives(&sender, to, &receivers[at], when);
    host.caller.call("ADD", &first, &confs[0]).ok();
    arrives(0, "after the first ADD");
    host.caller.call("DEL", &first, &confs[0]).ok();
    host.caller.call("ADD", &second, &confs[1]).ok();
    arrives(1, "after the second ADD");
    Ok(())
}
