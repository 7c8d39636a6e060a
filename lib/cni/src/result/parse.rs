//! Parses a result of any version into [`AddResult`].

use gojson::{Cidr, Ip, Json, JsonError};
use serde::Deserialize;

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::error::Error;
use crate::quote;
use crate::version::{UnknownVersion, Version};

/// Why a document is not a valid result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// The document is not JSON, or a member has the wrong type.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// `cniVersion` has another shape than the configuration's version.
    #[error("result type supports [{supported}] but unmarshalled CNIVersion is {}", quote(found))]
    Family {
        /// The versions of the configuration's shape, separated by spaces.
        supported: String,
        /// The document's `cniVersion`.
        found: String,
    },
    /// `cniVersion` is not a known version.
    #[error("unsupported CNI result version: {0}")]
    Version(#[from] UnknownVersion),
    /// An element has no address.
    #[error("{what} has no address")]
    NoAddress {
        /// The element, such as `ips[1]`.
        what: String,
    },
}

impl From<ResultError> for Error {
    /// Code 999, as the Go plugins answer.
    fn from(error: ResultError) -> Self {
        Self::internal(error)
    }
}

/// The versions whose results have the same shape.
fn family(version: Version) -> &'static [Version] {
    let (old, rest) = Version::ALL.split_at(2);
    let (middle, new) = rest.split_at(3);
    match version {
        Version::V010 | Version::V020 => old,
        Version::V030 | Version::V031 | Version::V040 => middle,
        Version::V100 | Version::V110 => new,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Versioned {
    #[serde(rename = "cniVersion")]
    version: String,
}

impl AddResult {
    /// Parses a delegate's reply. Its `cniVersion` decides the shape; without one, `config_version` does. `null` means
    /// `{}`.
    pub fn parse(text: &[u8], config_version: Version) -> Result<Self, ResultError> {
        let tree = Json::parse(text)?;
        let own: Versioned = tree.decode()?;
        let version = if own.version.is_empty() { config_version } else { own.version.parse()? };
        Self::from_json(&tree, version)
    }

    /// Parses a `prevResult`. Its `cniVersion` may be absent, and must have the same shape as the configuration's.
    pub fn parse_prev(tree: &Json, config_version: Version) -> Result<Self, ResultError> {
        let own: Versioned = tree.decode()?;
        let family = family(config_version);
        if !own.version.is_empty() && !family.iter().any(|v| v.as_str() == own.version) {
            let supported = family.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(" ");
            return Err(ResultError::Family { supported, found: own.version });
        }
        Self::from_json(tree, config_version)
    }

    fn from_json(tree: &Json, version: Version) -> Result<Self, ResultError> {
        if version < Version::V030 { tree.decode::<Doc02>()?.try_into() } else { tree.decode::<Doc1>()?.try_into() }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Doc1 {
    interfaces: Vec<InterfaceDoc>,
    ips: Vec<IpDoc>,
    routes: Vec<RouteDoc>,
    dns: DnsDoc,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InterfaceDoc {
    name: String,
    mac: String,
    mtu: u32,
    sandbox: String,
    #[serde(rename = "socketPath")]
    socket_path: String,
    #[serde(rename = "pciID")]
    pci_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IpDoc {
    interface: Option<i64>,
    address: Option<Cidr>,
    gateway: Ip,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RouteDoc {
    dst: Option<Cidr>,
    gw: Ip,
    mtu: u32,
    advmss: u32,
    priority: u32,
    table: Option<u32>,
    scope: Option<u8>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DnsDoc {
    nameservers: Vec<String>,
    domain: String,
    search: Vec<String>,
    options: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Doc02 {
    ip4: Option<FamilyDoc>,
    ip6: Option<FamilyDoc>,
    dns: DnsDoc,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FamilyDoc {
    ip: Option<Cidr>,
    gateway: Ip,
    routes: Vec<RouteDoc>,
}

fn address(cidr: Option<Cidr>, what: impl FnOnce() -> String) -> Result<ipnetwork::IpNetwork, ResultError> {
    cidr.map(|c| c.0).ok_or_else(|| ResultError::NoAddress { what: what() })
}

fn routes(docs: Vec<RouteDoc>, prefix: &str) -> Result<Vec<Route>, ResultError> {
    let read = |(i, doc): (usize, RouteDoc)| {
        Ok(Route {
            dst: address(doc.dst, || format!("{prefix}routes[{i}]"))?,
            gw: doc.gw.0,
            mtu: doc.mtu,
            advmss: doc.advmss,
            priority: doc.priority,
            table: doc.table,
            scope: doc.scope,
        })
    };
    docs.into_iter().enumerate().map(read).collect()
}

impl From<DnsDoc> for Dns {
    fn from(doc: DnsDoc) -> Self {
        Self { nameservers: doc.nameservers, domain: doc.domain, search: doc.search, options: doc.options }
    }
}

impl From<InterfaceDoc> for Interface {
    fn from(doc: InterfaceDoc) -> Self {
        Self {
            name: doc.name,
            mac: doc.mac,
            mtu: doc.mtu,
            sandbox: doc.sandbox,
            socket_path: doc.socket_path,
            pci_id: doc.pci_id,
        }
    }
}

impl TryFrom<Doc1> for AddResult {
    type Error = ResultError;

    fn try_from(doc: Doc1) -> Result<Self, ResultError> {
        let ip = |(i, ip): (usize, IpDoc)| {
            let address = address(ip.address, || format!("ips[{i}]"))?;
            Ok(IpConfig { interface: ip.interface, address, gateway: ip.gateway.0 })
        };
        Ok(Self {
            interfaces: doc.interfaces.into_iter().map(Interface::from).collect(),
            ips: doc.ips.into_iter().enumerate().map(ip).collect::<Result<_, ResultError>>()?,
            routes: routes(doc.routes, "")?,
            dns: doc.dns.into(),
        })
    }
}

impl TryFrom<Doc02> for AddResult {
    type Error = ResultError;

    fn try_from(doc: Doc02) -> Result<Self, ResultError> {
        let mut out = Self { dns: doc.dns.into(), ..Self::default() };
        for (key, family) in [("ip4", doc.ip4), ("ip6", doc.ip6)] {
            let Some(family) = family else { continue };
            let address = address(family.ip, || key.to_owned())?;
            out.ips.push(IpConfig { interface: None, address, gateway: family.gateway.0 });
            out.routes.extend(routes(family.routes, &format!("{key}."))?);
        }
        Ok(out)
    }
}
