//! Joins received packets: consecutive segments of a TCP stream become one large packet for the TUN device, as in the
//! kernel's GRO (net/ipv4/tcp_offload.c).
//!
//! Payload is never copied: a large packet is the first packet plus ranges of the others.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;

use etherparse::{IpNumber, TcpHeaderSlice};

use super::checksum;
use super::gso::{FLAGS, PSH, TCP_CHECKSUM};
use super::packet::{self, Packet};
use super::vnet::{Kind, Vnet};

/// The only flag that a joined segment may have, besides PSH. All other packets are passed on unchanged.
const ACK: u8 = 0x10;

/// Half of what one writev accepts (UIO_MAXIOV, linux/uio.h). With payloads of 128 bytes or more, no more segments fit
/// into a packet.
const MAX_JOINED: usize = 512;

/// The packets of one batch.
#[derive(Debug, Default)]
pub struct Incoming {
    trains: Vec<Train>,
    /// The last train of each stream.
    streams: HashMap<Stream, usize>,
}

/// Packets that are passed on in one write.
#[derive(Debug)]
pub struct Train {
    /// The whole first packet.
    first: Range<usize>,
    /// The payloads of the other packets.
    rest: Vec<Range<usize>>,
    /// `None` for a packet that nothing can be joined to.
    joint: Option<Joint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stream {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ports: (u16, u16),
}

/// The condition for the next segment.
#[derive(Debug, Clone)]
struct Joint {
    stream: Stream,
    segment: Segment,
    /// The length of all packets so far, in bytes.
    total: usize,
    next_sequence: u32,
    next_identification: u16,
    /// Whether the checksums of the packets so far were verified.
    verified: bool,
    /// Whether no further segment may be joined.
    closed: bool,
}

/// A TCP segment with payload.
#[derive(Debug, Clone, Copy)]
struct Segment {
    packet: Packet,
    headers: usize,
    payload: usize,
    sequence: u32,
    push: bool,
}

impl Incoming {
    /// Removes all packets.
    pub fn clear(&mut self) {
        self.trains.clear();
        self.streams.clear();
    }

    /// The trains to write, in order.
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Adds the packet in `arena[at]`; both end at the same byte. The caller has verified its IP header.
    pub fn take(&mut self, packet: &Packet, arena: &[u8], at: Range<usize>) {
        let Some((stream, segment)) = segment(packet, &arena[at.clone()]) else {
            if let Some(stream) = stream_of(packet, &arena[at.clone()]) {
                // a later segment must not be joined to one before this packet
                self.streams.remove(&stream);
            }
            return self.trains.push(Train { first: at, rest: Vec::new(), joint: None });
        };
        if let Some(train) = self.train_of(&stream)
            && train.join(&segment, arena, &at)
        {
            return;
        }
        self.streams.insert(stream, self.trains.len());
        let joint = Joint::new(stream, segment);
        self.trains.push(Train { first: at, rest: Vec::new(), joint: Some(joint) });
    }

    fn train_of(&mut self, stream: &Stream) -> Option<&mut Train> {
        // the next packet usually belongs to the same stream
        let last = self.trains.last().and_then(|train| train.joint.as_ref());
        let index = match last {
            Some(joint) if joint.stream == *stream => self.trains.len() - 1,
            _ => *self.streams.get(stream)?,
        };
        self.trains.get_mut(index)
    }

    /// Writes the headers of the joined packets. Add nothing afterwards.
    pub fn finish(&self, arena: &mut [u8]) {
        for train in &self.trains {
            if let (Some(joint), false) = (&train.joint, train.rest.is_empty()) {
                joint.write(&mut arena[train.first.clone()]);
            }
        }
    }
}

impl Train {
    /// The number of packets.
    pub fn packets(&self) -> usize {
        1 + self.rest.len()
    }

    /// The length of all packets as they were received, in bytes.
    pub fn bytes(&self) -> usize {
        let headers = self.joint.as_ref().map_or(0, |joint| joint.segment.headers);
        self.first.len() + self.rest.iter().map(|payload| payload.len() + headers).sum::<usize>()
    }

    /// The header for the device.
    pub fn vnet(&self) -> Vnet {
        match &self.joint {
            Some(joint) if !self.rest.is_empty() => joint.vnet(),
            _ => Vnet::PLAIN,
        }
    }

    /// The parts of the train's bytes, in order.
    pub fn parts<'a>(&'a self, arena: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        std::iter::once(&self.first).chain(&self.rest).map(|range| &arena[range.clone()])
    }

