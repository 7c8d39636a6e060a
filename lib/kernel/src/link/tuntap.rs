//! TUN and TAP devices, as rtnetlink reports them; `crate::tuntap` creates them. drivers/net/tun.c.

use std::fmt;

use netlink_packet_core::Nla;
use netlink_packet_route::link::InfoTun;

use super::{Kind, LinkKind, Made, Phase};

/// A TUN or TAP device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunTap {
    /// Ethernet frames (TAP) instead of IP packets (TUN).
    pub tap: bool,
    /// IFF_MULTI_QUEUE
    pub multi_queue: bool,
    /// The user that may open it.
    pub owner: Option<u32>,
    /// The group that may open it.
    pub group: Option<u32>,
}

impl TunTap {
    /// IFLA_TUN_* (linux/if_link.h); the type is IFF_TUN or IFF_TAP.
    pub(super) fn decode(data: &[InfoTun]) -> Self {
        let mut tun = Self::default();
        for attribute in data {
            let mut value = [0; 4];
            if attribute.value_len() <= value.len() {
                attribute.emit_value(&mut value[..attribute.value_len()]);
            }
            match attribute.kind() {
                1 => tun.owner = Some(u32::from_ne_bytes(value)),
                2 => tun.group = Some(u32::from_ne_bytes(value)),
                3 => tun.tap = i32::from(value[0]) == libc::IFF_TAP,
                7 => tun.multi_queue = value[0] != 0,
                _ => {}
            }
        }
        tun
    }
}

impl Kind for TunTap {
    fn word(&self) -> &str {
        "tun"
    }

    fn made(&self) -> Made {
        Made::Ioctl
    }

    fn is_tunnel(&self) -> bool {
        true
    }

    /// A program attaches to a device with one queue differently than to one with several.
    fn can_become(&self, want: &LinkKind) -> bool {
        matches!(want, LinkKind::TunTap(want) if want.tap == self.tap && want.multi_queue == self.multi_queue)
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        // crate::tuntap::create gives a TAP device the virtio header.
        write!(f, " mode {}", if self.tap { "tap vnet_hdr" } else { "tun" })?;
        self.owner.map_or(Ok(()), |owner| write!(f, " user {owner}"))?;
        self.group.map_or(Ok(()), |group| write!(f, " group {group}"))?;
        if self.multi_queue { write!(f, " multi_queue") } else { Ok(()) }
    }
}
