//! Kernel parameters below /proc/sys (man 5 proc). Those of the network follow the thread's namespace.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

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
    match std::fs::read_to_string(path(key)) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(KernelError::io(format!("read sysctl {}", parameter(key)), &e)),
    }
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

/// One call each to open, write and close: musl's open, which std calls, asks for close-on-exec twice.
fn put(key: &str, value: &[u8]) -> io::Result<()> {
    let mut file = File::from(rustix::fs::open(path(key), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?);
    file.write_all(value)
}

fn has(key: &str, value: &str) -> bool {
    read(key).is_ok_and(|found| found.as_deref() == Some(value))
}
