//! Devices that drop all packets: drivers/net/dummy.c.

use super::Kind;

pub(super) struct Dummy;

impl Kind for Dummy {
    fn word(&self) -> &str {
        "dummy"
    }

    fn module(&self) -> Option<&'static str> {
        Some("dummy")
    }
}
