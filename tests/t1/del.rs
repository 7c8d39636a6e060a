//! DEL: what it removes, and what it leaves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use attachment::record::DIRECTORY;
use kernel::Kernel;
use kernel::diff::Step;
use kernel::state::{Link, LinkKind, VethPeer};
use kernel::types::IfName;
use lab::netns::Room;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::call::{Answer, Caller, Pod, Whose};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// With rules, whose removal is left to a process, too.
fn conf_with_rules(caller: &Caller) -> Value {
    let mut conf = caller.gateway();
    (conf["ipMasq"], conf["ipMasqBackend"], conf["macspoofchk"]) = (json!(true), json!("nftables"), json!(true));
    conf
}

fn with(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

fn links(kernel: &mut Kernel) -> Vec<String> {
    kernel.links().unwrap().iter().map(|seen| seen.name.to_string()).collect()
}

fn mac(host: &mut Kernel, dev: &str) -> String {
    host.link(&name(dev)).unwrap().unwrap().link.mac.unwrap().to_string()
}

/// A pair whose one end, `dev`, is a port of `master`.
fn pair(host: &mut Kernel, dev: &str, master: Option<&str>) {
    let peer = VethPeer { name: name(&format!("{dev}-x")), mac: None, mtu: None, netns: None };
    let link = Link {
        master: master.map(|master| Some(name(master))),
        ..Link::up(LinkKind::Veth(kernel::state::Veth { peer: Some(Box::new(peer)) }))
    };
    host.apply(&[Step::CreateLink(name(dev), link)]).ok().unwrap();
}

/// The namespace is gone and prevResult names a link: only this attachment's own end of the pair is deleted.
pub fn a_name_in_prev_result_deletes_nothing_of_others() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (mine, other) = (Room::create("mine")?, Room::create("other")?);
    let conf = caller.gateway();
    let result = caller.call("ADD", &Pod::of(&mine, "mine"), &conf).ok();
    let theirs = caller.call("ADD", &Pod::of(&other, "other"), &conf).ok();
    let mut host = Kernel::open()?;
    host.apply(&[Step::CreateLink(name("br9"), Link::up(LinkKind::Bridge(kernel::state::Bridge::default())))]).ok()?;
    pair(&mut host, "uplink9", None);
    pair(&mut host, "eth0", Some("br9"));
    pair(&mut host, "veth9", Some("cni0"));
    host.apply(&[Step::CreateLink(
        name("br8"),
        Link { master: None, ..Link::up(LinkKind::Bridge(kernel::state::Bridge::default())) },
    )])
    .ok()?;
    let before = links(&mut host);
    // without a record, as the reference plugins leave it
    fs::remove_file(Path::new(DIRECTORY).join("net/mine@eth0"))?;
    let gone = Pod::new("mine", Path::new("/run/netns/gone"));
    let bridge = result["interfaces"][0].clone();
    let own_mac = result["interfaces"][1]["mac"].as_str().unwrap().to_owned();
    let their_end = theirs["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let named = |dev: &str, mac: &str| json!({ "name": dev, "mac": mac, "sandbox": "" });
    let mut cases = Vec::new();
    for dev in ["cni0", "uplink9", "eth0", "veth9", "br8", "lo", "no-such-link", their_end.as_str()] {
        // the MAC of this attachment, and that of the link: for a port of this bridge the former alone is wrong
        cases.push(named(dev, &own_mac));
        if !["veth9", their_end.as_str(), "lo", "no-such-link"].contains(&dev) {
            cases.push(named(dev, &mac(&mut host, dev)));
        }
        cases.push(json!({ "name": dev }));
    }
    for case in cases {
        for interfaces in [json!([bridge, case]), json!([case]), json!([bridge, case, result["interfaces"][2]])] {
            let prev = json!({ "cniVersion": "1.0.0", "interfaces": interfaces, "ips": result["ips"] });
            caller.call("DEL", &gone, &with(&conf, &prev)).ok();
            assert_eq!(links(&mut host), before, "DEL deletes a link of others for prevResult {prev}");
        }
    }
    let own = result["interfaces"][1]["name"].as_str().unwrap();
    caller.call("DEL", &gone, &with(&conf, &result)).ok();
    assert!(host.link(&name(own))?.is_none(), "its own end stays");
    assert!(host.link(&name(&their_end))?.is_some());
    Ok(())
}

/// A namespace whose file nobody but the kernel holds open, as a runtime has it.
fn namespace(caller: &Caller, file: &str) -> PathBuf {
    let path = caller.files.path().join(file);
    fs::write(&path, "").unwrap();
    let made = Command::new("unshare").arg(format!("--net={}", path.display())).arg("true").status().unwrap();
    assert!(made.success());
    path
}

/// The file of the namespace can be unmounted as soon as DEL has returned: no process holds it.
pub fn the_namespaces_file_is_free_after_del() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    for round in 0..5 {
        for conf in [caller.gateway(), conf_with_rules(&caller)] {
            let path = namespace(&caller, &format!("netns-{round}"));
            let pod = Pod::new("cid", &path);
            caller.call("ADD", &pod, &conf).ok();
            caller.call("DEL", &pod, &conf).ok();
            let freed = unmount(&path, UnmountFlags::empty());
            assert_eq!(freed, Ok(()), "umount of the namespace's file after DEL (ipMasq: {})", conf["ipMasq"]);
        }
    }
    Ok(())
}

