//! Runs `iptables-save` and `iptables-restore`, each for a limited time.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel::types::Family;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::plan::Saved;

/// How long `iptables-restore` waits for the lock of `iptables-legacy`, in seconds: kube-proxy's value. Upstream's plugins
/// wait for ever.
const LOCK_WAIT: &str = "5";
/// How long a program may run.
const LIMIT: Duration = Duration::from_secs(10);
/// iptables' exit status for a lock that another program holds (RESOURCE_PROBLEM, xtables.h).
const RESOURCE_PROBLEM: i32 = 4;

/// Which programs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `iptables-restore`, whichever variant the host has chosen.
    Chosen,
    /// `iptables-legacy-restore`
    Legacy,
}

/// A program of iptables did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program cannot be run.
    #[error("{program} cannot be run: {cause}: install iptables, or configure the backend \"nftables\"")]
    Missing {
        /// The program.
        program: &'static str,
        /// The operating system's error.
        cause: io::Error,
    },
    /// Another program holds the lock.
    #[error("{program}: {text}: try again later")]
    Busy {
        /// The program.
        program: &'static str,
        /// What it printed.
        text: String,
    },
    /// The program did not end in time, and was killed.
    #[error("{program} did not end within {} s, and was killed: try again later", LIMIT.as_secs())]
    Silent {
        /// The program.
        program: &'static str,
    },
    /// The program reported success, and what it was given is not there.
    #[error("{program} has succeeded, and the rules in table {table} are not there: try again later")]
    Undone {
        /// The program.
        program: &'static str,
        /// The table.
        table: &'static str,
    },
    /// The program refused its input, or the kernel refused the change. Nothing was changed.
    #[error("{program}: {text}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it printed.
        text: String,
    },
    /// Input or output of the program failed.
    #[error("{program}: {cause}")]
    Io {
        /// The program.
        program: &'static str,
        /// The operating system's error.
        cause: io::Error,
    },
}

impl IptablesError {
    /// Whether another try may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Silent { .. } | Self::Undone { .. })
    }

    /// Whether the program does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// The contents of a table.
///
/// # Errors
/// The program is missing, did not end, or cannot read the table.
pub(super) fn save(variant: Variant, family: Family, table: &str) -> Result<Saved, IptablesError> {
    let program = match (variant, family) {
        (Variant::Chosen, Family::V4) => "iptables-save",
        (Variant::Chosen, Family::V6) => "ip6tables-save",
        (Variant::Legacy, Family::V4) => "iptables-legacy-save",
        (Variant::Legacy, Family::V6) => "ip6tables-legacy-save",
    };
    run(program, &["-t", table], "").map(|text| Saved::parse(&text))
}

/// Makes the changes of `input` in one transaction.
///
/// # Errors
/// As [`save`]; the lock is held, or the program refused a line. Nothing was changed then.
pub(super) fn restore(variant: Variant, family: Family, input: &str) -> Result<(), IptablesError> {
    run(restorer(variant, family), &["--noflush", "-w", LOCK_WAIT], input).map(drop)
}

/// The program that [`restore`] runs.
pub(super) fn restorer(variant: Variant, family: Family) -> &'static str {
    match (variant, family) {
        (Variant::Chosen, Family::V4) => "iptables-restore",
        (Variant::Chosen, Family::V6) => "ip6tables-restore",
        (Variant::Legacy, Family::V4) => "iptables-legacy-restore",
        (Variant::Legacy, Family::V6) => "ip6tables-legacy-restore",
    }
}

/// Whether the kernel has a table of `iptables-legacy` in this network namespace.
pub(super) fn has_legacy_table(family: Family, table: &str) -> bool {
    let path = match family {
        Family::V4 => "/proc/self/net/ip_tables_names",
        Family::V6 => "/proc/self/net/ip6_tables_names",
    };
    // without the file the kernel has none of these tables
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == table))
}

/// Runs a program and returns what it printed. Files in memory are its input and output, so that neither side waits for the
/// other.
fn run(program: &'static str, args: &[&str], input: &str) -> Result<String, IptablesError> {
    let failed = |cause| IptablesError::Io { program, cause };
    let (mut stdout, mut stderr) = (in_memory("").map_err(failed)?, in_memory("").map_err(failed)?);
    let out = |file: &File| file.try_clone().map(Stdio::from).map_err(failed);
    let stdin: Stdio = in_memory(input).map_err(failed)?.into();
    let mut command = Command::new(program);
    let command = command.args(args).stdin(stdin).stdout(out(&stdout)?).stderr(out(&stderr)?);
    let mut child = command.spawn().map_err(|cause| match cause.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => IptablesError::Missing { program, cause },
        _ => failed(cause),
    })?;
    if !ends(&child).map_err(failed)? {
        child.kill().and_then(|()| child.wait()).map_err(failed)?;
        return Err(IptablesError::Silent { program });
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return contents(&mut stdout).map_err(failed);
    }
    let text = one_line(&contents(&mut stderr).map_err(failed)?, &status.to_string());
    match status.code() {
        Some(RESOURCE_PROBLEM) if text.contains("lock") => Err(IptablesError::Busy { program, text }),
        _ => Err(IptablesError::Refused { program, text }),
    }
}

fn in_memory(content: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("iptables", MemfdFlags::CLOEXEC)?);
    if !content.is_empty() {
        file.write_all(content.as_bytes())?;
        file.rewind()?;
    }
    Ok(file)
}

fn contents(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the program printed, without its advice to read a manual.
fn one_line(text: &str, otherwise: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
    let text = lines.collect::<Vec<_>>().join("; ");
    if text.is_empty() { otherwise.to_owned() } else { text }
}

/// Waits until the child ends. Returns false if it does not end within [`LIMIT`].
fn ends(child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let until = Instant::now() + LIMIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
