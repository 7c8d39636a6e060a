//! Bad input gives a clear error, and nothing is lost or left behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use kernel::Kernel;
use lab::netns::Room;
use rustix::mount::{MountFlags, mount, mount_remount};
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Caller, Pod, Whose};

/// Every name that the executable has.
fn names() -> Vec<&'static str> {
    plugins::SUITE.iter().map(|plugin| plugin.name()).collect()
}

const GOOD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "cid"),
    ("CNI_NETNS", "/run/netns/pod"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/nowhere"),
];

fn changed(key: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().map(|(k, v)| if *k == key { (key, value) } else { (*k, *v) }).collect()
}

fn links() -> usize {
    Kernel::open().unwrap().links().unwrap().len()
}

fn conf(caller: &Caller, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "isGateway": true,
        "ipam": { "type": "host-local", "dataDir": caller.data(), "ranges": [[{ "subnet": subnet }]] },
    })
}

/// Documents that no plugin can read: each plugin refuses them with the specification's code and words.
pub fn what_is_no_configuration_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let before = links();
    let cases: [(&[u8], u64, &str); 8] = [
        (b"", 6, "unexpected end of JSON input"),
        (b"\x00\xff garbage", 6, "error unmarshall network config"),
        (b"{\"name\":\"net\"} x", 6, "error unmarshall network config"),
        (b"[1,2]", 6, "error unmarshall network config"),
        (b"{}", 7, "missing network name"),
        (br#"{"name":"a/b"}"#, 7, "invalid characters found in network name"),
        (br#"{"name":7}"#, 6, "error unmarshall network config"),
        (br#"{"name":"net","cniVersion":"9.9.9"}"#, 1, "incompatible CNI versions"),
    ];
    for plugin in names() {
        for (input, code, words) in &cases {
            let answer = caller.raw(plugin, &GOOD, input);
            let error = answer.error();
            assert!(error.starts_with(&format!("{code} ")) && error.contains(words), "{plugin} {input:?}: {error}");
        }
    }
    assert_eq!(links(), before);
    Ok(())
}

/// Variables that are missing, invalid, or contradict each other.
pub fn a_bad_environment_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let input = br#"{"cniVersion":"1.0.0","name":"net"}"#;
    let long = "interface name is too long";
    let cases = [
        (changed("CNI_CONTAINERID", "../x"), "4 invalid characters in containerID"),
        (changed("CNI_IFNAME", "sixteen-bytes-xx"), long),
        (changed("CNI_IFNAME", ".."), "interface name is . or .."),
        (changed("CNI_IFNAME", "a/b"), "interface name contains / or : or whitespace characters"),
        (changed("CNI_COMMAND", "FOO"), "4 unknown CNI_COMMAND: FOO"),
        (changed("CNI_NETNS", ""), "4 required env variables [CNI_NETNS] missing"),
        (changed("CNI_NETNS", "/proc/self/ns/net"), "8 plugin's netns and netns from CNI_NETNS should not be the same"),
        (vec![("CNI_COMMAND", "ADD")], "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"),
    ];
    for plugin in names() {
        for (variables, words) in &cases {
            let error = caller.raw(plugin, variables, input).error();
            assert!(error.contains(words), "{plugin} {variables:?}: {error}");
        }
        let about = caller.raw(plugin, &[], b"");
        assert_eq!((about.status, about.stdout.as_str()), (0, ""), "{plugin}");
    }
    Ok(())
}

/// A wrong type anywhere refuses the document before anything is done.
pub fn a_wrong_type_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    for (key, value) in [
        ("mtu", json!("1500")),
        ("mtu", json!(1500.5)),
        ("isGateway", json!("true")),
        ("vlanTrunk", json!({})),
        ("ipam", json!([])),
        ("bridge", json!(7)),
        ("runtimeConfig", json!("x")),
    ] {
        let mut conf = conf(&caller, "10.9.1.0/24");
        conf[key] = value;
        let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
        assert!(error.starts_with("6 error unmarshall network config"), "{key}: {error}");
        assert!(error.contains(key), "the field is named: {error}");
    }
    assert_eq!(links(), 1, "lo only");
    Ok(())
}

