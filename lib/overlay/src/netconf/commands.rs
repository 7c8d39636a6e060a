//! The extension backend's keys: commands that are run without a shell.

use gojson::Reader;

use super::{Mistake, Notes};
use crate::words::{self, Word};

/// One command, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments, at least the program.
    pub words: Vec<Word>,
}

/// The extension backend's configuration. A command that is not set is not run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtensionConf {
    /// `PreStartupCommand`: before the lease; what it prints is the lease's `BackendData`.
    pub pre_startup: Option<Command>,
    /// `PostStartupCommand`: once there is a lease.
    pub post_startup: Option<Command>,
    /// `SubnetAddCommand`: for each peer that comes or changes.
    pub subnet_add: Option<Command>,
    /// `SubnetRemoveCommand`: for each peer that goes.
    pub subnet_remove: Option<Command>,
}

pub(super) fn read(reader: &mut Reader<'_>, notes: &mut Notes) -> ExtensionConf {
    let mut command = |key: &'static str| {
        let text: String = reader.take(key)?;
        match words::split(&text) {
            Ok(words) if words.is_empty() => None,
            Ok(words) => Some(Command { words }),
            Err(error) => {
                notes.wrong(Mistake::Command { key, error });
                None
            }
        }
    };
    ExtensionConf {
        pre_startup: command("PreStartupCommand"),
        post_startup: command("PostStartupCommand"),
        subnet_add: command("SubnetAddCommand"),
        subnet_remove: command("SubnetRemoveCommand"),
    }
}
