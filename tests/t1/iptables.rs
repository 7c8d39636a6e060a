//! Masquerade by iptables, in both of its variants: as the reference plugins write it, and removed whichever suite and
//! variant wrote it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use kernel::Kernel;
use lab::netns::Room;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf, links, records, with};
use crate::call::{Answer, Caller, Pod, Whose};

/// The variants of iptables, by the program that is all of them.
pub const VARIANTS: [&str; 2] = ["/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi"];
const PROGRAMS: [&str; 6] =
    ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];
/// XTABLES_LOCKFILE of iptables.
const LOCK: &str = "/run/xtables.lock";

/// A host on which `iptables` is one variant.
pub struct Host {
    bin: tempfile::TempDir,
    pub variant: &'static str,
}

impl Host {
    pub fn new(variant: &'static str) -> Self {
        let bin = tempfile::tempdir().unwrap();
        PROGRAMS.iter().for_each(|program| symlink(variant, bin.path().join(program)).unwrap());
        Self { bin, variant }
    }

    pub fn caller(&self, whose: Whose) -> Caller {
        Caller::new(whose).with_path(&format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.path().display()))
    }

    /// The chains and rules of plugins in both families' tables.
    fn rules(&self) -> [Vec<String>; 2] {
        self.rules_of("nat")
    }

    /// The same of another table.
    pub fn rules_of(&self, table: &str) -> [Vec<String>; 2] {
        ["iptables-save", "ip6tables-save"].map(|program| {
            let text = self.run(program, &["-t", table]);
            text.lines().filter(|line| line.contains("CNI-")).map(str::to_owned).collect()
        })
    }

    /// Runs a program of this variant, and returns what it prints.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(self.bin.path().join(program)).args(args).output().unwrap();
        assert!(output.status.success(), "{} {program} {args:?}: {output:?}", self.variant);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Empties a table.
    pub fn clear(&self, table: &str) {
        for program in ["iptables", "ip6tables"] {
            self.run(program, &["-t", table, "-F"]);
            self.run(program, &["-t", table, "-X"]);
        }
    }
}

/// For both variants, one after the other.
pub fn each(judge: impl Fn(&Host) -> Outcome) -> Outcome {
    VARIANTS.iter().try_for_each(|variant| judge(&Host::new(variant)))
}

fn by_iptables(caller: &Caller) -> Value {
    let mut conf = with(&conf(caller), json!({ "ipMasq": true, "ipMasqBackend": "iptables" }));
    // CHECK of the reference does not find its own route to a network around the pod's
    conf["ipam"]["routes"] = json!([]);
    conf
}

