//! Devices that queue packets which other links receive: drivers/net/ifb.c.

use super::Kind;

pub(super) struct Ifb;

impl Kind for Ifb {
    fn word(&self) -> &str {
        "ifb"
    }

    fn module(&self) -> Option<&'static str> {
        Some("ifb")
    }
}
