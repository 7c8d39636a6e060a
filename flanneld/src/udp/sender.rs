//! The worker from the TUN device to the socket.

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

/// A packet with what is before it.
const LARGEST: usize = VNET_HDR_LEN + 65_535;
/// What is read before it is sent: large packets' headers and payload stay in the cache meanwhile.
const ARENA: usize = 2 * LARGEST;
/// So many small packets are read before they are sent.
const PACKETS: usize = 64;

/// One queue's worker.
#[derive(Debug)]
pub struct Sender {
    pub queue: Arc<Queue>,
    pub socket: Arc<SegmentSocket>,
    /// Where the others listen: where this host does (upstream).
    pub port: u16,
    pub shared: Arc<Shared>,
    /// A raw socket for what this host itself has to say.
    pub voice: Option<Arc<OwnedFd>>,
}

/// The worker at work.
struct Work<'a> {
    sender: &'a Sender,
    view: View,
    arena: Vec<u8>,
    packets: Vec<Range<usize>>,
    outgoing: Outgoing,
    /// The way out takes trains.
    trains: bool,
}

impl Sender {
    /// Works until it is told to stop (Ok) or the device is gone.
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
    /// Moves what is there; true when there may be more.
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

    /// Reads until there is nothing or no room; true when there may be more.
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
    /// Tells the sender of a packet what became of it. Upstream writes this to the TUN device, and there the kernel drops
    /// it, because its source is an address of this host (fib_validate_source, net/ipv4/fib_frontend.c).
    fn say(&self, answer: &[u8]) {
        let Some(to) = Packet::read(answer).ok().map(|packet| SocketAddrV4::new(packet.destination, 0)) else { return };
        // who cannot be told is not told: it is an answer to a packet that is lost anyway
        let _ = match &self.voice {
            Some(voice) => sendto(voice, answer, SendFlags::DONTWAIT, &to).map_err(Into::into),
            None => self.queue.write(&[IoSlice::new(&Vnet::PLAIN.to_bytes()), IoSlice::new(answer)]),
        };
    }

    /// Sends a run, as a train where `trains` says that the way out takes them; false when it does not.
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
                // too long for the path, or the way out cannot cut: one by one they may get through (udp_send_skb, net/ipv4/udp.c)
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
