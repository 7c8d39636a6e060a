//! Turns what the TUN device delivers into datagrams: segments large packets and fills in checksums.
//!
//! Payload is never copied: a segment is a new header and a range of the bytes that were read.

use std::net::Ipv4Addr;
use std::ops::Range;

use etherparse::{IpNumber, TcpHeaderSlice, UdpHeaderSlice};
use kernel::tuntap::VNET_HDR_LEN;

use super::checksum;
use super::counters::Loss;
use super::packet::{self, Packet};
use super::table::Table;
use super::unreachable;
use super::vnet::{Kind, Vnet};

/// The datagrams to send, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    heads: Vec<u8>,
    datagrams: Vec<Datagram>,
}

/// One packet of the pods' network, and the host to send it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The host that leases the packet's destination.
    pub to: Ipv4Addr,
    /// The range in the generated headers. Empty if the packet is sent as it was read.
    head: Range<usize>,
    /// The range in the bytes that were read.
    body: Range<usize>,
}

impl Datagram {
    /// The length in bytes.
    pub fn length(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Why a packet is not sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: Loss,
    /// The ICMP message for its sender, if there is one.
    pub answer: Option<Vec<u8>>,
}

impl From<Loss> for Refused {
    fn from(why: Loss) -> Self {
        Self { why, answer: None }
    }
}

impl Outgoing {
    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.datagrams.clear();
    }

    /// The datagrams to send.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.datagrams
    }

    /// The two parts of a datagram. `arena` is the one that was passed to [`take`](Self::take).
    pub fn parts<'a>(&'a self, datagram: &Datagram, arena: &'a [u8]) -> [&'a [u8]; 2] {
        [&self.heads[datagram.head.clone()], &arena[datagram.body.clone()]]
    }

    /// Adds what was read from the device into `arena[at]`: a header and one packet.
    ///
    /// # Errors
    /// The packet must be dropped.
    pub fn take(&mut self, arena: &mut [u8], at: Range<usize>, table: &Table) -> Result<(), Refused> {
        let read = &mut arena[at.clone()];
        let (vnet, bytes) = read.split_first_chunk_mut::<VNET_HDR_LEN>().ok_or(Loss::Malformed)?;
        let vnet = Vnet::parse(*vnet).ok_or(Loss::Malformed)?;
        let packet = Packet::read(bytes)?;
        let bytes = &mut bytes[..packet.total];
        if vnet.kind == Kind::Whole
            && let Some((start, offset)) = vnet.checksum
        {
            fill_in(bytes, packet.protocol, start.into(), offset.into()).ok_or(Loss::Malformed)?;
        }
        let Some(to) = table.host_of(packet.destination) else {
            let answer = table.device().and_then(|device| unreachable::answer(device, &packet, bytes));
            return Err(Refused { why: Loss::NoRoute, answer });
        };
        packet::count_down(&packet, bytes)?;
        let start = at.start + VNET_HDR_LEN;
        match vnet.kind {
            Kind::Whole => {
                let head = self.heads.len()..self.heads.len();
                self.datagrams.push(Datagram { to, head, body: start..start + packet.total });
            }
            Kind::Tcp => self.cut(&tcp(&packet, bytes, vnet)?, bytes, start, to),
            Kind::Udp => self.cut(&udp(&packet, bytes, vnet)?, bytes, start, to),
        }
        Ok(())
    }

    fn cut(&mut self, plan: &Plan, bytes: &[u8], start: usize, to: Ipv4Addr) {
        let pieces = bytes[plan.headers..].chunks(plan.size).enumerate();
        let last = bytes[plan.headers..].len().div_ceil(plan.size).saturating_sub(1);
        for (n, payload) in pieces {
            let head = self.heads.len()..self.heads.len() + plan.headers;
            self.heads.extend_from_slice(&bytes[..plan.headers]);
            plan.write(&mut self.heads[head.clone()], payload, n, n == last);
            let from = start + plan.headers + n * plan.size;
            self.datagrams.push(Datagram { to, head, body: from..from + payload.len() });
        }
    }
}

