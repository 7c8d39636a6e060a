//! `firewall` behind `bridge`: each backend, as the reference plugin writes it, and the chains of other programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use attachment::record::{DIRECTORY, list};
use attachment::rules::firewall;
use kernel::nft::{Nft, TableKey};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::dbus::{Bus, Manner};
use tests::harness::Outcome;

use crate::bridge::{conf, with};
use crate::call::{Answer, Caller, Pod, Whose};
use crate::iptables::{Host, each};

/// A pod that `bridge` attached, on a host with this variant of iptables.
pub struct Attached {
    pub room: Room,
    pub result: Value,
    id: &'static str,
    bridge: Value,
}

impl Attached {
    pub fn new(caller: &Caller, id: &'static str) -> Self {
        Self::behind(caller, id, conf(caller))
    }

    /// By this configuration of `bridge`.
    pub fn behind(caller: &Caller, id: &'static str, bridge: Value) -> Self {
        let room = Room::create(id).unwrap();
        let result = caller.call("ADD", &Pod::of(&room, id), &bridge).ok();
        Self { room, result, id, bridge }
    }

    pub fn pod(&self) -> Pod {
        Pod::of(&self.room, self.id)
    }

    pub fn firewall(&self, more: Value) -> Value {
        let conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "firewall", "prevResult": self.result });
        with(&conf, more)
    }

    /// Calls our plugin or the reference.
    pub fn call(&self, caller: &Caller, command: &str, more: Value) -> Answer {
        caller.call(command, &self.pod(), &self.firewall(more))
    }

    pub fn leave(self, caller: &Caller) -> Outcome {
        caller.call("DEL", &self.pod(), &self.bridge).ok();
        Ok(self.room.remove()?)
    }
}

const POLICIES: [&str; 3] = ["open", "same-bridge", "isolated"];

