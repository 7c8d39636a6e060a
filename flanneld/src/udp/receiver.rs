//! The worker that receives on the socket and writes to the TUN device.

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kernel::tuntap::Queue;
use kernel::udp_socket::{Received, SegmentSocket};
use rustix::io::Errno;

use super::counters::{Counters, Loss};
use super::gro::{Incoming, Train};
use super::packet::{self, Packet};
use super::shared::{Shared, View};
use super::table::Table;

/// The most bytes that one call receives.
const LARGEST: usize = 65_535;
/// Bytes received before anything is written.
const ARENA: usize = 2 * LARGEST;
/// The most single datagrams that are received before anything is written.
const CALLS: usize = 64;

/// The receiving worker of a socket.
#[derive(Debug)]
pub struct Receiver {
    pub queue: Arc<Queue>,
    pub socket: Arc<SegmentSocket>,
    pub shared: Arc<Shared>,
}

/// The state of a running worker.
struct Work<'a> {
    receiver: &'a Receiver,
    view: View,
    arena: Vec<u8>,
    received: Vec<(usize, Received)>,
    incoming: Incoming,
}

impl Receiver {
    /// Runs until the stop order (Ok), or until the device is gone.
    pub fn run(&self) -> io::Result<()> {
        let mut work = Work {
            receiver: self,
            view: View::of(&self.shared),
            arena: vec![0; ARENA],
            received: Vec::with_capacity(CALLS),
            incoming: Incoming::default(),
        };
        while self.shared.wait_for(&*self.socket)? {
            while work.batch()? {}
        }
        Ok(())
    }
}

impl Work<'_> {
    /// Moves the datagrams that are ready. Returns true if there may be more.
    fn batch(&mut self) -> io::Result<bool> {
        let more = self.receive()?;
        let Self { receiver, view, arena, received, incoming } = self;
        let mut filter =
            Filter { table: view.refresh(&receiver.shared), counters: &receiver.shared.counters, known: None };
        incoming.clear();
        for (from, train) in received.drain(..) {
            filter.accept(&train, from, arena, incoming);
        }
        incoming.finish(arena);
        for train in incoming.trains() {
            receiver.write(train, arena)?;
        }
        Ok(more)
    }

    /// Receives until no datagram is ready or the buffer is full. Returns true if there may be more.
    fn receive(&mut self) -> io::Result<bool> {
        let mut from = 0;
        while from + LARGEST <= ARENA && self.received.len() < CALLS {
            match self.receiver.socket.receive(&mut self.arena[from..from + LARGEST]) {
                Ok(received) => {
                    self.received.push((from, received));
                    from += received.bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Receiver {
    fn write(&self, train: &Train, arena: &[u8]) -> io::Result<()> {
        let header = train.vnet().to_bytes();
        let mut parts = Vec::with_capacity(1 + train.packets());
        parts.push(IoSlice::new(&header));
        parts.extend(train.parts(arena).map(IoSlice::new));
        let counters = &self.shared.counters;
        match self.queue.write(&parts) {
            Ok(_) => counters.received(train.packets(), train.bytes()),
            // the device is gone (drivers/net/tun.c, tun_chr_write_iter)
            Err(error) if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) => return Err(error),
            Err(_) => counters.dropped(Loss::WriteFailed, train.packets()),
        }
        Ok(())
    }
}

/// Checks which packets may be passed on.
struct Filter<'a> {
    table: &'a Table,
    counters: &'a Counters,
    /// Sender, source and destination of the last packet that was accepted: the next one is usually of the same stream.
    known: Option<(Ipv4Addr, Ipv4Addr, Ipv4Addr)>,
}

impl Filter<'_> {
    /// Checks the datagrams that one call has received at `from` and adds the accepted packets to `incoming`.
    fn accept(&mut self, received: &Received, from: usize, arena: &mut [u8], incoming: &mut Incoming) {
        let segment = received.segment.max(1);
        let count = received.bytes.div_ceil(segment).max(1);
        if !self.table.is_member(received.from) {
            return self.counters.dropped(Loss::UnknownSender, count);
        }
        if received.truncated || received.bytes == 0 {
            return self.counters.dropped(Loss::Malformed, count);
        }
        for start in (from..from + received.bytes).step_by(segment) {
            let at = start..(start + segment).min(from + received.bytes);
            match self.admit(received.from, &mut arena[at.clone()]) {
                Ok(packet) => incoming.take(&packet, arena, at.start..at.start + packet.total),
                Err(why) => self.counters.dropped(why, 1),
            }
        }
    }

    fn admit(&mut self, sender: Ipv4Addr, bytes: &mut [u8]) -> Result<Packet, Loss> {
        let packet = Packet::verify(bytes)?;
        let way = (sender, packet.source, packet.destination);
        if self.known != Some(way) {
            self.table.admits(sender, packet.source, packet.destination)?;
            self.known = Some(way);
        }
        packet::count_down(&packet, bytes)?;
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn packet(source: [u8; 4], destination: [u8; 4], ttl: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(source, destination, ttl).udp(7, 9).write(&mut bytes, b"hello").unwrap();
        bytes
    }

    /// How many of the datagrams of one call are accepted, and what is counted for the rest.
    fn accepted(sender: Ipv4Addr, datagrams: &[Vec<u8>]) -> (usize, Vec<(Loss, u64)>) {
        let route = ("10.5.2.0/24".parse().unwrap(), PEER);
        let table = Table::new("10.5.0.0/16".parse().unwrap(), "10.5.1.0/24".parse().unwrap(), [route]);
        let counters = Counters::default();
        let mut arena = datagrams.concat();
        let received = Received { bytes: arena.len(), segment: datagrams[0].len(), from: sender, truncated: false };
        let mut incoming = Incoming::default();
        Filter { table: &table, counters: &counters, known: None }.accept(&received, 0, &mut arena, &mut incoming);
        (incoming.trains().len(), counters.snapshot().drops().collect())
    }

    #[test]
    fn who_gets_in_and_who_does_not() {
        let (theirs, here) = ([10, 5, 2, 7], [10, 5, 1, 7]);
        let good = packet(theirs, here, 64);
        let mut broken = good.clone();
        broken[10] ^= 1;
        assert_eq!(accepted(PEER, &[good.clone(), good.clone()]), (2, vec![]));
        assert_eq!(accepted([192, 0, 2, 3].into(), &[good.clone(), good.clone()]), (0, vec![(Loss::UnknownSender, 2)]));
        for (bad, why) in [
            (packet([10, 5, 3, 7], here, 64), Loss::ForeignSource),
            (packet(theirs, [10, 5, 2, 8], 64), Loss::ForeignDestination),
            (packet(theirs, here, 1), Loss::TtlExceeded),
            (broken, Loss::Malformed),
            (vec![0x60; 33], Loss::NotIpv4),
            (vec![0; 33], Loss::Malformed),
        ] {
            // only the bad datagram is dropped
            assert_eq!(accepted(PEER, &[good.clone(), bad, good.clone()]), (2, vec![(why, 1)]));
        }
        assert_eq!(accepted(PEER, &[vec![0x45]]), (0, vec![(Loss::Malformed, 1)]));
    }
}
