//! Groups datagrams that the kernel can send in one call.

use std::ops::Range;

use kernel::udp_socket::{MAX_BYTES, MAX_SEGMENTS};

use super::gso::Datagram;

/// Consecutive datagrams to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The range of datagrams.
    pub datagrams: Range<usize>,
    /// The length of all datagrams in bytes.
    pub bytes: usize,
    /// The length of each datagram but the last, in bytes. The last is not longer.
    pub segment: usize,
}

/// Splits `datagrams` into runs, in order. UDP_SEGMENT requires equal lengths, except that the last may be shorter.
pub fn runs(datagrams: &[Datagram]) -> impl Iterator<Item = Run> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = datagrams.get(from)?;
        let mut run = Run { datagrams: from..from + 1, bytes: first.length(), segment: first.length() };
        let mut last = first.length();
        for next in &datagrams[from + 1..] {
            let fits = run.datagrams.len() < MAX_SEGMENTS && run.bytes + next.length() <= MAX_BYTES;
            if next.to != first.to || last != run.segment || next.length() > run.segment || !fits {
                break;
            }
            last = next.length();
            run.datagrams.end += 1;
            run.bytes += last;
        }
        from = run.datagrams.end;
        Some(run)
    })
}
