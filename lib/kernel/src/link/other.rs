//! Links that are observed, used or moved, but never created from fields: the loopback device, hardware, and kinds
//! without a file of their own.

use super::{Kind, Made};

pub(super) struct Loopback;

impl Kind for Loopback {
    fn word(&self) -> &str {
        "loopback"
    }

    fn made(&self) -> Made {
        Made::Kernel
    }
}

/// A kind that only has the kernel's name; hardware has none.
impl Kind for String {
    fn word(&self) -> &str {
        if self.is_empty() { "device" } else { self }
    }

    fn made(&self) -> Made {
        if self.is_empty() { Made::Kernel } else { Made::Message }
    }
}
