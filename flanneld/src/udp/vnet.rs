//! The header before each packet of the TUN device: `struct virtio_net_hdr` (linux/virtio_net.h), in the machine's byte
//! order.

use kernel::tuntap::VNET_HDR_LEN;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum field holds the pseudo header's sum only.
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN, beside the kind.
const GSO_ECN: u8 = 0x80;

/// How the packet must still be segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The packet is complete.
    Whole,
    /// VIRTIO_NET_HDR_GSO_TCPV4
    Tcp,
    /// VIRTIO_NET_HDR_GSO_UDP_L4
    Udp,
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnet {
    /// How the packet must be segmented.
    pub kind: Kind,
    /// The payload of each segment but the last, in bytes; 0 for a complete packet.
    pub gso_size: u16,
    /// The length of all headers in bytes; only a hint.
    pub hdr_len: u16,
    /// Where the unfinished checksum starts to sum, and its field's offset from there. `None` if it is finished.
    pub checksum: Option<(u16, u16)>,
}

impl Vnet {
    /// The header of a packet that is complete, as on the wire.
    pub const PLAIN: Self = Self { kind: Kind::Whole, gso_size: 0, hdr_len: 0, checksum: None };

    /// Reads the header. `None` if it uses an offload that was not enabled.
    pub fn parse(bytes: [u8; VNET_HDR_LEN]) -> Option<Self> {
        let [flags, kind, a, b, c, d, e, f, g, h] = bytes;
        let kind = match kind & !GSO_ECN {
            0 => Kind::Whole,
            1 => Kind::Tcp,
            5 => Kind::Udp,
            _ => return None,
        };
        let checksum = (flags & NEEDS_CSUM != 0).then(|| (u16::from_ne_bytes([e, f]), u16::from_ne_bytes([g, h])));
        Some(Self { kind, hdr_len: u16::from_ne_bytes([a, b]), gso_size: u16::from_ne_bytes([c, d]), checksum })
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; VNET_HDR_LEN] {
        let kind = match self.kind {
            Kind::Whole => 0,
            Kind::Tcp => 1,
            Kind::Udp => 5,
        };
        let (start, offset) = self.checksum.unwrap_or_default();
        let [[a, b], [c, d], [e, f], [g, h]] = [self.hdr_len, self.gso_size, start, offset].map(u16::to_ne_bytes);
        [if self.checksum.is_some() { NEEDS_CSUM } else { 0 }, kind, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let tcp = Vnet { kind: Kind::Tcp, gso_size: 1_400, hdr_len: 52, checksum: Some((20, 16)) };
        for header in [Vnet::PLAIN, tcp, Vnet { kind: Kind::Udp, ..tcp }] {
            assert_eq!(Vnet::parse(header.to_bytes()), Some(header));
        }
        #[cfg(target_endian = "little")]
        assert_eq!(tcp.to_bytes(), [1, 1, 52, 0, 0x78, 5, 20, 0, 16, 0]);
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        for kind in [3, 4, 6] {
            let mut bytes = Vnet::PLAIN.to_bytes();
            bytes[1] = kind;
            assert_eq!(Vnet::parse(bytes), None);
        }
        let mut ecn = Vnet { kind: Kind::Tcp, ..Vnet::PLAIN }.to_bytes();
        ecn[1] |= 0x80;
        assert_eq!(Vnet::parse(ecn).unwrap().kind, Kind::Tcp);
    }
}
