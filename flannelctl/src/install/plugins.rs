//! The plugins: copies of one executable.
//!
//! Each name has its own file. Other installers write into an existing file (`cp -f`, as that of Go flannel): with one file under
//! all names, they would replace every plugin.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cni::{MARK, SUITE};
use memchr::memmem;
use store::files::{Draft, FileError, make_dirs, read_configured, sweep};

use super::error::{InstallError, failed};
use super::{Step, label};

/// The largest executable that is looked into, in bytes. A debug build of ours has about 30 MB.
const LARGEST: u64 = 256 * 1024 * 1024;

/// The second name of a plugin that was replaced.
fn kept(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.replaced"))
}

/// What has a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// An executable of this project, of any version.
    Ours,
    Others,
}

/// Plans the installation. Everything that can be checked is checked here, before anything is changed.
pub(super) fn install(executable: &Path, bin: &Path) -> Result<Vec<Step>, InstallError> {
    let source = source(executable)?;
    match fs::metadata(bin) {
        Ok(there) if !there.is_dir() => return Err(InstallError::NotDirectory(bin.to_owned())),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("read", bin)(error)),
        _ => {}
    }
    let paths: Vec<_> = SUITE.iter().map(|name| bin.join(name)).collect();
    if are_installed(&source, &paths) {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for path in &paths {
        if find(path)? == Found::Others {
            steps.push(Step::Keep { path: path.clone(), kept: kept(path) });
        }
    }
    steps.extend(paths.into_iter().map(Step::Plugin));
    Ok(steps)
}

fn source(executable: &Path) -> Result<Vec<u8>, InstallError> {
    let metadata = fs::metadata(executable).map_err(failed("read", executable))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(InstallError::NotExecutable(executable.to_owned()));
    }
    let content = read_configured(executable, LARGEST).map_err(failed("read", executable))?;
    if !is_ours(&content) {
        return Err(InstallError::NotPlugins(executable.to_owned()));
    }
    Ok(content)
}

fn is_ours(content: &[u8]) -> bool {
    memmem::find(content, MARK).is_some()
}

/// Whether every name has this content already, by one installation.
fn are_installed(source: &[u8], paths: &[PathBuf]) -> bool {
    let stamp = |path: &PathBuf| fs::symlink_metadata(path).ok().filter(Metadata::is_file).map(|there| stamp(&there));
    let first = paths.first().and_then(stamp);
    first.is_some_and(|first| first.0 == source.len() as u64)
        && paths.iter().all(|path| stamp(path) == first)
        && paths.iter().all(|path| read_configured(path, LARGEST).is_ok_and(|content| content == source))
}

/// Size and time of change: equal for the copies of one installation.
fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

fn find(path: &Path) -> Result<Found, InstallError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(failed("read", path)(error)),
        Ok(there) if there.is_dir() => Err(InstallError::Taken(path.to_owned())),
        // what a link leads to was not installed under this name
        Ok(there) if !there.is_file() => Ok(Found::Others),
        Ok(there) if there.len() > LARGEST => Ok(Found::Others),
        Ok(_) => {
            let content = read_configured(path, LARGEST).map_err(failed("read", path))?;
            Ok(if is_ours(&content) { Found::Ours } else { Found::Others })
        }
    }
}

/// Plans the removal.
pub(super) fn uninstall(bin: &Path) -> Result<Vec<Step>, InstallError> {
    let mut steps = Vec::new();
    for path in SUITE.iter().map(|name| bin.join(name)) {
        let kept = kept(&path);
        let is_kept = kept.symlink_metadata().is_ok();
        match find(&path)? {
            Found::Ours | Found::Nothing if is_kept => steps.push(Step::Restore { kept, path }),
            Found::Ours => steps.push(Step::Remove(path)),
            // another installer has its own plugin here by now
            Found::Others if is_kept => steps.push(Step::Remove(kept)),
            Found::Nothing | Found::Others => {}
        }
    }
    Ok(steps)
}

/// Gives the plugin a second name, in the place of one that was kept before.
pub(super) fn keep(path: &Path, kept: &Path) -> Result<(), InstallError> {
    match fs::remove_file(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", kept)(error)),
        _ => {}
    }
    fs::hard_link(path, kept).map_err(failed("keep", path))
}

pub(super) fn remove(path: &Path) -> Result<(), InstallError> {
    sweep(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn restore(kept: &Path, path: &Path) -> Result<(), InstallError> {
    sweep(path);
    fs::rename(kept, path).map_err(failed("restore", path))
}

/// The copies of one installation.
pub(super) struct Copies<'a> {
    executable: &'a Path,
    bin: &'a Path,
    /// The time of change of every copy, by which a plugin knows that another one is the same executable.
    changed: SystemTime,
}

impl<'a> Copies<'a> {
    pub(super) fn new(executable: &'a Path, bin: &'a Path) -> Self {
        let now = SystemTime::now();
        let is_whole = now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.subsec_nanos() == 0);
        // whole seconds are what archives have, and say nothing about the content
        let changed = if is_whole { now + Duration::from_nanos(1) } else { now };
        Self { executable, bin, changed }
    }

    /// Puts a copy under a name. Returns a note about its label.
    pub(super) fn put(&self, path: &Path) -> Result<Option<String>, InstallError> {
        make_dirs(self.bin).map_err(|FileError { path, source, .. }| failed("make directory", &path)(source))?;
        sweep(path);
        let draft = Draft::new(self.bin, path, 0o755)?;
        let copied = File::open(self.executable)
            .and_then(|mut source| io::copy(&mut source, &mut draft.file()))
            .and_then(|_| draft.file().set_times(FileTimes::new().set_modified(self.changed)))
            .and_then(|()| draft.file().sync_all());
        copied.map_err(failed("copy", self.executable))?;
        let note = label::copy(path, draft.file());
        draft.replace().map_err(failed("replace", path))?;
        Ok(note)
    }

    /// Checks that every name has its copy, on the disk.
    pub(super) fn verify(&self, steps: &[Step]) -> Result<(), InstallError> {
        let installed: Vec<&PathBuf> =
            steps.iter().filter_map(|step| if let Step::Plugin(path) = step { Some(path) } else { None }).collect();
        if installed.is_empty() {
            return Ok(());
        }
        File::open(self.bin).and_then(|dir| dir.sync_all()).map_err(failed("write to disk", self.bin))?;
        let size = fs::metadata(self.executable).map_err(failed("read", self.executable))?.size();
        for path in installed {
            let there = fs::symlink_metadata(path).map_err(failed("read", path))?;
            if !there.is_file() || there.size() != size || there.modified().ok() != Some(self.changed) {
                return Err(InstallError::Changed(path.clone()));
            }
        }
        Ok(())
    }
}
