//! The network configuration: net-conf.json, or the store's `<prefix>/config`.
//!
//! Keys, defaults and messages are Go flannel's (Documentation/configuration.md). All mistakes are reported at once;
//! a suspicious value is a [`Warning`].

mod error;
mod family;
#[cfg(test)]
mod tests;

use gojson::{Json, Leftovers, Reader};
use ipnetwork::IpNetwork;
use kernel::types::Family;

pub use error::{ConfigError, Mistake, Warning};
pub use family::{Allocation, FamilyConf};

use crate::backend::Backend;
use crate::net::ByFamily;

/// A checked network configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// `Network` and its keys; `None` unless `EnableIPv4` (default true).
    pub v4: Option<FamilyConf>,
    /// `IPv6Network` and its keys; `None` unless `EnableIPv6` (default false).
    pub v6: Option<FamilyConf>,
    /// `EnableNFTables`, default false.
    pub enable_nftables: bool,
    /// `Backend`
    pub backend: Backend,
}

/// The result of parsing a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The configuration.
    pub conf: NetConf,
    /// Things that are allowed, but probably not intended.
    pub warnings: Vec<Warning>,
}

impl NetConf {
    /// Parses and checks a configuration, and fills in all defaults.
    ///
    /// # Errors
    /// The text is not JSON, or keys have unusable values; the error lists all of them.
    ///
    /// # Example
    /// ```
    /// use overlay::netconf::NetConf;
    ///
    /// let conf = NetConf::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#)?.conf;
    /// assert_eq!(conf.backend.name(), "vxlan");
    /// let error = NetConf::parse(br#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":-1,"Port":70000}}"#);
    /// let text = error.unwrap_err().to_string();
    /// assert!(text.contains("VNI") && text.contains("Port"), "{text}");
    /// # Ok::<(), overlay::netconf::ConfigError>(())
    /// ```
    pub fn parse(text: &[u8]) -> Result<Parsed, ConfigError> {
        let tree = Json::parse(text)?;
        let mut notes = Notes::default();
        let conf = read(&tree, &mut notes);
        match conf {
            Some(conf) if notes.mistakes.is_empty() => Ok(Parsed { conf, warnings: notes.warnings }),
            _ => Err(ConfigError::Mistakes(notes.mistakes)),
        }
    }

    /// The configuration of a family; `None` when the family is disabled.
    pub fn family(&self, family: Family) -> Option<&FamilyConf> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// The enabled families, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = (Family, &FamilyConf)> {
        Family::ALL.into_iter().filter_map(|family| Some((family, self.family(family)?)))
    }

    /// The network of each enabled family.
    pub fn network_by_family(&self) -> ByFamily<Option<IpNetwork>> {
        let network = |conf: &Option<FamilyConf>| conf.as_ref().map(|conf| conf.network);
        ByFamily { v4: network(&self.v4), v6: network(&self.v6) }
    }

    /// The networks of the enabled families, IPv4 first.
    pub fn networks(&self) -> Vec<IpNetwork> {
        self.families().map(|(_, conf)| conf.network).collect()
    }
}

/// Collects mistakes and warnings while a configuration is read.
#[derive(Debug, Default)]
struct Notes {
    mistakes: Vec<Mistake>,
    warnings: Vec<Warning>,
}

impl Notes {
    fn wrong(&mut self, mistake: impl Into<Mistake>) {
        self.mistakes.push(mistake.into());
    }

    fn close(&mut self, reader: Reader<'_>) {
        let (wrong, Leftovers { unknown, repeated }) = reader.finish();
        self.mistakes.extend(wrong.into_iter().map(Mistake::from));
        self.warnings.extend(unknown.into_iter().map(|key| Warning::UnknownKey { key }));
        self.warnings.extend(repeated.into_iter().map(|key| Warning::RepeatedKey { key }));
    }
}

/// Reads the configuration. Returns `None` only together with a mistake in `notes`.
fn read(tree: &Json, notes: &mut Notes) -> Option<NetConf> {
    let mut reader = Reader::new("", tree).map_err(|e| notes.wrong(e)).ok()?;
    let on_v4 = reader.take("EnableIPv4").unwrap_or(true);
    let on_v6 = reader.take("EnableIPv6").unwrap_or(false);
    if !on_v4 && !on_v6 {
        notes.wrong(Mistake::NoFamily);
    }
    // Disabled families are read, too: a wrong type is a mistake, and their keys are not unknown.
    let raw = Family::ALL.map(|family| family::Raw::take(&mut reader, family));
    let enable_nftables = reader.take("EnableNFTables").unwrap_or(false);
    let backend = reader.take::<Json>("Backend");
    let [v4, v6] = raw.map(|raw| {
        let on = if raw.family == Family::V4 { on_v4 } else { on_v6 };
        if on { raw.check(notes) } else { None }
    });
    let backend = read_backend(backend.as_ref(), on_v6, notes);
    notes.close(reader);
    Some(NetConf { v4, v6, enable_nftables, backend: backend? })
}

/// Reads the value of `Backend`. Returns `None` only together with a mistake in `notes`.
fn read_backend(value: Option<&Json>, ipv6: bool, notes: &mut Notes) -> Option<Backend> {
    let mut mistakes = Vec::new();
    let backend = match value {
        None => {
            notes.warnings.push(Warning::NoBackend);
            Backend::absent(ipv6, &mut mistakes)
        }
        Some(value) => {
            let mut reader = Reader::new("Backend", value).map_err(|e| notes.wrong(e)).ok()?;
            let before = notes.mistakes.len();
            match Backend::read(&mut reader, ipv6, &mut mistakes) {
                Ok(backend) => {
                    notes.close(reader);
                    backend.filter(|_| notes.mistakes.len() == before)
                }
                Err(unknown) => {
                    let (wrong, _) = reader.finish();
                    // A type that could not be read is not reported as unknown.
                    mistakes.extend(wrong.is_empty().then(|| unknown.into()));
                    notes.mistakes.extend(wrong.into_iter().map(Mistake::from));
                    None
                }
            }
        }
    };
    notes.mistakes.extend(mistakes.into_iter().map(Mistake::from));
    backend
}
