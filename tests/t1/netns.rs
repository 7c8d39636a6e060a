//! CNI_NETNS is opened once, and the decision is about the opened file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel::Kernel;
use kernel::diff::{LinkChange, Step};
use kernel::netns::pin_current;
use kernel::state::{Link, LinkKind};
use kernel::types::IfName;
use lab::netns::Room;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Answer, Caller, Pod, Whose};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// Every name that the executable has, with a configuration that it takes.
fn confs(caller: &Caller) -> Vec<Value> {
    let files = caller.files.path();
    let env = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write(files.join("subnet.env"), env).unwrap();
    let conf = |kind: &str| {
        json!({
            "cniVersion": "1.0.0", "name": format!("net-{kind}"), "type": kind, "isGateway": true,
            "subnetFile": files.join("subnet.env"), "dataDir": files.join("flannel"),
            "ipam": {
                "type": "host-local", "dataDir": caller.data(), "ranges": [[{ "subnet": "10.9.1.0/24" }]],
            },
        })
    };
    plugins::SUITE.iter().map(|plugin| conf(plugin.name())).collect()
}

/// `eth0`, as a host has it, up.
fn host_link() {
    let mut host = Kernel::open().unwrap();
    host.apply(&[Step::CreateLink(name("eth0"), Link::up(LinkKind::Veth(kernel::state::Veth { peer: None })))])
        .ok()
        .unwrap();
    let up = |dev: &str| Step::ChangeLink(name(dev), LinkChange::up());
    host.apply(&[up("eth0"), up("lo")]).ok().unwrap();
}

fn is_up(dev: &str) -> bool {
    Kernel::open().unwrap().link(&name(dev)).unwrap().is_some_and(|seen| seen.link.up)
}

/// ADD, CHECK and DEL with a prevResult, so that nothing else prevents them.
fn each_verb(caller: &Caller, netns: &Path, conf: &Value) -> Vec<(&'static str, Answer)> {
    let mut conf = conf.clone();
    let pod = Pod::new("cid", netns);
    let mut call = |verb: &'static str| {
        if verb != "ADD" {
            conf["prevResult"] = json!({ "cniVersion": "1.0.0", "interfaces": [], "ips": [] });
        }
        (verb, caller.call(verb, &pod, &conf))
    };
    ["ADD", "CHECK", "DEL"].map(&mut call).into()
}

/// No plugin works in its own namespace, by whatever path. For DEL such a path means that the container is gone.
pub fn the_hosts_own_namespace_is_refused_by_any_path() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    host_link();
    let file = |name: &str| caller.files.path().join(name);
    let process = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
    symlink(&process, file("link"))?;
    pin_current(&file("bound"))?;
    symlink("bound", file("link-to-bound"))?;
    for path in [&process, &file("link"), &file("bound"), &file("link-to-bound")] {
        for conf in confs(&caller) {
            for (verb, answer) in each_verb(&caller, path, &conf) {
                let what = format!("{} {verb} {}", conf["type"], path.display());
                assert!(is_up("eth0") && is_up("lo"), "{what}: a link of the host is gone");
                if verb == "DEL" {
                    // the container is gone
                    assert_eq!(answer.status, 0, "{what}: {answer:?}");
                    continue;
                }
                assert_eq!(answer.status, 1, "{what} works in the host's own namespace: {answer:?}");
                let error = answer.error();
                assert!(
                    error.starts_with("8 plugin's netns and netns from CNI_NETNS should not be the same"),
                    "{what}: {error}"
                );
            }
        }
    }
    rustix::mount::unmount(file("bound"), rustix::mount::UnmountFlags::empty())?;
    Ok(())
}

/// A file that is not a network namespace is refused at once: a FIFO without a writer, a plain file, a folder,
/// another kind of namespace. For DEL it means that the namespace is gone.
pub fn what_is_no_namespace_holds_nobody_up() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let fifo = caller.files.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let file = caller.files.path().join("file");
    fs::write(&file, "")?;
    let paths = [fifo, file, caller.files.path().to_owned(), PathBuf::from("/proc/self/ns/uts")];
    for path in &paths {
        for conf in confs(&caller).iter().filter(|conf| conf["type"] == "bridge" || conf["type"] == "loopback") {
            for (verb, answer) in each_verb(&caller, path, conf).into_iter().filter(|(verb, _)| *verb != "CHECK") {
                let what = format!("{} {verb} {}", conf["type"], path.display());
                if verb == "DEL" {
                    assert_eq!(answer.status, 0, "{what}: {answer:?}");
                    continue;
                }
                assert_eq!(answer.status, 1, "{what}: {answer:?}");
                assert!(answer.stdout.contains(path.to_str().unwrap()), "{what} does not name it: {answer:?}");
            }
        }
    }
    // these never look into it
    for conf in confs(&caller).iter().filter(|conf| conf["type"] == "host-local") {
        caller.call("ADD", &Pod::new("cid", &paths[0]), conf).ok();
        caller.call("DEL", &Pod::new("cid", &paths[0]), conf).ok();
    }
    Ok(())
}

/// The path is used once, to open it without waiting. What it leads to a moment later does not matter.
pub fn the_path_is_used_once() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    for conf in
        confs(&caller).iter().filter(|conf| ["bridge", "flannel", "loopback"].map(Value::from).contains(&conf["type"]))
    {
        let room = Room::create("pod")?;
        let path = caller.files.path().join("netns");
        let _ = fs::remove_file(&path);
        symlink(room.path(), &path)?;
        let pod = Pod::new("cid", &path);
        for verb in ["ADD", "DEL"] {
            let log = caller.files.path().join("log");
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-e", "trace=file", "-o"]).arg(&log).arg("--");
            let output = caller.under(strace, verb, &pod, conf);
            assert!(output.status.success(), "{output:?}");
            let log = fs::read_to_string(log)?;
            // the environment and the state that ADD leaves are no use of it
            let quoted = format!("\"{}\"", path.display());
            let uses: Vec<&str> = log.lines().filter(|line| line.contains(&quoted) && !line.contains("exec")).collect();
            let what = format!("{} {verb}: uses of CNI_NETNS: {uses:#?}", conf["type"]);
            assert!(uses.len() == 1 && uses[0].contains("open"), "{what}");
            assert!(uses[0].contains("O_NONBLOCK") && uses[0].contains("O_CLOEXEC"), "{what}");
        }
        room.remove()?;
    }
    Ok(())
}

/// CNI_NETNS_OVERRIDE permits it.
pub fn the_hosts_own_namespace_can_be_meant() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let own = format!("/proc/{}/ns/net", std::process::id());
    let lo = br#"{"cniVersion":"1.0.0","name":"lo","type":"loopback"}"#;
    for (verb, up) in [("ADD", true), ("CHECK", true), ("DEL", false)] {
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "cid"),
            ("CNI_NETNS", own.as_str()),
            ("CNI_IFNAME", "lo"),
            ("CNI_PATH", "/nowhere"),
            ("CNI_NETNS_OVERRIDE", "true"),
        ];
        caller.raw("loopback", &variables, lo).ok();
        assert_eq!(is_up("lo"), up, "{verb}");
    }
    Ok(())
}
