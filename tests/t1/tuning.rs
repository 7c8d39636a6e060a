//! tuning behind bridge: the common behaviour of ours and the reference plugin, the way from one to the other, then where
//! ours differ.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use kernel::Kernel;
use kernel::message::link::SeenLink;
use kernel::sysctl;
use lab::netns::Room;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{conf as bridge_conf, link, with};
use crate::call::{Answer, Caller, Pod, Whose};

const MAC: &str = "02:00:00:00:09:07";

/// A pod on a bridge, and the configuration of what comes behind the bridge.
struct Stage {
    caller: Caller,
    room: Room,
    bridge: Value,
    /// What the bridge plugin answered.
    before: Value,
}

impl Stage {
    fn new(whose: Whose) -> Result<Self, Box<dyn std::error::Error>> {
        let (caller, room) = (Caller::new(whose), Room::create("pod")?);
        let bridge = bridge_conf(&caller);
        let before = caller.call("ADD", &Pod::of(&room, "cid"), &bridge).ok();
        Ok(Self { caller, room, bridge, before })
    }

    fn pod(&self) -> Pod {
        Pod::of(&self.room, "cid")
    }

    fn data(&self) -> PathBuf {
        self.caller.files.path().join("tuning")
    }

    fn conf(&self, more: Value) -> Value {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "tuning", "dataDir": self.data(), "prevResult": self.before,
        });
        with(&conf, more)
    }

    fn call(&self, command: &str, more: Value) -> Answer {
        self.caller.call(command, &self.pod(), &self.conf(more))
    }

    fn eth0(&self) -> Settings {
        Settings::of(&link(&mut self.room.kernel().unwrap(), "eth0"))
    }

    /// The value of a parameter in the pod.
    fn value(&self, key: &str) -> String {
        self.room.enter(|| sysctl::read(key)).unwrap().unwrap().unwrap()
    }

    /// The files of what DEL restores.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn leave(self) -> Outcome {
        self.caller.call("DEL", &self.pod(), &self.bridge).ok();
        assert_eq!(self.files(), Vec::<String>::new());
        self.room.remove()?;
        Ok(())
    }
}

/// What the plugin changes of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    mac: String,
    mtu: u32,
    promisc: Option<bool>,
    allmulti: Option<bool>,
    queue_len: Option<u32>,
}

impl Settings {
    fn of(seen: &SeenLink) -> Self {
        let link = &seen.link;
        Self {
            mac: link.mac.unwrap().to_string(),
            mtu: link.mtu.unwrap().0,
            promisc: link.promisc,
            allmulti: link.allmulti,
            queue_len: link.queue_len,
        }
    }

    fn tuned(before: &Self) -> Self {
        Self { mac: MAC.into(), mtu: 1300, promisc: Some(true), allmulti: Some(true), ..before.clone() }
    }
}

fn all() -> Value {
    json!({
        "mac": MAC, "mtu": 1300, "promisc": true, "allmulti": true,
        "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1", "net.core.somaxconn": "321", "net/ipv6/conf/eth0/hop_limit": "33" },
    })
}

/// Everything set, the result, CHECK, everything restored but the parameters, and no file left.
pub fn a_tuned_pod_lives_and_goes(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    let before = stage.eth0();
    let result = stage.call("ADD", all()).ok();
    assert_eq!(stage.eth0(), Settings::tuned(&before));
    let values =
        [("net/ipv4/conf/eth0/arp_filter", "1"), ("net/core/somaxconn", "321"), ("net/ipv6/conf/eth0/hop_limit", "33")];
    for (key, value) in values {
        assert_eq!(stage.value(key), value, "{key}");
    }
    assert_eq!(stage.files(), ["cid_eth0.json"]);
    let mut expected = stage.before.clone();
    expected["interfaces"][2]["mac"] = json!(MAC);
    if whose == Whose::Ours {
        expected["interfaces"][2]["mtu"] = json!(1300);
    }
    assert_eq!(result, expected);
    stage.call("CHECK", with(&all(), json!({ "prevResult": result }))).ok();
    for wrong in [
        json!({ "mac": "02:00:00:00:09:08" }),
        json!({ "mtu": 1301 }),
        json!({ "allmulti": false }),
        json!({ "sysctl": { "net.core.somaxconn": "322" } }),
    ] {
        let answer = stage.call("CHECK", with(&with(&all(), json!({ "prevResult": result })), wrong.clone()));
        assert_ne!(answer.status, 0, "{wrong}: {answer:?}");
    }
    stage.call("DEL", all()).ok();
    assert_eq!((stage.eth0(), stage.files().len()), (before, 0));
    assert_eq!(stage.value("net/core/somaxconn"), "321", "parameters are the pod's own");
    stage.call("DEL", all()).ok();
    stage.leave()
}

