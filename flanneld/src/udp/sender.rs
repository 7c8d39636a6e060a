//! The worker that reads from the TUN device and sends on the socket.

use std::io::{self, IoSlice};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kernel::tuntap::{Queue, VNET_HDR_LEN};
use kernel::udp_socket::{MAX_SEGMENTS, SegmentSocket};
use rustix::io::Errno;
use rustix::net::{SendFlags, sendto};

use super::counters::Loss;
use super::gso::Outgoing;
use super::packet::Packet;
use super::runs::{Run, runs};
use super::shared::{Shared, View};
use super::vnet::Vnet;

/// Bytes of the largest packet with its header before it.
const LARGEST: usize = VNET_HDR_LEN + 65_535;
/// Bytes read before anything is sent. The headers and payload of large packets then stay in the cache.
const ARENA: usize = 2 * LARGEST;
/// The most small packets that are read before anything is sent.
const PACKETS: usize = 64;

/// The sending worker of a queue.
#[derive(Debug)]
pub struct Sender {
    pub queue: Arc<Queue>,
    pub socket: Arc<SegmentSocket>,
    /// The peers' port, which is this host's own port (upstream).
    pub port: u16,
    pub shared: Arc<Shared>,
    /// A raw socket for the ICMP messages that this host sends. `None` without CAP_NET_RAW.
    pub icmp: Option<Arc<OwnedFd>>,
}

/// The state of a running worker.
struct Work<'a> {
    sender: &'a Sender,
    view: View,
    arena: Vec<u8>,
    packets: Vec<Range<usize>>,
    outgoing: Outgoing,
    /// Whether the kernel accepts trains on this path.
    trains: bool,
}

impl Sender {
    /// Runs until the stop order (Ok), or until the device is gone.
    pub fn run(&self) -> io::Result<()> {
        let mut work = Work {
            sender: self,
            view: View::of(&self.shared),
            arena: vec![0; ARENA],
            packets: Vec::with_capacity(PACKETS),
            outgoing: Outgoing::default(),
            trains: true,
        };
        while self.shared.wait_for(&*self.queue)? {
            while work.batch()? {}
        }
        Ok(())
    }
}

impl Work<'_> {
    /// Moves the packets that are ready. Returns true if there may be more.
    fn batch(&mut self) -> io::Result<bool> {
        let more = self.read()?;
        let Self { sender, view, arena, packets, outgoing, .. } = self;
        let table = view.refresh(&sender.shared);
        outgoing.clear();
        for at in packets.drain(..) {
            if let Err(refused) = outgoing.take(arena, at, table) {
                sender.shared.counters.dropped(refused.why, 1);
                refused.answer.iter().for_each(|answer| sender.say(answer));
            }
        }
        for run in runs(self.outgoing.datagrams()) {
            self.trains &= self.sender.send(&self.outgoing, &self.arena, &run, self.trains);
        }
        Ok(more)
    }

    /// Reads until no packet is ready or the buffer is full. Returns true if there may be more.
    fn read(&mut self) -> io::Result<bool> {
        let mut from = 0;
        while from + LARGEST <= ARENA && self.packets.len() < PACKETS {
            match self.sender.queue.read(&mut self.arena[from..]) {
                Ok(length) => {
                    self.packets.push(from..from + length);
                    from += length;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Sender {
    /// Sends an ICMP message to the sender of a packet. Upstream writes it to the TUN device, where the kernel drops it
    /// because its source is an address of this host (fib_validate_source, net/ipv4/fib_frontend.c).
    fn say(&self, answer: &[u8]) {
        let Some(to) = Packet::read(answer).ok().map(|packet| SocketAddrV4::new(packet.destination, 0)) else { return };
        // an error is ignored: the message is about a packet that is lost anyway
        let _ = match &self.icmp {
            Some(icmp) => sendto(icmp, answer, SendFlags::DONTWAIT, &to).map_err(Into::into),
            None => self.queue.write(&[IoSlice::new(&Vnet::PLAIN.to_bytes()), IoSlice::new(answer)]),
        };
    }

    /// Sends a run, as a train if `trains` is true. Returns false if the kernel does not accept trains on this path.
    fn send(&self, outgoing: &Outgoing, arena: &[u8], run: &Run, trains: bool) -> bool {
        if !trains || run.datagrams.len() == 1 {
            run.datagrams.clone().for_each(|n| self.send_one(outgoing, arena, n));
            return trains;
        }
        let datagrams = &outgoing.datagrams()[run.datagrams.clone()];
        let mut parts = [IoSlice::new(&[]); 2 * MAX_SEGMENTS];
        let bytes = datagrams.iter().flat_map(|datagram| outgoing.parts(datagram, arena));
        let mut used = 0;
        for (slot, bytes) in parts.iter_mut().zip(bytes.filter(|bytes| !bytes.is_empty())) {
            *slot = IoSlice::new(bytes);
            used += 1;
        }
        let to = SocketAddrV4::new(datagrams[0].to, self.port);
        match self.socket.send(to, &parts[..used], Some(run.segment as u16)) {
            Ok(()) => self.shared.counters.sent(datagrams.len(), run.bytes),
            Err(error) => match Errno::from_io_error(&error) {
                // too long for the path, or the device cannot segment: single datagrams may get through (udp_send_skb,
                // net/ipv4/udp.c)
                Some(reason @ (Errno::INVAL | Errno::IO | Errno::MSGSIZE)) => {
                    run.datagrams.clone().for_each(|n| self.send_one(outgoing, arena, n));
                    return reason != Errno::IO;
                }
                _ => self.shared.counters.dropped(Loss::SendFailed, datagrams.len()),
            },
        }
        true
    }

    fn send_one(&self, outgoing: &Outgoing, arena: &[u8], n: usize) {
        let datagram = &outgoing.datagrams()[n];
        let parts = outgoing.parts(datagram, arena).map(IoSlice::new);
        match self.socket.send(SocketAddrV4::new(datagram.to, self.port), &parts, None) {
            Ok(()) => self.shared.counters.sent(1, datagram.length()),
            Err(_) => self.shared.counters.dropped(Loss::SendFailed, 1),
        }
    }
}
