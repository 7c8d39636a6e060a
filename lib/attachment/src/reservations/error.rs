//! What a disk may refuse.

use std::io;
use std::path::{Path, PathBuf};

/// A disk that does not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {cause}{}", path.display(), advice(cause))]
pub struct ReservationError {
    /// `open`, `create`, `lock`, `read`, `write`, `remove`, `list`, …
    pub operation: &'static str,
    /// The file or the folder.
    pub path: PathBuf,
    /// Why not.
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

/// Everything that could not be released; the rest was.
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
    /// Fails when there is one.
    pub(super) fn all(errors: impl IntoIterator<Item = ReservationError>) -> Result<(), Self> {
        let errors: Vec<_> = errors.into_iter().collect();
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }
}
