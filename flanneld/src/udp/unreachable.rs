//! The ICMP message about a packet whose destination no host leases.

use std::net::Ipv4Addr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header};

use super::packet::Packet;

/// The time to live that upstream uses.
const TTL: u8 = 8;

/// "Destination net unreachable" (RFC 792) from `device` to the sender of the packet in `bytes`. It contains the
/// packet's header and the next 8 bytes, as upstream. `None` if it must not be sent: about ICMP, about a fragment other
/// than the first, or if there are fewer than 8 bytes.
pub fn answer(device: Ipv4Addr, packet: &Packet, bytes: &[u8]) -> Option<Vec<u8>> {
    if packet.protocol == IpNumber::ICMP || packet.later_fragment {
        return None;
    }
    let quoted = bytes.get(..packet.header + 8)?;
    let icmp = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network), quoted);
    let length = u16::try_from(icmp.header_len() + quoted.len()).ok()?;
    let mut ip = Ipv4Header::new(length, TTL, IpNumber::ICMP, device.octets(), packet.source.octets()).ok()?;
    ip.dont_fragment = false;
    ip.header_checksum = ip.calc_header_checksum();
    Some([ip.to_bytes().as_slice(), icmp.to_bytes().as_slice(), quoted].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocol: IpNumber, offset: u16, payload: usize) -> Option<Vec<u8>> {
        let mut ip = Ipv4Header::new(payload as u16, 63, protocol, [10, 5, 1, 2], [10, 5, 99, 1]).unwrap();
        ip.fragment_offset = offset.try_into().unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let bytes = [ip.to_bytes().as_slice(), &vec![7; payload]].concat();
        answer([10, 5, 1, 0].into(), &Packet::verify(&bytes).unwrap(), &bytes)
    }

    #[test]
    fn it_is_upstreams_byte_for_byte() {
        // built by hand from the fields of upstream's send_net_unreachable
        let expected = [
            [0x45, 0, 0, 56, 0, 0, 0, 0, 8, 1, 0x9c, 0xba, 10, 5, 1, 0, 10, 5, 1, 2].as_slice(),
            &[3, 0, 0xe0, 0xe3, 0, 0, 0, 0],
            &[0x45, 0, 0, 120, 0, 0, 0x40, 0, 63, 17, 0xc3, 0x68, 10, 5, 1, 2, 10, 5, 99, 1],
            &[7; 8],
        ]
        .concat();
        let bytes = asked(IpNumber::UDP, 0, 100).unwrap();
        assert_eq!(bytes[20..22], [3, 0]);
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&bytes).unwrap().to_header();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(super::super::checksum::fold(super::super::checksum::sum(&bytes[20..])), 0xffff);
        assert_eq!(bytes, expected, "{bytes:x?}");
    }

    #[test]
    fn none_about_icmp_and_later_fragments() {
        assert_eq!(asked(IpNumber::ICMP, 0, 100), None);
        assert_eq!(asked(IpNumber::UDP, 3, 100), None);
        assert_eq!(asked(IpNumber::UDP, 0, 7), None);
        assert!(asked(IpNumber::TCP, 0, 20).is_some());
    }
}
