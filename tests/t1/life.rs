//! The life of an attachment where something is missing: a configuration that only ADD refuses, a namespace or nf_tables
//! that is not there, a pod that went without DEL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use attachment::rules::{macspoof, masquerade};
use kernel::Kernel;
use kernel::nft::{Nft, TableKey};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf, link, links, records, v4_only, with};
use crate::call::{Answer, Caller, Pod, Whose};

/// With both kinds of rules.
fn with_rules(caller: &Caller) -> Value {
    let rules = json!({ "ipMasq": true, "ipMasqBackend": "nftables", "macspoofchk": true });
    with(&with(&v4_only(&conf(caller), "10.9.1.0/24"), json!({ "cniVersion": "1.1.0" })), rules)
}

fn rules_of(table: &TableKey, chain: &str) -> usize {
    Nft::open().unwrap().rules(table, Some(chain)).map_or(0, |rules| rules.len())
}

/// What is on the host besides the bridge: links, reservations, masquerade rules, MAC checks, records.
fn left(caller: &Caller) -> Vec<String> {
    let mut left: Vec<String> = links(&mut Kernel::open().unwrap()).into_iter().filter(|link| link != "cni0").collect();
    left.extend(caller.reserved("net"));
    left.extend(records("net"));
    for (table, chain) in [(masquerade::table(), "masq_checks"), (macspoof::table(), "PREROUTING")] {
        let rules = rules_of(&table, chain);
        left.extend((rules > 0).then(|| format!("{rules} rules in chain {chain}")));
    }
    let chains = Nft::open().unwrap().view(&macspoof::table()).map(|view| view.chains).unwrap_or_default();
    left.extend(chains.into_iter().map(|chain| chain.name).filter(|name| name != "PREROUTING"));
    left
}

fn gc(caller: &Caller, conf: &Value, valid: &[&str]) -> Answer {
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
    let conf = with(conf, json!({ "cni.dev/valid-attachments": valid }));
    caller.call("GC", &Pod::new("", &PathBuf::new()), &conf)
}

/// What only ADD must refuse is no reason to keep an attachment.
pub fn del_takes_a_configuration_that_add_refuses() -> Outcome {
    for wrong in [
        json!({ "mtu": 100_000 }),
        json!({ "hairpinMode": true, "promiscMode": true }),
        json!({ "runtimeConfig": { "mac": "not a MAC" } }),
        json!({ "bridge": "a-name-that-is-too-long" }),
        json!({ "vlan": 5000 }),
        json!({ "mtu": "1450", "isGateway": "yes" }),
        json!({ "ipMasqBackend": "no-such-backend" }),
        // switched off since
        json!({ "ipMasq": false, "macspoofchk": false }),
        json!({ "ipMasq": null }),
    ] {
        for recorded in [true, false] {
            let caller = Caller::new(Whose::Ours);
            let room = Room::create("pod")?;
            let (pod, good) = (Pod::of(&room, "cid"), with_rules(&caller));
            caller.call("ADD", &pod, &good).ok();
            if !recorded {
                fs::remove_file("/run/cni-attachments/net/cid@eth0")?;
            }
            let answer = caller.call("DEL", &pod, &with(&good, wrong.clone()));
            assert_eq!(answer.status, 0, "DEL with {wrong}: {answer:?}");
            assert_eq!(left(&caller), Vec::<String>::new(), "{wrong}, with a record: {recorded}");
            room.remove()?;
        }
    }
    Ok(())
}

/// CNI_NETNS leads to something else: the namespace is gone, and the host's end goes.
pub fn del_by_a_path_that_leads_to_no_namespace() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let file = caller.files.path().join("file");
    fs::write(&file, "")?;
    let own = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
    let others =
        [file.clone(), file.join("below"), caller.files.path().to_owned(), own, PathBuf::from("/proc/self/ns/uts")];
    for path in others {
        let room = Room::create("pod")?;
        let (pod, conf) = (Pod::of(&room, "cid"), with_rules(&caller));
        caller.call("ADD", &pod, &conf).ok();
        let answer = caller.call("DEL", &Pod { netns: path.clone(), ..pod }, &conf);
        assert_eq!(answer.status, 0, "{}: {answer:?}", path.display());
        assert_eq!(left(&caller), Vec::<String>::new(), "{}", path.display());
        room.remove()?;
    }
    Ok(())
}

