//! The daemon.

pub mod ctl;
pub mod lab;
