//! Kernel parameters below /proc/sys (man 5 proc). Network parameters are those of the thread's namespace.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use crate::netlink::KernelError;

/// The folder of the parameters below `net/`, where it is not /proc/sys/net.
static NETWORK: OnceLock<PathBuf> = OnceLock::new();

/// Has parameters below `net/` read and written in `folder`, from now on. In a container /proc/sys is read-only, and the host's
/// /proc/sys/net is mounted elsewhere. Only the first call has an effect.
pub fn use_network_folder(folder: PathBuf) {
    let _ = NETWORK.set(folder);
}

/// The parameter's file, in the folders that this process uses.
pub fn path(key: &str) -> PathBuf {
    match (key.strip_prefix("net/"), NETWORK.get()) {
        (Some(rest), Some(folder)) => folder.join(rest),
        _ => PathBuf::from("/proc/sys").join(key),
    }
}

/// The parameter as sysctl(8) accepts it: with dots, or with slashes if a name contains a dot, as `flannel.1` does.
pub(crate) fn parameter(key: &str) -> Cow<'_, str> {
    if key.contains('.') { Cow::Borrowed(key) } else { Cow::Owned(key.replace('/', ".")) }
}

/// Reads a value without its line end. `None` if the kernel does not have the parameter, for instance without IPv6.
pub fn read(key: &str) -> Result<Option<String>, KernelError> {
    match read_once(&path(key)) {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(KernelError::io(format!("read sysctl {}", parameter(key)), &e)),
    }
}

/// Bytes. No parameter that this program reads has a longer value.
const LONGEST: usize = 256;

/// Reads a value in one call; the kernel returns it in one piece (proc_sys_call_handler, fs/proc/proc_sysctl.c).
fn read_once(path: &Path) -> io::Result<String> {
    let mut file = open(path, OFlags::RDONLY)?;
    let mut value = [0; LONGEST];
    let length = file.read(&mut value)?;
    let text = value.get(..length).and_then(|value| std::str::from_utf8(value).ok());
    text.map(|text| text.trim_end().to_owned()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The kernel's ID of this boot (`kernel.random.boot_id`). It is read once per process. `None` if /proc does not have
/// it.
///
/// # Errors
/// It cannot be read now, for instance because too many files are open. That says nothing about the boot.
pub fn boot_id() -> Result<Option<&'static str>, KernelError> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known.as_deref());
    }
    let found = read("kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| found).as_deref())
}

/// Writes a value. If /proc/sys is read-only, it is a success if the value is already there. If the kernel does not
/// have a parameter below `net/ipv6`, that is a success too: IPv6 is off.
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

/// Opens a file. musl's open, which std calls, sets close-on-exec with a second call.
fn open(path: &Path, how: OFlags) -> io::Result<File> {
    Ok(rustix::fs::open(path, how | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn has(key: &str, value: &str) -> bool {
    read(key).is_ok_and(|found| found.as_deref() == Some(value))
}
