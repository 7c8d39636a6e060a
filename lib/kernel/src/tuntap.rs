//! TUN and TAP devices, which rtnetlink cannot make (Documentation/networking/tuntap.rst).

#![expect(unsafe_code, reason = "TUN devices are made by ioctl")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use crate::netlink::KernelError;
use crate::state::TunTap;
use crate::types::IfName;

/// Creates a persistent device, as `ip tuntap add dev NAME mode …` does.
pub fn create(name: &IfName, device: &TunTap) -> Result<(), KernelError> {
    let what = |op: &str| format!("ip tuntap add dev {name} mode {}: {op}", if device.tap { "tap" } else { "tun" });
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|e| KernelError::io(what("open /dev/net/tun"), &e))?;
    let mut flags = if device.tap { libc::IFF_TAP | libc::IFF_VNET_HDR } else { libc::IFF_TUN } | libc::IFF_NO_PI;
    if device.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    // SAFETY: an all-zero ifreq is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from.cast_signed();
    }
    // IFF_MULTI_QUEUE is 0x100, the largest of these: all fit
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }, || what("TUNSETIFF"))?;
    for (number, id, op) in
        [(libc::TUNSETOWNER, device.owner, "TUNSETOWNER"), (libc::TUNSETGROUP, device.group, "TUNSETGROUP")]
    {
        if let Some(id) = id {
            // SAFETY: these take a number by value.
            done(unsafe { libc::ioctl(file.as_raw_fd(), number, libc::c_ulong::from(id)) }, || what(op))?;
        }
    }
    // SAFETY: as above.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) }, || what("TUNSETPERSIST"))
}

fn done(result: libc::c_int, what: impl FnOnce() -> String) -> Result<(), KernelError> {
    if result < 0 { Err(KernelError::io(what(), &io::Error::last_os_error())) } else { Ok(()) }
}
