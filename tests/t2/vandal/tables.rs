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
    /// The rows, in groups.
    pub rows: &'static [&'static [Row]],
}

impl Table {
    /// The backend, as a title.
    pub fn title(&self) -> String {
        format!("{}{}", self.mode, if self.dual_stack { ", dual stack" } else { "" })
    }
}

/// What is done to VXLAN and the overlay's entries.
pub const VXLAN: Table = Table {
    mode: Mode::Vxlan,
    dual_stack: false,
    rows: &[device::ANY, device::VXLAN, entries::ADDRESSES, entries::VXLAN, routes::PEER],
};
/// What is done to the rest of a host.
pub const HOST: Table = Table {
    mode: Mode::Vxlan,
    dual_stack: false,
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
    Table { mode: Mode::Vxlan, dual_stack: false, rows: &[bridge::BRIDGE, bridge::PORT, bridge::RULES] };
/// What IPv6 has of its own.
pub const V6: Table =
    Table { mode: Mode::Vxlan, dual_stack: true, rows: &[settings::V6, settings::MORE_V6, entries::ADDRESSES_V6] };
/// host-gw.
pub const HOST_GW: Table = Table { mode: Mode::HostGw, dual_stack: false, rows: &[routes::PEER] };
/// udp.
pub const UDP: Table =
    Table { mode: Mode::Udp, dual_stack: false, rows: &[device::ANY, device::TUN, entries::ADDRESSES] };
