//! Waits for asynchronous changes in the kernel. It uses announcements and never polls.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel::Kernel;
use crate::message::Socket;
use crate::message::link::SeenLink;
use crate::netlink::{Errno, KernelError};
use crate::types::IfName;

/// RTNLGRP_LINK, linux/rtnetlink.h
const GROUP_LINK: u32 = 1;
/// RTNLGRP_IPV6_IFADDR
const GROUP_IPV6_ADDRESS: u32 = 9;

impl Kernel {
    /// Waits until `name` is operationally up and returns it. After `patience` it returns the link in its current
    /// state. `None` if the link is gone. From Linux 6.13 on the first look is enough, because RTM_GETLINK first
    /// processes pending carrier events (`linkwatch_sync_dev` in `rtnl_getlink`, net/core/rtnetlink.c).
    pub fn wait_running(&mut self, name: &IfName, patience: Duration) -> Result<Option<SeenLink>, KernelError> {
        let look = |kernel: &mut Self| kernel.link(name);
        let first = self.link(name)?;
        if first.as_ref().is_none_or(|link| link.running) {
            return Ok(first);
        }
        self.wait(GROUP_LINK, patience, look, |link| link.as_ref().is_none_or(|link| link.running))
    }

    /// Waits until no IPv6 address of `name` is tentative. Returns true if all are usable, and false if some are not
    /// after `patience`. An address that another host has is an error.
    pub fn wait_addresses(&mut self, name: &IfName, patience: Duration) -> Result<bool, KernelError> {
        let index = self.index(name)?;
        let seen = self.wait(
            GROUP_IPV6_ADDRESS,
            patience,
            |kernel| kernel.addresses_of(index),
            |seen| seen.iter().all(|a| !a.tentative || a.dad_failed),
        )?;
        match seen.iter().find(|a| a.dad_failed) {
            Some(taken) => Err(KernelError {
                what: format!("ip addr add {} dev {name}", taken.key.net),
                errno: Errno(libc::EADDRINUSE),
                text: Some("duplicate address detection: another host has it".into()),
            }),
            None => Ok(seen.iter().all(|a| !a.tentative)),
        }
    }

    /// Calls `look` at first and at each announcement of `group`, until it is `good` or `patience` is over.
    fn wait<T>(
        &mut self,
        group: u32,
        patience: Duration,
        mut look: impl FnMut(&mut Self) -> Result<T, KernelError>,
        good: impl Fn(&T) -> bool,
    ) -> Result<T, KernelError> {
        let mut watch = self.inside(|| {
            let mut socket = Socket::open()?;
            socket.join(group)?;
            Ok(socket)
        })??;
        let end = Instant::now() + patience;
        loop {
            let seen = look(self)?;
            let left = end.saturating_duration_since(Instant::now());
            if good(&seen) || left.is_zero() {
                return Ok(seen);
            }
            if announced(&watch, left)? {
                match watch.announcements(|_| false) {
                    Err(error) if !error.is_retryable() => return Err(error),
                    _ => {}
                }
            }
        }
    }
}

fn announced(watch: &Socket, left: Duration) -> Result<bool, KernelError> {
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    match poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(KernelError::new("wait for kernel announcements", Errno(e.raw_os_error()))),
    }
}
