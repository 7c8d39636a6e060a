//! Files that appear whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {op}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    /// A verb: "write", "lock", "list".
    pub op: &'static str,
    /// What it was done to.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (free some space; this is tried again)",
        io::ErrorKind::ReadOnlyFilesystem => " (mount it writable; this is tried again)",
        io::ErrorKind::PermissionDenied => " (the daemon's user needs write access)",
        _ => "",
    }
}

/// Names the operation and the object of an I/O error.
pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { op, path, source }
}

/// A new file beside no other: `<dir>/.<pid>.<n>`, mode 0644 whatever the umask is, its content on the disk.
pub(crate) fn temporary(dir: &Path, content: &[u8]) -> Result<PathBuf, FileError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let written = fill(&path, content);
    if written.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    written.map(|()| path)
}

fn fill(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let write = |file: &mut File| {
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(content)?;
        file.sync_all()
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(at("create", path))?;
    write(&mut file).map_err(at("write", path))
}

/// Puts `content` under `path`: a reader sees the old content or the new one. Missing directories are made.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(at("create", dir))?;
    let temp = temporary(dir, content)?;
    std::fs::rename(&temp, path).map_err(|source| {
        let _ = std::fs::remove_file(&temp);
        FileError { op: "replace", path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_mode_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/subnet.env");
        for content in ["one", "two"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_object_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("taken")).unwrap();
        let error = replace(&dir.path().join("taken"), b"x").unwrap_err().to_string();
        assert!(error.contains("taken: cannot replace"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/proc/no/such"), b"x").is_err());
    }
}