/// The reference plugin's lines for a pod, without those that stay.
fn accepts(address: &str) -> [String; 2] {
    [
        format!("-A CNI-FORWARD -d {address} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        format!("-A CNI-FORWARD -s {address} -j ACCEPT"),
    ]
}

/// The lines that stay.
const FRAME: [&str; 4] = [
    ":CNI-ADMIN - [0:0]",
    ":CNI-FORWARD - [0:0]",
    "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD",
    "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN",
];
const ADDRESSES: [&str; 2] = ["10.9.1.2/32", "fd09:1::2/128"];

/// By iptables: ADD writes upstream's rules, CHECK finds them, DEL removes the pod's.
pub fn iptables_rules_come_and_go(whose: Whose) -> Outcome {
    each(|host| {
        let caller = host.caller(whose);
        let pod = Attached::new(&caller, "cid");
        let backend = json!({ "backend": "iptables" });
        let result = pod.call(&caller, "ADD", backend.clone()).ok();
        assert_eq!(result["ips"], pod.result["ips"]);
        for (address, found) in ADDRESSES.iter().zip(host.rules_of("filter")) {
            let expected: Vec<String> = FRAME.iter().map(|line| (*line).to_owned()).chain(accepts(address)).collect();
            assert_eq!(found, expected, "{}", host.variant);
        }
        pod.call(&caller, "ADD", backend.clone()).ok();
        pod.call(&caller, "CHECK", backend.clone()).ok();
        pod.call(&caller, "DEL", backend.clone()).ok();
        assert_eq!(host.rules_of("filter").map(|lines| lines.len()), [FRAME.len(); 2], "{}", host.variant);
        pod.call(&caller, "DEL", backend).ok();
        pod.leave(&caller)?;
        host.clear("filter");
        Ok(())
    })
}

/// Whatever one suite adds, the other checks and removes.
pub fn either_suite_removes_the_others_rules() -> Outcome {
    each(|host| {
        let (ours, go) = (host.caller(Whose::Ours), host.caller(Whose::Reference));
        for (adds, removes) in [(&ours, &go), (&go, &ours)] {
            let pod = Attached::new(&ours, "cid");
            let backend = json!({ "backend": "iptables" });
            pod.call(adds, "ADD", backend.clone()).ok();
            pod.call(&ours, "CHECK", json!({})).ok();
            pod.call(&go, "CHECK", backend.clone()).ok();
            pod.call(removes, "DEL", json!({})).ok();
            assert_eq!(host.rules_of("filter").map(|lines| lines.len()), [FRAME.len(); 2], "{}", host.variant);
            pod.call(&ours, "DEL", json!({})).ok();
            pod.leave(&ours)?;
            host.clear("filter");
        }
        Ok(())
    })
}

fn elements() -> Vec<String> {
    let mut nft = Nft::open().unwrap();
    let mut all = Vec::new();
    for table in [firewall::table(), firewall::bridge_table()] {
        let Some(_) = nft.table(&table).unwrap() else { continue };
        for set in nft.sets(&table).unwrap() {
            let count = nft.elements(&table, &set).unwrap().len();
            all.extend((count > 0).then(|| format!("{table} {} {count}", set.name)));
        }
    }
    all
}

fn records() -> Vec<(String, String)> {
    list(Path::new(DIRECTORY), "net").unwrap()
}

/// By nftables, in each policy: one element per address, CHECK, DEL without the namespace, and nothing in iptables' tables.
pub fn nftables_elements_come_and_go() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    for policy in POLICIES {
        let (pod, other) = (Attached::new(&caller, "cid"), Attached::new(&caller, "other"));
        let more = json!({ "ingressPolicy": policy });
        let before = elements();
        pod.call(&caller, "ADD", more.clone()).ok();
        other.call(&caller, "ADD", more.clone()).ok();
        let inet = |kind: &str| [4, 6].map(|digit| format!("inet cni_firewall {kind}{digit} 2"));
        let mut expected: Vec<String> = inet("pods").into();
        expected.extend(if policy == "open" { Vec::new() } else { inet("policy").into() });
        if policy == "isolated" {
            expected.extend(inet("isolated"));
            expected.extend([4, 6].map(|digit| format!("bridge cni_firewall isolated{digit} 2")));
        }
        let sorted = |mut all: Vec<String>| {
            all.sort();
            all
        };
        assert_eq!(sorted(elements()), sorted(expected), "{policy}");
        pod.call(&caller, "ADD", more.clone()).ok();
        pod.call(&caller, "CHECK", more.clone()).ok();
        assert_eq!(Nft::open()?.table(&TableKey::new(kernel::nft::NftFamily::Ip, "filter"))?, None, "{policy}");
        // no prevResult, no namespace, a configuration with mistakes
        let gone = Pod { netns: "/run/netns/gone".into(), ..pod.pod() };
        let bad = json!({ "cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": "ipfw" });
        caller.call("DEL", &gone, &bad).ok();
        other.call(&caller, "CHECK", more.clone()).ok();
        other.call(&caller, "DEL", more).ok();
        assert_eq!(elements(), before, "{policy}");
        pod.leave(&caller)?;
        other.leave(&caller)?;
        assert_eq!(records(), []);
    }
    Ok(())
}

/// GC removes the elements of attachments that are not valid, those without a record too.
pub fn gc_removes_what_nobody_owns() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let pods = ["keep", "lost", "gone"].map(|id| Attached::new(&caller, id));
    for pod in &pods {
        pod.call(&caller, "ADD", json!({ "ingressPolicy": "isolated" })).ok();
    }
    std::fs::remove_file(Path::new(DIRECTORY).join("net/gone@eth0"))?;
    let more = json!({
        "cniVersion": "1.1.0", "prevResult": null,
        "cni.dev/valid-attachments": [{ "containerID": "keep", "ifname": "eth0" }],
    });
    pods[0].call(&caller, "GC", more).ok();
    let left = elements();
    assert!(left.len() == 8 && left.iter().all(|line| line.ends_with(" 1")), "{left:#?}");
    pods[0].call(&caller, "CHECK", json!({ "ingressPolicy": "isolated" })).ok();
    Ok(())
}

