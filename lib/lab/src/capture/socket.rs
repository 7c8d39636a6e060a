//! A packet socket on one interface (packet(7)).

use std::io::{self, Read};

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// ETH_P_ALL (linux/if_ether.h), in network byte order as packet(7) requires.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
/// SKF_AD_OFF + SKF_AD_IFINDEX (linux/filter.h): the offset at which a filter reads the interface's index.
const FILTER_IFINDEX: u32 = (-0x1000_i32 + 8) as u32;
/// BPF_LD | BPF_ABS with BPF_W, BPF_H and BPF_B; BPF_JMP | BPF_JEQ | BPF_K; BPF_RET | BPF_K (linux/bpf_common.h)
const WORD: u16 = 0x20;
const HALF: u16 = 0x28;
const BYTE: u16 = 0x30;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Bytes of a captured frame: more than a frame of the usual MTU.
const LONGEST: usize = 2048;

/// Captures the ICMP packets of one interface in both directions, bare and in VXLAN of the same IP version.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
}

/// Accepts only the packets that a tap is for, so that other traffic does not fill the socket before it is read. The
/// filter also selects the interface, because binding needs an address type that only `unsafe` code can build. The
/// numbers of a jump say how many instructions it skips.
fn filter(index: u32) -> [SockFilter; 15] {
    [
        SockFilter::new(WORD, 0, 0, FILTER_IFINDEX),
        SockFilter::new(EQUAL, 0, 12, index),
        // EtherType: IPv6 or IPv4
        SockFilter::new(HALF, 0, 0, 12),
        SockFilter::new(EQUAL, 5, 0, 0x86dd),
        SockFilter::new(EQUAL, 0, 9, 0x0800),
        // the protocol of IPv4, and that behind 14 + 20 + 8 + 8 bytes and an inner Ethernet header
        SockFilter::new(BYTE, 0, 0, 14 + 9),
        SockFilter::new(EQUAL, 6, 0, 1),
        SockFilter::new(BYTE, 0, 0, 50 + 14 + 9),
        SockFilter::new(EQUAL, 4, 5, 1),
        // the next header of IPv6, and that behind 14 + 40 + 8 + 8 bytes and an inner Ethernet header
        SockFilter::new(BYTE, 0, 0, 14 + 6),
        SockFilter::new(EQUAL, 2, 0, 58),
        SockFilter::new(BYTE, 0, 0, 70 + 14 + 6),
        SockFilter::new(EQUAL, 0, 1, 58),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

impl Tap {
    /// Listens at `interface` of the caller's network namespace (CAP_NET_RAW).
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), Some(Protocol::from(0)))?;
        let index = name_to_index(&socket, interface)?;
        drop(socket);
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), Some(Protocol::from(EVERYTHING)))?;
        socket.attach_filter(&filter(index))?;
        Ok(Self { socket })
    }

    /// The next frame, if one is there; of a longer one its first 2 KiB.
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
