//! The network's configuration, which makes the runtime ready: it is written last and removed first.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cni::SUITE;
use cni::runtime::NetworkList;
use store::files::{Draft, FileError, READABLE, dir_of, make_dirs, read_configured, sweep};

use super::error::{InstallError, failed};
use super::{Step, label};

/// The largest configuration, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// The plugins that get their subnet from flanneld: a list that begins with one of them is ours.
const FLANNELS: [&str; 4] = ["flannel", "vxlan", "direct-routing", "host-gw"];

/// The endings of files that a runtime loads (libcni).
const LOADED: [&str; 3] = ["conf", "conflist", "json"];

/// A configuration to install.
#[derive(Debug, Clone)]
pub struct Network {
    /// The list, as a file.
    pub from: PathBuf,
    /// Where it is installed. A runtime takes the first file of the directory, by name.
    pub to: PathBuf,
}

/// What is planned for the configuration.
pub(super) struct Planned {
    pub(super) step: Option<Step>,
    pub(super) notes: Vec<String>,
}

impl Network {
    /// Checks the configuration, and plans to write it if the file has another content.
    pub(super) fn install(&self, bin: &Path) -> Result<Planned, InstallError> {
        let content = read_configured(&self.from, LARGEST).map_err(failed("read", &self.from))?;
        let list = NetworkList::parse(&content).map_err(|error| self.mistake(error.to_string()))?;
        if list.plugins.is_empty() {
            return Err(self.mistake("the list has no plugin".into()));
        }
        if self.to.symlink_metadata().is_ok_and(|there| there.is_dir()) {
            return Err(InstallError::Taken(self.to.clone()));
        }
        let absent = list.plugins.iter().map(|plugin| plugin.kind.as_str()).filter(|kind| !is_there(bin, kind));
        let mut notes: Vec<String> = absent
            .map(|kind| format!("{}: the plugin {kind} is not in {}: install it", self.from.display(), bin.display()))
            .collect();
        let first = first_before(&self.to)?;
        let path = self.to.display();
        notes
            .extend(first.map(|first| format!("{} comes before {path}: the runtime uses it instead", first.display())));
        let is_same = read_configured(&self.to, LARGEST).is_ok_and(|there| there == content);
        Ok(Planned { step: (!is_same).then(|| Step::Conf { path: self.to.clone(), content }), notes })
    }

    fn mistake(&self, mistake: String) -> InstallError {
        InstallError::Conf { path: self.from.clone(), mistake }
    }
}

fn is_there(bin: &Path, kind: &str) -> bool {
    SUITE.contains(&kind) || bin.join(kind).exists()
}

/// The first configuration that sorts before `path`.
fn first_before(path: &Path) -> Result<Option<PathBuf>, InstallError> {
    let entries = match fs::read_dir(dir_of(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(failed("read", dir_of(path)))?,
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_loaded = |path: &PathBuf| path.extension().is_some_and(|ending| LOADED.iter().any(|one| ending == *one));
    Ok(paths.filter(is_loaded).filter(|other| other.file_name() < path.file_name()).min())
}

/// Writes the file. Returns a note about its label.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<Option<String>, InstallError> {
    let dir = dir_of(path);
    make_dirs(dir).map_err(|FileError { path, source, .. }| failed("make directory", &path)(source))?;
    sweep(path);
    let draft = Draft::new(dir, path, READABLE)?;
    draft.fill(content)?;
    let note = label::copy(path, draft.file());
    draft.replace().map_err(failed("replace", path))?;
    Ok(note)
}

/// Plans to remove the configuration, if it is one of flannel.
pub(super) fn uninstall(path: &Path) -> Result<Planned, InstallError> {
    let content = match read_configured(path, LARGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Planned { step: None, notes: Vec::new() }),
        content => content.map_err(failed("read", path))?,
    };
    let first = NetworkList::parse(&content).ok().and_then(|list| Some(list.plugins.first()?.kind.clone()));
    if first.is_some_and(|kind| FLANNELS.contains(&kind.as_str())) {
        return Ok(Planned { step: Some(Step::Remove(path.to_owned())), notes: Vec::new() });
    }
    Ok(Planned { step: None, notes: vec![format!("{} stays: it is not a network of flannel", path.display())] })
}
