//! What is left of a macvlan attachment, whose interface no link of the host leads to: a path that is another pod's by
//! now, a pod that went without DEL.

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
