//! Reads files within limits: where one of our files is expected, there may be a FIFO without a writer, a device
//! without an end, or a file as large as the disk.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Reads a file that a person named, even through a symbolic link: Kubernetes mounts secrets that way. Returns
/// `InvalidData` for anything but a regular file, `FileTooLarge` for a file of more than `largest` bytes.
pub fn read_configured(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    read(path, largest, OFlags::empty())
}

/// Reads a file that only our own programs write. Returns `InvalidData` for a symbolic link, too.
pub fn read_own(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    read(path, largest, OFlags::NOFOLLOW)
}

fn read(path: &Path, largest: u64, more: OFlags) -> io::Result<Vec<u8>> {
    // Opening a FIFO does not wait for its writer, and a terminal does not become ours.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) if more.contains(OFlags::NOFOLLOW) => invalid("a symbolic link, not a file"),
        // A socket.
        Some(Errno::NXIO) => invalid("not a regular file"),
        _ => error,
    })?;
    if !file.metadata()?.is_file() {
        return Err(invalid("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(largest + 1).read_to_end(&mut content)?;
    if content.len() as u64 > largest {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {} KiB", largest / 1024)));
    }
    Ok(content)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}
