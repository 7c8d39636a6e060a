//! The MAC address of a VTEP that the configuration does not set. It follows a rule, so that the files of all hosts,
//! and the addresses of all peers, can be written before anything runs.

use std::net::IpAddr;

use kernel::types::{Mac, Vni};
use sha2::{Digest, Sha256};

/// `0e`, a locally administered unicast prefix, and the first five bytes of SHA-256 of the text `VNI ADDRESS`, with
/// the address in its canonical form (RFC 5952):
/// ```text
/// printf '1 192.0.2.1' | sha256sum | sed -E 's/(..)(..)(..)(..)(..).*/0e:\1:\2:\3:\4:\5/'
/// ```
pub(super) fn derived(vni: Vni, public: IpAddr) -> Mac {
    let digest: [u8; 32] = Sha256::digest(format!("{vni} {public}")).into();
    let [a, b, c, d, e, ..] = digest;
    Mac([0x0e, a, b, c, d, e])
}
