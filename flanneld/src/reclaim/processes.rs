//! The host's processes, as far as this one sees them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

/// The inode of the first PID namespace (PROC_PID_INIT_INO, linux/proc_ns.h).
const INITIAL: u64 = 0xEFFF_FFFC;

/// Whether /proc shows the host's processes.
pub(super) fn are_the_hosts() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
}

/// Whether no process is in these network namespaces. False if that is unknown.
pub(super) fn are_none_in(inodes: &BTreeSet<u64>) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).all(|entry| {
        match fs::metadata(entry.path().join("ns/net")) {
            Ok(namespace) => !inodes.contains(&namespace.ino()),
            // a process that has just ended, or a zombie
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_with_a_process_is_not_empty() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(!are_none_in(&BTreeSet::from([own])));
    }
}
