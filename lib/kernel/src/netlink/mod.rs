//! The netlink client: one for every protocol. It knows messages, attributes and answers; what they mean is the codecs'
//! matter ([`crate::message`] for rtnetlink, [`crate::nft`], `wireguard`).

pub(crate) mod client;
mod errnos;
mod error;
pub(crate) mod wire;

pub use error::{Errno, KernelError};
