//! What the daemon and the workers share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::counters::Counters;
use super::table::Table;

/// The table in force and the order to stop.
#[derive(Debug)]
pub struct Shared {
    /// Grows with each table: as long as it stays, workers take no lock.
    generation: AtomicU64,
    table: Mutex<Arc<Table>>,
    /// Readable for ever once the workers must end.
    stop: OwnedFd,
    /// What all of them count.
    pub counters: Arc<Counters>,
}

impl Shared {
    /// With a first table.
    pub fn new(table: Table, counters: Arc<Counters>) -> Result<Self, Errno> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { generation: AtomicU64::new(1), table: Mutex::new(Arc::new(table)), stop, counters })
    }

    /// Puts another table in force, from each worker's next batch on.
    pub fn replace(&self, table: Table) {
        let mut current = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if **current != table {
            *current = Arc::new(table);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Has all workers end.
    pub fn stop(&self) {
        // it can only fail when it is full, and then it is readable
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// Waits until `fd` is readable; false when it is time to end.
    pub fn wait_for(&self, fd: impl AsFd) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => return Ok(fds[1].revents().is_empty()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A worker's own hold on the table.
#[derive(Debug)]
pub struct View {
    seen: u64,
    table: Arc<Table>,
}

impl View {
    /// The table now in force.
    pub fn of(shared: &Shared) -> Self {
        let table = shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        Self { seen: shared.generation.load(Ordering::Acquire), table: table.clone() }
    }

    /// Looks whether there is another one by now: one load, and a lock only if there is.
    pub fn refresh(&mut self, shared: &Shared) -> &Table {
        if shared.generation.load(Ordering::Acquire) != self.seen {
            *self = Self::of(shared);
        }
        &self.table
    }
}
