//! What a program asks of the kernel, counted by strace(1).

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Where strace writes, in the caller's folder.
const LOG: &str = "strace.log";

/// System calls of a program and of all that it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// execve that succeeded, the program's own start among them.
    pub execs: usize,
    /// All calls.
    pub calls: usize,
    /// Those that sent on a netlink socket.
    pub sends: usize,
}

/// What to run.
#[derive(Debug)]
pub struct Traced<'a> {
    /// The executable.
    pub program: &'a Path,
    /// Its whole environment.
    pub variables: &'a [(&'a str, &'a str)],
    /// Its standard input.
    pub stdin: &'a [u8],
}

impl Traced<'_> {
    /// Runs it under strace; the log is kept in `dir`.
    pub fn run(&self, dir: &Path) -> io::Result<(Output, Counts)> {
        let log = dir.join(LOG);
        let mut child = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(&log)
            .arg("--")
            .arg(self.program)
            .env_clear()
            .envs(self.variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // a program that refuses early does not read its input
            let _ = stdin.write_all(self.stdin);
        }
        let output = child.wait_with_output()?;
        Ok((output, Counts::of(&fs::read_to_string(log)?)))
    }
}

impl Counts {
    /// Counts the lines of a log that `strace -f -o` wrote.
    pub fn of(log: &str) -> Self {
        let mut counts = Self::default();
        for line in log.lines() {
            // the end of a call may have a line of its own
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

/// The call that a line begins; a line may also end one that another interrupted, or tell of a signal.
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
}
