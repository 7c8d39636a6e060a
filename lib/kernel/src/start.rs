//! The start of a process that lives for a millisecond.
//!
//! Rust's own start asks the kernel for a signal stack and for handlers that tell a stack overflow from another fault:
//! 13 calls and three pages that a plugin has no use for. [`start`](crate::start!) keeps the two that it needs: standard
//! descriptors that are open, and writing to a closed pipe as an error in the place of a signal.

#![expect(unsafe_code, reason = "a C program's main")]

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::IntoRawFd;
use std::panic::catch_unwind;

use rustix::fs::{Mode, OFlags};

/// What Rust's own start ends with after a panic.
const PANICKED: c_int = 101;

/// Makes `$main`, a `fn(Vec<String>) -> u8`, what the program does with its arguments; it gives the exit code. The
/// crate needs `#![no_main]`.
#[macro_export]
macro_rules! start {
    ($main:path) => {
        /// libc's start calls it with `count` arguments.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn main(
            count: std::ffi::c_int,
            arguments: *const *const std::ffi::c_char,
        ) -> std::ffi::c_int {
            // SAFETY: libc's start passes `count` strings.
            unsafe { $crate::start::run(count, arguments, $main) }
        }
    };
}

/// [`start`](crate::start!)'s work.
///
/// # Safety
/// `arguments` are `count` strings that live for ever.
pub unsafe fn run(count: c_int, arguments: *const *const c_char, main: fn(Vec<String>) -> u8) -> c_int {
    open_standard();
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller promises as many strings.
    let argument = |n| unsafe { CStr::from_ptr(*arguments.add(n)) }.to_string_lossy().into_owned();
    catch_unwind(|| main((0..count).map(argument).collect())).map_or(PANICKED, c_int::from)
}

/// A descriptor that is closed would be the next file's, and what is written to it would go there.
fn open_standard() {
    let ask = |fd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut asked = [ask(0), ask(1), ask(2)];
    // SAFETY: as many as the array has.
    unsafe { libc::poll(asked.as_mut_ptr(), 3, 0) };
    for _ in asked.iter().filter(|asked| asked.revents & libc::POLLNVAL != 0) {
        // the lowest number that is free; nothing better can be had than a descriptor that stays closed
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            let _ = null.into_raw_fd();
        }
    }
}
