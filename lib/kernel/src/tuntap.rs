//! TUN and TAP devices, which rtnetlink cannot create (Documentation/networking/tuntap.rst).

#![expect(unsafe_code, reason = "TUN devices are created by ioctl")]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::netlink::KernelError;
use crate::state::TunTap;
use crate::types::IfName;

/// The device file that creates and opens all TUN and TAP devices.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// Bytes of `struct virtio_net_hdr` before every packet of a [`Queue`] (linux/virtio_net.h), in the machine's byte
/// order.
pub const VNET_HDR_LEN: usize = 10;

/// Creates a persistent device, as `ip tuntap add dev NAME mode …` does.
pub fn create(name: &IfName, device: &TunTap) -> Result<(), KernelError> {
    let what = |op: &str| format!("ip tuntap add dev {name} mode {}: {op}", if device.tap { "tap" } else { "tun" });
    let file = open(0, &what)?;
    let mut flags = if device.tap { libc::IFF_TAP | libc::IFF_VNET_HDR } else { libc::IFF_TUN } | libc::IFF_NO_PI;
    if device.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    set_iff(&file, name, flags, &what)?;
    for (number, id, op) in
        [(libc::TUNSETOWNER, device.owner, "TUNSETOWNER"), (libc::TUNSETGROUP, device.group, "TUNSETGROUP")]
    {
        if let Some(id) = id {
            // SAFETY: these requests take a number by value.
            done(unsafe { libc::ioctl(file.as_raw_fd(), number, libc::c_ulong::from(id)) }, || what(op))?;
        }
    }
    // SAFETY: as above.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) }, || what("TUNSETPERSIST"))
}

/// Why no TUN device can be created here; `None` if one can. It only tries to open `/dev/net/tun`.
pub fn unavailable() -> Option<String> {
    open(0, &|op| op.to_owned()).err().map(|error| error.to_string())
}

/// One queue of a TUN device with its offloads, non-blocking. Each read and write is one IP packet of up to 65,535
/// bytes after [`VNET_HDR_LEN`] bytes of `virtio_net_hdr`.
#[derive(Debug)]
pub struct Queue {
    file: File,
}

impl Queue {
    /// Opens one more queue of the TUN device `name` in the thread's network namespace. The device must exist and must
    /// have been created with [`TunTap::multi_queue`].
    ///
    /// The kernel then delivers TCP packets that are not segmented yet (TSO4), since Linux 6.2 UDP packets too (USO4),
    /// and packets without final checksums.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, CAP_NET_ADMIN is missing, or the device has another kind or owner.
    pub fn attach(name: &IfName) -> Result<Self, KernelError> {
        let what = |op: &str| format!("attach to the TUN device {name}: {op}");
        let Self { file } = Self::open(name, libc::IFF_VNET_HDR, &what)?;
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4;
        // the kernel accepts USO4 and USO6 only together (set_offload, drivers/net/tun.c)
        let both = tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6;
        offload(&file, both)
            .or_else(|_| offload(&file, tcp))
            .map_err(|e| KernelError::io(what("TUNSETOFFLOAD"), &e))?;
        Ok(Self { file })
    }

    /// As [`attach`](Self::attach), but without offloads, as upstream does: complete packets with their checksums.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn plain(name: &IfName) -> Result<Self, KernelError> {
        Self::open(name, 0, &|op| format!("attach to the TUN device {name}: {op}"))
    }

    fn open(name: &IfName, header: libc::c_int, what: &dyn Fn(&str) -> String) -> Result<Self, KernelError> {
        let file = open(libc::O_NONBLOCK, what)?;
        set_iff(&file, name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | header, what)?;
        Ok(Self { file })
    }

    /// Reads one packet. The error is WouldBlock if there is none, EBADFD if the device was deleted.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Writes one packet, which is the concatenation of `parts`.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.file, parts)?)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open(flags: libc::c_int, what: &dyn Fn(&str) -> String) -> Result<File, KernelError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(CLONE_DEVICE);
    opened.map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => "it does not exist: load the module tun; in a container, add the device",
            io::ErrorKind::PermissionDenied => {
                "needs root or CAP_NET_ADMIN, and in a container permission for the device"
            }
            _ if e.raw_os_error() == Some(libc::ENODEV) => "the kernel has no TUN driver (CONFIG_TUN)",
            _ => return KernelError::io(what(&format!("open {CLONE_DEVICE}")), &e),
        };
        KernelError { text: Some(hint.to_owned()), ..KernelError::io(what(&format!("open {CLONE_DEVICE}")), &e) }
    })
}

fn set_iff(file: &File, name: &IfName, flags: libc::c_int, what: &dyn Fn(&str) -> String) -> Result<(), KernelError> {
    // SAFETY: an all-zero ifreq is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from.cast_signed();
    }
    // IFF_VNET_HDR is 0x4000, the largest of these: all fit
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let result =
        done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }, || what("TUNSETIFF"));
    result.map_err(|error| match error.errno.0 {
        // tun_set_iff and tun_attach, drivers/net/tun.c
        libc::EINVAL | libc::EBUSY => KernelError {
            text: Some(format!(
                "a link {name} is there that is no TUN device of this kind, or another program holds it, such as a \
                 flanneld that still runs: stop that, or `ip link del {name}`"
            )),
            ..error
        },
        libc::EPERM => KernelError { text: Some("needs CAP_NET_ADMIN in this namespace".to_owned()), ..error },
        _ => error,
    })
}

fn offload(file: &File, features: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number by value.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn done(result: libc::c_int, what: impl FnOnce() -> String) -> Result<(), KernelError> {
    if result < 0 { Err(KernelError::io(what(), &io::Error::last_os_error())) } else { Ok(()) }
}
