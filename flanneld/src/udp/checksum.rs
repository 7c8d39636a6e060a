//! The Internet checksum (RFC 1071), in the machine's byte order: the sum of swapped words is the swapped sum.

use std::net::Ipv4Addr;

/// The one's complement sum of `bytes`, not folded. Sums of parts may be added if all parts but the last have an even
/// length.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    // several sums in parallel, which the compiler turns into vector instructions
    let mut lanes = [0_u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, odd) = rest.as_chunks::<2>();
    let tail: u64 = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
    let last = odd.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
    lanes.iter().sum::<u64>() + tail + last
}

/// Folds the sum to 16 bits.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    // after the first fold at most 0x1_0001 remains of 0x3_0000, so a second one is enough
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The bytes of the checksum field, for a sum over everything except that field.
#[inline]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The sum of the pseudo header of TCP and UDP (RFC 9293 §3.1, RFC 768). `length` is that of header and payload in
/// bytes.
#[inline]
pub fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> u64 {
    sum(&source.octets())
        + sum(&destination.octets())
        + sum(&[0, protocol])
        + u64::from(u16::from_ne_bytes(length.to_be_bytes()))
}

/// The checksum after one 16-bit word that it covers has changed (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    let not = |bytes| u64::from(!u16::from_ne_bytes(bytes));
    finish(not(checksum) + not(old) + word(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §1, word by word.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (!(sum as u16)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn it_is_the_plain_one(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..150_usize) {
            prop_assert_eq!(finish(sum(&bytes)), plain(&bytes));
            let (a, b) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(finish(sum(a) + sum(b)), plain(&bytes));
        }

        #[test]
        fn a_changed_word_changes_it(bytes in proptest::collection::vec(any::<u8>(), 20), new: [u8; 2]) {
            let mut changed = bytes.clone();
            changed[8..10].copy_from_slice(&new);
            let updated = update(plain(&bytes), [bytes[8], bytes[9]], new);
            // 0 has two forms in one's complement
            prop_assert!(updated == plain(&changed) || (updated, plain(&changed)) == ([0; 2], [0xff; 2]));
        }
    }

    #[test]
    fn a_large_sum_is_folded() {
        assert_eq!(finish(sum(&[0xff; 65_535])), plain(&[0xff; 65_535]));
        assert_eq!(fold(u64::from(u32::MAX) << 20), 0xffff);
    }
}
