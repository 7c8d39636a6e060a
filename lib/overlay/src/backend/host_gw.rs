//! The host-gw backend: plain routes between hosts on one segment.

use super::{Backend, Conf, Data, Kind};
use crate::reach::Mode;

/// The host-gw backend.
pub static KIND: Kind = Kind {
    name: "host-gw",
    lease_type: "host-gw",
    data: Data::KeptVtep,
    v4_only: false,
    tunnel: None,
    read: |_, _, _| Backend::HostGw,
    left: |_, _| None,
};

pub(super) struct HostGw;

impl Conf for HostGw {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        Some(Mode::Always)
    }

    /// Routes by an address that this host does not have are of no use.
    fn behind_nat(&self) -> Option<&'static str> {
        Some(
            "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is not supported by \
             host-gw backend",
        )
    }
}
