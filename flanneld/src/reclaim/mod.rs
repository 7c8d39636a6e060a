//! Removes what plugins made for pods that are gone without DEL: what a runtime's GC would do, which few call.
//!
//! Every ten seconds the records are read, and the paths of their pods' namespaces are looked at ([`attachment::reclaim`]). What
//! is gone twice in a row is removed under the record's lock, so that a runtime whose DEL is a moment late comes first. The
//! controller has its own kernel thread, and removes only objects of attachments that no other controller repairs any more.

mod pass;
mod processes;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use attachment::record::DIRECTORY;
use overlay::status::Reclaim;
use tokio::time::Instant;

use self::pass::{Found, Name, Pass};
use crate::kernel_thread::{KernelThread, ThreadError};
use crate::metrics::Metrics;
use crate::report::Report;
use crate::supervise::{Ended, Task};

/// The time between two passes.
const PERIOD: Duration = Duration::from_secs(10);

/// What the controller needs.
pub struct Parts {
    /// Receives what was removed, and what stays.
    pub report: Report,
    /// Counts what was removed.
    pub metrics: Metrics,
}

/// The controller. Dropping it ends its task.
#[derive(Debug)]
pub struct Controller {
    task: Task,
}

impl Controller {
    /// Starts the controller in the network namespace of this thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel thread cannot start.
    pub fn start(parts: Parts) -> Result<Self, ThreadError> {
        let kernel = KernelThread::start()?;
        let work = Loop { kernel, pass: Pass::new(Path::new(DIRECTORY)), status: Reclaim::default(), parts };
        work.parts.report.reclaim(&work.status);
        Ok(Self { task: Task::spawn("the reclaim controller", work.run()) })
    }

    /// Waits until the controller has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        self.task.ended().await
    }
}

struct Loop {
    kernel: KernelThread,
    pass: Pass,
    /// The last report.
    status: Reclaim,
    parts: Parts,
}

impl Loop {
    async fn run(mut self) {
        let mut next = Instant::now();
        loop {
            if let Err(error) = self.look().await {
                tracing::error!(%error, "the reclaim controller cannot go on");
                return;
            }
            next = (next + PERIOD).max(Instant::now());
            tokio::time::sleep_until(next).await;
        }
    }

    async fn look(&mut self) -> Result<(), ThreadError> {
        let mut pass = std::mem::take(&mut self.pass);
        let (pass, found) = self
            .kernel
            .call(move |kernel| {
                let found = pass.run(kernel);
                (pass, found)
            })
            .await?;
        self.pass = pass;
        self.learn(found);
        Ok(())
    }

    fn learn(&mut self, found: Found) {
        for name in &found.reclaimed {
            self.parts.metrics.reclaimed_attachment();
            tracing::warn!(attachment = %name, "removed what was left of a pod that is gone without DEL");
        }
        let reclaimed = self.status.reclaimed + found.reclaimed.len() as u64;
        let now = Reclaim { reclaimed, kept: lines(found.kept) };
        for text in now.kept.iter().filter(|text| !self.status.kept.contains(text)) {
            tracing::warn!("not reclaimed: {text}");
        }
        if now != self.status {
            self.parts.report.reclaim(&now);
            self.status = now;
        }
    }
}

/// One line for each reason, with the attachments that it is about.
fn lines(kept: BTreeMap<String, Vec<Name>>) -> Vec<String> {
    let line = |(reason, names): (String, Vec<Name>)| match names.as_slice() {
        [name] => format!("{name}: {reason}"),
        [name, rest @ ..] => format!("{name} and {} more: {reason}", rest.len()),
        [] => reason,
    };
    kept.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_of_one_reason_share_a_line() {
        let name = |container: &str| Name { network: "net".into(), container: container.into(), ifname: "eth0".into() };
        let kept = [("b".to_owned(), vec![name("1")]), ("a".to_owned(), vec![name("2"), name("3"), name("4")])];
        assert_eq!(lines(kept.into()), ["net/2@eth0 and 2 more: a", "net/1@eth0: b"]);
        assert_eq!(lines(BTreeMap::new()), Vec::<String>::new());
    }
}
