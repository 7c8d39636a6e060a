//! host-local as an executable: beside Go's plugin in one directory, on disks that fail, killed at any moment.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that is wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tests::harness::{Outcome, executables};

use crate::call::{Answer, Caller, Pod, Whose};

/// The executable under the plugin's name, as it is installed.
struct Install {
    dir: tempfile::TempDir,
}

impl Install {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(executables().unwrap().plugins, dir.path().join("host-local")).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        Self { dir }
    }

    fn ours(&self) -> PathBuf {
        self.dir.path().join("host-local")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn net(&self) -> PathBuf {
        self.data().join("net")
    }

    /// Names of reservations.
    fn reserved(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.net()) else { return BTreeSet::new() };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}

fn document(data: &Path, subnet: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"net","type":"x","ipam":{{"type":"host-local","dataDir":"{}","subnet":"{subnet}"}}}}"#,
        data.display()
    )
}

fn start(mut command: Command, verb: &str, id: &str, document: &str) -> Child {
    command.env_clear().envs([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", "/no/such/netns"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nowhere"),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // a child that was killed early reads nothing
    let _ = child.stdin.take().unwrap().write_all(document.as_bytes());
    child
}

fn run(program: &Path, verb: &str, id: &str, document: &str) -> Output {
    start(Command::new(program), verb, id, document).wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn add(program: &Path, id: &str, document: &str) -> String {
    let output = run(program, "ADD", id, document);
    assert!(output.status.success(), "{}", stdout(&output));
    let text = stdout(&output);
    text.split('"').find(|word| word.contains('/')).unwrap().to_owned()
}

/// Debian's containernetworking-plugins.
fn go() -> &'static Path {
    Path::new("/usr/lib/cni/host-local")
}

pub fn go_and_we_take_turns_in_one_directory() -> Outcome {
    let go = go();
    let install = Install::new();
    let ours = install.ours();
    let conf = document(&install.data(), "10.1.2.0/29");
    assert_eq!(add(go, "g1", &conf), "10.1.2.2/29");
    assert_eq!(add(&ours, "o1", &conf), "10.1.2.3/29");
    assert_eq!(add(go, "g2", &conf), "10.1.2.4/29");
    assert_eq!(add(&ours, "o2", &conf), "10.1.2.5/29");
    for (gos, ours) in [("10.1.2.2", "10.1.2.3"), ("10.1.2.4", "10.1.2.5")] {
        let content = |name: &str| fs::read_to_string(install.net().join(name)).unwrap();
        assert_eq!(content(gos).replace('g', "o"), content(ours));
    }
    // Each refuses what the other gave, and releases it.
    for (program, id) in [(go, "o1"), (ours.as_path(), "g1")] {
        let output = run(program, "ADD", id, &conf);
        assert!(stdout(&output).contains("duplicate allocation is not allowed"), "{}", stdout(&output));
        assert!(run(program, "CHECK", id, &conf).status.success());
        assert!(run(program, "DEL", id, &conf).status.success());
    }
    assert_eq!(install.reserved(), ["10.1.2.4", "10.1.2.5"].map(str::to_owned).into());
    assert_eq!(add(&ours, "o3", &conf), "10.1.2.6/29");
    assert_eq!(add(go, "g3", &conf), "10.1.2.2/29");
    assert_eq!(add(&ours, "o4", &conf), "10.1.2.3/29");
    let full = "no IP addresses available in range set: 10.1.2.1-10.1.2.6";
    for program in [go, &ours] {
        let text = stdout(&run(program, "ADD", "last", &conf));
        assert!(text.contains(full) && text.contains("failed to allocate for range 0: "), "{text}");
    }
    Ok(())
}

pub fn go_and_we_at_once_never_share_an_address() -> Outcome {
    let install = Install::new();
    let ours = install.ours();
    let conf = document(&install.data(), "10.1.2.0/24");
    let programs = [ours.as_path(), go()];
    let given: Vec<String> = std::thread::scope(|scope| {
        let conf = &conf;
        let work = |worker: usize, program: &'static str| {
            scope.spawn(move || {
                let mut given = Vec::new();
                for n in 0..12 {
                    let id = format!("w{worker}n{n}");
                    given.push(add(Path::new(program), &id, conf));
                    if n % 3 == 0 {
                        assert!(run(Path::new(program), "DEL", &id, conf).status.success());
                        given.pop();
                    }
                }
                given
            })
        };
        let programs: Vec<&'static str> =
            programs.iter().map(|path| &*Box::leak(path.display().to_string().into_boxed_str())).collect();
        let workers: Vec<_> = (0..8).map(|worker| work(worker, programs[worker % programs.len()])).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let unique: BTreeSet<String> = given.iter().map(|cidr| cidr.split_once('/').unwrap().0.to_owned()).collect();
    assert_eq!(given.len(), 64);
    assert_eq!(unique.len(), given.len());
    assert_eq!(install.reserved(), unique);
    Ok(())
}

pub fn killed_at_any_moment_it_loses_no_address() -> Outcome {
    let install = Install::new();
    let conf = document(&install.data(), "10.1.2.0/26");
    for n in 0..60_u32 {
        let mut child = start(Command::new(install.ours()), "ADD", &format!("k{n}"), &conf);
        // A busy wait hits the right moment, between the opening of the directory and the answer.
        for _ in 0..n * 4000 {
            std::hint::black_box(n);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for name in install.reserved() {
            let content = fs::read_to_string(install.net().join(&name)).unwrap();
            assert!(content.ends_with("\r\neth0"), "{name}: {content:?}");
        }
        assert!(run(&install.ours(), "DEL", &format!("k{n}"), &conf).status.success());
        assert_eq!(install.reserved().len(), 0, "after DEL {n}");
    }
    let names: BTreeSet<String> =
        fs::read_dir(install.net()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let allowed = ["last_reserved_ip.0", "lock"].map(str::to_owned).into();
    assert!(names.is_subset(&allowed), "{names:?}");
    Ok(())
}

/// Runs the plugin in a mount namespace of its own, after `prepare` mounted something at the data directory.
fn on_a_bad_disk(install: &Install, prepare: &str, verb: &str, id: &str) -> Output {
    let data = install.data();
    let script = format!("D={}; {prepare} || exit 77; exec {}", data.display(), install.ours().display());
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    let output = start(command, verb, id, &document(&data, "10.1.2.0/24")).wait_with_output().unwrap();
    assert!(!output.stdout.is_empty() || output.status.success(), "no mount namespace can be had: {output:?}");
    output
}

pub fn a_full_disk_is_named_and_keeps_nothing() -> Outcome {
    let install = Install::new();
    let (mut refused, mut served) = (0, 0);
    // one free page or none, with and without what a first call makes
    for (size, inodes) in
        [("4k", 4), ("4k", 5), ("4k", 6), ("8k", 5), ("1m", 3), ("1m", 4), ("1m", 5), ("1m", 6), ("1m", 7)]
    {
        let log = install.dir.path().join("left");
        let prepare = format!(
            "mount -t tmpfs -o size={size},nr_inodes={inodes} none $D && {{ [ {size} = 1m ] || cat /dev/zero >$D/fill 2>/dev/null; true; }}"
        );
        let script = format!("{prepare}; {}; ls $D/net >{}; exit 0; true", install.ours().display(), log.display());
        let output = on_a_bad_disk(&install, &script, "ADD", "full");
        let text = stdout(&output);
        let left = fs::read_to_string(&log).unwrap_or_default();
        if text.contains("\"code\": 5") {
            assert!(text.contains("No space left on device") && text.contains("free some space"), "{text}");
            assert!(!left.contains("10.1.2"), "{size} {inodes}: {left}");
            refused += 1;
        } else {
            assert!(text.contains("10.1.2.2/24") && left.contains("10.1.2.2"), "{size} {inodes}: {text} {left}");
            served += 1;
        }
    }
    assert!(refused > 2 && served > 0, "{refused} {served}");
    Ok(())
}

pub fn a_read_only_disk_is_named() -> Outcome {
    let install = Install::new();
    let prepare = "mount --bind $D $D && mount -o remount,ro,bind $D";
    let output = on_a_bad_disk(&install, prepare, "ADD", "ro");
    let text = stdout(&output);
    assert!(text.contains("\"code\": 5") && text.contains("Read-only file system"), "{text}");
    assert!(text.contains("'ipam.dataDir' must be on a writable file system"), "{text}");
    assert!(fs::read_dir(install.data()).unwrap().next().is_none());

    let conf = document(&install.data(), "10.1.2.0/24");
    add(&install.ours(), "a", &conf);
    let output = on_a_bad_disk(&install, prepare, "ADD", "ro");
    assert!(stdout(&output).contains("Read-only file system"), "{}", stdout(&output));
    assert_eq!(install.reserved(), ["10.1.2.2".to_owned()].into());
    Ok(())
}

/// FIFOs under the names of host-local's files, and an endless device: no call waits, and the error names the file.
pub fn what_is_no_regular_file_holds_nobody_up() -> Outcome {
    let odd = |path: &Path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (name, refused) in [("lock", false), ("last_reserved_ip.0", true), ("resolv.conf", true), ("/dev/zero", true)] {
        let caller = Caller::new(Whose::Ours);
        let folder = caller.data().join("net");
        fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        if !path.exists() {
            odd(&path);
        }
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "host-local",
            "ipam": { "type": "host-local", "dataDir": caller.data(), "ranges": [[{ "subnet": "10.9.1.0/24" }]] },
        });
        if ["resolv.conf", "/dev/zero"].contains(&name) {
            conf["ipam"]["resolvConf"] = json!(path);
        }
        for command in ["ADD", "DEL"] {
            let mut timeout = Command::new("timeout");
            timeout.arg("20");
            let answer =
                Answer::from(caller.under(timeout, command, &Pod::new("cid", Path::new("/run/netns/any")), &conf));
            let wanted = i32::from(refused && command == "ADD");
            assert_eq!(answer.status, wanted, "{command} with {name}: {answer:?}");
            assert!(wanted == 0 || answer.error().contains(name), "{command} does not name {name}: {answer:?}");
        }
        assert_eq!(caller.reserved("net"), Vec::<String>::new(), "{name}");
    }
    Ok(())
}
