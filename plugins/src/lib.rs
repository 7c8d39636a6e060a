//! The plugins.