/// Completes a checksum that covers only the pseudo header. `None` if it lies outside the packet.
fn fill_in(bytes: &mut [u8], protocol: IpNumber, start: usize, offset: usize) -> Option<()> {
    let sum = checksum::sum(bytes.get(start..)?);
    bytes.get_mut(start + offset..start + offset + 2)?.copy_from_slice(&field(sum, protocol));
    Some(())
}

/// The checksum as it is sent. In UDP, zero would mean that there is no checksum (RFC 768).
fn field(sum: u64, protocol: IpNumber) -> [u8; 2] {
    match checksum::finish(sum) {
        [0, 0] if protocol == IpNumber::UDP => [0xff; 2],
        field => field,
    }
}

/// How to segment one packet.
#[derive(Debug)]
struct Plan {
    packet: Packet,
    /// The length of the IP and transport headers, in bytes.
    headers: usize,
    /// The payload of each segment but the last, in bytes.
    size: usize,
    transport: Transport,
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Tcp { sequence: u32 },
    Udp,
}

fn plan(packet: &Packet, transport: Transport, length: usize, vnet: Vnet) -> Result<Plan, Loss> {
    let (headers, size) = (packet.header + length, usize::from(vnet.gso_size));
    let whole = size > 0 && headers <= packet.total && headers + size <= usize::from(u16::MAX) && !packet.fragment;
    whole.then_some(Plan { packet: *packet, headers, size, transport }).ok_or(Loss::Malformed)
}

fn tcp(packet: &Packet, bytes: &[u8], vnet: Vnet) -> Result<Plan, Loss> {
    let header = TcpHeaderSlice::from_slice(&bytes[packet.header..]).map_err(|_| Loss::Malformed)?;
    if packet.protocol != IpNumber::TCP {
        return Err(Loss::Malformed);
    }
    plan(packet, Transport::Tcp { sequence: header.sequence_number() }, header.slice().len(), vnet)
}

fn udp(packet: &Packet, bytes: &[u8], vnet: Vnet) -> Result<Plan, Loss> {
    let header = UdpHeaderSlice::from_slice(&bytes[packet.header..]).map_err(|_| Loss::Malformed)?;
    if packet.protocol != IpNumber::UDP {
        return Err(Loss::Malformed);
    }
    plan(packet, Transport::Udp, header.slice().len(), vnet)
}

/// The offset of the flags in a TCP header (RFC 9293 §3.1).
pub const FLAGS: usize = 13;
pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const CWR: u8 = 0x80;
/// The offset of the checksum in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
const TCP_SEQUENCE: usize = 4;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

impl Plan {
    /// Turns the copied headers into those of segment `n` with this payload.
    fn write(&self, headers: &mut [u8], payload: &[u8], n: usize, last: bool) {
        let (ip, transport) = headers.split_at_mut(self.packet.header);
        let length = transport.len() + payload.len();
        let identification = self.packet.identification.wrapping_add(n as u16);
        ip[packet::IDENTIFICATION..packet::IDENTIFICATION + 2].copy_from_slice(&identification.to_be_bytes());
        packet::seal(ip, (ip.len() + length) as u16);
        let length = length as u16;
        let at = match self.transport {
            Transport::Tcp { sequence } => {
                let sequence = sequence.wrapping_add((n * self.size) as u32);
                transport[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
                // FIN and PSH belong to the last byte; CWR is signalled only once (RFC 3168 §6.1.2)
                transport[FLAGS] &= if last { 0xff } else { !(FIN | PSH) } & if n == 0 { 0xff } else { !CWR };
                TCP_CHECKSUM
            }
            Transport::Udp => {
                transport[UDP_LENGTH..UDP_LENGTH + 2].copy_from_slice(&length.to_be_bytes());
                UDP_CHECKSUM
            }
        };
        transport[at..at + 2].fill(0);
        let Packet { source, destination, protocol, .. } = self.packet;
        let pseudo = checksum::pseudo(source, destination, protocol.0, length);
        let sum = pseudo + checksum::sum(transport) + checksum::sum(payload);
        transport[at..at + 2].copy_from_slice(&field(sum, protocol));
    }
}
