//! Which rows each cluster serves.

use lab::mode::Mode;

use super::{Row, bridge, device, entries, files, foreign, routes, settings};

/// A cluster, and what is done to its host 1.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The cluster's backend.
    pub mode: Mode,
    /// Its pods have IPv6, too.
    pub dual_stack: bool,
    /// More flags of host 1's daemon.
    pub flags: &'static [&'static str],
    /// The rows, in groups.
    pub rows: &'static [&'static [Row]],
}

impl Table {
    /// The backend, as a title.
    pub fn title(&self) -> String {
        let more = if self.dual_stack { ", dual stack" } else { "" };
        format!("{}{more}{}", self.mode, self.flags.iter().map(|flag| format!(", {flag}")).collect::<String>())
    }
}

/// What is done to VXLAN and the overlay's entries.
pub const VXLAN: Table = Table {
    mode: Mode::Vxlan,
    dual_stack: false,
    flags: &[],
    rows: &[device::ANY, device::VXLAN, entries::ADDRESSES, entries::VXLAN, routes::PEER],
};
/// What is done to the rest of a host.
pub const HOST: Table = Table {
    mode: Mode::Vxlan,
    dual_stack: false,
    flags: &[],
    rows: &[
        settings::V4,
        settings::DEVICE,
        files::FILES,
        routes::OWN,
        routes::POLICY,
        foreign::BESIDE,
        device::UNDERLAY,
    ],
};
/// What is done to cni0, ports and packet rules.
pub const PODS: Table =
    Table { mode: Mode::Vxlan, dual_stack: false, flags: &[], rows: &[bridge::BRIDGE, bridge::PORT, bridge::RULES] };
/// What is done to flanneld's packet rules, and by those of others.
pub const RULES: Table =
    Table { mode: Mode::Vxlan, dual_stack: false, flags: &["--ip-masq"], rows: &[foreign::OWN, foreign::RULES] };
/// What IPv6 has of its own.
pub const V6: Table = Table {
    mode: Mode::Vxlan,
    dual_stack: true,
    flags: &[],
    rows: &[settings::V6, settings::MORE_V6, entries::ADDRESSES_V6],
};
/// host-gw.
pub const HOST_GW: Table = Table { mode: Mode::HostGw, dual_stack: false, flags: &[], rows: &[routes::PEER] };
/// udp.
pub const UDP: Table = Table {
    mode: Mode::Udp,
    dual_stack: false,
    flags: &[],
    rows: &[routes::ONE, device::ANY, device::TUN, entries::ADDRESSES],
};
/// ipip.
pub const IPIP: Table = Table {
    mode: Mode::Ipip,
    dual_stack: false,
    flags: &[],
    rows: &[device::IPIP, device::ANY, entries::ADDRESSES, routes::PEER],
};
/// wireguard.
pub const WIREGUARD: Table = Table {
    mode: Mode::Wireguard,
    dual_stack: false,
    flags: &[],
    rows: &[routes::ONE, device::WIREGUARD, device::ANY, entries::ADDRESSES, routes::PEER],
};
