//! Runs a program under strace(1): counts its system calls, and stops it, kills it, or fails a call at a chosen one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lab::process::ends_within;
use lab::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};

use crate::drill::Calls;

/// The log of strace, in the caller's folder.
const LOG: &str = "strace.log";
/// The line of strace after a signal has stopped the program.
const STOPPED: &str = "--- stopped by SIGSTOP ---";
/// The mark of strace after a call that it changed.
const INJECTED: &str = "(INJECTED)";
/// The limit until the program's next call. No plugin takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The number of system calls of a program and of all programs that it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Successful calls of execve, including the program's own start.
    pub execs: usize,
    /// All calls.
    pub calls: usize,
    /// Calls that send on a netlink socket.
    pub sends: usize,
}

/// The program to run.
#[derive(Debug)]
pub struct Traced<'a> {
    /// The executable.
    pub program: &'a Path,
    /// The whole environment.
    pub variables: &'a [(&'a str, &'a str)],
    /// The standard input.
    pub stdin: &'a [u8],
}

/// A program that is stopped after one of its calls. Dropping it kills the program.
#[derive(Debug)]
pub struct Stopped {
    strace: Option<Child>,
    program: Pid,
}

impl Traced<'_> {
    /// Runs the program under strace. The log stays in `dir`.
    pub fn run(&self, dir: &Path) -> io::Result<(Output, Counts)> {
        let (strace, log) = self.start(dir, &[])?;
        let output = strace.wait_with_output()?;
        Ok((output, Counts::of(&fs::read_to_string(log)?)))
    }

    /// Runs the program. Returns which of its calls of `call`, counted from 1, is the first whose line has all of
    /// `parts`.
    pub fn find(&self, dir: &Path, call: &str, parts: &[&str]) -> io::Result<(Output, Option<usize>)> {
        let (strace, log) = self.start(dir, &["-e", &format!("trace={call}")])?;
        let output = strace.wait_with_output()?;
        Ok((output, nth(&fs::read_to_string(log)?, call, parts)))
    }

    /// Runs the program. Returns which calls it makes.
    pub fn calls(&self, dir: &Path) -> io::Result<(Output, Calls)> {
        let (strace, log) = self.start(dir, &[])?;
        let output = strace.wait_with_output()?;
        Ok((output, own_calls(&fs::read_to_string(log)?)))
    }

    /// Runs the program with `change` at its `nth` call of `call`: `signal=KILL` acts before the call, `error=ENOSPC`
    /// replaces it. Returns `None` if there are fewer calls.
    ///
    /// # Errors
    /// Also a program that does not end.
    pub fn disturbed(&self, dir: &Path, call: &str, change: &str, nth: usize) -> io::Result<Option<Output>> {
        let (strace, log) = self.start(dir, &["-e", &format!("trace={call}"), "-e", &inject(call, change, nth)])?;
        let output = finished(strace, &log)?;
        let log = fs::read_to_string(log)?;
        Ok((log.contains(INJECTED) || log.contains("killed by SIGKILL")).then_some(output))
    }

    /// Starts the program and stops it after its `nth` call of `call`. `None` if it ends before.
    pub fn stop_behind(&self, dir: &Path, call: &str, nth: usize) -> io::Result<Option<Stopped>> {
        let options = ["-e", &format!("trace={call}"), "-e", &inject(call, "signal=STOP", nth)];
        let (mut strace, log) = self.start(dir, &options)?;
        let looked = eventually(format_args!("stopped at call {nth} of {call}, or ended"), PATIENCE, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            match (stopped(&text), strace.try_wait()) {
                (Some(program), _) => Ok(Some(program)),
                (None, Ok(None)) => Err(text),
                (None, _) => Ok(None),
            }
        });
        match looked {
            Ok(program) => Ok(program.map(|program| Stopped { strace: Some(strace), program })),
            Err(error) => {
                strace.kill()?;
                strace.wait()?;
                Err(io::Error::other(error))
            }
        }
    }

    fn start(&self, dir: &Path, options: &[&str]) -> io::Result<(Child, PathBuf)> {
        let log = dir.join(LOG);
        // an old log would be taken for this run's
        let _ = fs::remove_file(&log);
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(&log)
            .args(options)
            .arg("--")
            .arg(self.program)
            .env_clear()
            .envs(self.variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = strace.stdin.take() {
            // a program that fails early does not read its input
            let _ = stdin.write_all(self.stdin);
        }
        Ok((strace, log))
    }
}

impl Stopped {
    /// Lets the program continue to its end.
    pub fn go_on(mut self) -> io::Result<Output> {
        kill_process(self.program, Signal::CONT)?;
        match self.strace.take() {
            Some(strace) => strace.wait_with_output(),
            None => Err(io::Error::other("the program was already continued")),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(mut strace) = self.strace.take() {
            // strace ends with the program
            let _ = kill_process(self.program, Signal::KILL);
            let _ = strace.wait();
        }
    }
}

/// The output of a program that ends in time. One that does not is killed.
fn finished(mut strace: Child, log: &Path) -> io::Result<Output> {
    let pid = i32::try_from(strace.id()).ok().and_then(Pid::from_raw).ok_or(io::Error::other("invalid process ID"))?;
    if ends_within(pid, PATIENCE)? {
        return strace.wait_with_output();
    }
    // strace lets go of what it traces when it is killed, so the program comes first
    let text = fs::read_to_string(log).unwrap_or_default();
    let traced: BTreeSet<i32> = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    for program in traced.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process(program, Signal::KILL);
    }
    strace.kill()?;
    strace.wait()?;
    let last = text.lines().last().unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("not ended within {PATIENCE:?}, after {last}")))
}

