//! State that the daemon and the workers share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::counters::Counters;
use super::table::Table;

/// The current table and the stop order.
#[derive(Debug)]
pub struct Shared {
    /// Increased with each table. While it stays the same, workers take no lock.
    generation: AtomicU64,
    table: Mutex<Arc<Table>>,
    /// An eventfd that stays readable once the workers must end.
    stop: OwnedFd,
    /// The counters of all workers.
    pub counters: Arc<Counters>,
}

impl Shared {
    /// Creates the shared state with the first table.
    pub fn new(table: Table, counters: Arc<Counters>) -> Result<Self, Errno> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { generation: AtomicU64::new(1), table: Mutex::new(Arc::new(table)), stop, counters })
    }

    /// Replaces the table. Each worker uses the new one from its next batch on.
    pub fn replace(&self, table: Table) {
        let mut current = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if **current != table {
            *current = Arc::new(table);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes a copy of the table. Each worker uses it from its next batch on.
    pub fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut current = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = (**current).clone();
        change(&mut table);
        *current = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Tells all workers to end.
    pub fn stop(&self) {
        // the write only fails if the counter is full, and then the eventfd is readable
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// Waits until `fd` is readable. Returns false if the worker must end.
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

/// A worker's reference to the table.
#[derive(Debug)]
pub struct View {
    seen: u64,
    table: Arc<Table>,
}

impl View {
    /// The current table.
    pub fn of(shared: &Shared) -> Self {
        let table = shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        Self { seen: shared.generation.load(Ordering::Acquire), table: table.clone() }
    }

    /// Returns the current table. Costs one load, and a lock only if the table was replaced.
    pub fn refresh(&mut self, shared: &Shared) -> &Table {
        if shared.generation.load(Ordering::Acquire) != self.seen {
            *self = Self::of(shared);
        }
        &self.table
    }
}
