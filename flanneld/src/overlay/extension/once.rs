//! Runs a command once per input, beside the daemon's loop, so that repairs and renewals need not wait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use overlay::backend::extension::Command;
use store::backoff::Backoff;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::commands::{self, Input, LIMIT};
use crate::flags::Environment;

/// The command and its input.
type Call = (Command, Input);

/// The state of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has run with this input.
    Done,
    /// It has been running for this long.
    Running(Duration),
    /// It failed, and runs again at this time.
    Failed(String, Instant),
}

/// A running command, its start, and its future output or error.
type Running = (Call, Instant, JoinHandle<Result<String, String>>);

/// One command of the configuration.
#[derive(Debug, Default)]
pub(super) struct Once {
    done: Option<(Call, String)>,
    running: Option<Running>,
    failed: Option<(Call, String, Instant)>,
    backoff: Backoff,
}

impl Drop for Once {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Once {
    /// The output of the last command that ended; it stays while the next one runs.
    pub(super) fn output(&self) -> Option<&str> {
        self.done.as_ref().map(|(_, output)| output.as_str())
    }

    /// Forgets the command, because the configuration no longer has it.
    pub(super) fn forget(&mut self) {
        self.stop();
        *self = Self::default();
    }

    fn stop(&mut self) {
        if let Some((.., handle)) = self.running.take() {
            handle.abort();
        }
    }

    /// Runs `call` unless it has run already. `news` is notified when it ends.
    pub(super) fn run(&mut self, call: Call, environment: &Environment, news: &Arc<Notify>, now: Instant) -> Progress {
        self.collect(now);
        if self.done.as_ref().is_some_and(|(done, _)| *done == call) {
            return Progress::Done;
        }
        match (&self.running, &self.failed) {
            (Some((running, since, _)), _) if *running == call => Progress::Running(now - *since),
            (None, Some((failed, error, again))) if *failed == call && *again > now => {
                Progress::Failed(error.clone(), *again)
            }
            _ => {
                self.start(call, environment, news, now);
                Progress::Running(Duration::ZERO)
            }
        }
    }

    fn start(&mut self, call: Call, environment: &Environment, news: &Arc<Notify>, now: Instant) {
        self.stop();
        let ((command, input), environment, news) = (call.clone(), environment.clone(), news.clone());
        let work = async move {
            let ran = commands::run(&command, &input, &environment, LIMIT).await;
            news.notify_one();
            ran.map_err(|error| error.to_string())
        };
        self.running = Some((call, now, tokio::spawn(work)));
    }

    /// Takes the result of a command that has ended.
    fn collect(&mut self, now: Instant) {
        let Some((_, _, handle)) = &mut self.running else { return };
        let Some(result) = handle.now_or_never() else { return };
        let Some((call, ..)) = self.running.take() else { return };
        match result.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(output) => {
                self.backoff.reset();
                (self.done, self.failed) = (Some((call, output)), None);
            }
            Err(error) => self.failed = Some((call, error, now + self.backoff.next())),
        }
    }
}
