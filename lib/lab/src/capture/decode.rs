//! Decodes Ethernet, IP, UDP and VXLAN with its inner frame.

use std::fmt;
use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};
use kernel::types::Mac;

/// Bytes of the VXLAN header: flags, 3 reserved bytes, 3 bytes of VNI, 1 reserved byte (RFC 7348 §5).
const VXLAN_HEADER: usize = 8;
/// The I flag: the VNI is valid.
const VXLAN_VNI: u8 = 0x08;

/// An echo request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Whether it is a request.
    pub request: bool,
    /// The identifier of the socket that sent the request.
    pub id: u16,
    /// The sequence number of the request.
    pub seq: u16,
}

/// The headers of one Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Ethernet source and destination.
    pub macs: (Mac, Mac),
    /// IP source and destination.
    pub ips: (IpAddr, IpAddr),
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// UDP source and destination port.
    pub ports: Option<(u16, u16)>,
    /// ICMP echo.
    pub echo: Option<Echo>,
    /// Length of the frame in bytes, Ethernet header included.
    pub length: usize,
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The outer headers and the VNI, if VXLAN encapsulates the packet.
    pub outer: Option<(Headers, u32)>,
    /// The headers of the packet itself.
    pub inner: Headers,
}

impl Decoded {
    /// Length of the frame on the wire, in bytes.
    pub fn length(&self) -> usize {
        self.outer.as_ref().map_or(self.inner.length, |(outer, _)| outer.length)
    }
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}  {} > {} ttl {}", self.macs.0, self.macs.1, self.ips.0, self.ips.1, self.ttl)?;
        if let Some((source, destination)) = self.ports {
            write!(f, "  UDP {source} > {destination}")?;
        }
        if let Some(echo) = self.echo {
            let what = if echo.request { "request" } else { "reply" };
            write!(f, "  ICMP echo {what} id {} seq {}", echo.id, echo.seq)?;
        }
        Ok(())
    }
}

/// Decodes an Ethernet frame that contains an IP packet. A UDP datagram to `vxlan_port` is decoded as VXLAN.
pub fn decode(frame: &[u8], vxlan_port: u16) -> Option<Decoded> {
    let (outer, payload) = headers(frame)?;
    if outer.ports.is_some_and(|(_, destination)| destination == vxlan_port)
        && let Some((vni, inner)) = open(payload)
        && let Some((inner, _)) = headers(inner)
    {
        return Some(Decoded { outer: Some((outer, vni)), inner });
    }
    Some(Decoded { outer: None, inner: outer })
}

/// The VNI and the inner frame of a VXLAN packet.
fn open(packet: &[u8]) -> Option<(u32, &[u8])> {
    let (header, inner) = packet.split_at_checked(VXLAN_HEADER)?;
    let valid = header[0] & VXLAN_VNI != 0;
    valid.then(|| (u32::from_be_bytes([0, header[4], header[5], header[6]]), inner))
}

/// The headers of a frame, and its UDP payload; the payload is empty for other protocols.
fn headers(frame: &[u8]) -> Option<(Headers, &[u8])> {
    // lax: a frame on a veth may be larger than the MTU, with unfinished checksums
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let LinkSlice::Ethernet2(link) = packet.link? else { return None };
    let (ips, ttl) = addresses(packet.net.as_ref()?)?;
    let (mut ports, mut echo, mut payload) = (None, None, &[][..]);
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            ports = Some((udp.source_port(), udp.destination_port()));
            payload = udp.payload();
        }
        Some(TransportSlice::Icmpv4(icmp)) => echo = echo_v4(icmp.icmp_type()),
        Some(TransportSlice::Icmpv6(icmp)) => echo = echo_v6(icmp.icmp_type()),
        _ => {}
    }
    let macs = (Mac(link.source()), Mac(link.destination()));
    Some((Headers { macs, ips, ttl, ports, echo, length: frame.len() }, payload))
}

fn addresses(net: &LaxNetSlice<'_>) -> Option<((IpAddr, IpAddr), u8)> {
    match net {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            Some(((header.source_addr().into(), header.destination_addr().into()), header.ttl()))
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            Some(((header.source_addr().into(), header.destination_addr().into()), header.hop_limit()))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

fn echo_v4(icmp: Icmpv4Type) -> Option<Echo> {
    match icmp {
        Icmpv4Type::EchoRequest(echo) => Some(Echo { request: true, id: echo.id, seq: echo.seq }),
        Icmpv4Type::EchoReply(echo) => Some(Echo { request: false, id: echo.id, seq: echo.seq }),
        _ => None,
    }
}

fn echo_v6(icmp: Icmpv6Type) -> Option<Echo> {
    match icmp {
        Icmpv6Type::EchoRequest(echo) => Some(Echo { request: true, id: echo.id, seq: echo.seq }),
        Icmpv6Type::EchoReply(echo) => Some(Echo { request: false, id: echo.id, seq: echo.seq }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const ECHO: Echo = Echo { request: true, id: 5, seq: 6 };

    fn echo() -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 244, 1, 2], [10, 244, 2, 2], 63)
            .icmpv4_echo_request(5, 6)
            .write(&mut bytes, &[0; 56])
            .unwrap();
        bytes
    }

    fn wrapped(port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload = [&[0x08, 0, 0, 0, 0, 0, 1, 0][..], &echo()].concat();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4])
            .ipv4([192, 168, 1, 11], [192, 168, 2, 13], 64)
            .udp(40_000, port)
            .write(&mut bytes, &payload)
            .unwrap();
        bytes
    }

    #[test]
    fn a_bare_echo_is_its_own_inner() {
        let decoded = decode(&echo(), 8472).unwrap();
        assert_eq!(decoded.outer, None);
        assert_eq!((decoded.inner.echo, decoded.length()), (Some(ECHO), 98));
        assert_eq!(
            decoded.inner.to_string(),
            "02:00:00:00:00:01 > 02:00:00:00:00:02  10.244.1.2 > 10.244.2.2 ttl 63  ICMP echo request id 5 seq 6"
        );
    }

    #[test]
    fn vxlan_adds_fifty_bytes() {
        let decoded = decode(&wrapped(8472), 8472).unwrap();
        let (outer, vni) = decoded.outer.clone().unwrap();
        assert_eq!((vni, outer.ports), (1, Some((40_000, 8472))));
        assert_eq!(decoded.inner.echo, Some(ECHO));
        assert_eq!(decoded.length() - decoded.inner.length, 50);
    }

    #[test]
    fn another_port_or_a_broken_header_stays_closed() {
        assert_eq!(decode(&wrapped(4789), 8472).unwrap().outer, None);
        let mut no_vni = wrapped(8472);
        no_vni[42] = 0;
        assert_eq!(decode(&no_vni, 8472).unwrap().outer, None);
        for length in 0..wrapped(8472).len() {
            // nothing panics at any cut
            let _ = decode(&wrapped(8472)[..length], 8472);
        }
    }
}
