//! The extension backend: the operator's commands move the packets. They are run without a shell.

use gojson::{Json, Reader};
use kernel::types::Family;

use super::{Backend, Companion, Conf, Data, Identity, Kind, Mistake};
use crate::reach::{Mode, Tunnel};
use crate::words::{self, Word};

/// The extension backend.
pub static KIND: Kind = Kind {
    name: "extension",
    lease_type: "extension",
    data: Data::Text,
    v4_only: false,
    tunnel: Some(TUNNEL),
    read,
    left: |_, _| None,
};

/// What the commands make of it.
pub const TUNNEL: Tunnel = Tunnel::new("extension", "extension");

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

fn read(reader: &mut Reader<'_>, _ipv6: bool, mistakes: &mut Vec<Mistake>) -> Backend {
    let mut command = |key: &'static str| {
        let text: String = reader.take(key)?;
        match words::split(&text) {
            Ok(words) if words.is_empty() => None,
            Ok(words) => Some(Command { words }),
            Err(error) => {
                mistakes.push(Mistake::Command { key, error });
                None
            }
        }
    };
    Backend::Extension(ExtensionConf {
        pre_startup: command("PreStartupCommand"),
        post_startup: command("PostStartupCommand"),
        subnet_add: command("SubnetAddCommand"),
        subnet_remove: command("SubnetRemoveCommand"),
    })
}

impl Conf for ExtensionConf {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        None
    }

    /// What the first command printed. IPv6 has none of its own, as upstream's.
    fn lease_data(&self, identity: &Identity, family: Family) -> Option<Json> {
        identity.text.clone().filter(|_| family == Family::V4).map(Json::String)
    }

    fn companion(&self) -> Option<Companion> {
        Some(Companion::Commands(self.clone()))
    }
}
