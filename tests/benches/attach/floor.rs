//! The lower bound of an attachment: a program that starts as a plugin does, sends the messages of an ADD and exits
//! (tests/floor). It reads, checks, reserves, sets and answers nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::Kernel;
use kernel::diff::{Step, diff};
use kernel::state::{Bridge, Link, LinkKind, Scope, State};
use kernel::types::IfName;
use lab::netns::Room;
use lab::{Doing, Error};
use tests::strace::Traced;

use crate::call::{Call, race};
use crate::measure::{Rates, Sample};

/// The host's end of the pair of the `n`th pod.
fn veth(n: usize) -> String {
    format!("vethfloor{n:03}")
}

/// The program, and the bridge that it finds.
pub struct Floor {
    program: PathBuf,
    bridge: IfName,
}

impl Floor {
    /// Makes the bridge, as on a host at work.
    pub fn new(program: &Path, host: &mut Kernel) -> Result<Self, Error> {
        let name = |name| IfName::new(name).doing("name a link");
        // as long as the name of the plugins' bridge
        let floor = Self { program: program.to_owned(), bridge: name("base")? };
        let mut state = State::default();
        state.links.insert(floor.bridge.clone(), Link::up(LinkKind::Bridge(Bridge::default())));
        state.address(&floor.bridge, "10.84.0.1/16".parse().doing("read an address")?, false);
        host.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok().doing("make a bridge")?;
        Ok(floor)
    }

    /// Runs it for the pod in `room`, and checks that the bridge's port carries packets. Then deletes the pair again,
    /// untimed.
    pub fn add(&self, sample: &mut Sample, host: &mut Kernel, room: &Room) -> Result<(), Error> {
        sample.take(&self.call(room, 0))?;
        self.delete(host, 0)
    }

    /// Runs it for the pods in `rooms` at once.
    pub fn at_once(&self, rates: &mut Rates, host: &mut Kernel, rooms: &[Room]) -> Result<(), Error> {
        let calls: Vec<_> = rooms.iter().enumerate().map(|(n, room)| self.call(room, n)).collect();
        let (took, answers) = race(&calls).doing(format_args!("run {} of the least programs", rooms.len()))?;
        rates.failures += answers.iter().filter(|answer| !answer.status.success()).count();
        rates.add.push(rooms.len() as f64 / took.as_secs_f64());
        (0..rooms.len()).try_for_each(|n| self.delete(host, n))
    }

    fn call(&self, room: &Room, n: usize) -> Call {
        Call {
            program: self.program.clone(),
            variables: vec![
                ("CNI_NETNS", room.path().to_string_lossy().into_owned()),
                ("BRIDGE", self.bridge.to_string()),
                ("VETH", veth(n)),
            ],
            stdin: String::new(),
        }
    }

    fn delete(&self, host: &mut Kernel, n: usize) -> Result<(), Error> {
        let host_end = IfName::new(&veth(n)).doing("name a link")?;
        let port = host.wait_running(&host_end, Duration::from_secs(1)).doing("wait for the port")?;
        host.apply(&[Step::DeleteLink(host_end)]).ok().doing("delete the pair")?;
        if port.is_some_and(|port| port.running) {
            Ok(())
        } else {
            Err(Error::Wrong("the bridge's port did not come up".into()))
        }
    }

    /// The lengths, kinds and flags of the messages that it sends, from a trace of it.
    pub fn messages(&self, host: &mut Kernel, room: &Room, dir: &Path) -> Result<Vec<String>, Error> {
        let call = self.call(room, 0);
        let variables: Vec<_> = call.variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Traced { program: &call.program, variables: &variables, stdin: b"" }.run(dir).doing("run strace")?;
        self.delete(host, 0)?;
        sent(dir)
    }
}

/// The messages in the trace that is in `dir`: length, kind and flags of each, of one send together.
pub fn sent(dir: &Path) -> Result<Vec<String>, Error> {
    let log = std::fs::read_to_string(dir.join("strace.log")).doing("read strace's log")?;
    let sends = log.lines().filter(|line| line.contains("sendto(") && line.contains("nlmsg_len"));
    let heads = |line: &str| {
        let heads = line.split("nlmsg_len=").skip(1).filter_map(|part| part.split(", nlmsg_seq").next());
        heads.map(str::to_owned).collect::<Vec<_>>().join("; ")
    };
    Ok(sends.map(heads).collect())
}