/// A namespace that is gone, and one that is a plain file.
pub fn a_namespace_that_is_none_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let gone = Pod::new("cid", Path::new("/run/netns/gone"));
    let error = caller.call("ADD", &gone, &conf(&caller, "10.9.1.0/24")).error();
    assert!(error.contains(r#"failed to open netns "/run/netns/gone""#), "{error}");
    let file = caller.files.path().join("file");
    std::fs::write(&file, "")?;
    let pod = Pod::new("cid", &file);
    let error = caller.call("ADD", &pod, &conf(&caller, "10.9.1.0/24")).error();
    assert!(error.contains("unknown FS magic on"), "{error}");
    // what is no namespace has none of the pod's things in it
    caller.call("DEL", &pod, &conf(&caller, "10.9.1.0/24")).ok();
    assert_eq!(caller.reserved("net"), Vec::<String>::new());
    assert_eq!(links(), 1);
    Ok(())
}

/// A delegate's name that leads out of CNI_PATH runs nothing.
pub fn a_hostile_delegate_runs_nothing() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let trap = caller.files.path().join("trap");
    std::fs::write(&trap, format!("#!/bin/sh\ntouch {}\n", caller.files.path().join("sprung").display()))?;
    std::fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for kind in ["../trap", "./../trap", trap.to_str().unwrap(), "..", ".", "x/../../trap"] {
        let mut conf = conf(&caller, "10.9.1.0/24");
        conf["ipam"]["type"] = json!(kind);
        let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
        assert!(error.contains("invalid plugin name") || error.contains("failed to find plugin"), "{kind}: {error}");
    }
    assert!(!caller.files.path().join("sprung").exists());
    assert_eq!(links(), 2, "lo, and the bridge that attachments share");
    Ok(())
}

/// When the last address is taken, the next ADD says so and leaves nothing, and a DEL frees an address.
pub fn a_full_range_says_so() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let rooms: Vec<_> = ["a", "b"].iter().map(|n| Room::create(n)).collect::<Result<_, _>>()?;
    let conf = conf(&caller, "10.9.1.0/30");
    caller.call("ADD", &Pod::of(&rooms[0], "a"), &conf).ok();
    let before = links();
    let error = caller.call("ADD", &Pod::of(&rooms[1], "b"), &conf).error();
    assert!(error.contains("no IP addresses available in range set: 10.9.1.1-10.9.1.2"), "{error}");
    assert_eq!((links(), rooms[1].kernel()?.links()?.len()), (before, 1));
    caller.call("DEL", &Pod::of(&rooms[0], "a"), &conf).ok();
    caller.call("ADD", &Pod::of(&rooms[1], "b"), &conf).ok();
    Ok(())
}

/// A full disk, and a read-only one: the error says so, nothing is left, and DEL still works.
pub fn a_disk_that_takes_nothing_says_so() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = conf(&caller, "10.9.1.0/24");
    std::fs::create_dir_all(caller.data())?;
    mount("tmpfs", caller.data(), "tmpfs", MountFlags::empty(), Some(c"size=64k"))?;
    // the network's folder is there, then the rest is filled
    caller.call("ADD", &pod, &conf).ok();
    caller.call("DEL", &pod, &conf).ok();
    let _ = std::fs::write(caller.data().join("ballast"), vec![0u8; 1 << 20]);
    let before = links();
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.to_lowercase().contains("no space left"), "{error}");
    assert_eq!((links(), caller.reserved("net").len()), (before, 0));

    std::fs::remove_file(caller.data().join("ballast"))?;
    caller.call("ADD", &pod, &conf).ok();
    caller.call("DEL", &pod, &conf).ok();
    mount_remount(caller.data(), MountFlags::RDONLY, "")?;
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.to_lowercase().contains("read-only file system"), "{error}");
    assert_eq!(links(), before);
    caller.call("DEL", &pod, &conf).ok();
    Ok(())
}

/// A document that never ends does not fill the host's memory.
pub fn what_is_too_long_is_refused() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let mut stdin = br#"{"cniVersion":"1.0.0","name":"net","type":"bridge","bridge":""#.to_vec();
    stdin.resize(17 * 1024 * 1024, b'a');
    for command in ["ADD", "DEL"] {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "cid"),
            ("CNI_NETNS", "/run/netns/gone"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/nowhere"),
        ];
        let error = caller.raw("bridge", &variables, &stdin).error();
        assert!(error.starts_with("6 ") && error.contains("longer than 16777216 bytes"), "{command}: {error}");
    }
    Ok(())
}
