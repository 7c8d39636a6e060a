//! Everything that talks to Linux.

pub mod state;
pub mod types;
