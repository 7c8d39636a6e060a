//! A host with the daemon under measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::Kernel;
use kernel::diff::Step;
use kernel::message::Socket;
use kernel::message::route;
use kernel::state::{RouteScope, Scope};
use kernel::types::{IfName, RouteProtocol};
use lab::process::{Daemon, Launch, ends_within, last_lines};
use lab::wait::eventually;
use lab::world::World;
use lab::{Doing, Error};

use rustix::process::Pid;

use crate::etcd::Etcd;
use crate::{leases, nodes};

/// Everything is below the sandbox's own /run, a tmpfs that goes with it.
pub const ROOT: &str = "/run/scale";
/// For what takes seconds when all is well.
const PATIENCE: Duration = Duration::from_secs(60);
/// RTNLGRP_IPV4_ROUTE, linux/rtnetlink.h
const IPV4_ROUTE: u32 = 7;
/// The time without any event.
const IDLE: Duration = Duration::from_secs(10);

/// Memory, in bytes.
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

/// The host and its daemon.
pub struct Host<'a> {
    world: &'a World,
    program: PathBuf,
    etcd: Etcd<'a>,
    daemon: Option<Daemon>,
}

impl<'a> Host<'a> {
    /// An empty etcd, and no daemon.
    pub fn new(world: &'a World, program: &Path) -> Result<Self, Error> {
        match fs::remove_dir_all(ROOT) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing("empty the folder"),
            _ => {}
        }
        let etcd = Etcd::start(world, &Path::new(ROOT).join("etcd"))?;
        Ok(Self { world, program: program.to_owned(), etcd, daemon: None })
    }

    /// Where the leases are.
    pub fn etcd(&self) -> &Etcd<'a> {
        &self.etcd
    }

    fn kernel(&self) -> Result<Kernel, Error> {
        self.world.host(1)?.kernel()
    }

    /// Starts the daemon over etcd; how long it takes until it says that the host is ready.
    pub fn start(&mut self) -> Result<Duration, Error> {
        self.start_over(vec![format!("--etcd-endpoints={}", self.etcd.url())])
    }

    /// The same over the store that the flags `store` name.
    pub fn start_over(&mut self, store: Vec<String>) -> Result<Duration, Error> {
        let root = Path::new(ROOT);
        let (env, log) = (root.join("subnet.env"), root.join("log"));
        let launch = Launch {
            program: self.program.clone(),
            args: store
                .into_iter()
                .chain(["--iface=eth0".into(), format!("--subnet-file={}", env.display())])
                .map(Into::into)
                .collect(),
            env: vec![("NODE_NAME".into(), nodes::OWN.into())],
            netns: self.world.host(1)?.path().to_owned(),
            log: log.clone(),
            outlive: false,
        };
        let started = Instant::now();
        self.daemon = Some(launch.start()?);
        eventually("the daemon is ready", PATIENCE, || if env.exists() { Ok(()) } else { Err(last_lines(&log)) })?;
        Ok(started.elapsed())
    }

    /// How many entries of `peers` peers are missing in the kernel: a route, a neighbour and a forwarding entry of
    /// each.
    pub fn missing(&self, peers: usize) -> Result<usize, Error> {
        let device = IfName::new("flannel.1").doing("name the device")?;
        let routes = RouteScope { protocol: Some(RouteProtocol::FLANNEL), ..RouteScope::default() };
        let scope =
            Scope { links: vec![device.clone()], neighbours: vec![device], routes: Some(routes), ..Scope::default() };
        let state = self.kernel()?.observe(&scope).doing("read the host's state")?;
        let have = [state.routes.len(), state.neighbours.len(), state.fdb.len()];
        Ok(have.into_iter().map(|have| peers.saturating_sub(have)).sum())
    }

    /// What /proc says.
    pub fn memory(&self) -> Result<Memory, Error> {
        let text = fs::read_to_string(self.proc("status")?).doing("read the daemon's memory")?;
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Ok(Memory { now: of("VmRSS:"), peak: of("VmHWM:") })
    }

    fn proc(&self, file: &str) -> Result<PathBuf, Error> {
        let daemon = self.daemon.as_ref().ok_or_else(|| Error::Wrong("no daemon runs".into()))?;
        Ok(Path::new("/proc").join(daemon.pid().to_string()).join(file))
    }

    /// How often the daemon's threads were woken while nothing happened.
    pub fn idle(&self) -> Result<u64, Error> {
        let before = self.switches()?;
        self.rest(IDLE)?;
        Ok(self.switches()?.saturating_sub(before))
    }

    /// Does nothing for a while, during which the daemon must live.
    pub fn rest(&self, time: Duration) -> Result<(), Error> {
        let daemon = self.daemon.as_ref().and_then(|daemon| Pid::from_raw(i32::try_from(daemon.pid()).ok()?));
        let ended = daemon.map(|pid| ends_within(pid, time)).transpose().doing("watch the daemon")?;
        if ended != Some(false) {
            return Err(Error::Wrong("the daemon has ended".into()));
        }
        Ok(())
    }

    fn switches(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for task in fs::read_dir(self.proc("task")?).doing("list the daemon's threads")? {
            let status = task.doing("list the daemon's threads")?.path().join("status");
            // a thread that has just ended switches no more
            let text = fs::read_to_string(status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sum += line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }

    /// Makes the `change` that brings or takes the route of peer `n`; how long it takes until that is announced, and until the
    /// change is written.
    pub fn event(&self, n: usize, change: impl FnOnce() -> Result<(), Error>) -> Result<(Duration, Duration), Error> {
        let mut ear = self.listen()?;
        let (mut kernel, wanted) = (self.kernel()?, leases::subnet(n));
        // a route's link is named by its index
        kernel.links().doing("list links")?;
        let is_it = |message: &_| {
            let found = route::decode(message, kernel.names()).or_else(|| route::decode_gone(message, kernel.names()));
            found.is_some_and(|(key, _)| key.dst == wanted)
        };
        let started = Instant::now();
        change()?;
        let written = started.elapsed();
        while !ear.announcements(is_it).doing("hear of a route")? {}
        Ok((started.elapsed(), written))
    }

    /// Processor time of the daemon so far: its own and the kernel's for it, of all threads.
    pub fn cpu(&self) -> Result<Duration, Error> {
        let text = fs::read_to_string(self.proc("stat")?).doing("read the daemon's processor time")?;
        // proc_pid_stat(5): fields 14 and 15; the name, in parentheses, may hold spaces
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_nanos(ticks * 1_000_000_000 / per_second))
    }

    /// The same of `count` leases from `first` on, until the last one's route.
    pub fn burst(&self, first: usize, count: usize) -> Result<Duration, Error> {
        let started = Instant::now();
        self.etcd.put(first..first + count)?;
        eventually("the burst is in the kernel", PATIENCE, || {
            let missing = self.missing(first + count).map_err(|error| error.to_string())?;
            if missing == 0 { Ok(()) } else { Err(format!("{missing} entries are missing")) }
        })?;
        Ok(started.elapsed())
    }

    fn listen(&self) -> Result<Socket, Error> {
        let mut socket = self.world.host(1)?.enter(Socket::open)?.doing("open netlink")?;
        socket.join(IPV4_ROUTE).doing("listen to routes")?;
        Ok(socket)
    }

    /// Stops the daemon and deletes its device.
    pub fn end(&mut self) -> Result<(), Error> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(PATIENCE)?;
        }
        let device = IfName::new("flannel.1").doing("name the device")?;
        self.kernel()?.apply(&[Step::DeleteLink(device)]).ok().doing("delete the device")
    }
}
