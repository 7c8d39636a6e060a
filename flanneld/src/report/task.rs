//! The task that writes the files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use super::pace::{COUNTED, next_status};
use super::watch::{Fingerprint, Watch};
use super::{SUBNET_FILE, Settings, Shared, document};
use crate::repairs::Repairs;
use overlay::status::path_beside;
use store::backoff::Backoff;
use store::files::{self, FileError};

/// One of the two files.
#[derive(Debug)]
struct Object {
    path: PathBuf,
    /// The file as it was last written.
    written: Option<Fingerprint>,
    at: Option<Instant>,
    repairs: Repairs,
    backoff: Backoff,
    /// After a failure: the time of the next try.
    retry: Option<Instant>,
    error: Option<String>,
}

impl Object {
    fn new(path: PathBuf) -> Self {
        let (repairs, backoff) = Default::default();
        Self { path, written: None, at: None, repairs, backoff, retry: None, error: None }
    }

    /// Whether somebody has changed or deleted it.
    fn is_other(&self) -> bool {
        self.written.is_some() && Fingerprint::of(&self.path) != self.written
    }

    /// Writes the file on a thread of its own, because a disk may be slow.
    async fn write(&mut self, write: impl FnOnce(&Path) -> Result<(), FileError> + Send + 'static) -> bool {
        let path = self.path.clone();
        let work = move || write(&path).map(|()| Fingerprint::of(&path));
        let done = store::thread::run(work).await;
        self.at = Some(Instant::now());
        match done {
            Ok(Ok(written)) => {
                (self.written, self.retry, self.error) = (written, None, None);
                self.backoff.reset();
                true
            }
            Ok(Err(error)) => self.failed(&error),
            // The next try may succeed.
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &impl std::fmt::Display) -> bool {
        let wait = self.backoff.next();
        self.retry = Some(Instant::now() + wait);
        let text = error.to_string();
        if self.error.as_ref() != Some(&text) {
            tracing::warn!(error = text, retry_ms = wait.as_millis() as u64, "cannot write {}", self.path.display());
            self.error = Some(text);
        }
        false
    }
}

/// The writer of the files.
#[derive(Debug)]
pub(super) struct Writer {
    settings: Settings,
    shared: Arc<Shared>,
    env: Object,
    status: Object,
    /// The content of subnet.env that was last written.
    env_text: Option<String>,
    /// The last text that the service manager was sent.
    summary: Option<String>,
}

impl Writer {
    pub(super) fn new(settings: Settings, shared: Arc<Shared>) -> Self {
        let (env, status) = (settings.subnet_file.clone(), path_beside(&settings.subnet_file));
        settings.readiness.set(SUBNET_FILE, Err("subnet.env is not written yet".into()));
        Self { settings, shared, env: Object::new(env), status: Object::new(status), env_text: None, summary: None }
    }

    pub(super) async fn run(mut self) {
        let mut watch = Watch::new().inspect_err(|error| cannot_watch(&self.env.path, error)).ok();
        loop {
            let due = self.make_right(&mut watch).await;
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let names = [&self.env.path, &self.status.path].map(|path| path.file_name().unwrap_or(OsStr::new("")));
            let touched = async {
                match &mut watch {
                    Some(watch) => watch.changed(&names).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = timer => {}
                result = touched => if let Err(error) = result {
                    cannot_watch(&self.env.path, &error);
                    watch = None;
                },
            }
        }
    }

    /// Writes what is due and returns when to look again. The status comes first, because a reader of subnet.env may
    /// read the status next.
    async fn make_right(&mut self, watch: &mut Option<Watch>) -> Option<Instant> {
        let status = self.make_status().await;
        let env = self.make_env().await;
        self.inform_manager();
        let is_there = self.env.written.is_some() || self.status.written.is_some();
        if let Some(watch) = watch.as_mut().filter(|_| is_there)
            && watch.arm(files::dir_of(&self.env.path)).unwrap_or(false)
        {
            // somebody may have changed a file before the watch began
            return Some(Instant::now());
        }
        status.into_iter().chain(env).min()
    }

    async fn make_status(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let other = self.status.is_other();
        let (unwritten, next, count) = {
            let mut contents = self.shared.lock();
            let count = contents.set_udp(|| self.settings.metrics.udp.snapshot().into()).then(|| now + COUNTED);
            let started = self.env_text.is_some() && contents.env() == self.env_text.as_deref();
            (contents.is_unwritten(), next_status(self.status.at, contents.peers(), started), count)
        };
        let at = match (unwritten, other) {
            (false, false) => return count,
            (true, false) => next.unwrap_or(now),
            (_, true) => self.status.repairs.allowed(now),
        };
        let at = at.max(self.status.retry.unwrap_or(now));
        if at > now {
            return Some(at);
        }
        let (shared, drifts) = (self.shared.clone(), self.settings.metrics.drifts());
        let write = move |path: &Path| document::write(path, &shared, |contents| contents.take_head(drifts));
        if !self.status.write(write).await {
            self.shared.lock().status_failed();
            return self.status.retry;
        }
        if other {
            self.repaired(Kind::Status, now);
        }
        count
    }

    async fn make_env(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let text = self.shared.lock().env()?.to_owned();
        let (news, other) = (self.env_text.as_ref() != Some(&text), self.env.is_other());
        if !news && !other {
            return None;
        }
        let at = if news { now } else { self.env.repairs.allowed(now) }.max(self.env.retry.unwrap_or(now));
        if at > now {
            return Some(at);
        }
        let written = {
            let (text, shared) = (text.clone(), self.shared.clone());
            let write = move |path: &Path| {
                let _turn = shared.turn();
                files::replace(path, text.as_bytes())
            };
            self.env.write(write).await
        };
        self.shared.lock().set_env_error(self.env.error.clone());
        self.settings.readiness.set(SUBNET_FILE, self.env.error.clone().map_or(Ok(()), Err));
        match (written, news) {
            (false, _) => return self.env.retry,
            (true, true) => self.announce(text),
            (true, false) => self.repaired(Kind::Env, now),
        }
        // the status must also say that the error is over
        self.shared.lock().is_unwritten().then_some(now)
    }

    /// Logs that subnet.env has a new content, and notifies the service manager.
    fn announce(&mut self, text: String) {
        tracing::info!(file = %self.env.path.display(), "subnet file written");
        let first = self.env_text.replace(text).is_none();
        if let (true, Some(manager)) = (first, &self.settings.manager)
            && let Err(error) = manager.ready()
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }

    /// Sends the service manager the current error, or what the start waits for.
    fn inform_manager(&mut self) {
        let Some(manager) = &self.settings.manager else { return };
        let text = self.shared.lock().summary();
        if self.summary.as_ref() != Some(&text) {
            // an error is ignored: only READY matters, and it is sent again
            let _ = manager.status(&text);
            self.summary = Some(text);
        }
    }

    fn repaired(&mut self, kind: Kind, now: Instant) {
        let object = match kind {
            Kind::Env => &mut self.env,
            Kind::Status => &mut self.status,
        };
        object.repairs.done(now);
        self.settings.metrics.repaired_file();
        let next = object.repairs.allowed(now);
        let file = object.path.display();
        if next > now {
            let wait = next - now;
            tracing::warn!(%file, retry_ms = wait.as_millis() as u64, "another program keeps changing this file; waiting");
        } else {
            tracing::warn!(%file, "another program changed this file; writing it again");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Env,
    Status,
}

fn cannot_watch(path: &Path, error: &std::io::Error) {
    tracing::warn!(%error, "cannot watch {}: changes by other programs are not repaired", path.display());
}
