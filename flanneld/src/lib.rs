//! The daemon that keeps a host equal to the leases, the operator's tool, and the lab that shows and tests both.

pub mod backoff;
pub mod ctl;
pub mod files;
pub mod flags;
pub mod lab;
pub mod status;
pub mod store;
