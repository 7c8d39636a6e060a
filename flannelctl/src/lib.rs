//! The operator's tool.

pub mod clean;
pub mod demo;
pub mod install;
pub mod screen;
pub mod status;
