//! The daemon that keeps a host equal to the leases, the operator's tool, and the lab that shows and tests both.

pub mod backoff;
pub mod config;
pub mod ctl;
pub mod events;
pub mod files;
pub mod flags;
pub mod kernel_thread;
pub mod lab;
pub mod logging;
pub mod status;
pub mod store;
pub mod systemd;
pub mod underlay;
