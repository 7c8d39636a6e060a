//! A panic is an answer like any other.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::error::Error;

/// What [`MESSAGE`] is until there is a panic.
static NONE_YET: String = String::new();

thread_local! {
    /// Some while this thread is inside [`caught`]: the message of the panic, once there is one, which is never freed. A
    /// word without a destructor: std keeps destructors in a list of malloc's, which takes four system calls to start,
    /// and musl has room for 112 bytes of such variables before it takes a page for them.
    static MESSAGE: Cell<Option<&'static String>> = const { Cell::new(None) };
}

/// Runs it; a panic becomes code 999 with the panic's message and place, and nothing is printed. Nests.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    static HOOK: Once = Once::new();
    HOOK.call_once(install);
    let outer = MESSAGE.replace(Some(&NONE_YET));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let message = MESSAGE.replace(outer).unwrap_or(&NONE_YET);
    outcome.unwrap_or_else(|_| Err(Error::internal(format_args!("panic: {message}")).with_details("this is a bug")))
}

/// Keeps the message for [`caught`]; other threads' panics are printed as before.
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
