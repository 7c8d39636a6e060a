//! Deleting a link without waiting for the kernel to forget it.
//!
//! RTM_DELLINK of a veth returns 16–24 ms after the link is gone for everybody: `netdev_run_todo` waits for an RCU grace
//! period. The caller only needs "gone", which the kernel announces to RTNLGRP_LINK within half a millisecond. A child
//! process sends the request and waits out the rest; the caller returns on the announcement.

#![expect(unsafe_code, reason = "fork and _exit")]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage as Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel::Kernel;
use crate::message::link;
use crate::message::{Request, Socket};
use crate::netlink::{Errno, KernelError};
use crate::types::{IfIndex, IfName};

/// RTNLGRP_LINK, linux/rtnetlink.h
const GROUP_LINK: u32 = 1;

/// The kernel refuses or announces in milliseconds; past this something holds its RTNL lock.
const PATIENCE: Duration = Duration::from_secs(30);

/// Deletes the link `name` in the namespace of `kernel` (`ip link del`) and returns when it is gone for everyone.
/// A link that is not there is a success: `false`.
///
/// The process must have one thread: it is forked. Standard input, output and error are closed in the child, so that
/// whoever reads them sees the end when the caller ends.
pub fn delete_link(kernel: &mut Kernel, name: &IfName) -> Result<bool, KernelError> {
    let Some(seen) = kernel.link(name)? else { return Ok(false) };
    // a socket of the child's own: on a shared one each would read the other's answers
    let (watch, errand) = kernel.inside(|| Ok::<_, KernelError>((listen()?, Socket::open()?)))??;
    let what = || format!("ip link del {name}");
    let (news, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| KernelError::new(what(), Errno(e.raw_os_error())))?;
    let request = Request::new(link::delete(name), 0, what());
    // SAFETY: the process has one thread (see above), so the child may run ordinary code; it leaves by _exit and runs
    // no destructor of the parent's.
    match unsafe { libc::fork() } {
        -1 => Err(KernelError::io(what(), &std::io::Error::last_os_error())),
        0 => carry_out(errand, request, &tell),
        _child => {
            drop(tell);
            wait_until_gone(watch, seen.index, &news, what)
        }
    }
}

fn listen() -> Result<Socket, KernelError> {
    let mut socket = Socket::open()?;
    socket.join(GROUP_LINK)?;
    Ok(socket)
}

/// The child: sends the request, tells the outcome as an errno, ends.
fn carry_out(mut errand: Socket, request: Request, tell: &OwnedFd) -> ! {
    for standard in 0..3 {
        // SAFETY: closing descriptors of the child alone.
        unsafe { libc::close(standard) };
    }
    let errno = match errand.ask(request) {
        Ok(_) => 0,
        Err(error) => error.errno.0,
    };
    let _ = rustix::io::write(tell, &errno.to_ne_bytes());
    // SAFETY: ends the child without running the parent's destructors or flushing its buffers.
    unsafe { libc::_exit(0) }
}

/// The parent: the kernel's announcement or the child's word, whichever is first.
fn wait_until_gone(
    mut watch: Socket,
    index: IfIndex,
    news: &OwnedFd,
    what: impl Fn() -> String,
) -> Result<bool, KernelError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(KernelError::new(what(), Errno(libc::ETIMEDOUT)));
        }
        let (announced, told) = readable(&watch, news, left).map_err(|errno| KernelError::new(what(), errno))?;
        if announced {
            match watch.announcements(|m| matches!(m, Message::DelLink(l) if l.header.index == index.0)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                // overrun: the child's word is to be waited for
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
        }
        if told {
            return outcome(news, &what);
        }
    }
}

fn readable(watch: &Socket, news: &OwnedFd, left: Duration) -> Result<(bool, bool), Errno> {
    let mut fds = [PollFd::new(watch, PollFlags::IN), PollFd::new(news, PollFlags::IN)];
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
        Err(e) => Err(Errno(e.raw_os_error())),
    }
}

fn outcome(news: &OwnedFd, what: &impl Fn() -> String) -> Result<bool, KernelError> {
    let mut bytes = [0; 4];
    match rustix::io::read(news, &mut bytes) {
        Ok(4) => match i32::from_ne_bytes(bytes) {
            0 => Ok(true),
            libc::ENODEV => Ok(false),
            errno => Err(KernelError::new(what(), Errno(errno))),
        },
        Ok(_) => Err(KernelError {
            what: what(),
            errno: Errno(libc::ECHILD),
            text: Some("the deleting process died".into()),
        }),
        Err(e) => Err(KernelError::new(what(), Errno(e.raw_os_error()))),
    }
}

/// Lets a child process be the last to close `held`: closing an nfnetlink socket after a commit that deleted something
/// blocks for an RCU grace period, 8–16 ms, which is nobody's to wait for. Where no child can be made, the caller waits.
///
/// The process must have one thread.
pub fn leave_to_child<T>(held: T) {
    let Ok((closed, open)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else { return };
    // SAFETY: as in `delete_link`; the child closes its descriptors by ending.
    if unsafe { libc::fork() } != 0 {
        drop(held);
        // and now the child may end
        return drop(open);
    }
    drop(open);
    for standard in 0..3 {
        // SAFETY: closing descriptors of the child alone.
        unsafe { libc::close(standard) };
    }
    // end of file: the caller has closed its own, or has died
    let _ = rustix::io::read(&closed, &mut [0; 1]);
    // SAFETY: ends the child without running the parent's destructors.
    unsafe { libc::_exit(0) }
}