/// `runtimeConfig`, CNI_ARGS and `args.cni` override fields.
pub fn the_runtime_overrides_fields(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    let pod = Pod { args: "IgnoreUnknown=1;MAC=02:00:00:00:09:02", ..stage.pod() };
    let add = |more: Value| stage.caller.call("ADD", &pod, &stage.conf(with(&json!({ "mac": MAC }), more))).ok();
    add(json!({}));
    assert_eq!(stage.eth0().mac, "02:00:00:00:09:02");
    add(json!({ "runtimeConfig": { "mac": "02:00:00:00:09:03" } }));
    assert_eq!(stage.eth0().mac, "02:00:00:00:09:03");
    let args = json!({ "mac": "02:00:00:00:09:04", "mtu": 1290, "sysctl": { "net.core.somaxconn": "45" } });
    let own = json!({ "net.core.somaxconn": "44", "net.ipv4.conf.IFNAME.arp_filter": "1" });
    add(json!({ "mtu": 1280, "sysctl": own, "args": { "cni": args } }));
    assert_eq!((stage.eth0().mac.as_str(), stage.eth0().mtu), ("02:00:00:00:09:04", 1290));
    let values = ["net/core/somaxconn", "net/ipv4/conf/eth0/arp_filter"].map(|key| stage.value(key));
    assert_eq!(values, ["45", "1"]);
    stage.call("DEL", json!({})).ok();
    stage.leave()
}

/// Parameters outside the pod's network, twice, unknown.
pub fn other_parameters_are_refused(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    let panic = sysctl::read("kernel/panic")?;
    for key in ["kernel.panic", "net", "/proc/sys/net/core/somaxconn", "net/../kernel/panic"] {
        let answer = stage.call("ADD", json!({ "sysctl": { key: "3" } }));
        assert_eq!(answer.status, 1, "{key}: {answer:?}");
    }
    let answer = stage.call("ADD", json!({ "sysctl": { "net.core.no_such": "3" } }));
    assert_eq!(answer.status, 1, "{answer:?}");
    assert_eq!(sysctl::read("kernel/panic")?, panic);
    stage.leave()
}

/// Their order does not matter, so that one of two is lost. Debian's reference plugin is too old to refuse it.
pub fn a_parameter_that_is_named_twice_is_refused() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let text = stage.conf(json!({ "sysctl": { "net.core.somaxconn": "3" } })).to_string();
    let twice = text.replace(r#""net.core.somaxconn":"3""#, r#""net.core.somaxconn":"3","net.core.somaxconn":"4""#);
    let (netns, path) = (stage.room.path().display().to_string(), stage.caller.bin().display().to_string());
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "cid"),
        ("CNI_NETNS", netns.as_str()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", path.as_str()),
    ];
    let answer = stage.caller.raw("tuning", &variables, twice.as_bytes());
    assert!(answer.error().contains("duplicated sysctl keys are not allowed"), "{answer:?}");
    assert_ne!(stage.value("net/core/somaxconn"), "3");
    stage.leave()
}

/// The administrator's list names what may be set. Debian's reference plugin is too old for it. Its folder is `/etc/cni`, so the test has one of its own.
pub fn the_list_limits_what_may_be_set() -> Outcome {
    mount("none", "/etc/cni", "tmpfs", MountFlags::empty(), None)?;
    fs::create_dir("/etc/cni/tuning")?;
    fs::write("/etc/cni/tuning/allowlist.conf", "^net\\.core\\.somaxconn$\n^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n")?;
    let stage = Stage::new(Whose::Ours)?;
    let allowed = json!({ "sysctl": { "net.core.somaxconn": "99", "net.ipv4.conf.IFNAME.arp_filter": "1" } });
    stage.call("ADD", allowed.clone()).ok();
    let refused = json!({ "mtu": 1300, "sysctl": { "net.core.somaxconn": "98", "net.ipv4.tcp_syn_retries": "3" } });
    let answer = stage.call("ADD", refused);
    assert!(answer.error().contains("Sysctl net.ipv4.tcp_syn_retries is not allowed. Only"), "{answer:?}");
    assert_eq!((stage.value("net/core/somaxconn"), stage.eth0().mtu), ("99".into(), 1450), "nothing is set");
    // who was attached before the list was changed
    fs::write("/etc/cni/tuning/allowlist.conf", "")?;
    stage.call("CHECK", allowed.clone()).ok();
    stage.call("DEL", allowed).ok();
    stage.leave()?;
    unmount("/etc/cni", UnmountFlags::DETACH)?;
    Ok(())
}

