//! Leases of hosts that are not there.

use std::net::Ipv4Addr;
use std::path::Path;

use flanneld::files;
use flanneld::lab::{Doing, Error};
use ipnetwork::{IpNetwork, Ipv4Network};

/// The network's configuration: room for 65,000 hosts.
pub const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;

/// The subnet of peer `n`.
pub fn subnet(n: usize) -> IpNetwork {
    // this host takes the first that is free, at random among a hundred: those stay free
    let base = Ipv4Addr::from((10 << 24) | ((n as u32 + 512) << 8));
    Ipv4Network::new(base, 24).map_or(IpNetwork::from(std::net::IpAddr::V4(base)), IpNetwork::V4)
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

/// The configuration and the leases of `peers` hosts.
pub fn write_all(store: &Path, peers: usize) -> Result<(), Error> {
    let what = || format!("write {}", store.display());
    files::replace(&store.join("config"), CONFIG.as_bytes()).doing(what())?;
    for dir in ["subnets", "ttl"] {
        std::fs::create_dir_all(store.join(dir)).doing(what())?;
    }
    (0..peers).try_for_each(|n| write(store, n))
}

/// One lease, which ends in a day.
pub fn write(store: &Path, n: usize) -> Result<(), Error> {
    let key = key(n);
    let what = || format!("write the lease {key}");
    std::fs::write(store.join("ttl").join(&key), "4102444800\n").doing(what())?;
    // whole before it has its name
    let temp = store.join(format!(".{n}"));
    std::fs::write(&temp, value(n)).doing(what())?;
    std::fs::rename(&temp, store.join("subnets").join(&key)).doing(what())
}
