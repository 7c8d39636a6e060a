//! The alloc backend leases subnets and leaves the packets to something else.

use super::{Backend, Conf, Data, Kind};
use crate::reach::Mode;

/// The alloc backend.
pub static KIND: Kind = Kind {
    name: "alloc",
    lease_type: "",
    data: Data::KeptVtep,
    v4_only: false,
    tunnel: None,
    read: |_, _, _| Backend::Alloc,
    left: |_, _| None,
};

pub(super) struct Alloc;

impl Conf for Alloc {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn mode(&self) -> Option<Mode> {
        None
    }
}
