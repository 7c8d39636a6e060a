//! What ADD answers, as one type; the byte layout per version is in [`AddResult::encode`].

mod encode;
mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use parse::ResultError;

/// The result of an ADD in the shape of 1.1.0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddResult {
    /// Created or changed interfaces, the host's and the container's.
    pub interfaces: Vec<Interface>,
    /// Assigned addresses.
    pub ips: Vec<IpConfig>,
    /// Routes inside the container.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address as text; empty when it has none.
    pub mac: String,
    /// Bytes; 0 is not printed. From 1.1.0.
    pub mtu: u32,
    /// The container's namespace path (CNI_NETNS as given), empty for one of the host.
    pub sandbox: String,
    /// From 1.1.0.
    pub socket_path: String,
    /// From 1.1.0.
    pub pci_id: String,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// Index into [`AddResult::interfaces`].
    pub interface: Option<i64>,
    /// Address and prefix length, host bits kept.
    pub address: IpNetwork,
    /// The gateway of the network.
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination, host bits kept as given.
    pub dst: IpNetwork,
    /// The next hop; none means the gateway of the address of that family.
    pub gw: Option<IpAddr>,
    /// Bytes; 0 is not printed.
    pub mtu: u32,
    /// Bytes; 0 is not printed.
    pub advmss: u32,
    /// The metric; 0 is not printed.
    pub priority: u32,
    /// The table; printed when set, even 0.
    pub table: Option<u32>,
    /// The scope; printed when set, even 0.
    pub scope: Option<u8>,
}

impl Route {
    /// A route that says nothing but where to.
    pub fn to(dst: IpNetwork) -> Self {
        Self { dst, gw: None, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }
}

/// Name resolution, as in resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses as text.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl Dns {
    /// True when nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
