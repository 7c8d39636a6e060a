//! Errors of the disk.

use std::io;
use std::path::{Path, PathBuf};

/// A failed operation on the disk.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {cause}{}", path.display(), advice(cause))]
pub struct ReservationError {
    /// The operation: `open`, `create`, `lock`, `read`, `write`, `remove`, `list`, …
    pub operation: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's error.
    #[source]
    pub cause: io::Error,
}

impl ReservationError {
    pub(super) fn new(operation: &'static str, path: &Path, cause: io::Error) -> Self {
        Self { operation, path: path.to_owned(), cause }
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => "; free some space (or inodes) on that disk: nothing was reserved",
        io::ErrorKind::ReadOnlyFilesystem => "; 'ipam.dataDir' must be on a writable file system",
        io::ErrorKind::PermissionDenied => "; the plugin must run as the owner of 'ipam.dataDir'",
        io::ErrorKind::NotADirectory => "; 'ipam.dataDir' and what is above it must be directories",
        _ => "",
    }
}

/// The reservations that could not be released. All others were.
#[derive(Debug, thiserror::Error)]
#[error("{}", joined(.0))]
pub struct Unreleased(pub Vec<ReservationError>);

fn joined(errors: &[ReservationError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<ReservationError> for Unreleased {
    fn from(error: ReservationError) -> Self {
        Self(vec![error])
    }
}

impl Unreleased {
    /// An error if there is at least one.
    pub(super) fn all(errors: impl IntoIterator<Item = ReservationError>) -> Result<(), Self> {
        let errors: Vec<_> = errors.into_iter().collect();
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }
}