/// Without a namespace, without the interface, without a file.
pub fn del_needs_nothing(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    stage.call("DEL", all()).ok();
    stage.call("ADD", all()).ok();
    let gone = Pod { netns: PathBuf::new(), ..stage.pod() };
    stage.caller.call("DEL", &gone, &stage.conf(all())).ok();
    if whose == Whose::Ours {
        assert_eq!(stage.files(), Vec::<String>::new(), "the reference plugin leaves the file");
    }
    let other = Pod { ifname: "eth7", ..stage.pod() };
    stage.caller.call("DEL", &other, &stage.conf(all())).ok();
    stage.call("DEL", all()).ok();
    stage.leave()
}

pub fn every_version_is_spoken(whose: Whose) -> Outcome {
    let stage = Stage::new(whose)?;
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let previous = json!({ "cniVersion": version, "interfaces": stage.before["interfaces"], "ips": [] });
        let result = stage.call("ADD", json!({ "cniVersion": version, "mac": MAC, "prevResult": previous })).ok();
        assert_eq!((&result["cniVersion"], &result["interfaces"][2]["mac"]), (&json!(version), &json!(MAC)));
    }
    let alone = json!({ "cniVersion": "1.0.0", "name": "net", "type": "tuning" });
    let alone = stage.caller.call("ADD", &stage.pod(), &alone);
    assert!(alone.error().contains("Required prevResult missing"), "{alone:?}");
    stage.call("DEL", json!({})).ok();
    stage.leave()
}

/// Each suite restores what the other has changed.
pub fn either_suite_takes_over_the_others() -> Outcome {
    for (first, second) in [(Whose::Reference, Whose::Ours), (Whose::Ours, Whose::Reference)] {
        let (stage, other) = (Stage::new(first)?, Caller::new(second));
        let before = stage.eth0();
        let result = stage.call("ADD", all()).ok();
        let conf = stage.conf(with(&all(), json!({ "prevResult": result })));
        other.call("CHECK", &stage.pod(), &conf).ok();
        other.call("DEL", &stage.pod(), &conf).ok();
        assert_eq!((stage.eth0(), stage.files()), (before, Vec::new()), "{first:?} {second:?}");
        stage.leave()?;
    }
    Ok(())
}

/// Debian's reference plugin is too old for it.
pub fn the_queue_length_is_set_and_restored() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let before = stage.eth0();
    let queue = json!({ "txQLen": 77 });
    stage.call("ADD", queue.clone()).ok();
    assert_eq!(stage.eth0(), Settings { queue_len: Some(77), ..before.clone() });
    stage.call("CHECK", queue.clone()).ok();
    assert!(stage.call("CHECK", json!({ "txQLen": 78 })).error().contains("ip link set eth0 txqueuelen 78"));
    stage.call("DEL", queue).ok();
    assert_eq!(stage.eth0(), before);
    stage.leave()
}

/// The MTU in the result is version 1.1's.
pub fn the_result_has_the_new_mtu() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let previous = json!({ "cniVersion": "1.1.0", "interfaces": stage.before["interfaces"], "ips": [] });
    let result = stage.call("ADD", json!({ "cniVersion": "1.1.0", "mtu": 1300, "prevResult": previous })).ok();
    assert_eq!(result["interfaces"][2]["mtu"], 1300);
    assert_eq!(result["interfaces"][1], stage.before["interfaces"][1]);
    stage.call("DEL", json!({})).ok();
    stage.leave()
}

/// CHECK names the commands that repair it, and does not judge what the configuration does not name.
pub fn check_lists_every_difference() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let result = stage.call("ADD", all()).ok();
    let checked = with(&all(), json!({ "prevResult": result }));
    stage.room.enter(|| {
        sysctl::write("net/core/somaxconn", "300").unwrap();
        sysctl::write("net/ipv4/tcp_rmem", "4096 131072 6291456").unwrap();
    })?;
    let ranges = json!({ "sysctl": { "net.ipv4.tcp_rmem": "4096 131072  6291456" }, "prevResult": result });
    stage.call("CHECK", ranges).ok();
    stage.call("CHECK", json!({ "mtu": 1300, "prevResult": result })).ok();
    let no_promisc = stage.call("CHECK", json!({ "promisc": false, "prevResult": result }));
    assert!(no_promisc.error().contains("ip link set eth0 promisc off"), "{no_promisc:?}");
    stage.call("DEL", json!({})).ok();
    let said = stage.call("CHECK", checked).error();
    for part in [
        "999 tuning: eth0 is not as ADD left it",
        "in the pod: ip link set eth0 mtu 1300 address 02:00:00:00:09:07 promisc on allmulticast on",
        "in the pod: sysctl -w net.core.somaxconn=321",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    stage.leave()
}

