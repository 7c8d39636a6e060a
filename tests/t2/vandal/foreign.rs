//! What other programs do beside ours.

use super::Object::{Policy, Rules};
use super::{Row, healed};

/// Beside ours, and nothing of ours is changed.
pub const BESIDE: &[Row] = &[
    healed(
        Rules,
        "a table that accepts",
        "nft add table inet other '{ chain c { type filter hook forward priority 0; policy accept; }; }'",
    )
    .harmless("", "nft delete table inet other"),
    healed(Policy, "another link", "ip link add br8 up type bridge; ip addr add 198.51.100.1/24 dev br8")
        .harmless("", "ip link del br8"),
];
