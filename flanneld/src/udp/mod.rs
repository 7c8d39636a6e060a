//! The udp backend: pods' packets between hosts as the payload of UDP datagrams, one IPv4 packet each and nothing else
//! (upstream's wire format), by way of a TUN device.
//!
//! ```text
//! pod → flannel0 → sender: read a packet of up to 64 KB, cut it, fill in checksums → socket: one call per train
//! pod ← flannel0 ← receiver: join what is of one stream, one write per train       ← socket
//! ```
//! On the wire nothing tells this program from Go's; it is faster because a system call moves a train of up to 64 packets.
//! What decides (`gso`, `gro`, `packet`, `table`, `unreachable`, `runs`) is pure; `sender` and `receiver`
//! only move bytes. Neither copies payload.

mod checksum;
pub mod counters;
mod gro;
mod gso;
pub mod metrics;
mod packet;
mod receiver;
mod runs;
mod sender;
mod shared;
pub mod table;
#[cfg(test)]
mod tests;
mod unreachable;
mod vnet;

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kernel::KernelError;
use kernel::tuntap::Queue;
use kernel::types::IfName;
use kernel::udp_socket::SegmentSocket;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::sync::Notify;

use counters::{Counters, Snapshot};
use receiver::Receiver;
use sender::Sender;
use shared::Shared;
use table::Table;

/// More queues than this are no faster: the kernel's part is shared by then.
const MAX_QUEUES: usize = 4;

/// Where packets come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The TUN device, made with several queues.
    pub device: IfName,
    /// Its number, which tells a device from another one of the same name.
    pub index: u32,
    /// This host's underlay address, and the port of all hosts.
    pub local: SocketAddrV4,
    /// Pairs of threads.
    pub queues: usize,
}

/// Why packets cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The device or the socket cannot be had.
    #[error("the udp backend cannot start: {0}")]
    Kernel(#[from] KernelError),
    /// There is no thread to be had, or nothing to wake it with.
    #[error("the udp backend cannot start its threads: {0}")]
    Thread(#[source] io::Error),
}

/// The data path at work. It ends when this is dropped.
#[derive(Debug)]
pub struct DataPath {
    settings: Settings,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    ended: Arc<End>,
}

/// The end of a worker.
#[derive(Debug, Default)]
struct End {
    /// Set before the notification: the thread itself lives a little longer.
    happened: AtomicBool,
    notify: Notify,
}

/// Notifies when its worker ends, by a panic too.
struct AtEnd(Arc<End>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.happened.store(true, Ordering::Release);
        self.0.notify.notify_one();
    }
}

/// One pair of threads for each two processors.
pub fn queues() -> usize {
    (thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, MAX_QUEUES)
}

impl DataPath {
    /// Attaches to the device and binds the sockets in the thread's network namespace, and starts to move packets.
    pub fn start(settings: Settings, table: Table, counters: Arc<Counters>) -> Result<Self, UdpError> {
        let shared = Shared::new(table, counters).map_err(|errno| UdpError::Thread(errno.into()))?;
        let mut path = Self { settings, shared: Arc::new(shared), workers: Vec::new(), ended: Arc::default() };
        let (several, local) = (path.settings.queues > 1, path.settings.local);
        let mut pairs = Vec::new();
        for _ in 0..path.settings.queues.max(1) {
            let socket = SegmentSocket::bind(local, several)?;
            pairs.push((Arc::new(Queue::attach(&path.settings.device)?), Arc::new(socket)));
        }
        // with IPPROTO_RAW the IP header is given (raw(7)); it takes CAP_NET_RAW, without which ICMP is as upstream's
        let voice = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        let voice = voice.ok().map(Arc::new);
        for (n, (queue, socket)) in pairs.into_iter().enumerate() {
            let shared = path.shared.clone();
            let receiver = Receiver { queue: queue.clone(), socket: socket.clone(), shared: shared.clone() };
            let sender = Sender { queue, socket, port: local.port(), shared, voice: voice.clone() };
            path.work(format!("udp-send-{n}"), move || sender.run())?;
            path.work(format!("udp-receive-{n}"), move || receiver.run())?;
        }
        Ok(path)
    }

    fn work(&mut self, name: String, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), UdpError> {
        let (label, end) = (name.clone(), AtEnd(self.ended.clone()));
        let logged = move || {
            let _end = end;
            if let Err(error) = run() {
                tracing::warn!(worker = label, %error, "a udp worker has ended; the data path starts anew");
            }
        };
        let worker = thread::Builder::new().name(name).spawn(logged).map_err(UdpError::Thread)?;
        self.workers.push(worker);
        Ok(())
    }

    /// What it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// True while all its threads are at work.
    pub fn is_whole(&self) -> bool {
        !self.ended.happened.load(Ordering::Acquire)
    }

    /// Waits until a worker has ended. Cancel-safe.
    pub async fn ended(&self) {
        self.ended.notify.notified().await;
    }

    /// Puts another table in force.
    pub fn replace(&self, table: Table) {
        self.shared.replace(table);
    }

    /// What it has done so far.
    pub fn counters(&self) -> Snapshot {
        self.shared.counters.snapshot()
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // its panic is on stderr
            let _ = worker.join();
        }
    }
}