/// The path has come to mean another pod's namespace: its interface stays, and this pod's pair goes.
pub fn del_by_another_pods_path_deletes_nothing_of_that_pod() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (one, two) = (Room::create("one")?, Room::create("two")?);
    let conf = v4_only(&conf(&caller), "10.9.1.0/24");
    let result = caller.call("ADD", &Pod::of(&one, "one"), &conf).ok();
    let other = caller.call("ADD", &Pod::of(&two, "two"), &conf).ok();
    caller.call("DEL", &Pod::of(&two, "one"), &conf).ok();
    let mut host = Kernel::open()?;
    let end = |result: &Value| result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let there = links(&mut host);
    assert!(!there.contains(&end(&result)) && there.contains(&end(&other)), "{there:?}");
    assert!(link(&mut two.kernel()?, "eth0").link.up);
    assert_eq!(caller.reserved("net"), ["10.9.1.3"]);
    Ok(())
}

/// The n-th socket that DEL opens is the one for nf_tables; from there on the kernel has none.
fn without_nf_tables(caller: &Caller, command: &str, pod: &Pod, conf: &Value) -> Result<Answer, std::io::Error> {
    let dir = caller.files.path();
    let (_, nth) = caller.traced(command, pod, conf, |traced| traced.find(dir, "socket", &["NETLINK_NETFILTER"]))?;
    let Some(nth) = nth else { panic!("{command} does not open nf_tables") };
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    strace.args([&format!("inject=socket:error=EPROTONOSUPPORT:when={nth}+"), "--"]);
    Ok(Answer::from(caller.under(strace, command, pod, conf)))
}

/// A kernel without nf_tables has no rules to delete; STATUS says that ADD needs it.
pub fn without_nf_tables_del_and_gc_work_and_status_says_it() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let pod = Pod::new("cid", &PathBuf::new());
    let conf = with(&with_rules(&caller), json!({ "cni.dev/valid-attachments": [] }));
    for command in ["DEL", "GC"] {
        let answer = without_nf_tables(&caller, command, &pod, &conf)?;
        assert_eq!(answer.status, 0, "{command}: {answer:?}");
    }
    let error = without_nf_tables(&caller, "STATUS", &pod, &conf)?.error();
    assert!(error.starts_with("50 ") && error.contains("need nf_tables"), "{error}");
    caller.call("STATUS", &pod, &with(&conf, json!({ "ipMasq": false, "macspoofchk": false }))).ok();
    Ok(())
}

/// Pods that died without a DEL, whose configuration has changed since: all of them goes, and nothing of the valid ones.
pub fn gc_takes_dead_pods_links_and_rules() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let rooms = [Room::create("dead")?, Room::create("lives")?];
    let conf = with_rules(&caller);
    caller.call("ADD", &Pod::of(&rooms[0], "dead"), &conf).ok();
    let result = caller.call("ADD", &Pod::of(&rooms[1], "lives"), &conf).ok();
    let since = with(&conf, json!({ "ipMasq": false, "macspoofchk": false, "mtu": 100_000 }));
    gc(&caller, &since, &["lives"]).ok();
    let veth = result["interfaces"][1]["name"].as_str().unwrap();
    let expected = [veth, "10.9.1.3", "lives@eth0", "1 rules in chain masq_checks", "1 rules in chain PREROUTING"]
        .map(str::to_owned);
    let found = left(&caller);
    assert_eq!(found[..5], expected);
    assert!(found[5..].iter().all(|chain| chain.contains("-lives-")), "{found:?}");
    caller.call("CHECK", &Pod::of(&rooms[1], "lives"), &with(&conf, json!({ "prevResult": result }))).ok();
    // without a list of the valid ones nothing is known, and an empty one says that all are dead
    caller.call("GC", &Pod::new("", &PathBuf::new()), &since).ok();
    assert_eq!(left(&caller), found);
    gc(&caller, &since, &[]).ok();
    assert_eq!(left(&caller), Vec::<String>::new());
    Ok(())
}

/// A call of the plugin whose calls on `path` fail as `rule` says.
fn failing(caller: &Caller, command: &str, pod: &Pod, conf: &Value, (path, rule): (&str, &str)) -> Answer {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-P", path, "-e", &format!("inject={rule}"), "--"]);
    Answer::from(caller.under(strace, command, pod, conf))
}

