//! SELinux labels. A new file gets its directory's label; the file that it replaces may have had another one, of the policy or of
//! an administrator.

use std::fs::File;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, lgetxattr};
use rustix::io::Errno;

const NAME: &str = "security.selinux";

/// The longest label that is copied, in bytes. The kernel's limit is a page.
const LONGEST: usize = 4096;

/// Gives `new` the label that `old` has, if it has one. Returns a note if that is not possible: the file is usable if SELinux is
/// off, or if the directory's label suits.
pub(super) fn copy(old: &Path, new: &File) -> Option<String> {
    let mut label = vec![0; LONGEST];
    let length = lgetxattr(old, NAME, &mut label[..]).ok()?;
    label.truncate(length);
    let mut now = vec![0; LONGEST];
    let length = fgetxattr(new, NAME, &mut now[..]).unwrap_or_default();
    if now[..length] == label[..] {
        return None;
    }
    let set: Result<(), Errno> = fsetxattr(new, NAME, &label, XattrFlags::empty());
    let text = String::from_utf8_lossy(&label).trim_end_matches('\0').to_owned();
    let path = old.display();
    set.err()
        .map(|error| format!("{path}: cannot keep the label {text}: {error}; with SELinux on, run restorecon {path}"))
}
