//! What is left of a macvlan attachment, whose interface no link of the host leads to: an ADD that was killed, a path that
//! is another pod's by now, a pod that went without DEL.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{link, links, records, with};
use crate::call::{Answer, Caller, Pod, Whose};
use crate::macvlan::{host, left, one_family};

/// The path has come to mean another pod's namespace: its interface stays, and this pod's goes by the recorded path.
pub fn del_by_another_pods_path_deletes_nothing_of_that_pod() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    for (recorded_leads_there, names) in [(true, ["one", "two"]), (false, ["three", "four"])] {
        let (one, two) = (Room::create(names[0])?, Room::create(names[1])?);
        let conf = one_family(&caller);
        caller.call("ADD", &Pod::of(&one, "one"), &conf).ok();
        caller.call("ADD", &Pod::of(&two, "two"), &conf).ok();
        let (path, mut first) = (one.path().to_owned(), one.kernel()?);
        if !recorded_leads_there {
            one.remove()?;
            symlink(two.path(), &path)?;
        }
        caller.call("DEL", &Pod::of(&two, "one"), &conf).ok();
        assert!(link(&mut two.kernel()?, "eth0").link.up, "the other pod's interface");
        assert_eq!(links(&mut first).is_empty(), recorded_leads_there, "the pod's own");
        assert_eq!(records("net"), ["two@eth0"]);
        caller.call("DEL", &Pod::of(&two, "two"), &conf).ok();
        assert_eq!(caller.reserved("net"), Vec::<String>::new());
    }
    Ok(())
}

fn gc(caller: &Caller, conf: &Value, valid: &[&str]) -> Answer {
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
    let conf = with(conf, json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid }));
    caller.call("GC", &Pod::new("", &PathBuf::new()), &conf)
}

/// An ADD is killed before each of its system calls in turn; `end` cleans up and must leave nothing, on the host and in
/// the pod's namespace, which lives.
fn killed_at_any_call(end: impl Fn(&Caller, &Pod, &Value)) -> Outcome {
    let _host = host();
    let mut orphans = Vec::new();
    let mut tried = 0;
    let calls = {
        let (caller, room) = (Caller::new(Whose::Ours), Room::create("whole")?);
        let (pod, conf) = (Pod::of(&room, "whole"), one_family(&caller));
        let (output, calls) = caller.traced("ADD", &pod, &conf, |traced| traced.calls(caller.files.path()))?;
        Answer::from(output).ok();
        caller.call("DEL", &pod, &conf).ok();
        calls
    };
    for (call, nth) in calls.iter().flat_map(|(call, often)| (1..=*often).map(move |nth| (call, nth))) {
        if call == "execve" {
            continue; // strace's own
        }
        let caller = Caller::new(Whose::Ours);
        let room = Room::create("pod")?;
        let (pod, conf) = (Pod::of(&room, "cid"), one_family(&caller));
        let killed = caller
            .traced("ADD", &pod, &conf, |traced| traced.disturbed(caller.files.path(), call, "signal=KILL", nth))?;
        tried += usize::from(killed.is_some());
        end(&caller, &pod, &conf);
        let left = left(&caller, &room);
        if !left.is_empty() {
            orphans.push(format!("killed at call {nth} of {call}: {left:?}"));
            caller.call("DEL", &pod, &conf).ok();
        }
        room.remove()?;
    }
    assert!(tried > 60, "an ADD makes more calls than {tried}: {calls:?}");
    assert!(orphans.is_empty(), "of {tried} killed ADDs there is left: {orphans:#?}");
    Ok(())
}

pub fn del_finds_what_an_add_left_that_was_killed_at_any_call() -> Outcome {
    killed_at_any_call(|caller, pod, conf| drop(caller.call("DEL", pod, conf).ok()))
}

/// The runtime has forgotten the path: the record alone tells.
pub fn del_without_a_path_finds_what_an_add_left_that_was_killed_at_any_call() -> Outcome {
    killed_at_any_call(|caller, pod, conf| {
        caller.call("DEL", &Pod { netns: PathBuf::new(), ..pod.clone() }, conf).ok();
    })
}

pub fn gc_finds_what_an_add_left_that_was_killed_at_any_call() -> Outcome {
    killed_at_any_call(|caller, _, conf| drop(gc(caller, conf, &[]).ok()))
}

/// Also of a pod whose namespace is gone, or is another's by now.
pub fn gc_takes_dead_pods_interfaces_only() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let _host = host();
    let rooms = [Room::create("dead")?, Room::create("lives")?, Room::create("gone")?];
    let conf = one_family(&caller);
    for (room, id) in rooms.iter().zip(["dead", "lives", "gone"]) {
        caller.call("ADD", &Pod::of(room, id), &conf).ok();
    }
    let [dead, lives, gone] = rooms;
    let path = gone.path().to_owned();
    gone.remove()?;
    symlink(lives.path(), &path)?;
    gc(&caller, &conf, &["lives"]).ok();
    assert_eq!(left(&caller, &dead), ["10.9.1.3", "lives@eth0"]);
    assert!(link(&mut lives.kernel()?, "eth0").link.up);
    gc(&caller, &conf, &[]).ok();
    assert_eq!(left(&caller, &lives), Vec::<String>::new());
    Ok(())
}