/// A record that cannot be read now says nothing about the attachment: it is kept, with the link that it names.
pub fn what_a_record_names_is_not_forgotten_when_it_cannot_be_read() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let (pod, conf) = (Pod::of(&room, "cid"), with_rules(&caller));
    let nobody = with(&conf, json!({ "cni.dev/valid-attachments": [] }));
    let (record, boot) = ("/run/cni-attachments/net/cid@eth0", "/proc/sys/kernel/random/boot_id");
    for (path, rule) in [(record, "read:error=EIO"), (boot, "open,openat:error=EMFILE"), (boot, "read:error=EIO")] {
        for (command, conf) in [("GC", &nobody), ("DEL", &conf)] {
            caller.call("ADD", &pod, &with_rules(&caller)).ok();
            let error = failing(&caller, command, &pod, conf, (path, rule)).error();
            assert!(error.contains(path) || error.contains("kernel.random.boot_id"), "{command}, {path}: {error}");
            assert!(records("net").contains(&"cid@eth0".to_owned()), "{command}, {path} {rule}: {error}");
            caller.call(command, &pod, conf).ok();
            assert_eq!(left(&caller), Vec::<String>::new(), "{command}, {path} {rule}");
            assert_eq!(links(&mut room.kernel()?), Vec::<String>::new(), "{command}, {path} {rule}");
        }
    }
    Ok(())
}

/// The process that deletes the link cannot have the descriptors that it needs: DEL does its work, and nothing but the
/// answer is on stdout.
pub fn del_does_without_the_process_that_deletes() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let (pod, conf) = (Pod::of(&room, "cid"), with_rules(&caller));
    for nth in [1, 2] {
        caller.call("ADD", &pod, &conf).ok();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject=dup2:error=ENOMEM:when={nth}"), "--"]);
        let answer = Answer::from(caller.under(strace, "DEL", &pod, &conf));
        assert_eq!((answer.status, answer.stdout.as_str()), (0, ""), "{answer:?}");
        assert_eq!(left(&caller), Vec::<String>::new());
    }
    Ok(())
}

/// DEL goes on behind a failure, says all of them, and can be called again.
pub fn del_goes_on_behind_a_failure() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let (pod, conf) = (Pod::of(&room, "cid"), with_rules(&caller));
    caller.call("ADD", &pod, &conf).ok();
    // the IPAM plugin is not there any more
    fs::rename(caller.bin().join("host-local"), caller.bin().join("moved"))?;
    let error = caller.call("DEL", &pod, &conf).error();
    assert!(error.contains("failed to find plugin \"host-local\""), "{error}");
    assert_eq!(left(&caller), ["10.9.1.2", "cid@eth0"], "the reservation and the record that says so");
    fs::rename(caller.bin().join("moved"), caller.bin().join("host-local"))?;
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!(left(&caller), Vec::<String>::new());
    Ok(())
}

/// A runtime that cannot read the answer takes the ADD for failed.
pub fn an_add_whose_answer_cannot_be_written_is_undone() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    for version in ["1.0.0", "1.1.0"] {
        let room = Room::create("pod")?;
        let conf = with(&with_rules(&caller), json!({ "cniVersion": version }));
        let mut sh = Command::new("sh");
        sh.args(["-c", "exec \"$1\" >/dev/full", "sh"]);
        let answer = Answer::from(caller.under(sh, "ADD", &Pod::of(&room, "cid"), &conf));
        assert_eq!(answer.status, 1, "{answer:?}");
        assert_eq!(left(&caller), Vec::<String>::new(), "{answer:?}");
        assert!(format!("{answer:?}").contains("the answer cannot be written to stdout"), "{answer:?}");
        room.remove()?;
    }
    Ok(())
}

/// An id that no file can be named by is refused before anything is made, and DEL of it finds nothing.
pub fn a_container_id_that_is_too_long_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    for length in [251, 4090, 5000] {
        let pod = Pod { id: String::leak("c".repeat(length)), ..Pod::of(&room, "") };
        let conf = with_rules(&caller);
        let error = caller.call("ADD", &pod, &conf).error();
        assert!(error.contains("ENAMETOOLONG") || error.contains("File name too long"), "{length}: {error}");
        assert_eq!(left(&caller), Vec::<String>::new(), "{length}");
        caller.call("DEL", &pod, &conf).ok();
    }
    let longest = Pod { id: String::leak("c".repeat(250)), ..Pod::of(&room, "") };
    let conf = v4_only(&conf(&caller), "10.9.1.0/24");
    caller.call("ADD", &longest, &conf).ok();
    caller.call("DEL", &longest, &conf).ok();
    assert_eq!(left(&caller), Vec::<String>::new());
    Ok(())
}
