//! Leases of hosts that are not there.

use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};

/// The network's configuration: room for 130,000 hosts. This host takes its subnet from the first 1,024, so that no peer's lease
/// is written over its own.
pub const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":25,"SubnetMin":"10.0.1.0","SubnetMax":"10.1.255.0","Backend":{"Type":"vxlan"}}"#;

/// The subnet of peer `n`.
pub fn subnet(n: usize) -> IpNetwork {
    let base = Ipv4Addr::from((10 << 24) | ((n as u32 + 1024) << 7));
    Ipv4Network::new(base, 25).map_or(IpNetwork::from(std::net::IpAddr::V4(base)), IpNetwork::V4)
}

/// Its key.
pub fn key(n: usize) -> String {
    subnet(n).to_string().replace('/', "-")
}

/// Its value.
pub fn value(n: usize) -> String {
    let public = Ipv4Addr::from((172 << 24) | (16 << 16) | (n as u32 + 1));
    let [_, b, c, d] = (n as u32).to_be_bytes();
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:{b:02x}:{c:02x}:{d:02x}"}}}}"#
    )
}
