//! A plain user-space tunnel: one packet per read and per send, as upstream does. The udp backend is compared with it
//! and must interoperate with it.

use std::io::{self, IoSlice};
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kernel::tuntap::Queue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the loop may take to notice that it must stop.
const LOOK: Duration = Duration::from_millis(100);

/// The running loop of one host, in a thread of its own.
#[derive(Debug)]
pub struct Plain {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Plain {
    /// Starts to move packets between `queue` and the host at `to`.
    pub fn start(queue: Queue, socket: UdpSocket, to: SocketAddrV4) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("plain".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // as upstream, it waits only if neither side has a packet
                if !(outward(&queue, &socket, to)? | inward(&queue, &socket)?) {
                    let mut fds = [PollFd::new(&queue, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
                    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) }))?;
                }
            }
            Ok(())
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the loop.
    pub fn stop(mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => Err(io::Error::other("the plain loop has panicked")),
        }
    }
}

fn outward(queue: &Queue, socket: &UdpSocket, to: SocketAddrV4) -> io::Result<bool> {
    let mut buffer = [0; 2048];
    match queue.read(&mut buffer) {
        // as in upstream, the kernel's own IPv6 packets have no route
        Ok(_) if buffer[0] >> 4 != 4 => Ok(true),
        Ok(length) => {
            hop(&mut buffer[..length]);
            // as in upstream, a packet that the socket refuses is lost
            let _ = socket.send_to(&buffer[..length], to);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn inward(queue: &Queue, socket: &UdpSocket) -> io::Result<bool> {
    let mut buffer = [0; 2048];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            hop(&mut buffer[..length]);
            let _ = queue.write(&[IoSlice::new(&buffer[..length])]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Decrements the time to live and updates the checksum (RFC 1624).
fn hop(packet: &mut [u8]) {
    if packet.len() < 20 {
        return;
    }
    packet[8] = packet[8].wrapping_sub(1);
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x100;
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}
