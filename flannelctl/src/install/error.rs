use std::io;
use std::path::{Path, PathBuf};

use store::files::FileError;

/// Why nothing, or not everything, was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file operation failed.
    #[error("install: {op} {}: {source}{}", path.display(), hint(source))]
    File {
        /// The operation, such as `write to disk`.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The source is not an executable file.
    #[error("install: {} is not an executable file: name the built cni-plugins with --from", .0.display())]
    NotExecutable(PathBuf),
    /// The source is an executable, but not of the plugins.
    #[error("install: {} is not the executable of the plugins: name the built cni-plugins with --from", .0.display())]
    NotPlugins(PathBuf),
    /// The destination is not a directory.
    #[error("install: {} is not a directory: name the directory that the runtime's CNI_PATH names", .0.display())]
    NotDirectory(PathBuf),
    /// A directory has the name of a plugin or of the configuration, and a rename cannot replace it.
    #[error("install: {} is a directory: move it away; nothing was changed", .0.display())]
    Taken(PathBuf),
    /// After the installation another file has a plugin's name.
    #[error("install: {} is not the file that was installed: another installer works in this directory", .0.display())]
    Changed(PathBuf),
    /// The network's configuration is not a list that a runtime would load.
    #[error("install: {}: {mistake}; nothing was changed", path.display())]
    Conf {
        /// The configuration.
        path: PathBuf,
        /// What is wrong.
        mistake: String,
    },
    /// A new file could not be written.
    #[error("install: {0}")]
    Draft(#[from] FileError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": run it as the directory's owner, or as root",
        io::ErrorKind::ReadOnlyFilesystem => ": choose a directory on a file system that can be written",
        io::ErrorKind::StorageFull => ": free some space; the old files are still in place",
        _ => "",
    }
}

/// Adds the operation and the path to an I/O error.
pub(super) fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { op, path, source }
}
