//! Daemons in host namespaces: started, stopped and killed by their own pid.
//!
//! A child is this executable first: [`door`] ties it to its parent's life, enters the namespace and becomes the
//! program. Its parent's end is thus its own, however the parent ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, kill_process, pidfd_open, set_parent_process_death_signal};

use super::{Doing, Error};

/// The first argument by which [`door`] knows its call.
const DOOR: &str = "--lab-door";
/// The second argument: dies with its parent …
const BOUND: &str = "bound";
/// … or outlives it.
const FREE: &str = "free";

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables that it gets beside this process's own.
    pub env: Vec<(OsString, OsString)>,
    /// The network namespace, as a path.
    pub netns: PathBuf,
    /// Where its output is appended.
    pub log: PathBuf,
    /// It goes on when this process ends, in a process group of its own.
    pub outlive: bool,
}

/// A running program.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    launch: Launch,
}

/// What every executable that uses this module calls first in `main`. It returns when the call is an ordinary one, or
/// with the error that kept the program from starting.
pub fn door(mut args: impl Iterator<Item = OsString>) -> Option<io::Error> {
    if args.nth(1)? != DOOR {
        return None;
    }
    let next = || io::Error::new(io::ErrorKind::InvalidInput, "lab: the door wants MODE PARENT NETNS PROGRAM …");
    let (Some(mode), Some(parent), Some(netns), Some(program)) = (args.next(), args.next(), args.next(), args.next())
    else {
        return Some(next());
    };
    Some(become_program(&mode, &parent, Path::new(&netns), Command::new(program).args(args)))
}

/// Only returns when it failed.
fn become_program(mode: &OsStr, parent: &OsStr, netns: &Path, program: &mut Command) -> io::Error {
    let outcome = super::netns::enter_path(netns, || -> io::Result<()> {
        if mode == BOUND {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // the parent may have ended before the line above
            if getppid().map(|pid| pid.as_raw_nonzero().to_string()) != parent.to_str().map(str::to_owned) {
                return Err(io::Error::other("lab: the parent is gone"));
            }
        }
        Err(program.exec())
    });
    match outcome {
        Ok(Err(error)) => error,
        Ok(Ok(())) => io::Error::other("lab: exec returned"),
        Err(error) => io::Error::other(error),
    }
}

impl Launch {
    /// Starts the program.
    pub fn start(self) -> Result<Daemon, Error> {
        let name = self.program.display().to_string();
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.doing(format_args!("start {name}: open {}", self.log.display()))?;
        let errors = log.try_clone().doing(format_args!("start {name}: share its log"))?;
        // by this name the door is found even when the file was replaced by a newer build
        let mut command = Command::new("/proc/self/exe");
        command.arg(DOOR).arg(if self.outlive { FREE } else { BOUND }).arg(std::process::id().to_string());
        command.arg(&self.netns).arg(&self.program).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        if self.outlive {
            command.process_group(0);
        }
        let child = command.spawn().doing(format_args!("start {name}"))?;
        Ok(Daemon { child, launch: self })
    }
}

impl Daemon {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it was started: the same again is a restart.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().doing(format_args!("wait for process {}", self.pid()))
    }

    /// SIGTERM, and how it ended; one that does not end within `limit` is killed and is an error.
    pub fn stop(mut self, limit: Duration) -> Result<ExitStatus, Error> {
        let pid = self.pid();
        self.signal(Signal::TERM)?;
        if !self.ends_within(limit)? {
            self.child.kill().doing(format_args!("kill process {pid}"))?;
            self.child.wait().doing(format_args!("wait for process {pid}"))?;
            let what = format!("process {pid} ({}) ends on SIGTERM", self.launch.program.display());
            return Err(Error::Timeout { what, waited: limit, last: "running".into() });
        }
        self.child.wait().doing(format_args!("wait for process {pid}"))
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<(), Error> {
        self.child.kill().doing(format_args!("kill process {}", self.pid()))?;
        self.child.wait().doing(format_args!("wait for process {}", self.pid()))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = self.as_pid()?;
        kill_process(pid, signal).doing(format_args!("signal process {}", self.pid()))
    }

    fn as_pid(&self) -> Result<Pid, Error> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Error::Wrong(format!("{} is not a process number", self.pid())))
    }

    fn ends_within(&self, limit: Duration) -> Result<bool, Error> {
        ends_within(self.as_pid()?, limit).doing(format_args!("watch process {}", self.pid()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.launch.outlive {
            // it may have been waited for already; then there is nothing to kill
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The end of a log, for an error.
pub fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Waits until a child has ended, without collecting it.
pub fn ends_within(pid: Pid, limit: Duration) -> io::Result<bool> {
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    let until = std::time::Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