/// What `iptables-save` prints for a pod with this address.
fn expected(chain: &str, id: &str, [address, net, multicast]: [&str; 3]) -> Vec<String> {
    let comment = format!(r#"-m comment --comment "name: \"net\" id: \"{id}\"""#);
    vec![
        format!(":{chain} - [0:0]"),
        format!("-A POSTROUTING -s {address} {comment} -j {chain}"),
        format!("-A {chain} -d {net} {comment} -j ACCEPT"),
        format!("-A {chain} ! -d {multicast} {comment} -j MASQUERADE"),
    ]
}

const V4: [&str; 3] = ["10.9.1.2/32", "10.9.1.0/24", "224.0.0.0/4"];
const V6: [&str; 3] = ["fd09:1::2/128", "fd09:1::/64", "ff00::/8"];
/// Nothing in either family.
const NOTHING: [Vec<String>; 2] = [Vec::new(), Vec::new()];

/// ADD writes upstream's rules, CHECK finds them, and DEL leaves nothing.
pub fn masquerade_comes_and_goes(whose: Whose) -> Outcome {
    each(|host| {
        let caller = host.caller(whose);
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let conf = by_iptables(&caller);
        let result = caller.call("ADD", &pod, &conf).ok();
        let chain = host.rules()[0][0][1..].split(' ').next().unwrap().to_owned();
        assert!(chain.starts_with("CNI-") && chain.len() == 28, "{chain}");
        assert_eq!(host.rules(), [expected(&chain, "cid", V4), expected(&chain, "cid", V6)], "{}", host.variant);
        caller.call("CHECK", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!(host.rules(), NOTHING, "{}", host.variant);
        caller.call("DEL", &pod, &conf).ok();
        Ok(room.remove()?)
    })
}

/// Whatever one suite adds, the other removes.
pub fn either_suite_removes_the_others_rules() -> Outcome {
    each(|host| {
        for (adds, removes) in [(Whose::Ours, Whose::Reference), (Whose::Reference, Whose::Ours)] {
            let (one, other) = (host.caller(adds), host.caller(removes));
            let room = Room::create("pod")?;
            let pod = Pod::of(&room, "cid");
            let conf = by_iptables(&one);
            let result = one.call("ADD", &pod, &conf).ok();
            assert_eq!(host.rules().map(|rules| rules.len()), [4, 4], "{} by {adds:?}", host.variant);
            other.call("DEL", &pod, &with(&conf, json!({ "prevResult": result }))).ok();
            assert_eq!(host.rules(), NOTHING, "{}: ADD by {adds:?}, DEL by {removes:?}", host.variant);
            // what only our suite has
            host.caller(Whose::Ours).call("DEL", &pod, &conf).ok();
            room.remove()?;
        }
        Ok(())
    })
}

/// CHECK of ours accepts either backend of either suite, whatever the configuration names, and sees what is missing.
pub fn check_accepts_either_backend() -> Outcome {
    each(|host| {
        for (whose, backend) in [(Whose::Reference, "iptables"), (Whose::Ours, "iptables"), (Whose::Ours, "nftables")] {
            let (caller, ours) = (host.caller(whose), host.caller(Whose::Ours));
            let room = Room::create("pod")?;
            let pod = Pod::of(&room, "cid");
            let conf = with(&by_iptables(&caller), json!({ "ipMasqBackend": backend }));
            let result = caller.call("ADD", &pod, &conf).ok();
            let checked = |backend: &str| {
                let more = json!({ "prevResult": result, "ipMasqBackend": backend });
                let answer = ours.call("CHECK", &pod, &with(&conf, more));
                if answer.status == 0 { String::new() } else { answer.error() }
            };
            for named in ["iptables", "nftables", ""] {
                let error = checked(named);
                assert_eq!(error, "", "{}: ADD by {whose:?} with {backend}, CHECK with {named:?}", host.variant);
            }
            if backend == "iptables" {
                host.run("iptables", &["-t", "nat", "-F", "POSTROUTING"]);
                let error = checked("iptables");
                assert!(error.contains("iptables -t nat -A POSTROUTING -s 10.9.1.2/32"), "{error}");
                assert!(checked("nftables").contains("cni_plugins_masquerade"), "no masquerade is found");
            }
            ours.call("DEL", &pod, &conf).ok();
            assert_eq!(host.rules(), NOTHING);
            room.remove()?;
        }
        Ok(())
    })
}

/// GC removes the rules of attachments that are gone, those of the reference plugins too, and leaves other networks'.
pub fn gc_removes_what_nobody_owns() -> Outcome {
    each(|host| {
        let (ours, go) = (host.caller(Whose::Ours), host.caller(Whose::Reference));
        let rooms = ["keep", "lost", "gone", "else"].map(|name| Room::create(name).unwrap());
        let conf =
            |caller: &Caller, name: &str| with(&by_iptables(caller), json!({ "cniVersion": "1.0.0", "name": name }));
        ours.call("ADD", &Pod::of(&rooms[0], "keep"), &conf(&ours, "net")).ok();
        ours.call("ADD", &Pod::of(&rooms[1], "lost"), &conf(&ours, "net")).ok();
        go.call("ADD", &Pod::of(&rooms[2], "gone"), &with(&conf(&ours, "net"), json!({ "bridge": "cni0" }))).ok();
        go.call("ADD", &Pod::of(&rooms[3], "else"), &conf(&go, "other")).ok();
        assert_eq!(host.rules().map(|rules| rules.len()), [16, 16]);
        let more = json!({
            "cniVersion": "1.1.0", "ipMasqBackend": "nftables",
            "cni.dev/valid-attachments": [{ "containerID": "keep", "ifname": "eth0" }],
        });
        ours.call("GC", &Pod::of(&rooms[0], ""), &with(&conf(&ours, "net"), more)).ok();
        let left = host.rules().concat();
        let of = |id: &str| left.iter().filter(|line| line.contains(&format!("id: \\\"{id}\\\""))).count();
        assert_eq!([of("keep"), of("lost"), of("gone"), of("else")], [6, 0, 0, 6], "{}: {left:#?}", host.variant);
        ours.call("DEL", &Pod::of(&rooms[0], "keep"), &conf(&ours, "net")).ok();
        go.call("DEL", &Pod::of(&rooms[3], "else"), &conf(&go, "other")).ok();
        rooms.into_iter().try_for_each(|room| Ok(room.remove()?))
    })
}

/// ADD after another program flushed the table, and DEL after it did so.
pub fn flushed_tables_are_no_obstacle() -> Outcome {
    each(|host| {
        let caller = host.caller(Whose::Ours);
        let (a, b) = (Room::create("a")?, Room::create("b")?);
        let conf = by_iptables(&caller);
        caller.call("ADD", &Pod::of(&a, "a"), &conf).ok();
        for program in ["iptables", "ip6tables"] {
            host.run(program, &["-t", "nat", "-F"]);
        }
        caller.call("ADD", &Pod::of(&b, "b"), &conf).ok();
        caller.call("DEL", &Pod::of(&a, "a"), &conf).ok();
        assert_eq!(host.rules().map(|rules| rules.len()), [4, 4], "{}", host.variant);
        for program in ["iptables", "ip6tables"] {
            host.run(program, &["-t", "nat", "-F"]);
            host.run(program, &["-t", "nat", "-X"]);
        }
        caller.call("DEL", &Pod::of(&b, "b"), &conf).ok();
        assert_eq!(host.rules(), NOTHING);
        a.remove()?;
        Ok(b.remove()?)
    })
}

/// Eight pods at once.
pub fn pods_at_once_are_served() -> Outcome {
    const PODS: [&str; 8] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];
    each(|host| {
        let caller = host.caller(Whose::Ours);
        let rooms = PODS.map(|name| Room::create(name).unwrap());
        let conf = by_iptables(&caller);
        let at_once = |command: &str| -> Vec<Answer> {
            let start = Barrier::new(PODS.len());
            let call = |room: &Room, id: &'static str| {
                start.wait();
                caller.call(command, &Pod::of(room, id), &conf)
            };
            thread::scope(|scope| {
                let calls: Vec<_> =
                    rooms.iter().zip(PODS).map(|(room, id)| scope.spawn(move || call(room, id))).collect();
                calls.into_iter().map(|call| call.join().unwrap()).filter(|answer| answer.status != 0).collect()
            })
        };
        let refused = at_once("ADD");
        assert!(refused.is_empty(), "{}: {refused:#?}", host.variant);
        assert_eq!(host.rules().map(|rules| rules.len()), [32, 32], "{}", host.variant);
        let refused = at_once("DEL");
        assert!(refused.is_empty(), "{}: {refused:#?}", host.variant);
        assert_eq!(host.rules(), NOTHING, "{}", host.variant);
        rooms.into_iter().try_for_each(|room| Ok(room.remove()?))
    })
}

