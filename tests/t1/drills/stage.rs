//! A host of its own for one point of a drill, with a pod, and another pod that may live beside it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attachment::record::DIRECTORY;
use kernel::diff::{Step, diff};
use kernel::state::{Bridge, Link, LinkKind, Scope, State, Veth, VethPeer};
use kernel::types::{IfName, Mac};
use lab::netns::Room;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};
use tests::drill::snapshot::{self, Lines};
use tests::drill::{Calls, Point};

use super::Failure;
use super::rows::{Row, SUBNET_ENV, of_other};
use crate::call::{Answer, Caller, Pod};

/// The other pod's container.
const OTHER: &str = "other";
/// Files in the caller's folder that are not the plugins'.
const NOT_THEIRS: &[&str] = &["bin", "strace.log", "subnet.env"];

/// The bridge of a plugin of another suite.
pub const SWITCH: &str = "br0";

/// The host.
#[derive(Debug)]
pub struct Stage<'a> {
    caller: &'a Caller,
    host: Room,
    rooms: [Room; 2],
    /// The pod that the drill is about.
    pub pod: Pod,
    other: Option<Pod>,
    /// The configuration.
    pub conf: Value,
}

impl<'a> Stage<'a> {
    /// A new host with an uplink `eth0`, and on it the other pod if it lives.
    pub fn new(caller: &'a Caller, row: &Row, other_lives: bool) -> Result<Self, Failure> {
        for dir in
            [caller.data(), caller.files.path().join("flannel"), caller.files.path().join("tuning"), DIRECTORY.into()]
        {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        fs::write(caller.files.path().join("subnet.env"), SUBNET_ENV)?;
        let (host, rooms) = (Room::create("host")?, [Room::create("pod")?, Room::create(OTHER)?]);
        connect(&host)?;
        let (pod, other) = (Pod::of(&rooms[0], "cid"), other_lives.then(|| Pod::of(&rooms[1], OTHER)));
        let mut stage = Self { caller, host, rooms, pod, other, conf: Value::Null };
        stage.conf = (row.conf)(&stage);
        if stage.conf.get("prevResult").is_some() {
            stage.pair()?;
        }
        if let Some(other) = &stage.other {
            succeeded(&stage.call_for("ADD", other, &of_other(&stage.conf))?)?;
        }
        Ok(stage)
    }

    /// Makes a bridge, and a veth pair for each pod.
    fn pair(&self) -> Result<(), Failure> {
        let mut host = self.host.kernel()?;
        let bridge = Link::up(LinkKind::Bridge(Bridge::default()));
        host.apply(&[Step::CreateLink(IfName::new(SWITCH)?, bridge)]).ok()?;
        for (number, room) in (0..).zip(&self.rooms) {
            let netns = Some(room.netns().as_raw_fd());
            let peer = VethPeer { name: IfName::new("eth0")?, mac: None, mtu: None, netns };
            let kind = LinkKind::Veth(Veth { peer: Some(Box::new(peer)) });
            let link = Link { mac: Some(end_mac(number)), ..Link::up(kind) };
            host.apply(&[Step::CreateLink(IfName::new(&end_name(number))?, link)]).ok()?;
        }
        Ok(())
    }

    /// Removes the name of the pod's namespace, as a runtime does when the pod has ended.
    pub fn end_pod(&self) -> Result<(), Failure> {
        let path = self.rooms[0].path();
        unmount(path, UnmountFlags::DETACH)?;
        Ok(fs::remove_file(path)?)
    }

    /// Removes the host.
    pub fn remove(self) -> Result<(), Failure> {
        let [pod, other] = self.rooms;
        for room in [pod, other, self.host].into_iter().filter(|room| room.path().exists()) {
            room.remove()?;
        }
        Ok(())
    }

    /// The folder of host-local.
    pub fn data(&self) -> PathBuf {
        self.caller.data()
    }

    /// The folder of all files.
    pub fn folder(&self) -> &Path {
        self.caller.files.path()
    }

    /// The result of a plugin that made a veth pair for each pod, once it has. The stage has them from the start.
    pub fn paired(&self) -> Value {
        let end = |number: u8| json!({ "name": end_name(number), "mac": end_mac(number).to_string() });
        let pod = json!({ "name": "eth0", "sandbox": self.pod.netns });
        json!({ "cniVersion": "1.1.0", "interfaces": [end(0), end(1), pod], "ips": [] })
    }

    /// Calls the plugin for the pod.
    pub fn call(&self, command: &str, conf: &Value) -> Result<Answer, Failure> {
        self.call_for(command, &self.pod, conf)
    }

    /// Calls the plugin for the pod, without the path of its namespace.
    pub fn call_without_path(&self, command: &str, conf: &Value) -> Result<Answer, Failure> {
        self.call_for(command, &Pod { netns: PathBuf::new(), ..self.pod.clone() }, conf)
    }

    fn call_for(&self, command: &str, pod: &Pod, conf: &Value) -> Result<Answer, Failure> {
        Ok(self.host.enter(|| self.caller.call(command, pod, conf))?)
    }

    /// The document for GC: the other pod is valid, if it lives.
    pub fn collected(&self) -> Value {
        let valid: Vec<Value> =
            self.other.iter().map(|pod| json!({ "containerID": pod.id, "ifname": pod.ifname })).collect();
        let mut conf = self.conf.clone();
        conf["cni.dev/valid-attachments"] = valid.into();
        conf
    }

    /// The calls of an undisturbed call of the plugin.
    pub fn calls(&self, command: &str, conf: &Value) -> Result<(Answer, Calls), Failure> {
        let dir = self.folder();
        let traced = || self.caller.traced(command, &self.pod, conf, |traced| traced.calls(dir));
        let (output, calls) = self.host.enter(traced)??;
        Ok((output.into(), calls))
    }

    /// An undisturbed call that comes from the program that disturbs others: GC collects what its own caller attached.
    pub fn call_traced(&self, command: &str, conf: &Value) -> Result<Answer, Failure> {
        Ok(self.calls(command, conf)?.0)
    }

    /// Calls the plugin, disturbed at `point`; `None` if it did not come there.
    pub fn disturbed(&self, command: &str, conf: &Value, point: &Point) -> Result<Option<Answer>, Failure> {
        let (dir, change) = (self.folder(), point.change.injected());
        let disturb = || -> io::Result<Option<Output>> {
            self.caller
                .traced(command, &self.pod, conf, |traced| traced.disturbed(dir, &point.call, &change, point.nth))
        };
        Ok(self.host.enter(disturb)??.map(Answer::from))
    }

    /// Calls a plugin of `caller` for the pod.
    pub fn call_by(&self, caller: &Caller, command: &str, conf: &Value) -> Result<Answer, Failure> {
        Ok(self.host.enter(|| caller.call(command, &self.pod, conf))?)
    }

    /// Runs `work` on the host.
    pub fn in_host<T>(&self, work: impl FnOnce() -> T) -> Result<T, Failure> {
        Ok(self.host.enter(work)?)
    }

    /// Runs a script on the host.
    pub fn on_host(&self, script: &str) -> Result<(), Failure> {
        sh(&self.host, script)
    }

    /// Runs a script in the pod.
    pub fn in_pod(&self, script: &str) -> Result<(), Failure> {
        sh(&self.rooms[0], script)
    }

    /// Whether the pod's attachment is complete, by its record.
    pub fn has_committed(&self) -> bool {
        let record = fs::read_to_string(Path::new(DIRECTORY).join("net").join("cid@eth0"));
        record.is_ok_and(|text| text.contains("\"committed\":true"))
    }

    /// All there is on the host and in the pods.
    pub fn state(&self) -> Result<Lines, Failure> {
        let mut all = prefixed("host: ", snapshot::namespace(&self.host)?);
        all.extend(prefixed("pod: ", snapshot::inside(&self.rooms[0])?));
        if self.other.is_some() {
            all.extend(prefixed("other pod: ", snapshot::inside(&self.rooms[1])?));
        }
        all.extend(snapshot::files(Path::new(DIRECTORY), &[])?);
        all.extend(snapshot::files(self.folder(), NOT_THEIRS)?);
        Ok(all)
    }
}

/// The answer of a call that must succeed.
pub fn succeeded(answer: &Answer) -> Result<Value, Failure> {
    match answer.status {
        0 if answer.stdout.is_empty() => Ok(Value::Null),
        0 => Ok(serde_json::from_str(&answer.stdout)?),
        _ => Err(format!("{answer:?}").into()),
    }
}

/// The host's end of a pod's pair.
fn end_name(number: u8) -> String {
    format!("end{number}")
}

fn end_mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 8, number])
}

fn sh(room: &Room, script: &str) -> Result<(), Failure> {
    let output = room.enter(|| Command::new("sh").args(["-ec", script]).output())??;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{script}`: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn prefixed(prefix: &str, lines: Lines) -> Lines {
    lines.into_iter().map(|line| format!("{prefix}{line}")).collect()
}

fn connect(host: &Room) -> Result<(), Failure> {
    let eth0 = IfName::new("eth0")?;
    let peer = VethPeer { name: IfName::new("wire")?, mac: None, mtu: None, netns: None };
    let mut state = State::default();
    state.links.insert(eth0.clone(), Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) })));
    state.address(&eth0, "192.0.2.1/24".parse()?, true);
    host.kernel()?.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok()?;
    Ok(())
}
