//! Deleting a link without waiting for the kernel to forget it.
//!
//! RTM_DELLINK of a veth returns 16–24 ms after the link is gone for everybody: `netdev_run_todo` waits for an RCU grace
//! period. The caller only needs "gone", which the kernel announces to RTNLGRP_LINK within half a millisecond. A child
//! process sends the request and waits out the rest; the caller returns on the announcement.
//!
//! The child makes nothing but system calls, on memory that was made before: that is allowed after a fork whatever other
//! threads the caller has (fork(2), signal-safety(7)). It keeps its own two descriptors and closes all others, so that
//! it holds no namespace, mount or pipe of the caller's.
//!
//! Where nobody reaps the child, or where it cannot be made, the caller does the same itself and waits.

#![expect(unsafe_code, reason = "fork, and what a child does after it")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage as Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::kernel::Kernel;
use crate::message::link::{self, SeenLink};
use crate::message::{Request, Socket};
use crate::netlink::{Errno, KernelError};
use crate::types::{IfIndex, IfName};

/// RTNLGRP_LINK, linux/rtnetlink.h
const GROUP_LINK: u32 = 1;

/// The kernel refuses or announces in milliseconds; past this something holds its RTNL lock.
const PATIENCE: Duration = Duration::from_secs(30);

/// The inode of the host's own PID namespace (PROC_PID_INIT_INO, linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// struct nlmsghdr and struct ifinfomsg
const REQUEST: usize = 32;

/// Deletes the link `name` in the namespace of `kernel` (`ip link del`) and returns when it is gone for everyone.
/// A link that is not there is a success: `false`.
pub fn delete_link(kernel: &mut Kernel, name: &IfName) -> Result<bool, KernelError> {
    match kernel.link(name)? {
        Some(seen) => delete_seen(kernel, &seen),
        None => Ok(false),
    }
}

/// The same for a link that was looked at: another one that has taken its name since is left alone.
pub fn delete_seen(kernel: &mut Kernel, seen: &SeenLink) -> Result<bool, KernelError> {
    match Errand::send(kernel, seen) {
        Some(errand) => errand.wait(),
        None => delete_and_wait(kernel, seen),
    }
}

fn what(seen: &SeenLink) -> String {
    format!("ip link del {}", seen.name)
}

/// [`delete_seen`] by the caller itself, who waits 16–24 ms.
pub fn delete_and_wait(kernel: &mut Kernel, seen: &SeenLink) -> Result<bool, KernelError> {
    let request = Request::new(link::delete_by_index(seen.index), 0, what(seen));
    match kernel.socket().ask(request) {
        Ok(_) => Ok(true),
        Err(error) if error.errno.0 == libc::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a child that outlives this process is reaped: the host's PID 1 does it, a container's often does not.
fn is_reaped() -> bool {
    rustix::fs::stat("/proc/self/ns/pid").is_ok_and(|stat| stat.st_ino == INITIAL_PID_NAMESPACE)
}

/// What was left to a child.
struct Errand {
    index: IfIndex,
    what: String,
    /// Hears the kernel's announcements.
    watch: Socket,
    /// The child tells the outcome as an errno.
    news: OwnedFd,
}

impl Errand {
    /// Sends a child to delete `seen`; `None` when that cannot be done here.
    fn send(kernel: &Kernel, seen: &SeenLink) -> Option<Self> {
        if !is_reaped() {
            return None;
        }
        // a socket of the child's own: on a shared one each would read the other's answers
        let sockets = kernel.inside(|| Ok::<_, KernelError>((listen()?, Socket::open()?)));
        let (watch, own) = sockets.ok()?.ok()?;
        let (news, tell) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        let request = delete_request(seen.index);
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => None,
            0 => carry_out(own.as_fd().as_raw_fd(), tell.as_raw_fd(), &request),
            _child => Some(Self { index: seen.index, what: what(seen), watch, news }),
        }
    }

    /// The kernel's announcement or the child's word, whichever is first.
    fn wait(mut self) -> Result<bool, KernelError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KernelError::new(self.what, Errno(libc::ETIMEDOUT)));
            }
            let (announced, told) = match readable(&self.watch, &self.news, left) {
                Ok(ready) => ready,
                Err(errno) => return Err(KernelError::new(self.what, errno)),
            };
            let index = self.index.0;
            if announced {
                match self.watch.announcements(|m| matches!(m, Message::DelLink(l) if l.header.index == index)) {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    // overrun: the child's word is to be waited for
                    Err(error) if error.is_retryable() => {}
                    Err(error) => return Err(error),
                }
            }
            if told {
                return outcome(&self.news, self.what);
            }
        }
    }
}

fn listen() -> Result<Socket, KernelError> {
    let mut socket = Socket::open()?;
    socket.join(GROUP_LINK)?;
    Ok(socket)
}

