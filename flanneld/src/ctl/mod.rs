//! The operator's tool.

pub mod install;
pub mod screen;
