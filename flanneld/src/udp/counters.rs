//! What has crossed, and what was dropped and why.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// Not IPv4: the kernel's own IPv6 packets on the device, for the most part.
    NotIpv4,
    /// Lengths or checksums that contradict each other.
    Malformed,
    /// The time to live has ended. No ICMP is sent, as upstream.
    TtlExceeded,
    /// Outgoing: no host has leased the destination; the sender is told by ICMP where that is allowed.
    NoRoute,
    /// Outgoing: the socket refused the datagram.
    SendFailed,
    /// Incoming: the datagram's sender is no member of the network.
    UnknownSender,
    /// Incoming: the packet's source is in a subnet that is not the sender's.
    ForeignSource,
    /// Incoming: the packet's destination is not in this host's subnet.
    ForeignDestination,
    /// Incoming: the device refused the packet.
    WriteFailed,
}

impl Loss {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::NotIpv4,
        Self::Malformed,
        Self::TtlExceeded,
        Self::NoRoute,
        Self::SendFailed,
        Self::UnknownSender,
        Self::ForeignSource,
        Self::ForeignDestination,
        Self::WriteFailed,
    ];

    /// The reason as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotIpv4 => "not-ipv4",
            Self::Malformed => "malformed",
            Self::TtlExceeded => "ttl-exceeded",
            Self::NoRoute => "no-route",
            Self::SendFailed => "send-failed",
            Self::UnknownSender => "unknown-sender",
            Self::ForeignSource => "foreign-source",
            Self::ForeignDestination => "foreign-destination",
            Self::WriteFailed => "write-failed",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Counters that all workers write and anybody reads. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    sent: Flow,
    received: Flow,
    drops: [AtomicU64; Loss::ALL.len()],
}

/// Packets and bytes of one direction.
#[derive(Debug, Default)]
struct Flow {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// The counters at one time. Packets are those on the wire; bytes are theirs, without the datagram around them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Datagrams sent.
    pub sent_packets: u64,
    /// Their payload.
    pub sent_bytes: u64,
    /// Datagrams received and handed to the kernel.
    pub received_packets: u64,
    /// Their payload.
    pub received_bytes: u64,
    drops: [u64; Loss::ALL.len()],
}

impl Counters {
    /// Notes what one call has sent.
    pub fn sent(&self, packets: usize, bytes: usize) {
        self.sent.add(packets, bytes);
    }

    /// Notes what one write has handed to the kernel.
    pub fn received(&self, packets: usize, bytes: usize) {
        self.received.add(packets, bytes);
    }

    /// Notes `packets` that were dropped.
    pub fn dropped(&self, why: Loss, packets: usize) {
        self.drops[why as usize].fetch_add(packets as u64, Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            sent_packets: self.sent.packets.load(Relaxed),
            sent_bytes: self.sent.bytes.load(Relaxed),
            received_packets: self.received.packets.load(Relaxed),
            received_bytes: self.received.bytes.load(Relaxed),
            drops: std::array::from_fn(|i| self.drops[i].load(Relaxed)),
        }
    }
}

impl Flow {
    fn add(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Snapshot {
    /// How many packets were dropped for this reason.
    pub fn dropped(&self, why: Loss) -> u64 {
        self.drops[why as usize]
    }

    /// The reasons for which packets were dropped, with their numbers.
    pub fn drops(&self) -> impl Iterator<Item = (Loss, u64)> {
        Loss::ALL.into_iter().map(|why| (why, self.dropped(why))).filter(|(_, count)| *count > 0)
    }
}

impl From<Snapshot> for overlay::status::Udp {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            sent_packets: snapshot.sent_packets,
            sent_bytes: snapshot.sent_bytes,
            received_packets: snapshot.received_packets,
            received_bytes: snapshot.received_bytes,
            dropped: snapshot.drops().map(|(why, count)| (why.to_string(), count)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_place() {
        let counters = Counters::default();
        for (n, why) in Loss::ALL.into_iter().enumerate() {
            counters.dropped(why, n + 1);
        }
        let snapshot = counters.snapshot();
        let counts: Vec<_> = snapshot.drops().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=Loss::ALL.len() as u64).collect::<Vec<_>>());
        let labels: std::collections::BTreeSet<_> = Loss::ALL.map(Loss::label).into_iter().collect();
        assert_eq!(labels.len(), Loss::ALL.len());
    }
}
