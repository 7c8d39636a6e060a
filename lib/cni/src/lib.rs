//! The Container Network Interface protocol: what passes between a runtime, a plugin and a delegate.

pub mod error;
pub mod result;
pub mod version;
