//! Kernel parameters below /proc/sys (man 5 proc). Those of the network follow the thread's namespace.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use crate::netlink::KernelError;

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

/// The parameter as sysctl(8) takes it: with dots, or with slashes where a name has a dot, as `flannel.1` has.
pub(crate) fn parameter(key: &str) -> Cow<'_, str> {
    if key.contains('.') { Cow::Borrowed(key) } else { Cow::Owned(key.replace('/', ".")) }
}

/// The value without its line end; `None` when the kernel does not have it, as with IPv6 switched off.
pub fn read(key: &str) -> Result<Option<String>, KernelError> {
    match read_once(&path(key)) {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(KernelError::io(format!("read sysctl {}", parameter(key)), &e)),
    }
}

/// Longer than the value of any parameter that this program reads.
const LONGEST: usize = 256;

/// The kernel gives a value in one piece (proc_sys_call_handler, fs/proc/proc_sysctl.c).
fn read_once(path: &Path) -> io::Result<String> {
    let mut file = open(path, OFlags::RDONLY)?;
    let mut value = [0; LONGEST];
    let length = file.read(&mut value)?;
    let text = value.get(..length).and_then(|value| std::str::from_utf8(value).ok());
    text.map(|text| text.trim_end().to_owned()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What the kernel calls this boot (`kernel.random.boot_id`), read once in a process; `None` where /proc does not say it.
pub fn boot_id() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    BOOT.get_or_init(|| read_once(&path("kernel/random/boot_id")).ok()).as_deref()
}

/// Writes a value. One that is there already need not be written where /proc/sys is read-only. One below `net/ipv6` that the kernel does not have counts as written: IPv6 is not there to be set.
pub fn write(key: &str, value: &str) -> Result<(), KernelError> {
    match put(key, value.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem && has(key, value) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && key.starts_with("net/ipv6/") => Ok(()),
        Err(e) => Err(KernelError::io(format!("sysctl -w {}={value}", parameter(key)), &e)),
        Ok(()) => Ok(()),
    }
}

fn put(key: &str, value: &[u8]) -> io::Result<()> {
    open(&path(key), OFlags::WRONLY)?.write_all(value)
}

/// musl's open, which std calls, asks for close-on-exec twice.
fn open(path: &Path, how: OFlags) -> io::Result<File> {
    Ok(rustix::fs::open(path, how | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn has(key: &str, value: &str) -> bool {
    read(key).is_ok_and(|found| found.as_deref() == Some(value))
}
