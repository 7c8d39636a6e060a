//! Which datagrams go to the kernel in one call.

use std::ops::Range;

use kernel::udp_socket::{MAX_BYTES, MAX_SEGMENTS};

use super::gso::Datagram;

/// Datagrams that follow each other, to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which of all.
    pub datagrams: Range<usize>,
    /// The bytes of all.
    pub bytes: usize,
    /// The length of each but the last, which is not longer.
    pub segment: usize,
}

/// Splits `datagrams` into runs, in order. UDP_SEGMENT wants all of one length, but the last, which may be shorter.
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
