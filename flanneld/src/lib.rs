//! The daemon.

pub mod backoff;
pub mod config;
pub mod events;
pub mod files;
pub mod flags;
pub mod kernel_thread;
pub mod logging;
pub mod status;
pub mod store;
pub mod systemd;
pub mod underlay;
