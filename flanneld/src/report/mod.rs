//! The daemon's reports: subnet.env for the CNI plugin, status.json for people and programs.
//!
//! Like a route, both are objects of this host. The daemon sets their contents, one task writes them, and if somebody
//! deletes or edits them they are written again. The task is the only writer and does not block the runtime's thread.

mod contents;
mod pace;
mod task;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub use contents::{Contents, PeerChanges};

use crate::health::Readiness;
use crate::metrics::Metrics;
use crate::supervise::{Ended, Task};
use crate::systemd::Manager;
use overlay::status::{Rejected, Status, path_beside};

/// The condition of readiness that the CNI plugin can read subnet.env.
pub const SUBNET_FILE: &str = "subnet file";

/// The settings of the reporter.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of subnet.env. status.json is written beside it.
    pub subnet_file: PathBuf,
    /// The service manager, which is notified when the start is done.
    pub manager: Option<Manager>,
    /// The metrics that count peers and repairs.
    pub metrics: Metrics,
    /// The readiness, with a condition for subnet.env.
    pub readiness: Readiness,
}

/// State that the daemon and the task share.
#[derive(Debug, Default)]
struct Shared {
    contents: Mutex<Contents>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of the task that writes the files. Dropping it ends the task.
#[derive(Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    metrics: Metrics,
    status: PathBuf,
    task: Task,
}

impl Reporter {
    /// Starts the task. Needs a tokio runtime.
    pub fn start(settings: Settings) -> Self {
        let shared = Arc::new(Shared::default());
        let metrics = settings.metrics.clone();
        let status = path_beside(&settings.subnet_file);
        let writer = task::Writer::new(settings, shared.clone());
        Self { shared, metrics, status, task: Task::spawn("the writer of subnet.env and status.json", writer.run()) }
    }

    /// Reports the outcome of a pass. `head` is the status without peers and rejected leases, which come as changes.
    /// The status is written soon if anything except its time and counters is new, or if the pass changed something
    /// (`fresh`).
    pub fn passed(&self, head: &Status, peers: PeerChanges, rejected: Option<Vec<Rejected>>, fresh: bool) {
        let mut contents = self.shared.lock();
        contents.passed(head, peers, rejected, fresh);
        self.metrics.count(contents.counts(), contents.rejected());
        drop(contents);
        self.shared.changed.notify_one();
    }

    /// Sets the content of subnet.env. The status is written before it.
    pub fn subnet_env(&self, text: String) {
        self.shared.lock().set_env(text);
        self.shared.changed.notify_one();
    }

    /// Writes the status in this call, because the daemon is about to end with `error`.
    pub fn last_words(&self, error: &str) {
        let text = self.shared.lock().last_words(error);
        // the error itself is logged
        let _ = store::files::replace(&self.status, text.as_bytes());
    }

    /// Waits until the task has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        self.task.ended().await
    }
}
