//! The rtnetlink client: one blocking socket, whole batches, errors in the kernel's own words.

mod errnos;
mod error;
mod frame;
mod socket;
pub(crate) mod transfer;

pub use error::{Errno, KernelError};
pub use frame::read_datagram;
pub use socket::{Request, Socket, What};
