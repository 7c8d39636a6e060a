//! Deletes a link without waiting until the kernel has released it.
//!
//! RTM_DELLINK of a veth returns 16–24 ms after the link is gone for everyone, because `netdev_run_todo` waits for an
//! RCU grace period. The caller only needs to know that it is gone, which the kernel announces to RTNLGRP_LINK within
//! half a millisecond. A child process sends the request and waits for the rest. The caller returns on the
//! announcement.
//!
//! The child makes only system calls, on memory that was allocated before. That is allowed after a fork, even if the
//! caller has other threads (fork(2), signal-safety(7)). It keeps its own two descriptors and closes all others, so
//! that it keeps no namespace, mount or pipe of the caller open.
//!
//! If nobody would reap the child, or if it cannot be created, the caller sends the request itself and waits.

#![expect(unsafe_code, reason = "fork, and what a child does after it")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage as Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::child::{is_reaped, keep};
use crate::diff::Step;
use crate::kernel::Kernel;
use crate::message::link::{self, SeenLink};
use crate::message::{Request, Socket};
use crate::netlink::{Errno, KernelError};
use crate::state::{Scope, State};
use crate::types::{IfIndex, IfName};

/// RTNLGRP_LINK, linux/rtnetlink.h
const GROUP_LINK: u32 = 1;

/// The kernel normally refuses or announces within milliseconds. Beyond this limit, something holds its RTNL lock.
const PATIENCE: Duration = Duration::from_secs(30);

/// struct nlmsghdr and struct ifinfomsg
const REQUEST: usize = 32;

/// Deletes the link `name` in the namespace of `kernel` (`ip link del`) and returns when it is gone for everyone.
/// Returns `false` if it does not exist.
pub fn delete_link(kernel: &mut Kernel, name: &IfName) -> Result<bool, KernelError> {
    match kernel.link(name)? {
        Some(seen) => delete_seen(kernel, &seen),
        None => Ok(false),
    }
}

/// As [`delete_link`], for an observed link. Another link that has taken its name since then is not deleted.
pub fn delete_seen(kernel: &mut Kernel, seen: &SeenLink) -> Result<bool, KernelError> {
    match Deletion::send(kernel, seen) {
        Some(errand) => {
            kernel.seen.remove(&seen.name);
            match errand.wait()? {
                Some(deleted) => Ok(deleted),
                None => delete_and_wait(kernel, seen),
            }
        }
        None => delete_and_wait(kernel, seen),
    }
}

/// Removes all objects in the scope: links last, and without waiting until the kernel has released them. Continues after
/// a failure, and returns all errors.
pub fn clear(kernel: &mut Kernel, scope: &Scope) -> Vec<KernelError> {
    let plan = match kernel.plan(&State::default(), scope, None) {
        Ok(plan) => plan,
        Err(error) => return vec![error],
    };
    let (links, others): (Vec<Step>, Vec<Step>) =
        plan.steps.into_iter().partition(|step| matches!(step, Step::DeleteLink(_)));
    let mut errors: Vec<KernelError> = kernel.apply(&others).failed.into_iter().map(|(_, error)| error).collect();
    for step in links {
        if let Step::DeleteLink(name) = step {
            errors.extend(delete_link(kernel, &name).err());
        }
    }
    errors
}

fn what(seen: &SeenLink) -> String {
    format!("ip link del {}", seen.name)
}

