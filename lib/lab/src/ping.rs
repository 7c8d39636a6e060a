//! ICMP echo from a socket, without the program `ping`.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv4HeaderSlice};
use kernel::types::Family;
use socket2::{Domain, Protocol, Socket, Type};

/// The payload: 56 bytes after the 8 of the ICMP header, as `ping` sends by default.
const PAYLOAD: [u8; 56] = *b"flannel demo: an echo request of fifty-six bytes payload";

/// A socket that sends echo requests to one address, from the network namespace in which it was opened.
#[derive(Debug)]
pub struct Pinger {
    socket: Socket,
    family: Family,
    /// The ICMP identifier, which distinguishes this socket's echoes from others'.
    pub id: u16,
    seq: u16,
    payload: Vec<u8>,
}

impl Pinger {
    /// Opens a raw socket in the caller's network namespace. Needs CAP_NET_RAW.
    pub fn open(to: IpAddr, id: u16) -> io::Result<Self> {
        let family = Family::from(to);
        let (domain, protocol) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW.cloexec(), Some(protocol))?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        Ok(Self { socket, family, id, seq: 0, payload: PAYLOAD.to_vec() })
    }

    /// The same with a payload of `length` bytes instead of 56.
    pub fn with_payload(mut self, length: usize) -> Self {
        self.payload = PAYLOAD.iter().copied().cycle().take(length).collect();
        self
    }

    /// The sequence number of the last request.
    pub fn seq(&self) -> u16 {
        self.seq
    }

    /// Sends one request and returns the time until its reply. Without a reply within `limit` the error is TimedOut.
    pub fn echo(&mut self, limit: Duration) -> io::Result<Duration> {
        self.seq = self.seq.wrapping_add(1);
        let header = IcmpEchoHeader { id: self.id, seq: self.seq };
        let sent = Instant::now();
        self.socket.send(&request(self.family, header, &self.payload))?;
        let mut buffer = [0; 2048];
        loop {
            let left =
                limit.checked_sub(sent.elapsed()).filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut)?;
            self.socket.set_read_timeout(Some(left))?;
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let rtt = sent.elapsed();
            if reply(self.family, &buffer[..length]) == Some(header) {
                return Ok(rtt);
            }
        }
    }
}

/// The smallest of `count` round trips without pauses between them. Fails if one reply is missing.
pub fn best_of(pinger: &mut Pinger, count: usize, limit: Duration) -> io::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..count {
        best = best.min(pinger.echo(limit)?);
    }
    Ok(best)
}

fn request(family: Family, echo: IcmpEchoHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match family {
        Family::V4 => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), payload).to_bytes().to_vec(),
        // RFC 3542 §3.1: the kernel fills in the checksum of raw ICMPv6
        Family::V6 => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec(),
    };
    bytes.extend_from_slice(payload);
    bytes
}

/// The echo header of a reply. A raw socket returns packets with the IP header for IPv4, and without it for IPv6.
fn reply(family: Family, bytes: &[u8]) -> Option<IcmpEchoHeader> {
    match family {
        Family::V4 => {
            let header = Ipv4HeaderSlice::from_slice(bytes).ok()?.slice().len();
            match Icmpv4Header::from_slice(&bytes[header..]).ok()?.0.icmp_type {
                Icmpv4Type::EchoReply(echo) => Some(echo),
                _ => None,
            }
        }
        Family::V6 => match Icmpv6Header::from_slice(bytes).ok()?.0.icmp_type {
            Icmpv6Type::EchoReply(echo) => Some(echo),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv4Header};

    const ECHO: IcmpEchoHeader = IcmpEchoHeader { id: 7, seq: 9 };

    #[test]
    fn a_reply_is_read_and_a_request_is_not_one() {
        let answer = Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(ECHO), &PAYLOAD).to_bytes();
        let ip = Ipv4Header::new(8 + 56, 64, IpNumber::ICMP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap().to_bytes();
        let packet = |icmp: &[u8]| [ip.as_slice(), icmp, &PAYLOAD].concat();
        assert_eq!(reply(Family::V4, &packet(&answer)), Some(ECHO));
        assert_eq!(reply(Family::V4, &packet(&request(Family::V4, ECHO, &PAYLOAD)[..8])), None);
        let answer = Icmpv6Header::new(Icmpv6Type::EchoReply(ECHO)).to_bytes();
        assert_eq!(reply(Family::V6, &answer), Some(ECHO));
        assert_eq!(reply(Family::V6, &request(Family::V6, ECHO, &PAYLOAD)), None);
        for bad in [&[][..], &[0x45], &[0x45; 20]] {
            assert_eq!(reply(Family::V4, bad), None);
            assert_eq!(reply(Family::V6, &bad[..bad.len().min(7)]), None);
        }
    }
}
