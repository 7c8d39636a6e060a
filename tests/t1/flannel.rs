//! flannel → bridge → host-local in one process, and the plugins that require a data path.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use kernel::Kernel;
use kernel::types::IfName;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Caller, Pod, Whose};

const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_IPV6_NETWORK=fd05::/56\n\
     FLANNEL_IPV6_SUBNET=fd05:0:0:4d::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn conf(caller: &Caller, kind: &str) -> Value {
    let files = caller.files.path();
    json!({
        "cniVersion": "1.0.0", "name": "cbr0", "type": kind,
        "subnetFile": files.join("subnet.env"), "dataDir": files.join("flannel"),
        "ipam": { "type": "host-local", "dataDir": caller.data() },
        "delegate": { "hairpinMode": true, "isDefaultGateway": true },
    })
}

fn caller() -> Caller {
    let caller = Caller::new(Whose::Ours);
    fs::write(caller.files.path().join("subnet.env"), SUBNET_ENV).unwrap();
    caller
}

fn status(caller: &Caller, status: &Value) {
    fs::write(caller.files.path().join("status.json"), status.to_string()).unwrap();
}

/// Attachments that left a state: each under a name of ours, and under the container's as upstream has it.
fn states(caller: &Caller) -> usize {
    let Ok(dir) = fs::read_dir(caller.files.path().join("flannel")) else { return 0 };
    let names: Vec<_> = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let ours = names.iter().filter(|name| name.contains('@')).count();
    assert!(names.len() <= ours + 1 && (ours > 0 || names.is_empty()), "{names:?}");
    ours
}

fn links() -> usize {
    Kernel::open().unwrap().links().unwrap().len()
}

/// The pod gets an address of the host's subnet, the overlay's MTU and a route to the whole network; DEL removes all
/// of it.
pub fn a_pod_gets_an_address_of_the_hosts_subnet() -> Outcome {
    let caller = caller();
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = conf(&caller, "flannel");
    let result = caller.call("ADD", &pod, &conf).ok();
    assert_eq!(result["ips"][0]["address"], "10.5.97.2/24");
    assert_eq!(result["ips"][1]["address"], "fd05:0:0:4d::2/64");
    let routes: Vec<_> = result["routes"].as_array().unwrap().iter().map(|r| r["dst"].as_str().unwrap()).collect();
    assert_eq!(routes, ["10.5.0.0/16", "fd05::/56", "0.0.0.0/0", "::/0"]);
    let eth0 = room.kernel()?.link(&IfName::new("eth0")?)?.unwrap();
    assert_eq!(eth0.link.mtu.unwrap().0, 1450);
    assert_eq!(states(&caller), 1);

    let mut prev = conf.clone();
    prev["prevResult"] = result;
    caller.call("CHECK", &pod, &prev).ok();
    caller.call("DEL", &pod, &prev).ok();
    assert_eq!((states(&caller), caller.reserved("cbr0").len()), (0, 0));
    assert!(room.kernel()?.link(&IfName::new("eth0")?)?.is_none());
    Ok(())
}

/// Two interfaces of one container keep a state each. Upstream's overwrite each other.
pub fn two_interfaces_of_a_container_do_not_mix() -> Outcome {
    let caller = caller();
    let room = Room::create("pod")?;
    let (first, second) = (Pod::of(&room, "cid"), Pod { ifname: "net1", ..Pod::of(&room, "cid") });
    let mut other = conf(&caller, "flannel");
    other["delegate"]["isDefaultGateway"] = json!(false);
    caller.call("ADD", &first, &conf(&caller, "flannel")).ok();
    caller.call("ADD", &second, &other).ok();
    assert_eq!(caller.reserved("cbr0").len(), 4);
    caller.call("DEL", &first, &conf(&caller, "flannel")).ok();
    assert_eq!((caller.reserved("cbr0").len(), states(&caller)), (2, 1));
    caller.call("DEL", &second, &other).ok();
    assert_eq!((caller.reserved("cbr0").len(), states(&caller)), (0, 0));
    Ok(())
}

