//! Builds a topology: a namespace per node, wired by the same diff and apply that the programs use.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};

use kernel::state::{Bridge, Link, LinkKind, Scope, State, Veth, VethPeer, Vxlan};
use kernel::types::{Family, IfName, InvalidValue, Vni};
use kernel::{Errno, Failure};

use super::netns::Room;
use super::sandbox::SandboxError;
use super::topology::{MAX_HOSTS, Node, Topology};
use super::{Doing, Error};

/// Hosts, switches and a router, up and wired.
#[derive(Debug)]
pub struct World {
    /// The topology that it was built from.
    pub topology: Topology,
    rooms: BTreeMap<Node, Room>,
}

impl World {
    /// Creates the namespaces of `topology` and their links. Call it inside a sandbox.
    pub fn build(topology: Topology) -> Result<Self, Error> {
        if let Some(host) = topology.hosts().into_iter().find(|host| *host > MAX_HOSTS) {
            return Err(Error::Wrong(format!("host {host}: a lab has at most {MAX_HOSTS} hosts")));
        }
        let mut world = Self { topology, rooms: BTreeMap::new() };
        let nodes = world.topology.nodes();
        for node in &nodes {
            world.rooms.insert(*node, Room::create(&node.to_string())?);
        }
        for node in nodes {
            let state = world.topology.state(node, &|other| world.fd(other)).doing(format_args!("plan {node}"))?;
            establish(world.room(node)?, &state)?;
        }
        Ok(world)
    }

    /// The namespace of a node.
    pub fn room(&self, node: Node) -> Result<&Room, Error> {
        self.rooms.get(&node).ok_or_else(|| Error::Wrong(format!("{node} is not in this world")))
    }

    /// The namespace of a host.
    pub fn host(&self, host: usize) -> Result<&Room, Error> {
        self.room(Node::Host(host))
    }

    /// The number of namespaces.
    pub fn size(&self) -> usize {
        self.rooms.len()
    }

    /// Removes the names of all namespaces. Returns the namespaces' numbers, with which [`users_of`] finds processes
    /// and mounts that still use one.
    pub fn take_down(self) -> Result<Vec<u64>, Error> {
        let mut numbers = Vec::new();
        for (node, room) in self.rooms {
            numbers.push(room.netns().id().doing(format_args!("identify {node}"))?.1);
            room.remove()?;
        }
        Ok(numbers)
    }

    fn fd(&self, node: Node) -> RawFd {
        self.rooms.get(&node).map_or(-1, |room| room.netns().as_raw_fd())
    }
}

/// Converges a namespace that belongs to the lab alone to `state`.
pub fn establish(room: &Room, state: &State) -> Result<(), Error> {
    let what = || format!("set up {}", room.path().display());
    let mut kernel = room.kernel()?;
    let scope = Scope {
        links: state.links.keys().cloned().collect(),
        sysctls: state.sysctls.keys().cloned().collect(),
        keep: true,
        ..Scope::default()
    };
    kernel.converge(state, &scope, None).doing(what())?.ok().doing(what())?;
    Ok(())
}

/// Checks, in a new namespace, that the kernel has the link kinds that a network needs.
pub fn probe() -> Result<(), Error> {
    let room = Room::create("probe")?;
    let mut kernel = room.kernel()?;
    for (kind, option, link) in probes().doing("plan the probe of link kinds")? {
        let name = IfName::new("probe").doing("plan the probe")?;
        let state = State { links: [(name.clone(), link)].into(), ..State::default() };
        let made = kernel.converge(&state, &Scope::default(), Some(State::default().into()));
        match made.doing(format_args!("make a {kind} link"))?.ok() {
            Ok(_) => {}
            // rtnl_newlink: EOPNOTSUPP if no module provides the kind
            Err(Failure::Kernel(error)) if error.errno == Errno::OPNOTSUPP => {
                return Err(SandboxError::LinkKind { kind, option }.into());
            }
            Err(error) => return Err(error).doing(format_args!("make a {kind} link")),
        }
        let scope = Scope { links: vec![name], ..Scope::default() };
        let gone = kernel.converge(&State::default(), &scope, None);
        gone.doing(format_args!("delete a {kind} link"))?.ok().doing(format_args!("delete a {kind} link"))?;
    }
    room.remove()
}

type Probe = (&'static str, &'static str, Link);

fn probes() -> Result<[Probe; 3], InvalidValue> {
    let peer = VethPeer { name: IfName::new("peer")?, mac: None, mtu: None, netns: None };
    let vxlan = Vxlan { port: Some(8472), ..Vxlan::new(Vni::new(1)?) };
    let down = |kind| Link { up: false, ..Link::up(kind) };
    Ok([
        ("bridge", "CONFIG_BRIDGE", down(LinkKind::Bridge(Bridge::default()))),
        ("vxlan", "CONFIG_VXLAN", down(LinkKind::Vxlan(vxlan))),
        ("veth", "CONFIG_VETH", down(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) }))),
    ])
}

/// The processes in one of the network namespaces `numbers`, and the mounts that keep one alive.
pub fn users_of(numbers: &[u64]) -> Result<Vec<String>, Error> {
    // such as `net:[4026531840]`, both in links and in mountinfo
    let is_one = |name: &str| {
        let number = name.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']'));
        number.and_then(|number| number.parse().ok()).is_some_and(|number| numbers.contains(&number))
    };
    let mut users = Vec::new();
    for entry in fs::read_dir("/proc").doing("list /proc")? {
        let path = entry.doing("list /proc")?.path();
        // unreadable if the process has ended or belongs to another user
        let Ok(link) = fs::read_link(path.join("ns/net")) else { continue };
        if is_one(&link.to_string_lossy()) {
            users.push(format!("process {}", path.file_name().unwrap_or_default().to_string_lossy()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
    for mount in mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
        // proc_pid_mountinfo(5): field 4 is the mounted part of the file system, field 5 the mount point
        if let [_, _, _, root, at, ..] = mount[..]
            && is_one(root)
        {
            users.push(format!("mount {at}"));
        }
    }
    Ok(users)
}

/// The address families of a lab's pods.
pub fn families(dual_stack: bool) -> &'static [Family] {
    if dual_stack { &Family::ALL } else { &Family::ALL[..1] }
}
