//! Recorded facts and their plans, and plans that are made with and without what was planned before.

mod golden;
mod host;
mod macs;
mod roaming;
mod warm;