/// What Rust's start does first, and ours: it looks at the standard descriptors. The loader's calls come before.
const START: &str = "poll([{fd=0, events=0}, {fd=1, events=0}, {fd=2, events=0}]";

/// The numbers of the calls that a program makes itself, by a log of `strace -f`.
pub fn own_calls(log: &str) -> Calls {
    let mut made: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut loaders = None;
    for line in log.lines() {
        let (Some(call), Some((pid, _))) = (call(line), line.split_once(' ')) else { continue };
        if loaders.is_none() && call.starts_with(START) {
            loaders = Some(made.clone());
        }
        *made.entry((call.split('(').next().unwrap_or(call), pid)).or_default() += 1;
    }
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for ((name, _), number) in loaders.unwrap_or_default() {
        *first.entry(name).or_default() += number;
    }
    let mut calls = Calls::new();
    for ((name, _), number) in made {
        let from = first.get(name).copied().unwrap_or_default() + 1;
        let last = calls.get(name).map_or(0, |numbers| *numbers.end()).max(number);
        if last >= from {
            calls.insert(name.to_owned(), from..=last);
        }
    }
    calls
}

fn inject(call: &str, change: &str, nth: usize) -> String {
    format!("inject={call}:{change}:when={nth}")
}

/// The process that a signal has stopped.
fn stopped(log: &str) -> Option<Pid> {
    let line = log.lines().find(|line| line.ends_with(STOPPED))?;
    line.split(' ').next()?.parse().ok().and_then(Pid::from_raw)
}

/// The number of the call of `name` whose line has all of `parts`.
fn nth(log: &str, name: &str, parts: &[&str]) -> Option<usize> {
    let calls = log.lines().filter_map(call).filter(|call| call.split('(').next() == Some(name));
    calls.zip(1..).find(|(call, _)| parts.iter().all(|part| call.contains(part))).map(|(_, number)| number)
}

impl Counts {
    /// Counts the lines of a log that `strace -f -o` wrote.
    pub fn of(log: &str) -> Self {
        let mut counts = Self::default();
        for line in log.lines() {
            // the end of a call may be on a line of its own
            let starts = line.contains(" execve(") || line.contains("<... execve resumed>");
            counts.execs += usize::from(starts && line.ends_with(" = 0"));
            let Some(call) = call(line) else { continue };
            let is = |name: &str| call.strip_prefix(name).is_some_and(|rest| rest.starts_with('('));
            counts.calls += 1;
            let sends = is("sendto") || is("sendmsg") || is("sendmmsg");
            // strace decodes what is written to a netlink socket
            counts.sends += usize::from(sends && (call.contains("nlmsg_len=") || call.contains("AF_NETLINK")));
        }
        counts
    }
}

/// The call that starts on a line. A line may instead end an interrupted call, or report a signal.
fn call(line: &str) -> Option<&str> {
    let (pid, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    (pid.bytes().all(|b| b.is_ascii_digit()) && rest.starts_with(|c: char| c.is_ascii_lowercase())).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_counted() {
        let log = r#"7 execve("/bin/x", ["x"], 0x7ffe /* 3 vars */) = 0
7 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 3
7 sendto(3, [{nlmsg_len=40, nlmsg_type=RTM_GETLINK}, "x"], 40, 0, NULL, 0) = 40
7 sendto(4, "hello", 5, 0, NULL, 0)        = 5
7 vfork( <unfinished ...>
8     execve("/bin/y", ["y"], 0x7ffe /* 3 vars */) = -1 ENOENT (No such file or directory)
8     execve("/usr/bin/y", ["y"], 0x7ffe /* 3 vars */ <unfinished ...>
7 <... vfork resumed>) = 8
8 <... execve resumed>) = 0
8 sendmsg(3, {msg_name={sa_family=AF_NETLINK, nl_pid=0}, msg_iov=[{iov_base=[{nlmsg_len=20}]}]}, 0) = 20
8 +++ exited with 0 +++
7 --- SIGCHLD {si_signo=SIGCHLD} ---
"#;
        assert_eq!(Counts::of(log), Counts { execs: 2, calls: 8, sends: 2 });
    }

    #[test]
    fn the_loaders_calls_are_left_out() {
        let log = format!(
            "7 read(3) = 1\n7 close(3) = 0\n7 {START}, 3, 0) = 0\n7 read(0) = 1\n7 read(0) = 0\n8 close(4) = 0\n8 close(5) = 0\n"
        );
        assert_eq!(
            own_calls(&log),
            [("close", 2..=2), ("poll", 1..=1), ("read", 2..=3)].map(|(n, r)| (n.to_owned(), r)).into()
        );
    }

    #[test]
    fn a_call_is_found_and_a_stop_is_seen() {
        let log = "7 sendto(3, [{nlmsg_type=RTM_GETLINK}]) = 40\n7 sendmsg(3, RTM_NEWLINK) = 1\n\
             7 sendto(3, [{nlmsg_type=RTM_NEWLINK}, \"cni0.7\"]) = 40\n7 --- SIGSTOP {si_signo=SIGSTOP} ---\n\
             7 --- stopped by SIGSTOP ---\n";
        assert_eq!(nth(log, "sendto", &["RTM_NEWLINK", "cni0.7"]), Some(2));
        assert_eq!(nth(log, "sendto", &["RTM_DELLINK"]), None);
        assert_eq!(stopped(log), Pid::from_raw(7));
        assert_eq!(stopped("7 --- SIGSTOP {si_signo=SIGSTOP} ---\n"), None);
    }
}
