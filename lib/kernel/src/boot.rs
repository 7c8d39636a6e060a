//! Which boot of the kernel this is.

use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

/// This boot's id (`/proc/sys/kernel/random/boot_id`), read once in a process; `None` where /proc is not mounted.
pub fn id() -> Option<[u8; 36]> {
    static ID: OnceLock<Option<[u8; 36]>> = OnceLock::new();
    *ID.get_or_init(read)
}

fn read() -> Option<[u8; 36]> {
    let file = rustix::fs::open("/proc/sys/kernel/random/boot_id", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let mut text = [0; 36];
    (rustix::io::read(file.ok()?, &mut text).ok()? == text.len()).then_some(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_what_the_kernel_says_without_the_line_end() {
        let said = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(super::id().map(|id| String::from_utf8(id.to_vec()).unwrap()).as_deref(), Some(said.trim_end()));
    }
}