/// DEL reaches the delegate without subnet.env, without state, with a damaged one, and with one that Go flannel wrote.
pub fn del_always_reaches_the_delegate() -> Outcome {
    for lost in ["subnet.env", "state", "damaged", "go"] {
        let caller = caller();
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let conf = conf(&caller, "flannel");
        caller.call("ADD", &pod, &conf).ok();
        let dir = caller.files.path().join("flannel");
        let (ours, upstreams) = (dir.join("cid@eth0"), dir.join("cid"));
        fs::remove_file(caller.files.path().join("subnet.env"))?;
        match lost {
            "state" => [ours, upstreams].iter().try_for_each(fs::remove_file)?,
            "damaged" => [ours, upstreams].iter().try_for_each(|state| fs::write(state, ""))?,
            "go" => fs::remove_file(&ours)?,
            _ => {}
        }
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!((caller.reserved("cbr0").len(), states(&caller)), (0, 0), "{lost}");
        assert!(room.kernel()?.link(&IfName::new("eth0")?)?.is_none(), "{lost}");
        room.remove()?;
    }
    Ok(())
}

/// Before flanneld is ready: upstream's sentence, flanneld's own last error, and "try again".
pub fn what_flanneld_said_last_is_in_the_error() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut conf = conf(&caller, "flannel");
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.starts_with("11 failed to load flannel 'subnet.env' file: open "), "{error}");
    assert!(
        error.contains("subnet.env: no such file or directory. Check the flannel pod log for this node."),
        "{error}"
    );
    status(&caller, &json!({ "backend": "vxlan", "lastError": "no default route: say --iface" }));
    let error = caller.call("ADD", &pod, &conf).error();
    assert!(error.contains(r#"its last error was "no default route: say --iface""#), "{error}");
    conf["cniVersion"] = json!("1.1.0");
    let error = caller.call("STATUS", &pod, &conf).error();
    assert!(error.starts_with("50 ") && error.contains("no default route"), "{error}");
    assert_eq!((links(), states(&caller)), (1, 0));
    Ok(())
}

/// `vxlan`, `direct-routing` and `host-gw` attach where the host runs that data path; elsewhere the error names what
/// it runs.
pub fn a_named_data_path_is_insisted_on() -> Outcome {
    let runs = [("vxlan", "vxlan", false), ("direct-routing", "vxlan", true), ("host-gw", "host-gw", false)];
    for (name, backend, direct_routing) in runs {
        let caller = caller();
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        status(&caller, &json!({ "backend": backend, "directRouting": direct_routing, "lastError": null }));
        for (asked, _, _) in runs {
            let answer = caller.call("ADD", &pod, &conf(&caller, asked));
            if asked == name {
                answer.ok();
                caller.call("DEL", &pod, &conf(&caller, asked)).ok();
            } else {
                let error = answer.error();
                assert!(error.starts_with("11 ") && error.contains(&format!("runs {name}")), "{asked}: {error}");
                assert_eq!((caller.reserved("cbr0").len(), states(&caller)), (0, 0));
            }
        }
        room.remove()?;
    }
    Ok(())
}

/// The delegate dictionary's mistakes, all at once; nothing is done.
pub fn a_bad_delegate_is_refused() -> Outcome {
    let caller = caller();
    let room = Room::create("pod")?;
    let mut conf = conf(&caller, "flannel");
    conf["delegate"] = json!({ "name": "x", "ipam": {}, "type": 7 });
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
    for part in [
        "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
        "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel",
        "'delegate' dictionary, if present, must have (string) 'type' field",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!((links(), states(&caller)), (1, 0));
    Ok(())
}

/// An ADD whose delegate fails leaves no state, and one of an attachment that lives leaves that one's.
pub fn a_failed_delegate_leaves_no_state() -> Outcome {
    let caller = caller();
    let rooms = [Room::create("pod")?, Room::create("other")?];
    let pod = Pod::of(&rooms[0], "cid");
    let (good, mut bad) = (conf(&caller, "flannel"), conf(&caller, "flannel"));
    for delegate in [json!({ "type": "no-such-plugin" }), json!({ "mtu": 100_000 })] {
        bad["delegate"] = delegate;
        caller.call("ADD", &pod, &bad).error();
        assert_eq!(states(&caller), 0, "{bad}");
    }
    caller.call("ADD", &pod, &good).ok();
    for again in [&good, &bad] {
        caller.call("ADD", &pod, again).error();
        assert_eq!(states(&caller), 1, "{again}");
    }
    caller.call("DEL", &pod, &good).ok();
    assert_eq!((states(&caller), caller.reserved("cbr0").len()), (0, 0));
    Ok(())
}

/// A state that cannot be looked at now is not one that is gone: DEL fails, and the next one removes it.
pub fn del_says_which_state_it_cannot_look_at() -> Outcome {
    let caller = caller();
    let room = Room::create("pod")?;
    let (pod, conf) = (Pod::of(&room, "cid"), conf(&caller, "flannel"));
    for name in ["cid@eth0", "cid"] {
        caller.call("ADD", &pod, &conf).ok();
        let path = caller.files.path().join("flannel").join(name);
        let mut strace = std::process::Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-P"]).arg(&path).args(["-e", "inject=/^l?statx?$:error=EIO", "--"]);
        let error = crate::call::Answer::from(caller.under(strace, "DEL", &pod, &conf)).error();
        assert!(error.starts_with("5 ") && error.contains(&format!("cannot look at {}", path.display())), "{error}");
        assert_eq!(states(&caller), 1, "{name}");
        caller.call("DEL", &pod, &conf).ok();
        assert_eq!((states(&caller), caller.reserved("cbr0").len()), (0, 0));
    }
    Ok(())
}

/// GC takes states of attachments that are not valid, empty and damaged ones too, and nothing that is no state.
pub fn gc_takes_stale_and_damaged_states() -> Outcome {
    let caller = caller();
    let room = Room::create("pod")?;
    let mut gc = conf(&caller, "flannel");
    gc["cniVersion"] = json!("1.1.0");
    caller.call("ADD", &Pod::of(&room, "lives"), &gc).ok();
    let dir = caller.files.path().join("flannel");
    let others = r#"{"cniVersion":"1.0.0","name":"another","type":"bridge"}"#;
    for (name, text) in [
        ("empty@eth0", ""),
        ("cut@eth0", "{\"name\":\"cbr0\""),
        ("upstreams", ""),
        ("odd@eth0", "\u{0}\u{1}"),
        ("other@eth0", others),
        ("README", "not a state"),
    ] {
        fs::write(dir.join(name), text)?;
    }
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "lives", "ifname": "eth0" }]);
    caller.call("GC", &Pod::of(&room, ""), &gc).ok();
    let mut left: Vec<_> = fs::read_dir(&dir)?.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["README", "lives", "lives@eth0", "other@eth0"]);
    Ok(())
}