/// A failed ADD restores what it has changed.
pub fn a_failed_add_leaves_nothing() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let before = stage.eth0();
    let invalid = json!({ "net.ipv4.conf.IFNAME.arp_filter": "not a number" });
    let answer = stage.call("ADD", with(&all(), json!({ "sysctl": invalid })));
    assert!(answer.error().contains("sysctl -w net.ipv4.conf.eth0.arp_filter=not a number"), "{answer:?}");
    assert_eq!((stage.eth0(), stage.files().len()), (before.clone(), 0));
    let answer = stage.call("ADD", with(&all(), json!({ "mtu": 70_000 })));
    assert!(answer.error().contains("ip link set eth0 mtu 70000"), "{answer:?}");
    assert_eq!((stage.eth0(), stage.files().len()), (before.clone(), 0));
    let missing = stage.caller.call("ADD", &Pod { ifname: "eth7", ..stage.pod() }, &stage.conf(all()));
    assert!(missing.error().contains("failed to get \"eth7\": Link not found"), "{missing:?}");
    fs::write(stage.caller.files.path().join("file"), "")?;
    let unwritable = json!({ "dataDir": stage.caller.files.path().join("file/below") });
    let answer = stage.call("ADD", with(&all(), unwritable));
    assert!(answer.error().contains("file/below/cid_eth0.json"), "{answer:?}");
    assert_eq!(stage.eth0(), before);
    stage.leave()
}

/// A damaged file restores nothing, and goes. A file that leads elsewhere is not followed.
pub fn a_damaged_file_harms_nothing() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let target = stage.caller.files.path().join("target");
    fs::write(&target, r#"{"mtu": 1400}"#)?;
    for damage in ["", "{", r#"{"mtu": 4294967295, "mac": "ff", "txQLen": 5}"#] {
        stage.call("ADD", all()).ok();
        fs::write(stage.data().join("cid_eth0.json"), damage)?;
        let answer = stage.call("DEL", json!({}));
        assert_eq!(stage.files(), Vec::<String>::new(), "{damage}: {answer:?}");
    }
    assert_eq!(stage.eth0().queue_len, Some(5), "what can be restored is");
    std::os::unix::fs::symlink(&target, stage.data().join("cid_eth0.json"))?;
    stage.call("DEL", json!({}));
    assert_eq!((stage.eth0().mtu, stage.files().len(), target.exists()), (1300, 0, true));
    stage.leave()
}

pub fn gc_takes_dead_pods_files_only() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    stage.call("ADD", all()).ok();
    fs::copy(stage.data().join("cid_eth0.json"), stage.data().join("dead_eth0.json"))?;
    fs::write(stage.data().join("others_eth0.json"), r#"{"mtu": 1400}"#)?;
    let more =
        json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": [{ "containerID": "cid", "ifname": "eth0" }] });
    stage.caller.call("GC", &Pod::new("", Path::new("")), &with(&stage.conf(json!({})), more)).ok();
    let mut files = stage.files();
    files.sort();
    assert_eq!(files, ["cid_eth0.json", "others_eth0.json"]);
    fs::remove_file(stage.data().join("others_eth0.json"))?;
    let status = stage.conf(with(&all(), json!({ "cniVersion": "1.1.0" })));
    stage.caller.call("STATUS", &Pod::new("", Path::new("")), &status).ok();
    stage.call("DEL", json!({})).ok();
    stage.leave()
}

/// An interface's name may have dots. Parameters that only take values are written.
pub fn odd_names_and_parameters_work() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let dotted = Pod { ifname: "net.7", ..stage.pod() };
    let result = stage.caller.call("ADD", &dotted, &with(&stage.bridge, json!({ "isDefaultGateway": false }))).ok();
    let sysctls = json!({
        "net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv4/conf/net.7/arp_announce": "2", "net.ipv4.route.flush": "1",
    });
    let conf = stage.conf(json!({ "sysctl": sysctls, "prevResult": result }));
    stage.caller.call("ADD", &dotted, &conf).ok();
    let values = ["arp_filter", "arp_announce"].map(|key| stage.value(&format!("net/ipv4/conf/net.7/{key}")));
    assert_eq!(values, ["1", "2"]);
    stage.caller.call("CHECK", &dotted, &conf).ok();
    stage.caller.call("DEL", &dotted, &conf).ok();
    stage.caller.call("DEL", &dotted, &stage.bridge).ok();
    stage.leave()
}

/// The host's own settings stay.
pub fn the_hosts_parameters_stay() -> Outcome {
    let stage = Stage::new(Whose::Ours)?;
    let before = sysctl::read("net/core/somaxconn")?;
    stage.call("ADD", all()).ok();
    assert_eq!(sysctl::read("net/core/somaxconn")?, before);
    assert!(Kernel::open()?.link(&crate::bridge::name("eth0"))?.is_none());
    let own = Pod { netns: PathBuf::from(format!("/proc/{}/ns/net", std::process::id())), ..stage.pod() };
    let answer = stage.caller.call("ADD", &own, &stage.conf(all()));
    assert!(answer.error().starts_with("8 "), "{answer:?}");
    stage.call("DEL", json!({})).ok();
    stage.leave()
}
