//! The extension backend runs the operator's commands, without a shell; the commands carry the packets.

use gojson::{Json, Reader};
use kernel::types::Family;

use super::{Backend, Companion, Conf, Data, Identity, Kind, Mistake};
use crate::reach::{Mode, Names, Tunnel};
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
pub const TUNNEL: Tunnel = Tunnel::new(&Names { name: "extension", title: "extension", direct_routing: false });

/// One command, split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; never empty.
    pub words: Vec<Word>,
}

/// The extension backend's configuration. A command that is not set is not run. The default sets none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtensionConf {
    /// `PreStartupCommand` runs before the host takes a lease. Its output is the lease's `BackendData`.
    pub pre_startup: Option<Command>,
    /// `PostStartupCommand` runs once the host has a lease.
    pub post_startup: Option<Command>,
    /// `SubnetAddCommand` runs for each peer that appears or changes.
    pub subnet_add: Option<Command>,
    /// `SubnetRemoveCommand` runs for each peer that disappears.
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

    /// The output of the first command. As upstream, IPv6 has no data of its own.
    fn lease_data(&self, identity: &Identity, family: Family) -> Option<Json> {
        identity.text.clone().filter(|_| family == Family::V4).map(Json::String)
    }

    fn companion(&self) -> Option<Companion> {
        Some(Companion::Commands(self.clone()))
    }
}
