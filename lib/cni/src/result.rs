//! ADD's result as one type. [`AddResult::encode`] writes it for each version.

mod encode;
mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use parse::ResultError;

/// The result of an ADD, in the shape of version 1.1.0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddResult {
    /// Interfaces that were created or changed, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// Assigned addresses.
    pub ips: Vec<IpConfig>,
    /// Routes inside the container.
    pub routes: Vec<Route>,
    /// DNS settings.
    pub dns: Dns,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// The hardware address as text; empty if there is none.
    pub mac: String,
    /// The MTU in bytes; 0 is not printed. From 1.1.0.
    pub mtu: u32,
    /// CNI_NETNS as given for an interface in the container; empty for one on the host.
    pub sandbox: String,
    /// The path of the interface's socket, such as vhost-user's. From 1.1.0.
    pub socket_path: String,
    /// The PCI address of the interface's device. From 1.1.0.
    pub pci_id: String,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// Index into [`AddResult::interfaces`].
    pub interface: Option<i64>,
    /// Address and prefix length. The host bits are kept.
    pub address: IpNetwork,
    /// The network's gateway.
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination. The host bits are kept.
    pub dst: IpNetwork,
    /// The next hop. `None` means the gateway of the address of the same family.
    pub gw: Option<IpAddr>,
    /// The route's MTU in bytes; 0 is not printed.
    pub mtu: u32,
    /// The maximum segment size to advertise, in bytes; 0 is not printed.
    pub advmss: u32,
    /// The route's metric; 0 is not printed.
    pub priority: u32,
    /// The routing table; printed if set, even 0.
    pub table: Option<u32>,
    /// The route's scope; printed if set, even 0.
    pub scope: Option<u8>,
}

impl Route {
    /// A route with a destination and nothing else.
    pub fn to(dst: IpNetwork) -> Self {
        Self { dst, gw: None, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }
}

/// DNS settings, as in resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers' addresses, as text.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: String,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
