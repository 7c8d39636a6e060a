//! Work that a child process does after its parent has ended, because nobody needs to wait for it.

#![expect(unsafe_code, reason = "fork, and what a child does after it")]

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_gettime};

/// The inode of the host's own PID namespace (PROC_PID_INIT_INO, linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Children close their sockets together, at each multiple of this time in ms: the first one's wait for the kernel is
/// then the wait of all.
const TICK: i64 = 250;

/// How long a child keeps a socket at least, in ms: longer than the kernel takes to release what was deleted (8–16 ms,
/// more under load).
const KEPT_FOR: i64 = 100;

/// Starts a child process that does `work`, and closes `held`, a socket of nf_tables, and what `work` returns when that
/// costs nothing.
///
/// Closing an nfnetlink socket while the kernel releases nf_tables objects that anyone deleted in the network namespace
/// blocks for an RCU grace period, 8–16 ms. Meanwhile it holds the namespace's nf_tables lock, so that the transactions of
/// all other programs wait, too (`nft_rcv_nl_event`, net/netfilter/nf_tables_api.c). The child closes the socket when
/// that is over.
///
/// `work` runs in the child, where its panic ends it and nothing shows its errors. It must open the sockets that it
/// needs.
///
/// If no child can be created, if nobody would reap it, or if this process has several threads, the caller does `work`
/// and closes `held` itself.
pub fn leave_to_child<T>(held: Option<impl AsFd>, work: impl FnOnce() -> T) {
    let Some((end, open)) = (is_reaped() && is_alone()).then(|| pipe_with(PipeFlags::CLOEXEC).ok()).flatten() else {
        return drop(work());
    };
    // SAFETY: this is the only thread, so the child's memory is as after any other call, and no lock is held.
    match unsafe { libc::fork() } {
        -1 => drop(work()),
        0 => child(end.as_raw_fd(), held.as_ref().map(|held| held.as_fd().as_raw_fd()), work),
        _child => {
            // the caller's namespaces and files must be free when it ends: waits until the child has closed its copies
            drop(open);
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&end, &mut [0; 1]));
        }
    }
}

/// The child: closes everything but `held`, works, and ends.
fn child<T>(end: RawFd, held: Option<RawFd>, work: impl FnOnce() -> T) -> ! {
    // the descriptors 0 to 2 cannot be written to, so that nothing comes into a socket of the work by mistake
    match held {
        Some(held) => keep([end, end, end, held]),
        None => keep([end, end, end]),
    }
    // a panic must not unwind into the frames of the parent's main
    let _open = catch_unwind(AssertUnwindSafe(work));
    let now = clock_gettime(ClockId::Monotonic);
    let wait = until_tick(now.tv_sec * 1000 + now.tv_nsec / 1_000_000);
    // SAFETY: waits without descriptors; _exit runs no destructor of the parent's.
    unsafe {
        libc::poll(std::ptr::null_mut(), 0, wait);
        libc::_exit(0)
    }
}

/// The time from `now` to the first tick that is at least [`KEPT_FOR`] away. Both in ms.
fn until_tick(now: i64) -> i32 {
    let since_tick = (now + KEPT_FOR) % TICK;
    (KEPT_FOR + (TICK - since_tick) % TICK) as i32
}

/// Whether a child that outlives this process is reaped. The host's PID 1 reaps it; a container's often does not.
pub(crate) fn is_reaped() -> bool {
    rustix::fs::stat("/proc/self/ns/pid").is_ok_and(|stat| stat.st_ino == INITIAL_PID_NAMESPACE)
}

/// Whether this process has one thread: the directory has a link for itself, one for its parent, and one per thread.
fn is_alone() -> bool {
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3)
}

/// In a child: moves `kept` to the descriptors 0, 1 … and closes all others. Where that fails the child ends: it would
/// write its report to the caller's stdout.
///
/// The start of the program opens 0 to 2 before `main` if they are closed, so none of `kept` is among them.
pub(crate) fn keep<const N: usize>(kept: [RawFd; N]) {
    // SAFETY: system calls on descriptors of the child alone; _exit runs no destructor of the parent's.
    unsafe {
        for (place, fd) in kept.iter().enumerate() {
            if libc::dup2(*fd, place as RawFd) < 0 {
                libc::_exit(1);
            }
        }
        if libc::syscall(libc::SYS_close_range, N as libc::c_uint, libc::c_uint::MAX, 0) != 0 {
            // Linux before 5.9: the default limit of a process
            for fd in N as RawFd..1024 {
                libc::close(fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_end_together_and_not_too_soon() {
        let ends = |now: i64| now + i64::from(until_tick(now));
        assert_eq!([ends(0), ends(1), ends(150), ends(151), ends(250)], [250, 250, 250, 500, 500]);
    }
}
