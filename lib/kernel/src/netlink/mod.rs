//! The netlink client for all protocols. It handles messages, attributes and replies. The codecs interpret them:
//! [`crate::message`] for rtnetlink, [`crate::nft`], `wireguard`.

pub(crate) mod client;
mod errnos;
mod error;
pub(crate) mod wire;

pub use error::{Errno, KernelError};
