//! Devices that drop what is sent by them: drivers/net/dummy.c.

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
