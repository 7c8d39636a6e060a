//! UDP sockets that send and receive many datagrams in one call: UDP_SEGMENT and UDP_GRO (udp(7), linux/udp.h).

#![expect(unsafe_code, reason = "no safe crate has UDP_SEGMENT and UDP_GRO as control messages")]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{from_mut, from_ref};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::netlink::KernelError;

/// Bytes of the receive buffer, for datagrams that arrive while the reader is busy: some milliseconds of 10 Gbit/s.
const BUFFER: usize = 8 << 20;

/// The most bytes that one call sends: an IPv4 packet without the IPv4 and UDP headers.
pub const MAX_BYTES: usize = 65_507;

/// The most datagrams that one call sends: UDP_MAX_SEGMENTS of all kernels with UDP_SEGMENT (linux/udp.h).
pub const MAX_SEGMENTS: usize = 64;

/// A bound IPv4 socket. Sending blocks while the link is full; receiving never blocks.
#[derive(Debug)]
pub struct SegmentSocket {
    socket: UdpSocket,
}

/// What one call has received: consecutive datagrams of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The length of all datagrams in bytes.
    pub bytes: usize,
    /// The length of each datagram but the last, in bytes. The last may be shorter.
    pub segment: usize,
    /// The datagrams' sender.
    pub from: Ipv4Addr,
    /// Whether the buffer was too small, so that the end is missing.
    pub truncated: bool,
}

/// A control message buffer, aligned like its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

impl SegmentSocket {
    /// Binds to `local` in the thread's network namespace. With `shared` (SO_REUSEPORT) several sockets use the
    /// address, and the kernel gives all datagrams of one sender to one of them.
    ///
    /// # Errors
    /// The address is not one of this host's, or another program uses it.
    pub fn bind(local: SocketAddrV4, shared: bool) -> Result<Self, KernelError> {
        Self::open(local, shared).map_err(|e| KernelError::io(format!("listen on UDP {local}"), &e))
    }

    fn open(local: SocketAddrV4, shared: bool) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        if shared {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        // without CAP_NET_ADMIN the limit is net.core.rmem_max, which is slower but works
        if sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, BUFFER)?;
        }
        let on: libc::c_int = 1;
        // SAFETY: UDP_GRO reads one int, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_GRO,
                from_ref(&on).cast(),
                size_of::<libc::c_int>() as _,
            )
        };
        // a kernel before 5.0 does not have it and delivers datagrams one by one
        if result < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOPROTOOPT) {
            return Err(io::Error::last_os_error());
        }
        bind(&fd, &local)?;
        Ok(Self { socket: fd.into() })
    }

    /// The address that it is bound to.
    pub fn local(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends the concatenation of `parts` to `to`, as one datagram or, with `segment`, as datagrams of that many bytes.
    /// The last may be shorter. Then at most [`MAX_SEGMENTS`] datagrams and [`MAX_BYTES`] are allowed.
    ///
    /// # Errors
    /// EINVAL if a datagram of `segment` bytes exceeds the path's MTU; EIO if the device cannot segment. Single
    /// datagrams may then still get through.
    pub fn send(&self, to: SocketAddrV4, parts: &[IoSlice<'_>], segment: Option<u16>) -> io::Result<()> {
        let mut name = sockaddr(to);
        let mut control = Control([0; 64]);
        // SAFETY: an all-zero msghdr is a valid value of that plain C struct.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = from_mut(&mut name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        // IoSlice is ABI-compatible with iovec, and sendmsg does not write through it
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len() as _;
        if let Some(segment) = segment {
            message.msg_control = from_mut(&mut control).cast();
            // SAFETY: CMSG_SPACE only computes.
            message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as _;
            // SAFETY: the control buffer is aligned and large enough for one header and a u16, so the first header and
            // its data lie in it.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_UDP;
                (*header).cmsg_type = libc::UDP_SEGMENT;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
                libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
            }
        }
        loop {
            // SAFETY: everything that the message points to is alive, and the kernel only reads it.
            if unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) } >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Receives at most one train of datagrams, without waiting. `buffer` should have 65,535 bytes.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut name = sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let mut control = Control([0; 64]);
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: an all-zero msghdr is a valid value of that plain C struct.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = from_mut(&mut name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        message.msg_iov = from_mut(&mut part);
        message.msg_iovlen = 1;
        message.msg_control = from_mut(&mut control).cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: everything that the message points to is alive and as long as it says.
        let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let bytes = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        Ok(Received {
            bytes,
            segment: segment_of(&message).filter(|size| *size > 0).unwrap_or(bytes),
            from: Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)),
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

impl AsFd for SegmentSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn sockaddr(addr: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// The value of UDP_GRO, if the kernel joined datagrams.
fn segment_of(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: recvmsg filled in the control buffer that the message still points to, and set its length; the macros
    // stay within it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                return usize::try_from(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()).ok();
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> SegmentSocket {
        SegmentSocket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap()
    }

    fn address(socket: &SegmentSocket) -> SocketAddrV4 {
        match socket.local().unwrap() {
            std::net::SocketAddr::V4(v4) => v4,
            std::net::SocketAddr::V6(_) => panic!("no IPv4"),
        }
    }

    #[test]
    fn a_train_is_cut_for_a_plain_socket_and_comes_whole_to_ours() {
        let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(to) = plain.local_addr().unwrap() else { panic!() };
        let (from, ours) = (local(), local());
        let bytes: Vec<u8> = (0..=255).cycle().take(2_500).collect();
        let (a, b) = bytes.split_at(700);
        let parts = [IoSlice::new(a), IoSlice::new(b)];
        from.send(to, &parts, Some(1_000)).unwrap();
        let mut buffer = vec![0; 65_535];
        for expected in bytes.chunks(1_000) {
            let length = plain.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
        from.send(address(&ours), &parts, Some(1_000)).unwrap();
        let received = ours.receive(&mut buffer).unwrap();
        assert_eq!(received, Received { bytes: 2_500, segment: 1_000, from: Ipv4Addr::LOCALHOST, truncated: false });
        assert_eq!(buffer[..2_500], bytes);
        assert_eq!(ours.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn one_datagram_is_one() {
        let (from, to) = (local(), local());
        from.send(address(&to), &[IoSlice::new(b"abc")], None).unwrap();
        let mut buffer = [0; 2];
        let received = to.receive(&mut buffer).unwrap();
        assert_eq!((received.bytes, received.segment, received.truncated), (2, 2, true));
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let first = local();
        let error = SegmentSocket::bind(address(&first), false).unwrap_err().to_string();
        assert!(error.starts_with("listen on UDP 127.0.0.1:") && error.contains("EADDRINUSE"), "{error}");
    }
}
