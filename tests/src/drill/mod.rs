//! Drills: a program is disturbed at one of its system calls, and what is left is compared with what may be left.
//!
//! A [`Point`] is one call and what becomes of it: the process is killed before it, or it fails once. The points of a run
//! follow from the calls that an undisturbed run makes. CI tries a [`Part`] of them, `tests/run --drills` all.

mod part;
pub mod snapshot;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

pub use part::Part;

/// Which calls of each name a program makes itself: the loader's come before them. Of several threads or processes the
/// one that makes most counts.
pub type Calls = BTreeMap<String, RangeInclusive<usize>>;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The process is killed before it.
    Kill,
    /// It fails with this errno and does nothing.
    Fail(&'static str),
}

/// One call of a program, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The call's name.
    pub call: String,
    /// Which of the calls of this name, counted from 1 in each thread.
    pub nth: usize,
    /// What becomes of it.
    pub change: Change,
}

impl Change {
    /// The change in strace's words.
    pub fn injected(self) -> String {
        match self {
            Self::Kill => "signal=KILL".to_owned(),
            Self::Fail(errno) => format!("error={errno}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, nth, change } = self;
        match change {
            Change::Kill => write!(f, "killed before call {nth} of {call}"),
            Change::Fail(errno) => write!(f, "{errno} at call {nth} of {call}"),
        }
    }
}

impl Point {
    /// Whether the program may answer with an abort: Rust's where it gets no memory, ours where a thread cannot leave a
    /// network namespace.
    pub fn may_abort(&self) -> bool {
        matches!(self.call.as_str(), "mmap" | "mremap" | "mprotect" | "setns") && self.change != Change::Kill
    }
}

/// A kill before each call.
pub fn kills(calls: &Calls) -> Vec<Point> {
    // strace itself starts the program by execve
    let calls = calls.iter().filter(|(call, _)| *call != "execve");
    let of = |(call, numbers): (&String, &RangeInclusive<usize>)| {
        let call = call.clone();
        numbers.clone().map(move |nth| Point { call: call.clone(), nth, change: Change::Kill })
    };
    calls.flat_map(of).collect()
}

/// Each failure that each call can have.
pub fn failures(calls: &Calls) -> Vec<Point> {
    let of = |(call, numbers): (&String, &RangeInclusive<usize>)| {
        let call = call.clone();
        numbers.clone().flat_map(move |nth| {
            let call = call.clone();
            errnos(&call).iter().map(move |errno| Point { call: call.clone(), nth, change: Change::Fail(errno) })
        })
    };
    calls.iter().flat_map(of).collect()
}

/// The errors that a call may have on a machine that works otherwise (the calls' manual pages).
fn errnos(call: &str) -> &'static [&'static str] {
    match call {
        "open" | "openat" | "openat2" => &["EMFILE", "ENOMEM", "EIO", "EINTR"],
        "socket" | "dup" | "pipe2" | "eventfd2" | "epoll_create1" | "inotify_init1" | "pidfd_open" | "accept4" => {
            &["EMFILE", "ENOMEM"]
        }
        "read" | "write" | "pread64" | "pwrite64" | "fsync" | "ftruncate" => &["EIO", "EINTR"],
        "recvfrom" | "recvmsg" | "recvmmsg" => &["ENOMEM", "ENOBUFS", "EINTR"],
        "sendto" | "sendmsg" | "sendmmsg" => &["ENOMEM", "EINTR"],
        "flock" => &["ENOLCK", "EINTR"],
        "poll" | "ppoll" | "epoll_wait" | "epoll_pwait" | "nanosleep" | "clock_nanosleep" | "wait4" => &["EINTR"],
        "clone" | "clone3" | "fork" | "vfork" => &["EAGAIN", "ENOMEM"],
        "getrandom" => &["EINTR"],
        "mkdir" | "mkdirat" | "link" | "linkat" | "rename" | "renameat" | "unlink" | "unlinkat" | "getdents64"
        | "stat" | "fstat" | "newfstatat" | "statx" | "lseek" | "chmod" | "fchmod" | "utimensat" => &["EIO"],
        // these cannot fail, or their failure is the kernel's own fault
        "execve" | "exit" | "exit_group" | "getpid" | "gettid" | "getppid" | "getuid" | "geteuid" | "getegid"
        | "getgid" | "munmap" | "madvise" | "rt_sigaction" | "rt_sigprocmask" | "rt_sigreturn" | "sched_yield"
        | "sigaltstack" | "umask" | "set_robust_list" | "rseq" | "restart_syscall" | "clock_gettime" | "brk"
        | "set_tid_address" | "prctl" | "uname" => &[],
        // an injected failure replaces the call: the file would stay open, and a waiting thread would not be woken
        "close" | "futex" => &[],
        _ => &["ENOMEM"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_points() {
        let calls: Calls =
            [("read".to_owned(), 3..=4), ("execve".to_owned(), 1..=1), ("getpid".to_owned(), 1..=1)].into();
        let said = |points: Vec<Point>| points.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            said(kills(&calls)),
            ["killed before call 1 of getpid", "killed before call 3 of read", "killed before call 4 of read"]
        );
        let read =
            ["EIO at call 3 of read", "EINTR at call 3 of read", "EIO at call 4 of read", "EINTR at call 4 of read"];
        assert_eq!(said(failures(&calls)), read);
    }
}
