//! Applies a plan to the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::diff::Step;
use kernel::state::{Scope, State};
use kernel::{Kernel, KernelError, Outcome};
use overlay::plan::{Delta, Leased};
use overlay::settings;

use crate::kernel_thread::{KernelThread, ThreadError};
use crate::metrics::StepCount;

/// The number of steps in one go: a few milliseconds, after which other work may use the thread.
const SLICE: usize = 200;

/// The result of applying a plan.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) outcome: Outcome,
    /// The number of steps by kind of object and operation.
    pub(super) steps: Vec<StepCount>,
    /// The time from the first reading of the kernel to the last change.
    pub(super) took: Duration,
    /// Whether nothing new was planned, so that the steps repaired changes of another program.
    pub(super) drift: bool,
}

/// What to apply: the complete state, or the changes.
pub(super) enum Target {
    Whole(Arc<State>),
    Part(Box<Delta>),
}

impl Target {
    /// The target for `leased`. `unchanged`: the kernel is as the last plan left it, so the changes are enough.
    pub(super) fn of(leased: &mut Leased, desired: &Arc<State>, unchanged: bool) -> Self {
        match leased.delta.take().filter(|_| unchanged) {
            Some(delta) => Self::Part(Box::new(delta)),
            None => Self::Whole(leased.written(desired)),
        }
    }
}

/// Applies `target` to the kernel, slice by slice.
pub(super) async fn converge(
    thread: &KernelThread,
    target: Target,
    scope: Arc<Scope>,
) -> Result<Result<Applied, KernelError>, ThreadError> {
    let started = Instant::now();
    let begun = thread.call(move |kernel| begin(kernel, &target, &scope)).await?;
    let mut convergence = match begun {
        Ok(convergence) => convergence,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let slice = move |kernel: &mut Kernel| {
            let done = convergence.advance(kernel, SLICE);
            (convergence, done)
        };
        let (rest, done) = thread.call(slice).await?;
        convergence = rest;
        if done {
            break;
        }
    }
    let outcome = convergence.finish();
    outcome.done.iter().for_each(|step| tracing::debug!(%step, "step"));
    let (steps, took) = (count(&outcome), started.elapsed());
    tracing::debug!(steps = outcome.done.len(), took_us = took.as_micros() as u64, "applied");
    Ok(Ok(Applied { outcome, steps, took, drift: false }))
}

fn begin(kernel: &mut Kernel, target: &Target, scope: &Scope) -> Result<::kernel::Convergence, KernelError> {
    match target {
        Target::Whole(desired) => kernel.begin(desired, scope, None),
        Target::Part(delta) => kernel.begin(&delta.desired, scope, Some((&delta.assumed).into())),
    }
}

/// Counts the steps by kind of object and operation.
fn count(outcome: &Outcome) -> Vec<StepCount> {
    let key = |step: &Step| (step.object(), if step.is_delete() { "delete" } else { "put" });
    let mut counts: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    outcome.done.iter().for_each(|step| counts.entry(key(step)).or_default().0 += 1);
    outcome.failed.iter().for_each(|(step, _)| counts.entry(key(step)).or_default().1 += 1);
    counts.into_iter().map(|((kind, op), (done, failed))| StepCount { kind, op, done, failed }).collect()
}

impl Applied {
    /// Whether peers may send to this host: its devices exist with their addresses, and the host forwards.
    pub(super) fn ready(&self) -> bool {
        let carries = |step: &Step| match step {
            Step::WriteSysctl(path, _) => settings::is_vital(path),
            step => matches!(step.object(), "link" | "address" | "wireguard") && !step.is_delete(),
        };
        self.outcome.conflicts.is_empty() && !self.outcome.failed.iter().any(|(step, _)| carries(step))
    }

    /// Like [`Applied::ready`], with the reason.
    pub(super) fn up(&self) -> Result<(), String> {
        if self.ready() { Ok(()) } else { Err(self.trouble().unwrap_or_default()) }
    }

    /// The failures, in one line.
    pub(super) fn trouble(&self) -> Option<String> {
        let conflicts = self.outcome.conflicts.iter().map(ToString::to_string);
        let failed = self.outcome.failed.iter().map(|(_, error)| error.to_string());
        let mut all = conflicts.chain(failed);
        let first = all.next()?;
        match all.count() {
            0 => Some(first),
            more => Some(format!("{first} (and {more} more)")),
        }
    }

    pub(super) fn log(&self) {
        // New failures are reported as the last error, with a warning.
        for (step, error) in &self.outcome.failed {
            tracing::debug!(%step, %error, "a step failed; retrying");
        }
        if !self.outcome.done.is_empty() {
            let count = |s: &StepCount| format!("{}{}={}", s.kind, if s.op == "delete" { "-" } else { "" }, s.done);
            let steps: Vec<String> = self.steps.iter().filter(|s| s.done > 0).map(count).collect();
            tracing::info!(
                done = self.outcome.done.len(),
                failed = self.outcome.failed.len(),
                steps = steps.join(" "),
                "reconciled"
            );
        }
    }
}
