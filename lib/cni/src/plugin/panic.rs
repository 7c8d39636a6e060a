//! Turns a panic into an error object.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::error::Error;

/// The value of [`MESSAGE`] before a panic.
static NONE_YET: String = String::new();

thread_local! {
    /// Set while this thread is inside [`caught`]. After a panic it holds the message, which is never freed. The type
    /// has no destructor on purpose: std keeps destructors in a list on the heap, which costs four system calls to set
    /// up, and musl has room for 112 bytes of such variables before it allocates a page for them.
    static MESSAGE: Cell<Option<&'static String>> = const { Cell::new(None) };
}

/// Runs `work`. A panic becomes an error of code 999 with the panic's message and place, and prints nothing. Calls may
/// be nested.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    static HOOK: Once = Once::new();
    HOOK.call_once(install);
    let outer = MESSAGE.replace(Some(&NONE_YET));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let message = MESSAGE.replace(outer).unwrap_or(&NONE_YET);
    outcome.unwrap_or_else(|_| Err(Error::internal(format_args!("panic: {message}")).with_details("this is a bug")))
}

/// Makes panics store their message for [`caught`]. Panics of other threads are still printed.
fn install() {
    let before = take_hook();
    set_hook(Box::new(move |info| {
        if MESSAGE.get().is_none() {
            return before(info);
        }
        let what = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        MESSAGE.set(Some(Box::leak(Box::new(format!("{what}{place}")))));
    }));
}