/// `FORWARD` of iptables-nft drops: the accepts are in that chain, before its own rules, as iptables prints them.
pub fn accepts_are_in_a_forward_that_drops() -> Outcome {
    let host = Host::new(crate::iptables::VARIANTS[0]);
    let caller = host.caller(Whose::Ours);
    for program in ["iptables", "ip6tables"] {
        host.run(program, &["-P", "FORWARD", "DROP"]);
        host.run(program, &["-A", "FORWARD", "-j", "REJECT"]);
    }
    let before = ["iptables", "ip6tables"].map(|program| host.run(program, &["-S"]));
    let (pod, other) = (Attached::new(&caller, "cid"), Attached::new(&caller, "other"));
    pod.call(&caller, "ADD", json!({})).ok();
    other.call(&caller, "ADD", json!({})).ok();
    for (program, address) in ["iptables", "ip6tables"].into_iter().zip(ADDRESSES) {
        let text = host.run(program, &["-S", "FORWARD"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["-P FORWARD DROP", FRAME[2]], "{text}");
        assert!(lines.len() == 3 && lines[2].starts_with("-A FORWARD -j REJECT"), "{text}");
        let text = host.run(program, &["-S", "CNI-FORWARD"]);
        let accepts = accepts(address).map(|line| line.replace("RELATED,ESTABLISHED", "RELATED,ESTABLISHED,DNAT"));
        assert!(text.contains(&format!("{}\n{}\n{}", FRAME[3], accepts[0], accepts[1])), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }
    pod.call(&caller, "ADD", json!({})).ok();
    pod.call(&caller, "CHECK", json!({})).ok();
    host.run(
        "iptables",
        &["-D", "FORWARD", "-m", "comment", "--comment", "CNI firewall plugin rules", "-j", "CNI-FORWARD"],
    );
    let error = pod.call(&caller, "CHECK", json!({})).error();
    assert!(error.contains("nft insert rule ip filter FORWARD"), "{error}");
    pod.call(&caller, "ADD", json!({})).ok();
    pod.call(&caller, "CHECK", json!({})).ok();
    pod.call(&caller, "DEL", json!({})).ok();
    other.call(&caller, "CHECK", json!({})).ok();
    other.call(&caller, "DEL", json!({})).ok();
    let after = ["iptables", "ip6tables"].map(|program| host.run(program, &["-S"]));
    for (before, after) in before.iter().zip(&after) {
        assert!(before.lines().all(|line| after.lines().any(|one| one == line)), "{before}\n{after}");
        assert_eq!(after.matches("ACCEPT").count(), before.matches("ACCEPT").count(), "{after}");
    }
    pod.leave(&caller)?;
    other.leave(&caller)
}

/// Chains of others that no accept of ours overrides: ADD warns, and CHECK and STATUS fail with the rule.
pub fn a_chain_of_others_that_drops_is_named() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let pod = Attached::new(&caller, "cid");
    let chain = "add table inet firewalld; add chain inet firewalld filter_FORWARD \
                 { type filter hook forward priority 10; policy accept; }; \
                 add rule inet firewalld filter_FORWARD ct state established,related accept; \
                 add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited";
    let output = Command::new("nft").arg(chain).output()?;
    assert!(output.status.success(), "{output:?}");
    let named = "chain filter_FORWARD of table inet firewalld drops forwarded packets of the pod by its rule";
    let answer = pod.call(&caller, "ADD", json!({}));
    answer.ok();
    assert!(answer.stderr.contains(named) && answer.stderr.contains("\"backend\": \"firewalld\""), "{answer:?}");
    let error = pod.call(&caller, "CHECK", json!({})).error();
    assert!(error.contains(named), "{error}");
    let error = pod.call(&caller, "STATUS", json!({ "cniVersion": "1.1.0", "prevResult": null })).error();
    assert!(error.starts_with("51 ") && error.contains(named), "{error}");
    pod.call(&caller, "DEL", json!({})).ok();
    let output = Command::new("nft").arg("delete table inet firewalld").output()?;
    assert!(output.status.success(), "{output:?}");
    pod.call(&caller, "STATUS", json!({ "cniVersion": "1.1.0", "prevResult": null })).ok();
    pod.leave(&caller)
}

/// firewalld answers, has forgotten, refuses, is silent, does not run, and has no bus.
pub fn firewalld_is_asked_for_a_limited_time() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let pod = Attached::new(&caller, "cid");
    let more = json!({ "backend": "firewalld", "firewalldZone": "pods" });
    let call = |command: &str| pod.call(&caller, command, more.clone());
    let error = call("ADD").error();
    assert!(
        error.contains("firewalld: D-Bus: /run/dbus/system_bus_socket") && error.contains("start firewalld"),
        "{error}"
    );
    call("DEL").ok();
    let bus = Bus::start(Manner::Answers);
    call("ADD").ok();
    assert_eq!(bus.sources(), ["pods 10.9.1.2/32", "pods fd09:1::2/128"]);
    call("ADD").ok();
    call("CHECK").ok();
    bus.forget();
    let error = call("CHECK").error();
    assert!(error.contains("firewall-cmd --zone=pods --add-source=10.9.1.2/32"), "{error}");
    call("ADD").ok();
    // whatever the configuration says by now
    pod.call(&caller, "DEL", json!({ "backend": "nftables" })).ok();
    assert_eq!((bus.sources(), elements()), (Vec::new(), Vec::new()));
    call("DEL").ok();

    bus.behave(Manner::Refuses);
    let error = call("ADD").error();
    assert!(error.contains("add 10.9.1.2/32 to zone pods: firewalld: INVALID_ZONE_NAME: no such zone"), "{error}");
    bus.behave(Manner::Silent);
    let error = call("ADD").error();
    assert!(error.starts_with("11 ") && error.contains("did not answer within 5 s"), "{error}");
    bus.behave(Manner::Absent);
    let error = call("ADD").error();
    assert!(error.contains("firewalld does not run"), "{error}");
    let status = json!({ "cniVersion": "1.1.0", "prevResult": null, "backend": "firewalld" });
    let error = pod.call(&caller, "STATUS", status.clone()).error();
    assert!(error.starts_with("50 ") && error.contains("firewalld does not run"), "{error}");
    call("DEL").ok();
    bus.behave(Manner::Answers);
    pod.call(&caller, "STATUS", status).ok();
    assert_eq!(bus.sources(), Vec::<String>::new());
    pod.leave(&caller)
}

