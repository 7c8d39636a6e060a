//! WireGuard devices: drivers/net/wireguard/device.c. `crate::wireguard` reads and writes their keys and peers.

use super::Kind;

pub(super) struct Wireguard;

impl Kind for Wireguard {
    fn word(&self) -> &str {
        "wireguard"
    }

    fn module(&self) -> Option<&'static str> {
        Some("wireguard")
    }

    fn is_tunnel(&self) -> bool {
        true
    }
}
