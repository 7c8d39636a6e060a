//! Starts, stops and kills daemons in host namespaces, each by its own process ID.
//!
//! A child first runs this executable: [`become_child`] binds it to its parent's life, enters the namespace and
//! executes the program. The child then ends with its parent, however the parent ends.

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

/// The first argument of a call that is meant for [`become_child`].
const CHILD: &str = "--lab-child";
/// The second argument if the child ends with its parent.
const BOUND: &str = "bound";
/// The second argument if the child outlives its parent.
const FREE: &str = "free";

/// How to start a program.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// The program's arguments, without its name.
    pub args: Vec<OsString>,
    /// Environment variables in addition to this process's own.
    pub env: Vec<(OsString, OsString)>,
    /// The path of the network namespace.
    pub netns: PathBuf,
    /// The file to which its output is appended.
    pub log: PathBuf,
    /// Whether it continues when this process ends, in a process group of its own.
    pub outlive: bool,
}

/// A running program.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    launch: Launch,
}

/// Executes the program of a [`Launch`] if `args` are such a call. Every executable that uses this module calls it
/// first in `main`. Returns `None` for any other call, and the error if the program cannot be executed.
pub fn become_child(mut args: impl Iterator<Item = OsString>) -> Option<io::Error> {
    if args.nth(1)? != CHILD {
        return None;
    }
    let next = || io::Error::new(io::ErrorKind::InvalidInput, "lab: the arguments must be MODE PARENT NETNS PROGRAM …");
    let (Some(mode), Some(parent), Some(netns), Some(program)) = (args.next(), args.next(), args.next(), args.next())
    else {
        return Some(next());
    };
    Some(become_program(&mode, &parent, Path::new(&netns), Command::new(program).args(args)))
}

/// Returns only on failure.
fn become_program(mode: &OsStr, parent: &OsStr, netns: &Path, program: &mut Command) -> io::Error {
    let outcome = super::netns::enter_path(netns, || -> io::Result<()> {
        if mode == BOUND {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // the parent may have ended before the call above
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
        // this path leads to this executable even after a newer build has replaced the file
        let mut command = Command::new("/proc/self/exe");
        command.arg(CHILD).arg(if self.outlive { FREE } else { BOUND }).arg(std::process::id().to_string());
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
    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The launch that started it. Starting it again is a restart.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().doing(format_args!("wait for process {}", self.pid()))
    }

    /// Sends SIGTERM and returns the exit status. A process that does not end within `limit` is killed, which is an
    /// error.
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

    /// Sends SIGKILL and waits for the end.
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
            // it fails if the process was already waited for; then there is nothing to kill
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The end of a log, for error messages.
pub fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Waits until a child has ended, and leaves its exit status to be collected.
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