    /// Joins the segment if it continues the train and has the same headers. Returns whether it was joined.
    fn join(&mut self, segment: &Segment, arena: &[u8], at: &Range<usize>) -> bool {
        let Some(joint) = &mut self.joint else { return false };
        let first = &arena[self.first.clone()];
        let next = &arena[at.clone()];
        if self.rest.len() >= MAX_JOINED || !joint.goes_on(segment) || !alike(&joint.segment, first, next) {
            return false;
        }
        if !joint.verified {
            joint.verified = checksum_is_right(&joint.segment.packet, first);
            joint.closed = !joint.verified;
        }
        // a wrong checksum must stay wrong, and nobody verifies it after joining
        if joint.closed || !checksum_is_right(&segment.packet, next) {
            return false;
        }
        joint.append(segment);
        self.rest.push(at.start + segment.headers..at.end);
        true
    }
}

impl Joint {
    fn new(stream: Stream, segment: Segment) -> Self {
        Self {
            stream,
            segment,
            total: segment.packet.total,
            next_sequence: segment.sequence.wrapping_add(segment.payload as u32),
            next_identification: segment.packet.identification.wrapping_add(1),
            verified: false,
            closed: segment.push,
        }
    }

    fn goes_on(&self, segment: &Segment) -> bool {
        let (first, next) = (&self.segment, segment);
        // RFC 6864 §4.1: the identification of a packet that must not be fragmented has no meaning
        let identified = next.packet.identification == self.next_identification || next.packet.dont_fragment;
        !self.closed
            && next.sequence == self.next_sequence
            && next.headers == first.headers
            && next.payload <= first.payload
            && self.total + next.payload <= usize::from(u16::MAX)
            && identified
    }

    fn append(&mut self, segment: &Segment) {
        self.total += segment.payload;
        self.next_sequence = self.next_sequence.wrapping_add(segment.payload as u32);
        self.next_identification = self.next_identification.wrapping_add(1);
        self.segment.push |= segment.push;
        self.closed = segment.push || segment.payload < self.segment.payload;
    }

    fn vnet(&self) -> Vnet {
        Vnet {
            kind: Kind::Tcp,
            gso_size: self.segment.payload as u16,
            hdr_len: self.segment.headers as u16,
            checksum: Some((self.segment.packet.header as u16, TCP_CHECKSUM as u16)),
        }
    }

    /// Writes the headers of the joined packet: its length, the last segment's PSH, and the pseudo header's part of
    /// TCP's checksum.
    fn write(&self, first: &mut [u8]) {
        let Packet { header, source, destination, protocol, .. } = self.segment.packet;
        let (ip, tcp) = first.split_at_mut(header);
        packet::seal(ip, self.total as u16);
        if self.segment.push {
            tcp[FLAGS] |= PSH;
        }
        let pseudo = checksum::pseudo(source, destination, protocol.0, (self.total - header) as u16);
        tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
    }
}

/// The packet as a segment that may be joined: plain IP, payload, and no flags except ACK and PSH.
fn segment(packet: &Packet, bytes: &[u8]) -> Option<(Stream, Segment)> {
    if packet.protocol != IpNumber::TCP || packet.fragment || packet.header != 20 {
        return None;
    }
    let tcp = TcpHeaderSlice::from_slice(&bytes[packet.header..]).ok()?;
    let headers = packet.header + tcp.slice().len();
    let payload = packet.total.checked_sub(headers).filter(|payload| *payload > 0)?;
    let flags = tcp.slice()[FLAGS];
    if flags & !PSH != ACK || tcp.ns() {
        return None;
    }
    let ports = (tcp.source_port(), tcp.destination_port());
    let stream = Stream { source: packet.source, destination: packet.destination, ports };
    let segment =
        Segment { packet: *packet, headers, payload, sequence: tcp.sequence_number(), push: flags & PSH != 0 };
    Some((stream, segment))
}

fn stream_of(packet: &Packet, bytes: &[u8]) -> Option<Stream> {
    if packet.protocol != IpNumber::TCP {
        return None;
    }
    let tcp = TcpHeaderSlice::from_slice(&bytes[packet.header..]).ok()?;
    let ports = (tcp.source_port(), tcp.destination_port());
    Some(Stream { source: packet.source, destination: packet.destination, ports })
}

/// Whether all fields that end up in one header are equal. IP: service, time to live and don't-fragment. TCP:
/// acknowledgement, window, urgent pointer and options.
fn alike(first: &Segment, a: &[u8], b: &[u8]) -> bool {
    let (ip, headers) = (first.packet.header, first.headers);
    // bytes 1 (service), 6..10 (flags, offset, time to live, protocol) of IP; 8..12, 14..16, 18..20 and options of TCP
    a[1] == b[1]
        && a[6..10] == b[6..10]
        && a[ip + 8..ip + 13] == b[ip + 8..ip + 13]
        && a[ip + 14..ip + 16] == b[ip + 14..ip + 16]
        && a[ip + 18..headers] == b[ip + 18..headers]
}

fn checksum_is_right(packet: &Packet, bytes: &[u8]) -> bool {
    let length = (packet.total - packet.header) as u16;
    let pseudo = checksum::pseudo(packet.source, packet.destination, packet.protocol.0, length);
    checksum::fold(pseudo + checksum::sum(&bytes[packet.header..])) == 0xffff
}