/// Lists the processes besides PID 1 with shell built-ins only: waiting for a program would also reap others.
const OTHERS: &str = r#"for dir in /proc/[0-9]*; do
    read -r pid comm state rest <$dir/stat || continue
    [ "$pid" = 1 ] || echo "left: $pid $comm $state"
done"#;

/// In a container whose PID 1 reaps nothing, no process is left when DEL has returned.
pub fn no_process_is_left_to_a_pid_1_that_does_not_reap() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    for conf in [caller.gateway(), conf_with_rules(&caller)] {
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        caller.call("ADD", &pod, &conf).ok();
        // the plugin is the last argument
        let script = format!("\"$1\" >/dev/null && echo deleted; {OTHERS}");
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--mount-proc", "sh", "-c", &script, "sh"]);
        let answer = Answer::from(caller.under(unshare, "DEL", &pod, &conf));
        assert!(answer.stdout.starts_with("deleted\n"), "{answer:?}");
        assert_eq!(answer.stdout, "deleted\n", "processes that DEL leaves unreaped (ipMasq: {})", conf["ipMasq"]);
        assert!(room.kernel()?.link(&name("eth0"))?.is_none());
        room.remove()?;
    }
    Ok(())
}

/// At the limit of processes, descriptors or memory, DEL itself does what it would otherwise leave to a process.
pub fn without_another_process_del_takes_longer() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    for inject in
        ["clone,clone3,fork,vfork:error=EAGAIN", "clone,clone3,fork,vfork:error=ENOMEM", "pipe,pipe2:error=EMFILE"]
    {
        for (conf, gone) in [(caller.gateway(), false), (conf_with_rules(&caller), false), (caller.gateway(), true)] {
            let room = Room::create("pod")?;
            let pod = Pod::of(&room, "cid");
            let result = caller.call("ADD", &pod, &conf).ok();
            let veth = name(result["interfaces"][1]["name"].as_str().unwrap());
            let called = if gone { Pod::new("cid", Path::new("/run/netns/gone")) } else { pod };
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}"), "--"]);
            let answer = Answer::from(caller.under(strace, "DEL", &called, &with(&conf, &result)));
            assert_eq!(answer.status, 0, "DEL fails with {inject}: {answer:?}");
            assert!(Kernel::open()?.link(&veth)?.is_none(), "{inject}: {veth} is there");
            assert_eq!(caller.reserved("net"), Vec::<String>::new());
            room.remove()?;
        }
    }
    Ok(())
}