/// What cannot be read may belong to a pod: GC says so, keeps it, and goes on.
pub fn gc_says_what_it_cannot_read() -> Outcome {
    let caller = caller();
    let dir = caller.files.path().join("flannel");
    let state = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"bridge"}"#;
    let mut gc = conf(&caller, "flannel");
    (gc["cniVersion"], gc["cni.dev/valid-attachments"]) = (json!("1.1.0"), json!([]));
    for errno in ["EIO", "EMFILE", "ENOMEM"] {
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("first@eth0"), state)?;
        fs::write(dir.join("second@eth0"), state)?;
        let mut strace = std::process::Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-P"]).arg(dir.join("first@eth0"));
        strace.args(["-e", &format!("inject=openat,open:error={errno}"), "--"]);
        let pod = Pod::new("", std::path::Path::new(""));
        let error = crate::call::Answer::from(caller.under(strace, "GC", &pod, &gc)).error();
        assert!(error.contains("first@eth0") && error.starts_with("5 "), "{errno}: {error}");
        assert!(dir.join("first@eth0").exists() && !dir.join("second@eth0").exists(), "{errno}");
        caller.call("GC", &pod, &gc).ok();
        assert_eq!(fs::read_dir(&dir)?.count(), 0, "{errno}");
    }
    Ok(())
}
