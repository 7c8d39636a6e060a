//! Attachments that the Go plugins made are detached by ours, as when a host moves from one suite to the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Command;

use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf, with};
use crate::call::{Caller, Pod, Whose};

const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];

/// What the nat table holds: a chain or a rule per line.
fn nat(program: &str) -> Vec<String> {
    let output = Command::new(program).args(["-t", "nat", "-S"]).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Both programs' tables.
fn tables() -> [Vec<String>; 2] {
    PROGRAMS.map(nat)
}

/// A chain, the jump to it and its two rules.
const LINES: usize = 4;

/// Two pods that the Go plugins attached with masquerade, and ours.
struct Moved {
    ours: Caller,
    /// Keeps the files.
    _go: Caller,
    rooms: [Room; 2],
    conf: Value,
    /// The tables without any pod, with the one that leaves, and with both.
    seen: [[Vec<String>; 2]; 3],
}

impl Moved {
    fn new(more: Value) -> Result<Self, Box<dyn std::error::Error>> {
        let (ours, go) = (Caller::new(Whose::Ours), Caller::new(Whose::Reference));
        let rooms = [Room::create("leaves")?, Room::create("stays")?];
        let conf = with(&with(&conf(&go), json!({ "ipMasq": true })), more);
        let none = tables();
        go.call("ADD", &Pod::of(&rooms[0], "leaves"), &conf).ok();
        let one = tables();
        go.call("ADD", &Pod::of(&rooms[1], "stays"), &conf).ok();
        Ok(Self { ours, _go: go, rooms, conf, seen: [none, one, tables()] })
    }

    fn leaves(&self) -> Pod {
        Pod::of(&self.rooms[0], "leaves")
    }

    /// Nothing of this pod is left in table `which`, and everything of the other.
    fn judge(&self, which: usize) -> Outcome {
        let [none, one, both] = self.seen.each_ref().map(|tables| &tables[which]);
        let (program, now) = (PROGRAMS[which], nat(PROGRAMS[which]));
        let of_one: Vec<_> = one.iter().filter(|line| !none.contains(line)).collect();
        let of_other: Vec<_> = both.iter().filter(|line| !one.contains(line)).collect();
        assert_eq!((of_one.len(), of_other.len()), (LINES, LINES), "{program}: {both:#?}");
        let left: Vec<_> = of_one.into_iter().filter(|line| now.contains(line)).collect();
        assert!(left.is_empty(), "{program}'s rules of the detached pod are left: {left:#?}");
        assert!(
            of_other.iter().all(|line| now.contains(line)),
            "{program}'s rules of the other pod are gone: {now:#?}"
        );
        Ok(())
    }
}

pub fn our_del_removes_gos_masquerade_ipv4() -> Outcome {
    let moved = Moved::new(json!({}))?;
    moved.ours.call("DEL", &moved.leaves(), &moved.conf).ok();
    moved.judge(0)
}

pub fn our_del_removes_gos_masquerade_ipv6() -> Outcome {
    let moved = Moved::new(json!({}))?;
    moved.ours.call("DEL", &moved.leaves(), &moved.conf).ok();
    moved.judge(1)
}

/// The pod is gone with its namespace.
pub fn our_del_removes_gos_masquerade_without_the_namespace() -> Outcome {
    let moved = Moved::new(json!({}))?;
    let pod = Pod { netns: PathBuf::new(), ..moved.leaves() };
    moved.ours.call("DEL", &pod, &moved.conf).ok();
    moved.judge(0).and(moved.judge(1))
}

/// The configuration names the backend.
pub fn our_del_takes_a_configuration_that_names_iptables() -> Outcome {
    let moved = Moved::new(json!({ "ipMasqBackend": "iptables" }))?;
    let answer = moved.ours.call("DEL", &moved.leaves(), &moved.conf);
    assert_eq!(answer.status, 0, "DEL fails for the backend's name: {answer:?}");
    moved.judge(0).and(moved.judge(1))
}
