//! `flannelctl install`: installs one executable under every plugin's name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cni::SUITE;
use store::files::{Draft, FileError, make_dirs, sweep};

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
    /// The destination is not a directory.
    #[error("install: {} is not a directory: name the directory that the runtime's CNI_PATH names", .0.display())]
    NotDirectory(PathBuf),
    /// A directory has the name of a plugin, and a rename cannot replace it.
    #[error("install: {} is a directory: move it away; nothing was changed", .0.display())]
    Taken(PathBuf),
    /// After the installation another file has a plugin's name.
    #[error("install: {} is not the file that was installed: another installer works in this directory", .0.display())]
    Changed(PathBuf),
    /// The temporary file could not be written.
    #[error("install: {0}")]
    Draft(#[from] FileError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": run it as the directory's owner, or as root",
        io::ErrorKind::ReadOnlyFilesystem => ": choose a directory on a file system that can be written",
        io::ErrorKind::StorageFull => ": free some space; the old plugins are still in place",
        _ => "",
    }
}

/// Installs `executable` into `dir` under all names of [`SUITE`], as hard links to one file. Each name changes from the
/// old file to the new one in one step, so that a runtime always runs one of the two.
pub fn install(executable: &Path, dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    check(executable, dir)?;
    let paths: Vec<_> = SUITE.iter().map(|name| dir.join(name)).collect();
    paths.iter().for_each(|path| sweep(path));
    let draft = Draft::new(dir, &dir.join("cni-plugins"), 0o755)?;
    copy(executable, &draft)?;
    for path in &paths {
        draft.replace_also(path).map_err(failed("replace", path))?;
    }
    sync(dir)?;
    verify(draft.file(), &paths)?;
    Ok(paths)
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { op, path, source }
}

/// Checks everything that can be checked before anything is changed.
fn check(executable: &Path, dir: &Path) -> Result<(), InstallError> {
    let source = fs::metadata(executable).map_err(failed("read", executable))?;
    if !source.is_file() || source.permissions().mode() & 0o111 == 0 {
        return Err(InstallError::NotExecutable(executable.to_owned()));
    }
    match fs::metadata(dir) {
        Ok(there) if !there.is_dir() => return Err(InstallError::NotDirectory(dir.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dirs(dir).map_err(|FileError { path, source, .. }| failed("make directory", &path)(source))?;
        }
        Err(error) => return Err(failed("read", dir)(error)),
    }
    let taken = SUITE.iter().map(|name| dir.join(name)).find(|path| path.symlink_metadata().is_ok_and(|m| m.is_dir()));
    taken.map_or(Ok(()), |path| Err(InstallError::Taken(path)))
}

fn copy(from: &Path, draft: &Draft) -> Result<(), InstallError> {
    let mut source = File::open(from).map_err(failed("read", from))?;
    let copied = io::copy(&mut source, &mut draft.file()).and_then(|_| draft.file().sync_all());
    copied.map_err(failed("copy", from))
}

fn sync(path: &Path) -> Result<(), InstallError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("write to disk", path))
}

fn verify(installed: &File, paths: &[PathBuf]) -> Result<(), InstallError> {
    let wanted = installed.metadata().map(|m| (m.dev(), m.ino())).map_err(failed("read", Path::new("the copy")))?;
    for path in paths {
        let there = fs::symlink_metadata(path).map_err(failed("read", path))?;
        if (there.dev(), there.ino()) != wanted {
            return Err(InstallError::Changed(path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(dir: &Path, content: &str) -> PathBuf {
        let path = dir.join("source");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn listed(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn one_file_under_every_name_twice() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("opt/cni/bin");
        for content in ["old", "new"] {
            let paths = install(&source(dir.path(), content), &bin).unwrap();
            let inodes: std::collections::BTreeSet<_> = paths.iter().map(|p| fs::metadata(p).unwrap().ino()).collect();
            assert_eq!((paths.len(), inodes.len()), (SUITE.len(), 1));
            assert_eq!(listed(&bin), SUITE);
            for path in paths {
                assert_eq!(fs::read_to_string(&path).unwrap(), content);
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
            }
        }
    }

    #[test]
    fn a_foreign_plugin_and_a_symlink_are_replaced_and_neighbours_stay() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("dhcp"), "theirs").unwrap();
        fs::write(bin.join("bridge"), "theirs").unwrap();
        std::os::unix::fs::symlink("dhcp", bin.join("flannel")).unwrap();
        install(&source(dir.path(), "ours"), &bin).unwrap();
        assert_eq!(fs::read_to_string(bin.join("dhcp")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(bin.join("bridge")).unwrap(), "ours");
        assert!(bin.join("flannel").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn refusals_say_why_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir_all(bin.join("vxlan")).unwrap();
        let good = source(dir.path(), "ours");
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        for (from, to, words) in [
            (dir.path().join("none"), bin.clone(), "none: No such file"),
            (dir.path().to_owned(), bin.clone(), "not an executable file"),
            (plain.clone(), bin.clone(), "not an executable file"),
            (good.clone(), plain.clone(), "not a directory"),
            (good.clone(), bin.clone(), "vxlan is a directory"),
            (good, PathBuf::from("/proc/none"), "make directory /proc/none"),
        ] {
            let error = install(&from, &to).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
        assert_eq!(listed(&bin), ["vxlan"]);
    }
}
