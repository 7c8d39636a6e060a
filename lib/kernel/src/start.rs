//! The start of a process that lives for a millisecond.
//!
//! Rust's own start asks the kernel for a signal stack, and for handlers that distinguish a stack overflow from another
//! fault: 13 calls and three pages that a plugin does not need. [`start`](crate::start!) keeps two parts: it opens
//! closed standard descriptors, and it makes writing to a closed pipe an error instead of a signal.

#![expect(unsafe_code, reason = "a C program's main")]

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::IntoRawFd;
use std::panic::catch_unwind;

use rustix::fs::{Mode, OFlags};

/// The exit status of Rust's own start after a panic.
const PANICKED: c_int = 101;

/// Makes `$main`, a `fn(Vec<String>) -> u8`, the program's main function. It gets the arguments and returns the exit
/// status. The crate needs `#![no_main]`.
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

/// Does the work of [`start`](crate::start!).
///
/// # Safety
/// `arguments` are `count` strings that live as long as the process.
pub unsafe fn run(count: c_int, arguments: *const *const c_char, main: fn(Vec<String>) -> u8) -> c_int {
    open_standard();
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller promises as many strings.
    let argument = |n| unsafe { CStr::from_ptr(*arguments.add(n)) }.to_string_lossy().into_owned();
    catch_unwind(|| main((0..count).map(argument).collect())).map_or(PANICKED, c_int::from)
}

/// Opens closed standard descriptors. Otherwise the next opened file would get such a number, and output would go
/// there.
fn open_standard() {
    let ask = |fd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut asked = [ask(0), ask(1), ask(2)];
    // SAFETY: 3 is the length of the array.
    unsafe { libc::poll(asked.as_mut_ptr(), 3, 0) };
    for _ in asked.iter().filter(|asked| asked.revents & libc::POLLNVAL != 0) {
        // it gets the lowest free number; if it fails, the descriptor stays closed
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            let _ = null.into_raw_fd();
        }
    }
}
