//! Two runtimes on one host use a network of one name: the GC of one leaves the living pods of the other alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use kernel::types::IfName;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Caller, Pod, Whose};

/// A program that calls plugins: a copy of a shell under another name.
struct Runtime<'a> {
    caller: &'a Caller,
    shell: PathBuf,
}

impl<'a> Runtime<'a> {
    fn new(caller: &'a Caller, name: &str) -> Self {
        let shell = caller.files.path().join(name);
        fs::copy("/bin/sh", &shell).unwrap();
        Self { caller, shell }
    }

    /// The call must succeed. The shell stays the plugin's parent, because it has something to do afterwards.
    fn call(&self, command: &str, pod: &Pod, conf: &Value) {
        let plugin = self.caller.bin().join(conf["type"].as_str().unwrap());
        let input = self.caller.files.path().join("input");
        fs::write(&input, conf.to_string()).unwrap();
        let script = "\"$0\" <\"$1\"; status=$?; exit $status";
        let mut shell = Command::new(&self.shell);
        shell.args(["-c", script]).args([&plugin, &input]).env_clear();
        shell.env("CNI_COMMAND", command).env("CNI_CONTAINERID", pod.id).env("CNI_NETNS", &pod.netns);
        shell.env("CNI_IFNAME", pod.ifname).env("CNI_PATH", self.caller.bin());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// GC without any valid attachment.
    fn gc(&self, pod: &Pod, conf: &Value) {
        let mut conf = conf.clone();
        conf["cni.dev/valid-attachments"] = json!([]);
        self.call("GC", pod, &conf);
    }
}

fn has_eth0(room: &Room) -> bool {
    room.kernel().unwrap().link(&IfName::new("eth0").unwrap()).unwrap().is_some()
}

fn conf(caller: &Caller) -> Value {
    let mut conf = caller.gateway();
    conf["cniVersion"] = "1.1.0".into();
    conf["ipMasq"] = true.into();
    conf["ipMasqBackend"] = "nftables".into();
    conf
}

pub fn gc_leaves_the_pods_of_another_runtime() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (one, other) = (Runtime::new(&caller, "one"), Runtime::new(&caller, "other"));
    let conf = conf(&caller);
    let rooms = [Room::create("pod1")?, Room::create("pod2")?];
    let [pod1, pod2] = [Pod::of(&rooms[0], "pod1"), Pod::of(&rooms[1], "pod2")];
    one.call("ADD", &pod1, &conf);
    other.call("ADD", &pod2, &conf);
    other.gc(&pod2, &conf);
    assert_eq!(rooms.each_ref().map(has_eth0), [true, false], "its own pod is collected, and no other");
    assert_eq!(caller.reserved("net"), ["10.9.1.2"]);
    let rules = Command::new("nft").args(["list", "table", "inet", "cni_plugins_masquerade"]).output()?;
    assert!(String::from_utf8(rules.stdout)?.contains("10.9.1.2"), "it keeps its masquerade");
    one.gc(&pod1, &conf);
    assert!(!has_eth0(&rooms[0]) && caller.reserved("net").is_empty(), "its own runtime collects it");
    Ok(())
}

pub fn gc_collects_the_dead_pods_of_another_runtime() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (one, other) = (Runtime::new(&caller, "one"), Runtime::new(&caller, "other"));
    let (conf, room) = (conf(&caller), Room::create("pod1")?);
    let pod = Pod::of(&room, "pod1");
    one.call("ADD", &pod, &conf);
    room.remove()?;
    other.gc(&pod, &conf);
    assert_eq!(caller.reserved("net"), [""; 0]);
    Ok(())
}
