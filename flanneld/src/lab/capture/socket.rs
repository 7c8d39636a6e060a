//! A packet socket on one interface (packet(7)).

use std::io::{self, Read};

use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// ETH_P_ALL (linux/if_ether.h), in network byte order as packet(7) wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
/// SKF_AD_OFF + SKF_AD_IFINDEX (linux/filter.h): where a filter finds the number of the interface.
const FILTER_IFINDEX: u32 = (-0x1000_i32 + 8) as u32;
/// BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K (linux/bpf_common.h)
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// An Ethernet frame of the usual MTU, and then some.
const LONGEST: usize = 2048;
/// Seconds of 10,000 frames each, with the kernel's book-keeping.
const BUFFER: usize = 32 << 20;

/// Hears all that comes and goes by one interface.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
}

impl Tap {
    /// Listens at `interface` of the caller's network namespace (CAP_NET_RAW).
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), Some(Protocol::from(0)))?;
        let index = name_to_index(&socket, interface)?;
        drop(socket);
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), Some(Protocol::from(EVERYTHING)))?;
        // a filter chooses the interface: binding takes an address that only `unsafe` code can make
        socket.attach_filter(&[
            SockFilter::new(LOAD, 0, 0, FILTER_IFINDEX),
            SockFilter::new(EQUAL, 0, 1, index),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ])?;
        // other traffic may be on the interface until somebody reads
        set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        Ok(Self { socket })
    }

    /// The next frame, if one is there; of a longer one its first [`LONGEST`] bytes.
    pub fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; LONGEST];
        match (&self.socket).read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
