//! One execution of a plugin.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Environ;
use crate::env::{Command, Env};
use crate::error::Error;
use crate::json::{self, quote};

/// What libcni and the plugins set, even when empty.
pub(super) fn variables(command: Command, env: &Env) -> Vec<(&'static str, &str)> {
    let mut all = vec![
        ("CNI_COMMAND", command.as_str()),
        ("CNI_CONTAINERID", env.container_id.as_str()),
        ("CNI_NETNS", env.netns.as_str()),
        ("CNI_ARGS", env.args.as_str()),
        ("CNI_IFNAME", env.ifname.as_str()),
        ("CNI_PATH", env.path.as_str()),
    ];
    if env.netns_override {
        all.push(("CNI_NETNS_OVERRIDE", "TRUE"));
    }
    all
}

/// Runs it to its end with `conf` on stdin. A failure is the delegate's own error object as it is, or one of code 0.
pub(super) fn run(file: &Path, variables: &[(&str, &str)], environ: &Environ, conf: &[u8]) -> Result<Output, Error> {
    let mut command = std::process::Command::new(file);
    if let Environ::Exactly(vars) = environ {
        command.env_clear().envs(vars.iter().map(|(k, v)| (k, v)));
    }
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command).and_then(|child| converse(child, conf));
    let output = output.map_err(|cause| no_message(format_args!("exec {}: {cause}", file.display())))?;
    if output.status.success() { Ok(output) } else { Err(complaint(&output)) }
}

/// A plugin that is being replaced is busy for a moment: the Go library tries 6 times, a second apart.
fn spawn(command: &mut std::process::Command) -> io::Result<Child> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut pause = Duration::from_millis(10);
    loop {
        match command.spawn() {
            Err(busy) if busy.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            outcome => return outcome,
        }
    }
}

/// Every pipe takes this much without a reader: PIPE_BUF, pipe(7).
const ALWAYS_FITS: usize = 4096;

fn converse(mut child: Child, conf: &[u8]) -> io::Result<Output> {
    let Some(mut stdin) = child.stdin.take() else { return child.wait_with_output() };
    // a delegate that does not read its stdin (as for GC it may) closes it: that is no failure
    if conf.len() <= ALWAYS_FITS {
        let _ = stdin.write_all(conf);
        drop(stdin);
        return child.wait_with_output();
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(conf);
        });
        child.wait_with_output()
    })
}

fn no_message(cause: impl std::fmt::Display) -> Error {
    Error::new(0, format!("netplugin failed with no error message: {cause}"))
}

fn complaint(output: &Output) -> Error {
    let text = |bytes: &[u8]| quote(&String::from_utf8_lossy(bytes));
    if !output.stdout.is_empty() {
        return json::decode(&output.stdout).unwrap_or_else(|cause| {
            let said = text(&output.stdout);
            Error::new(0, format!("netplugin failed but error parsing its diagnostic message {said}: {cause}"))
        });
    }
    if !output.stderr.is_empty() {
        return Error::new(0, format!("netplugin failed: {}", text(&output.stderr)));
    }
    no_message(end(output.status))
}

fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
