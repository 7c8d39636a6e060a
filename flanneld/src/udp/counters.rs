//! Counts packets that were carried, and packets that were dropped with the reason.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// The packet is not IPv4. Usually it is one of the kernel's own IPv6 packets on the device.
    NotIpv4,
    /// Lengths or checksums contradict each other.
    Malformed,
    /// The time to live expired. As in upstream, no ICMP message is sent.
    TtlExceeded,
    /// Outgoing: no host leases the destination. The sender gets an ICMP message if that is allowed.
    NoRoute,
    /// Outgoing: the socket refused the datagram.
    SendFailed,
    /// Incoming: the datagram's sender is not a member of the network.
    UnknownSender,
    /// Incoming: the packet's source is not in the sender's subnet.
    ForeignSource,
    /// Incoming: the packet's destination is not in this host's subnet.
    ForeignDestination,
    /// Incoming: the device refused the packet.
    WriteFailed,
}

impl Loss {
    /// All reasons, in the order of the metrics.
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

/// Counters that all workers write. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    sent: Flow,
    received: Flow,
    drops: [AtomicU64; Loss::ALL.len()],
}

/// The packets and bytes of one direction.
#[derive(Debug, Default)]
struct Flow {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// The counters at one time. Packets are counted as they are on the wire. Bytes are those of the packets, without
/// the datagrams' headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Datagrams sent.
    pub sent_packets: u64,
    /// The bytes of those packets.
    pub sent_bytes: u64,
    /// Datagrams received whose packets the kernel accepted.
    pub received_packets: u64,
    /// The bytes of those packets.
    pub received_bytes: u64,
    drops: [u64; Loss::ALL.len()],
}

impl Counters {
    /// Counts the packets that one call has sent.
    pub fn sent(&self, packets: usize, bytes: usize) {
        self.sent.add(packets, bytes);
    }

    /// Counts the packets that one write has passed to the kernel.
    pub fn received(&self, packets: usize, bytes: usize) {
        self.received.add(packets, bytes);
    }

    /// Counts `packets` dropped packets.
    pub fn dropped(&self, why: Loss, packets: usize) {
        self.drops[why as usize].fetch_add(packets as u64, Relaxed);
    }

    /// The current values.
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
    /// The number of packets that were dropped for this reason.
    pub fn dropped(&self, why: Loss) -> u64 {
        self.drops[why as usize]
    }

    /// The reasons for dropped packets, each with the number of packets. Reasons without packets are left out.
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