/// What an ADD that was refused must leave.
fn assert_nothing_left(caller: &Caller, room: &Room) -> Outcome {
    let mut left = links(&mut Kernel::open()?);
    left.retain(|link| link.starts_with("veth"));
    left.extend(links(&mut room.kernel()?));
    left.extend(caller.reserved("net"));
    left.extend(records("net"));
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

/// Another program holds the lock of `iptables-legacy`: ADD and DEL fail after a limited time, with the code for another
/// try, and succeed later.
pub fn a_held_lock_is_waited_for_a_limited_time() -> Outcome {
    let host = Host::new(VARIANTS[1]);
    let caller = host.caller(Whose::Ours);
    let (room, other) = (Room::create("pod")?, Room::create("other")?);
    let (pod, second) = (Pod::of(&room, "cid"), Pod::of(&other, "other"));
    let conf = by_iptables(&caller);
    caller.call("ADD", &pod, &conf).ok();
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(LOCK)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let error = caller.call("ADD", &second, &conf).error();
    assert!(error.starts_with("11 ") && error.contains("holding the xtables lock"), "{error}");
    let error = caller.call("DEL", &pod, &conf).error();
    assert!(error.starts_with("11 ") && error.contains("holding the xtables lock"), "{error}");
    drop(lock);
    caller.call("DEL", &pod, &conf).ok();
    caller.call("DEL", &second, &conf).ok();
    assert_eq!(host.rules(), NOTHING);
    assert_nothing_left(&caller, &room)?;
    assert_nothing_left(&caller, &other)
}

/// A host without iptables: ADD and STATUS say so, and DEL and GC succeed.
pub fn a_host_without_the_programs() -> Outcome {
    let caller = Caller::new(Whose::Ours).with_path("/no/such/folder");
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = with(&by_iptables(&caller), json!({ "cniVersion": "1.1.0" }));
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.contains("iptables-save cannot be run: ") && error.contains("install iptables"), "{error}");
    assert_nothing_left(&caller, &room)?;
    let error = caller.call("STATUS", &pod, &conf).error();
    assert!(error.starts_with("50 ") && error.contains("iptables-save cannot be run"), "{error}");
    caller.call("DEL", &pod, &conf).ok();
    caller.call("GC", &pod, &with(&conf, json!({ "cni.dev/valid-attachments": [] }))).ok();
    Ok(())
}

