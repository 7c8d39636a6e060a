//! The udp backend: carries pods' packets between hosts as the payload of UDP datagrams, one IPv4 packet each
//! (upstream's wire format), through a TUN device.
//!
//! ```text
//! pod → flannel0 → sender: read a packet of up to 64 KB, cut it, fill in checksums → socket: one call per train
//! pod ← flannel0 ← receiver: join packets of one stream, one write per train       ← socket
//! ```
//! On the wire this program does not differ from Go's. It is faster because a system call moves a train of up to 64
//! packets. The decisions (`gso`, `gro`, `packet`, `table`, `unreachable`, `runs`) are pure. `sender` and `receiver`
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

/// The most queues. More are no faster, because the kernel then shares its part among them.
const MAX_QUEUES: usize = 4;

/// The device, the socket and the threads of a data path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the TUN device, which must have several queues.
    pub device: IfName,
    /// The device's index, which distinguishes it from a later device of the same name.
    pub index: u32,
    /// This host's underlay address, and the port that all hosts use.
    pub local: SocketAddrV4,
    /// The number of queues. Each has a pair of threads.
    pub queues: usize,
}

/// Why the data path cannot start.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The device or the socket cannot be opened.
    #[error("the udp backend cannot start: {0}")]
    Kernel(#[from] KernelError),
    /// A thread, or the event that wakes it, cannot be created.
    #[error("the udp backend cannot start its threads: {0}")]
    Thread(#[source] io::Error),
}

/// A running data path. Dropping it stops it.
#[derive(Debug)]
pub struct DataPath {
    settings: Settings,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    ended: Arc<End>,
}

/// The end of a worker, for those who wait for it.
#[derive(Debug, Default)]
struct End {
    /// Set before the notification, because the thread itself ends a little later.
    happened: AtomicBool,
    notify: Notify,
}

/// Notifies when its worker ends, even by a panic.
struct AtEnd(Arc<End>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.happened.store(true, Ordering::Release);
        self.0.notify.notify_one();
    }
}

/// The number of queues for this machine: one per two processors, at most `MAX_QUEUES`.
pub fn queues() -> usize {
    (thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, MAX_QUEUES)
}

impl DataPath {
    /// Attaches to the device, binds the sockets in the thread's network namespace, and starts to move packets.
    pub fn start(settings: Settings, table: Table, counters: Arc<Counters>) -> Result<Self, UdpError> {
        let shared = Shared::new(table, counters).map_err(|errno| UdpError::Thread(errno.into()))?;
        let mut path = Self { settings, shared: Arc::new(shared), workers: Vec::new(), ended: Arc::default() };
        let (several, local) = (path.settings.queues > 1, path.settings.local);
        let mut pairs = Vec::new();
        for _ in 0..path.settings.queues.max(1) {
            let socket = SegmentSocket::bind(local, several)?;
            pairs.push((Arc::new(Queue::attach(&path.settings.device)?), Arc::new(socket)));
        }
        // IPPROTO_RAW sends packets with their own IP header (raw(7)); without CAP_NET_RAW, ICMP is sent as upstream
        // does
        let icmp = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        let icmp = icmp.ok().map(Arc::new);
        for (n, (queue, socket)) in pairs.into_iter().enumerate() {
            let shared = path.shared.clone();
            let receiver = Receiver { queue: queue.clone(), socket: socket.clone(), shared: shared.clone() };
            let sender = Sender { queue, socket, port: local.port(), shared, icmp: icmp.clone() };
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
                tracing::warn!(worker = label, %error, "a udp worker ended; the data path restarts");
            }
        };
        let worker = thread::Builder::new().name(name).spawn(logged).map_err(UdpError::Thread)?;
        self.workers.push(worker);
        Ok(())
    }

    /// The settings that it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether all its threads are running.
    pub fn is_whole(&self) -> bool {
        !self.ended.happened.load(Ordering::Acquire)
    }

    /// Waits until a worker has ended. Cancel-safe.
    pub async fn ended(&self) {
        self.ended.notify.notified().await;
    }

    /// Replaces the table.
    pub fn replace(&self, table: Table) {
        self.shared.replace(table);
    }

    /// Changes the table.
    pub fn change(&self, change: impl FnOnce(&mut Table)) {
        self.shared.change(change);
    }

    /// The counters up to now.
    pub fn counters(&self) -> Snapshot {
        self.shared.counters.snapshot()
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // the panic's message is on stderr already
            let _ = worker.join();
        }
    }
}
