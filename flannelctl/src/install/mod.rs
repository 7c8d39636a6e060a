//! `flannelctl install`: puts the plugins and a network's configuration on a host, or removes them.
//!
//! First a plan is made from what the directories contain, then its steps are executed. A dry run shows the plan.

mod conf;
mod error;
mod label;
mod layout;
mod plugins;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

pub use conf::Network;
pub use error::InstallError;
pub use layout::Layout;

/// What is installed, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    steps: Vec<Step>,
    notes: Vec<String>,
    executable: PathBuf,
    bin: PathBuf,
}

/// One change of one name. A step is shown as a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Keep another suite's plugin under a second name, so that it can come back.
    Keep {
        /// The plugin.
        path: PathBuf,
        /// The second name.
        kept: PathBuf,
    },
    /// Put our executable under a plugin's name.
    Plugin(PathBuf),
    /// Write the network's configuration.
    Conf {
        /// The file.
        path: PathBuf,
        /// Its content.
        content: Vec<u8>,
    },
    /// Remove a file that an installation made.
    Remove(PathBuf),
    /// Give another suite's plugin its name back.
    Restore {
        /// The second name.
        kept: PathBuf,
        /// The plugin.
        path: PathBuf,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep { path, kept } => write!(f, "keep {} as {}", path.display(), kept.display()),
            Self::Plugin(path) | Self::Conf { path, .. } => write!(f, "install {}", path.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::Restore { kept, path } => write!(f, "restore {} from {}", path.display(), kept.display()),
        }
    }
}

impl Plan {
    /// Plans to install `executable` under all names of [`cni::SUITE`] in the directory `bin`, and then `network`: a runtime that
    /// sees the configuration finds the plugins. A host where all of that is in place needs no step.
    ///
    /// # Errors
    /// Something is not as it must be; nothing has been changed.
    pub fn install(executable: &Path, bin: &Path, network: Option<&Network>) -> Result<Self, InstallError> {
        let (mut steps, mut notes) = (plugins::install(executable, bin)?, Vec::new());
        if let Some(network) = network {
            let conf = network.install(bin)?;
            steps.extend(conf.step);
            notes = conf.notes;
        }
        Ok(Self { steps, notes, executable: executable.to_owned(), bin: bin.to_owned() })
    }

    /// Plans to remove from `bin` what an installation put there, of whichever version, and to restore what it replaced; before
    /// that, the configuration `file`. What another installer wrote since then stays.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn uninstall(bin: &Path, file: &Path) -> Result<Self, InstallError> {
        let conf = conf::uninstall(file)?;
        let mut steps: Vec<Step> = conf.step.into_iter().collect();
        steps.extend(plugins::uninstall(bin)?);
        Ok(Self { steps, notes: conf.notes, executable: PathBuf::new(), bin: bin.to_owned() })
    }

    /// The steps, in their order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What an operator should know besides: one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Executes the steps. Each name changes from the old file to the new one in one step, so that a runtime always finds one of
    /// the two. Returns notes as [`Plan::notes`] does.
    ///
    /// # Errors
    /// A file operation fails. The steps before it stay done; the next attempt continues there.
    pub fn execute(&self) -> Result<Vec<String>, InstallError> {
        let copies = plugins::Copies::new(&self.executable, &self.bin);
        let mut notes = Vec::new();
        for step in &self.steps {
            match step {
                Step::Keep { path, kept } => plugins::keep(path, kept)?,
                Step::Plugin(path) => notes.extend(copies.put(path)?),
                Step::Conf { path, content } => notes.extend(conf::write(path, content)?),
                Step::Remove(path) => plugins::remove(path)?,
                Step::Restore { kept, path } => plugins::restore(kept, path)?,
            }
        }
        copies.verify(&self.steps)?;
        Ok(notes)
    }
}

/// Installs the plugins alone.
///
/// # Errors
/// As [`Plan::install`] and [`Plan::execute`].
pub fn install(executable: &Path, bin: &Path) -> Result<(), InstallError> {
    Plan::install(executable, bin, None)?.execute().map(drop)
}
