//! WireGuard devices: drivers/net/wireguard/device.c. What they hold goes another way (`crate::wireguard`).

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
