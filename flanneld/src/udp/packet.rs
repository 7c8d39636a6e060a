//! Reads and verifies an IPv4 packet, and decrements its time to live.

use std::net::Ipv4Addr;

use etherparse::{IpNumber, Ipv4HeaderSlice};

use super::checksum;
use super::counters::Loss;

/// The offset of the total length in an IPv4 header (RFC 791 §3.1); the others follow.
pub const TOTAL_LENGTH: usize = 2;
pub const IDENTIFICATION: usize = 4;
pub const TTL: usize = 8;
pub const CHECKSUM: usize = 10;

/// The fields of a packet that the data path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: IpNumber,
    pub ttl: u8,
    /// The length of the IPv4 header, in bytes.
    pub header: usize,
    /// The length of the whole packet, in bytes.
    pub total: usize,
    pub identification: u16,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    pub dont_fragment: bool,
    /// Whether the packet is a fragment.
    pub fragment: bool,
    /// Whether it is a fragment other than the first.
    pub later_fragment: bool,
}

impl Packet {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// The packet is not IPv4, or its lengths exceed `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Self, Loss> {
        let version = bytes.first().map_or(0, |byte| byte >> 4);
        if version != 4 {
            return Err(if version == 6 { Loss::NotIpv4 } else { Loss::Malformed });
        }
        let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| Loss::Malformed)?;
        let packet = Self {
            source: header.source_addr(),
            destination: header.destination_addr(),
            protocol: header.protocol(),
            ttl: header.ttl(),
            header: header.slice().len(),
            total: header.total_len().into(),
            identification: header.identification(),
            tos: header.slice()[1],
            dont_fragment: header.dont_fragment(),
            fragment: header.is_fragmenting_payload(),
            later_fragment: header.fragments_offset().value() != 0,
        };
        (packet.header <= packet.total && packet.total <= bytes.len()).then_some(packet).ok_or(Loss::Malformed)
    }

    /// As [`read`](Self::read), and verifies the header's checksum.
    pub fn verify(bytes: &[u8]) -> Result<Self, Loss> {
        let packet = Self::read(bytes)?;
        match checksum::fold(checksum::sum(&bytes[..packet.header])) {
            0xffff => Ok(packet),
            _ => Err(Loss::Malformed),
        }
    }
}

/// Decrements the time to live and updates the checksum.
///
/// # Errors
/// The time to live has expired.
pub fn count_down(packet: &Packet, bytes: &mut [u8]) -> Result<(), Loss> {
    let left = packet.ttl.checked_sub(1).filter(|left| *left > 0).ok_or(Loss::TtlExceeded)?;
    let old = [bytes[TTL], bytes[TTL + 1]];
    bytes[TTL] = left;
    let sum = checksum::update([bytes[CHECKSUM], bytes[CHECKSUM + 1]], old, [left, old[1]]);
    bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
    Ok(())
}

/// Writes a new total length, and computes the header's checksum anew.
pub fn seal(header: &mut [u8], total: u16) {
    header[TOTAL_LENGTH..TOTAL_LENGTH + 2].copy_from_slice(&total.to_be_bytes());
    header[CHECKSUM..CHECKSUM + 2].fill(0);
    let sum = checksum::finish(checksum::sum(header));
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::Ipv4Header;

    fn packet(ttl: u8) -> Vec<u8> {
        let mut header = Ipv4Header::new(4, ttl, IpNumber::UDP, [10, 5, 1, 2], [10, 5, 2, 3]).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [header.to_bytes().as_slice(), b"data"].concat()
    }

    #[test]
    fn the_time_to_live_is_counted_down_and_ends() {
        for ttl in 2..=255 {
            let mut bytes = packet(ttl);
            count_down(&Packet::verify(&bytes).unwrap(), &mut bytes).unwrap();
            let header = Ipv4HeaderSlice::from_slice(&bytes).unwrap().to_header();
            assert_eq!((header.time_to_live, header.header_checksum), (ttl - 1, header.calc_header_checksum()));
        }
        for ttl in [0, 1] {
            let mut bytes = packet(ttl);
            let read = Packet::verify(&bytes).unwrap();
            assert_eq!(count_down(&read, &mut bytes), Err(Loss::TtlExceeded));
            assert_eq!(bytes, packet(ttl));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let good = packet(64);
        assert_eq!(Packet::verify(&good).unwrap().total, 24);
        for length in 0..good.len() {
            assert_eq!(Packet::read(&good[..length]), Err(Loss::Malformed), "{length}");
        }
        for bit in 0..20 * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Packet::verify(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(Packet::read(&[0x60; 40]), Err(Loss::NotIpv4));
    }
}