/// As [`delete_seen`], but without a child: the caller waits 16–24 ms.
pub fn delete_and_wait(kernel: &mut Kernel, seen: &SeenLink) -> Result<bool, KernelError> {
    let request = Request::new(link::delete_by_index(seen.index), 0, what(seen));
    // a link that is made under this name has another index
    kernel.seen.remove(&seen.name);
    match kernel.socket().ask(request) {
        Ok(_) => Ok(true),
        Err(error) if error.errno.0 == libc::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// A deletion that a child carries out.
struct Deletion {
    index: IfIndex,
    what: String,
    /// Receives the kernel's announcements.
    watch: Socket,
    /// The pipe on which the child reports the outcome as an errno.
    outcome: OwnedFd,
}

impl Deletion {
    /// Starts a child that deletes `seen`. `None` if that is not possible here.
    fn send(kernel: &Kernel, seen: &SeenLink) -> Option<Self> {
        if !is_reaped() {
            return None;
        }
        // the child needs its own socket: on a shared one, each would read the other's replies
        let sockets = kernel.inside(|| Ok::<_, KernelError>((listen()?, Socket::open()?)));
        let (watch, own) = sockets.ok()?.ok()?;
        let (outcome, report) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        let request = delete_request(seen.index);
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => None,
            0 => carry_out(own.as_fd().as_raw_fd(), report.as_raw_fd(), &request),
            _child => Some(Self { index: seen.index, what: what(seen), watch, outcome }),
        }
    }

    /// Waits for the kernel's announcement or the child's report, whichever comes first. `None` if the child ended without
    /// a report.
    fn wait(mut self) -> Result<Option<bool>, KernelError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KernelError::new(self.what, Errno(libc::ETIMEDOUT)));
            }
            let (announced, reported) = match readable(&self.watch, &self.outcome, left) {
                Ok(ready) => ready,
                Err(errno) => return Err(KernelError::new(self.what, errno)),
            };
            let index = self.index.0;
            if announced {
                match self.watch.announcements(|m| matches!(m, Message::DelLink(l) if l.header.index == index)) {
                    Ok(true) => return Ok(Some(true)),
                    Ok(false) => {}
                    // announcements were lost: wait for the child's report
                    Err(error) if error.is_retryable() => {}
                    Err(error) => return Err(error),
                }
            }
            if reported {
                return outcome(&self.outcome, self.what);
            }
        }
    }
}

fn listen() -> Result<Socket, KernelError> {
    let mut socket = Socket::open()?;
    socket.join(GROUP_LINK)?;
    Ok(socket)
}

/// RTM_DELLINK for the link with `index`, in the kernel's format.
fn delete_request(index: IfIndex) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&libc::RTM_DELLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    // after the family and the type in struct ifinfomsg
    bytes[20..24].copy_from_slice(&index.0.to_ne_bytes());
    bytes
}

/// The child: sends the request, reports the outcome as an errno, and ends.
fn carry_out(socket: RawFd, report: RawFd, request: &[u8; REQUEST]) -> ! {
    keep([socket, report]);
    let (socket, report) = (0, 1);
    let mut answer = [0u8; 1024];
    // SAFETY: only system calls on the child's own descriptors and stack; _exit runs no destructor of the parent's.
    unsafe {
        let mut length = libc::send(socket, request.as_ptr().cast(), REQUEST, 0);
        if length >= 0 {
            length = libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        }
        let errno = if length < 0 { *libc::__errno_location() } else { refusal(&answer) };
        libc::write(report, errno.to_ne_bytes().as_ptr().cast(), 4);
        libc::_exit(0)
    }
}

/// The errno in a NLMSG_ERROR; 0 is an acknowledgement.
fn refusal(answer: &[u8; 1024]) -> i32 {
    let [_, _, _, _, a, b, ..] = *answer;
    let [.., c0, c1, c2, c3] = *answer.first_chunk::<20>().unwrap_or(&[0; 20]);
    match i32::from(u16::from_ne_bytes([a, b])) {
        libc::NLMSG_ERROR => i32::from_ne_bytes([c0, c1, c2, c3]).saturating_neg(),
        _ => libc::EPROTO,
    }
}

fn readable(watch: &Socket, outcome: &OwnedFd, left: Duration) -> Result<(bool, bool), Errno> {
    let mut fds = [PollFd::new(watch, PollFlags::IN), PollFd::new(outcome, PollFlags::IN)];
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
        Err(e) => Err(Errno(e.raw_os_error())),
    }
}

/// What the child reports; `None` at the end of the pipe.
fn outcome(outcome: &OwnedFd, what: String) -> Result<Option<bool>, KernelError> {
    let mut bytes = [0; 4];
    match rustix::io::read(outcome, &mut bytes) {
        Ok(4) => match i32::from_ne_bytes(bytes) {
            0 => Ok(Some(true)),
            libc::ENODEV => Ok(Some(false)),
            errno => Err(KernelError::new(what, Errno(errno))),
        },
        Ok(_) => Ok(None),
        Err(e) => Err(KernelError::new(what, Errno(e.raw_os_error()))),
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
