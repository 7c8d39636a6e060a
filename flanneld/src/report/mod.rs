//! The files for readers of the daemon's state: subnet.env for the CNI plugin, status.json for people and programs.
//!
//! Like a route, both are objects of this host: callers set their contents, one task writes them, and rewrites them
//! when another program deletes or edits them. The task is the only writer, and it writes off the runtime's thread.

mod contents;
mod document;
mod pace;
mod task;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub use contents::{Contents, Head, Passed};

use crate::health::Readiness;
use crate::metrics::Metrics;
use crate::supervise::{Ended, Task};
use crate::systemd::Manager;
use overlay::status::{Attachments, Reclaim, path_beside};

/// The readiness condition: the CNI plugin can read subnet.env.
pub const SUBNET_FILE: &str = "subnet file";

/// What the reporter needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of subnet.env; status.json is beside it.
    pub subnet_file: PathBuf,
    /// Is notified when the start is complete.
    pub manager: Option<Manager>,
    /// Counts peers and repairs.
    pub metrics: Metrics,
    /// Receives whether subnet.env is written.
    pub readiness: Readiness,
}

/// The state that the daemon and the task share.
#[derive(Debug, Default)]
struct Shared {
    contents: Mutex<Contents>,
    changed: Notify,
    /// Held while a text is rendered and written, so that an older text never replaces a newer one.
    writing: Mutex<()>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for other writers.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that writes the files. Dropping it ends the task.
#[derive(Debug)]
pub struct Reporter {
    report: Report,
    task: Task,
}

/// A handle for reporting to the task that writes the files.
#[derive(Debug, Clone)]
pub struct Report {
    shared: Arc<Shared>,
    metrics: Metrics,
    status: PathBuf,
}

impl Reporter {
    /// Starts the task. Needs a tokio runtime.
    pub fn start(settings: Settings) -> Self {
        let shared = Arc::new(Shared::default());
        let metrics = settings.metrics.clone();
        let status = path_beside(&settings.subnet_file);
        let writer = task::Writer::new(settings, shared.clone());
        let task = Task::spawn("the writer of subnet.env and status.json", writer.run());
        Self { report: Report { shared, metrics, status }, task }
    }

    /// A handle for reporting.
    pub fn handle(&self) -> Report {
        self.report.clone()
    }

    /// Waits until the task has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        self.task.ended().await
    }
}

impl Report {
    /// Reports the outcome of a pass. The status is written soon if anything but its time and its counters is new, or if the
    /// pass changed something.
    pub fn passed(&self, passed: Passed) {
        let mut contents = self.shared.lock();
        contents.passed(passed);
        self.metrics.count(contents.counts(), contents.rejected());
        drop(contents);
        self.shared.changed.notify_one();
    }

    /// Reports the state of this host's attachments.
    pub fn attachments(&self, attachments: &Attachments) {
        self.shared.lock().set_attachments(attachments.clone());
        self.shared.changed.notify_one();
    }

    /// Reports what was left of pods that are gone.
    pub fn reclaim(&self, reclaim: &Reclaim) {
        self.shared.lock().set_reclaim(reclaim.clone());
        self.shared.changed.notify_one();
    }

    /// Sets the contents of subnet.env. The status is written first.
    pub fn subnet_env(&self, text: String) {
        self.shared.lock().set_env(text);
        self.shared.changed.notify_one();
    }

    /// Writes the status immediately, because the daemon is about to end with `error`.
    pub fn last_words(&self, error: &str) {
        // The caller logs the error itself.
        let _ = document::write(&self.status, &self.shared, |contents| contents.last_words(error));
    }
}
