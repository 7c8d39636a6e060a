//! A panic is an answer like any other.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::error::Error;

thread_local! {
    /// Some while this thread is inside [`caught`]: the message of the panic, once there is one. Outside it owns nothing,
    /// and so needs no destructor: std keeps those in a list of malloc's, and malloc takes four system calls to start.
    static MESSAGE: ManuallyDrop<RefCell<Option<String>>> = const { ManuallyDrop::new(RefCell::new(None)) };
}

/// Runs it; a panic becomes code 999 with the panic's message and place, and nothing is printed. Nests.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    static HOOK: Once = Once::new();
    HOOK.call_once(install);
    let outer = MESSAGE.with(|message| message.replace(Some(String::new())));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let message = MESSAGE.with(|message| message.replace(outer)).unwrap_or_default();
    outcome.unwrap_or_else(|_| Err(Error::internal(format_args!("panic: {message}")).with_details("this is a bug")))
}

/// Keeps the message for [`caught`]; other threads' panics are printed as before.
fn install() {
    let before = take_hook();
    set_hook(Box::new(move |info| {
        let ours = MESSAGE.with(|message| {
            let mut message = message.borrow_mut();
            let Some(message) = message.as_mut() else { return false };
            let what = info.payload_as_str().unwrap_or("no message");
            let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
            *message = format!("{what}{place}");
            true
        });
        if !ours {
            before(info);
        }
    }));
}
