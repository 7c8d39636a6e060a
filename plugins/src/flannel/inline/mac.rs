//! The MAC address of a VTEP whose configuration names none: a rule, so that every host's file can be written, and every
//! peer's address known, before anything runs.

use std::net::IpAddr;

use kernel::types::{Mac, Vni};
use sha2::{Digest, Sha256};

/// `0e`, a locally administered unicast prefix, and the first five bytes of SHA-256 over the text `VNI ADDRESS`, the
/// address as it is usually written (RFC 5952):
/// ```text
/// printf '1 192.0.2.1' | sha256sum | sed -E 's/(..)(..)(..)(..)(..).*/0e:\1:\2:\3:\4:\5/'
/// ```
pub(super) fn derived(vni: Vni, public: IpAddr) -> Mac {
    let digest: [u8; 32] = Sha256::digest(format!("{vni} {public}")).into();
    let [a, b, c, d, e, ..] = digest;
    Mac([0x0e, a, b, c, d, e])
}
