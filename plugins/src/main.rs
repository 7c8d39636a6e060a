//! The plugins.
fn main() {}