/// The reference plugin uses firewalld by itself where it runs: either suite removes the other's sources.
pub fn either_suite_removes_the_others_sources() -> Outcome {
    let (ours, go) = (Caller::new(Whose::Ours), Caller::new(Whose::Reference));
    let bus = Bus::start(Manner::Answers);
    let pod = Attached::new(&ours, "cid");
    let zone = json!({ "firewalldZone": "pods" });
    pod.call(&go, "ADD", zone.clone()).ok();
    assert_eq!(bus.sources(), ["pods 10.9.1.2/32", "pods fd09:1::2/128"]);
    pod.call(&ours, "CHECK", with(&zone, json!({ "backend": "firewalld" }))).ok();
    pod.call(&ours, "DEL", zone.clone()).ok();
    assert_eq!(bus.sources(), Vec::<String>::new());
    pod.call(&ours, "ADD", with(&zone, json!({ "backend": "firewalld" }))).ok();
    pod.call(&go, "CHECK", zone.clone()).ok();
    pod.call(&go, "DEL", zone).ok();
    assert_eq!(bus.sources(), Vec::<String>::new());
    pod.call(&ours, "DEL", json!({})).ok();
    pod.leave(&ours)
}

/// Every mistake at once, a missing result, a result without addresses, and one without a bridge.
pub fn bad_input_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let pod = Attached::new(&caller, "cid");
    let more = json!({
        "backend": "ipfw", "ingressPolicy": "closed", "iptablesAdminChainName": "FORWARD", "firewalldZone": "a zone",
    });
    let error = pod.call(&caller, "ADD", more).error();
    for part in ["7 ", "\"ipfw\"", "unknown ingress policy: \"closed\"", "\"FORWARD\"", "\"a zone\""] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    for field in ["backend", "ingressPolicy", "iptablesAdminChainName", "firewalldZone"] {
        let error = pod.call(&caller, "ADD", json!({ field: 5 })).error();
        assert!(error.contains(field) || error.contains("invalid type"), "{field}: {error}");
    }
    let error = pod.call(&caller, "ADD", json!({ "prevResult": null })).error();
    assert!(error.starts_with("7 missing prevResult from earlier plugin"), "{error}");
    let none = json!({ "cniVersion": "1.0.0" });
    assert_eq!(pod.call(&caller, "ADD", json!({ "prevResult": none })).ok()["ips"], Value::Null);
    let error = pod.call(&caller, "ADD", json!({ "prevResult": none, "ingressPolicy": "same-bridge" })).error();
    assert!(error.starts_with("7 ") && error.contains("prevResult has no bridge"), "{error}");
    let error = pod.call(&caller, "ADD", json!({ "cniVersion": "0.3.1", "prevResult": null })).error();
    assert!(error.starts_with("1 incompatible CNI versions"), "{error}");
    assert_eq!(elements(), Vec::<String>::new());
    pod.leave(&caller)
}
