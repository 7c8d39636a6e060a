//! Writes status.json peer by peer, so that the text is never in memory, and readers of the contents wait for no file.

use std::path::Path;

use overlay::status::Pages;
use store::files::{FileError, replace_by};

use super::{Contents, Head, Shared};

/// Writes the status: the head that `take` gives, and the peers as they are known while they are written.
pub(super) fn write(path: &Path, shared: &Shared, take: impl FnOnce(&mut Contents) -> Head) -> Result<(), FileError> {
    let _turn = shared.turn();
    let head = take(&mut shared.lock());
    let status = head.with_peers(Pages(|after| shared.lock().page(after)));
    replace_by(path, &|file| status.write_to(file))
}