/// RTM_DELLINK of the link with `index`, as the kernel takes it.
fn delete_request(index: IfIndex) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&libc::RTM_DELLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    // behind the family and the type of struct ifinfomsg
    bytes[20..24].copy_from_slice(&index.0.to_ne_bytes());
    bytes
}

/// The child: sends the request, tells the outcome as an errno, ends.
fn carry_out(socket: RawFd, tell: RawFd, request: &[u8; REQUEST]) -> ! {
    keep([socket, tell]);
    let (socket, tell) = (0, 1);
    let mut answer = [0u8; 1024];
    // SAFETY: system calls on the child's own descriptors and stack; _exit runs no destructor of the parent's.
    unsafe {
        let mut length = libc::send(socket, request.as_ptr().cast(), REQUEST, 0);
        if length >= 0 {
            length = libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        }
        let errno = if length < 0 { *libc::__errno_location() } else { refusal(&answer) };
        libc::write(tell, errno.to_ne_bytes().as_ptr().cast(), 4);
        libc::_exit(0)
    }
}

/// The errno of a NLMSG_ERROR; 0 is an acknowledgement.
fn refusal(answer: &[u8; 1024]) -> i32 {
    let [_, _, _, _, a, b, ..] = *answer;
    let [.., c0, c1, c2, c3] = *answer.first_chunk::<20>().unwrap_or(&[0; 20]);
    match i32::from(u16::from_ne_bytes([a, b])) {
        libc::NLMSG_ERROR => i32::from_ne_bytes([c0, c1, c2, c3]).saturating_neg(),
        _ => libc::EPROTO,
    }
}

/// In a child: `kept` become 0, 1 …; every other descriptor is closed.
///
/// std opens 0 to 2 before `main` when they are closed, so that none of `kept` is among them.
fn keep<const N: usize>(kept: [RawFd; N]) {
    // SAFETY: system calls on descriptors of the child alone.
    unsafe {
        for (place, fd) in kept.iter().enumerate() {
            libc::dup2(*fd, place as RawFd);
        }
        if libc::syscall(libc::SYS_close_range, N as libc::c_uint, libc::c_uint::MAX, 0) != 0 {
            // Linux before 5.9: as many as a process may have by default
            for fd in N as RawFd..1024 {
                libc::close(fd);
            }
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

fn outcome(news: &OwnedFd, what: String) -> Result<bool, KernelError> {
    let mut bytes = [0; 4];
    match rustix::io::read(news, &mut bytes) {
        Ok(4) => match i32::from_ne_bytes(bytes) {
            0 => Ok(true),
            libc::ENODEV => Ok(false),
            errno => Err(KernelError::new(what, Errno(errno))),
        },
        Ok(_) => Err(KernelError { what, errno: Errno(libc::ECHILD), text: Some("the deleting process died".into()) }),
        Err(e) => Err(KernelError::new(what, Errno(e.raw_os_error()))),
    }
}

/// Lets a child process be the last to close `held`: closing an nfnetlink socket after a commit that deleted something
/// blocks for an RCU grace period, 8–16 ms, which is nobody's to wait for. Where no child can be made, or where nobody
/// reaps it, the caller waits.
pub fn leave_to_child(held: impl AsFd) {
    if !is_reaped() {
        return;
    }
    let Ok((closed, open)) = pipe_with(PipeFlags::CLOEXEC) else { return };
    // SAFETY: the child makes system calls only.
    if unsafe { libc::fork() } == 0 {
        hold(closed.as_raw_fd(), held.as_fd().as_raw_fd())
    }
    drop(held);
    // and now the child may end
    drop(open);
}

/// The child: ends, and so closes `held`, when the caller has closed its own or has died.
fn hold(closed: RawFd, held: RawFd) -> ! {
    keep([closed, held]);
    let mut byte = 0u8;
    // SAFETY: reads the end of the pipe to the child's stack; _exit runs no destructor of the parent's.
    unsafe {
        libc::read(0, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::read_datagram;

    #[test]
    fn the_request_is_ip_link_del() {
        let (objects, refusals) = read_datagram(&delete_request(IfIndex(0x0102_0304)));
        let [Message::DelLink(message)] = objects.as_slice() else { panic!("{objects:?}") };
        assert_eq!((message.header.index, message.attributes.len(), refusals.len()), (0x0102_0304, 0, 0));
    }

    #[test]
    fn answers_are_told_apart() {
        let answer = |kind: i32, errno: i32| {
            let mut bytes = [0; 1024];
            bytes[4..6].copy_from_slice(&(kind as u16).to_ne_bytes());
            bytes[16..20].copy_from_slice(&errno.to_ne_bytes());
            refusal(&bytes)
        };
        assert_eq!(answer(libc::NLMSG_ERROR, 0), 0);
        assert_eq!(answer(libc::NLMSG_ERROR, -libc::ENODEV), libc::ENODEV);
        assert_eq!(answer(libc::NLMSG_ERROR, i32::MIN), i32::MAX);
        assert_eq!(answer(libc::NLMSG_DONE, 0), libc::EPROTO);
    }
}
