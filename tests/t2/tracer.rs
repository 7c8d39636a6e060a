//! System calls of a running thread that fail, or take their time.

use std::fs;
use std::process::{Child, Command, Stdio};

use lab::cluster::PATIENCE;
use lab::wait::eventually;

use crate::Failure;

/// strace(1), which gives a thread's system calls other results. It lets go of the thread when this is dropped.
pub struct Tracer {
    child: Child,
}

impl Tracer {
    /// Attaches to a thread. `rule` is strace's `--inject`, `more` are further arguments.
    pub fn attach(thread: u32, rule: &str, more: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/run/lab/strace.log", "-e", &format!("inject={rule}"), "-p", &thread.to_string()]);
        let child = command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut tracer = Self { child };
        eventually("strace is attached", PATIENCE, || {
            let status = fs::read_to_string(format!("/proc/{thread}/status")).map_err(|error| error.to_string())?;
            let line = status.lines().find(|line| line.starts_with("TracerPid:")).unwrap_or_default().to_owned();
            match tracer.child.try_wait() {
                Ok(None) if line.ends_with("\t0") => Err(line),
                Ok(None) => Ok(Ok(())),
                ended => Ok(Err(format!("strace has ended: {ended:?}"))),
            }
        })??;
        Ok(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // it ends by itself when what it traces ends
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
