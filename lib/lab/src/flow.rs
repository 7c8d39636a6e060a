//! A steady stream of numbered UDP datagrams, counted at the receiver.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Doing, Error};

/// The sender's interval. At each tick it sends what is due.
const TICK: Duration = Duration::from_millis(1);
/// How long the receiver waits for late datagrams after the sender has stopped.
const DRAIN: Duration = Duration::from_millis(500);
/// How often an idle receiver checks whether the sender has stopped.
const LOOK: Duration = Duration::from_millis(20);
/// The receive buffer: a second of 10,000 small datagrams, each with the kernel's overhead (about 768 bytes).
const BUFFER: usize = 16 << 20;
/// Bytes of a datagram: sequence number, time stamp and padding, as a small packet of a call or a game.
const SIZE: usize = 64;

/// The result of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams sent, including those that the sender's own kernel refused.
    pub sent: u64,
    /// Datagrams that never arrived.
    pub lost: u64,
    /// Datagrams that arrived again.
    pub duplicated: u64,
    /// Datagrams that arrived after a later one.
    pub reordered: u64,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
    /// The time from the first datagram to the last.
    pub lasted: Duration,
}

impl Counts {
    /// Datagrams per second.
    pub fn rate(&self) -> u64 {
        (self.sent as f64 / self.lasted.as_secs_f64().max(0.001)) as u64
    }

    /// The sum of two streams. The gap is the longer one.
    pub fn and(self, other: &Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            longest_gap: self.longest_gap.max(other.longest_gap),
            lasted: self.lasted.max(other.lasted),
        }
    }
}

/// A running stream.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    sender: JoinHandle<io::Result<(u64, Duration)>>,
    receiver: JoinHandle<io::Result<Seen>>,
}

/// Opens a socket with room for a burst, on any port of `addr`, in the caller's network namespace.
pub fn socket(addr: std::net::IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(addr, 0))?;
    // only root of the machine may exceed net.core.rmem_max, which is room for a twentieth of a second
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    Ok(socket)
}

/// Starts to send `rate` datagrams per second from one socket to the other. The sockets may be in different namespaces.
pub fn start(from: UdpSocket, to: UdpSocket, rate: u64) -> Result<Flow, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::new(AtomicU64::new(0));
    let total = Arc::new(AtomicU64::new(u64::MAX));
    let target = to.local_addr().doing("flow: ask the receiver's address")?;
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    let receiver = {
        let total = Arc::clone(&total);
        thread("flow-receiver").spawn(move || receive(&to, &total)).doing("flow: start the receiver")?
    };
    let sender = {
        let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
        let send = move || {
            let outcome = send(&from, &Order { target, rate }, &stop, &progress);
            total.store(outcome.as_ref().map_or(0, |(sent, _)| *sent), Ordering::Release);
            outcome
        };
        thread("flow-sender").spawn(send).doing("flow: start the sender")?
    };
    Ok(Flow { stop, progress, sender, receiver })
}

impl Flow {
    /// The number of datagrams sent up to now.
    pub fn sent(&self) -> u64 {
        self.progress.load(Ordering::Acquire)
    }

    /// Tells the sender to stop at its next tick.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Stops the sender, waits for late datagrams, and returns the counts.
    pub fn stop(self) -> Result<Counts, Error> {
        self.end();
        let (sent, lasted) = join(self.sender).doing("flow: send")?;
        let seen = join(self.receiver).doing("flow: receive")?;
        Ok(Counts {
            sent,
            lost: sent - seen.distinct,
            duplicated: seen.duplicated,
            reordered: seen.reordered,
            longest_gap: seen.longest_gap,
            lasted,
        })
    }
}

fn join<T>(thread: JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// What the sender sends, and where to.
struct Order {
    target: SocketAddr,
    rate: u64,
}

/// Sends what is due at each tick. A datagram that the kernel refuses counts as sent, and so as lost.
fn send(socket: &UdpSocket, order: &Order, stop: &AtomicBool, progress: &AtomicU64) -> io::Result<(u64, Duration)> {
    let ticks = ticker(TICK)?;
    let mut packet = [0; SIZE];
    let started = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        rustix::io::read(&ticks, &mut [0; 8])?;
        let due = (started.elapsed().as_micros() as u64).saturating_mul(order.rate) / 1_000_000;
        while sent < due {
            packet[..8].copy_from_slice(&sent.to_be_bytes());
            // a refused datagram is missing at the receiver, which counts it
            let _ = socket.send_to(&packet, order.target);
            sent += 1;
        }
        progress.store(sent, Ordering::Release);
    }
    Ok((sent, started.elapsed()))
}

fn ticker(every: Duration) -> io::Result<std::os::fd::OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let every = Timespec { tv_sec: 0, tv_nsec: every.subsec_nanos().into() };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
    Ok(timer)
}

/// Receives until every sent datagram has arrived, or until none has arrived for a while after the sender stopped.
fn receive(socket: &UdpSocket, total: &AtomicU64) -> io::Result<Seen> {
    socket.set_read_timeout(Some(LOOK))?;
    let (mut seen, mut quiet) = (Seen::default(), Duration::ZERO);
    let mut buffer = [0; SIZE];
    loop {
        let sent = total.load(Ordering::Acquire);
        if seen.distinct >= sent {
            return Ok(seen);
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {
                quiet = Duration::ZERO;
                seen.arrived(buffer, Instant::now());
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                quiet += LOOK;
                if sent != u64::MAX && quiet >= DRAIN {
                    return Ok(seen);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the receiver has counted.
#[derive(Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    distinct: u64,
    duplicated: u64,
    reordered: u64,
    highest: Option<u64>,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Seen {
    fn arrived(&mut self, packet: [u8; SIZE], now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        let [a, b, c, d, e, f, g, h, ..] = packet;
        self.number(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    }

    fn number(&mut self, seq: u64) {
        let (word, bit) = ((seq / 64) as usize, 1 << (seq % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.bits[word] |= bit;
        self.distinct += 1;
        if self.highest.is_some_and(|highest| seq < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_doubles_and_late_ones_are_told_apart() {
        let mut seen = Seen::default();
        for seq in [0, 1, 3, 2, 2, 70] {
            seen.number(seq);
        }
        assert_eq!((seen.distinct, seen.duplicated, seen.reordered), (5, 1, 1));
    }

    fn counted(from: UdpSocket, to: UdpSocket, datagrams: u64) -> Counts {
        let flow = start(from, to, 10_000).unwrap();
        let look = || if flow.sent() >= datagrams { Ok(()) } else { Err(flow.sent()) };
        crate::wait::eventually("datagrams are sent", Duration::from_secs(10), look).unwrap();
        flow.stop().unwrap()
    }

    fn loopback() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn ten_thousand_a_second_arrive_on_loopback() {
        let counts = counted(loopback(), loopback(), 2_000);
        assert!(counts.rate() > 5_000, "{counts:?}");
        assert_eq!((counts.lost, counts.duplicated, counts.reordered), (0, 0, 0), "{counts:?}");
    }

    #[test]
    fn a_datagram_that_is_not_received_is_lost() {
        let deaf = loopback();
        // a connected socket does not receive from other addresses
        deaf.connect("127.0.0.1:9").unwrap();
        let counts = counted(loopback(), deaf, 20);
        assert!(counts.sent >= 20 && counts.lost == counts.sent, "{counts:?}");
    }
}
