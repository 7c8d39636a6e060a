//! Everything that talks to Linux.

pub mod nft;
pub mod state;
pub mod types;
