//! The daemon.

pub mod backoff;
pub mod files;
pub mod flags;
pub mod status;
pub mod store;
