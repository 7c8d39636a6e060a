//! The start of a process that lives for a millisecond.
//!
//! Rust's own start asks the kernel for a signal stack, and for handlers that distinguish a stack overflow from another
//! fault: 13 calls and three pages that a plugin does not need. [`start`](crate::start!) keeps two parts: it makes sure
//! that no other file gets the number of a closed standard descriptor, and it makes writing to a closed pipe an error
//! instead of a signal.

#![expect(unsafe_code, reason = "a C program's main")]

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::IntoRawFd;
use std::panic::catch_unwind;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The exit status of Rust's own start after a panic.
const PANICKED: c_int = 101;
/// The exit status where the standard descriptors cannot be had. No plugin has done anything then.
const UNFIT: c_int = 1;

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
    if let Err(error) = occupy_standard() {
        // without its standard descriptors the program would write to files that it opens
        let text = format!("the closed standard descriptors cannot be opened: /dev/null: {error}\n");
        // SAFETY: the bytes are the text's. Where stderr is closed, the call fails.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        return UNFIT;
    }
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller promises as many strings.
    let argument = |n| unsafe { CStr::from_ptr(*arguments.add(n)) }.to_string_lossy().into_owned();
    catch_unwind(|| main((0..count).map(argument).collect())).map_or(PANICKED, c_int::from)
}

/// What takes the place of each standard descriptor, so that using it fails as it does on a closed one: stdin cannot be
/// read, stdout cannot be written. stderr may be written, for programs that this one starts.
const STANDARD: [(c_int, OFlags); 3] =
    [(libc::STDIN_FILENO, OFlags::WRONLY), (libc::STDOUT_FILENO, OFlags::RDONLY), (libc::STDERR_FILENO, OFlags::RDWR)];

/// Opens closed standard descriptors. Otherwise the next opened file would get such a number, and output would go
/// there.
fn occupy_standard() -> Result<(), Errno> {
    let closed = closed_standard();
    for (_, flags) in STANDARD.into_iter().zip(closed).filter_map(|(standard, closed)| closed.then_some(standard)) {
        // it gets the lowest free number, which is this one's: the lower ones are open by now
        let null = loop {
            match rustix::fs::open("/dev/null", flags, Mode::empty()) {
                Err(Errno::INTR) => {}
                opened => break opened?,
            }
        };
        let _ = null.into_raw_fd();
    }
    Ok(())
}

/// Which of the standard descriptors are closed. One call tells of all three; the kernel may have no memory for it.
fn closed_standard() -> [bool; 3] {
    let mut asked = STANDARD.map(|(fd, _)| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: 3 is the length of the array.
    if unsafe { libc::poll(asked.as_mut_ptr(), 3, 0) } >= 0 {
        return asked.map(|asked| asked.revents & libc::POLLNVAL != 0);
    }
    // SAFETY: the call looks up a number.
    STANDARD.map(|(fd, _)| unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0)
}