/// A program that does not end is killed, and the runtime shall try again.
pub fn a_program_that_does_not_end_is_killed() -> Outcome {
    let bin = tempfile::tempdir()?;
    let pipe = bin.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)?;
    script(&bin.path().join("iptables-save"), &format!("read line < {}", pipe.display()))?;
    let caller = Caller::new(Whose::Ours).with_path(&bin.path().display().to_string());
    let room = Room::create("pod")?;
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &by_iptables(&caller)).error();
    assert!(error.starts_with("11 ") && error.contains("iptables-save did not end within 10 s"), "{error}");
    assert_nothing_left(&caller, &room)
}

/// A program that reports success and has done nothing is tried again, and the ADD fails.
pub fn a_program_that_does_nothing_has_no_success() -> Outcome {
    let bin = tempfile::tempdir()?;
    for name in ["iptables-save", "ip6tables-save"] {
        script(&bin.path().join(name), "echo '*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT'")?;
    }
    for name in ["iptables-restore", "ip6tables-restore"] {
        script(&bin.path().join(name), &format!("echo >> {}", bin.path().join("runs").display()))?;
    }
    let caller = Caller::new(Whose::Ours).with_path(&format!("{}:/bin:/usr/bin", bin.path().display()));
    let room = Room::create("pod")?;
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &by_iptables(&caller)).error();
    assert!(
        error.starts_with("11 ") && error.contains("has succeeded, and the rules in table nat are not there"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(bin.path().join("runs"))?.lines().count(), 3);
    assert_nothing_left(&caller, &room)
}

fn script(path: &PathBuf, text: &str) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(Path::new(path), std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
