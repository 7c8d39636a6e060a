//! Test support: a runner that gives each test a process and a sandbox of its own.

pub mod apiserver;
mod cpio;
pub mod dbus;
pub mod drill;
pub mod harness;
pub mod known;
pub mod kube_proxy;
pub mod kubernetes;
pub mod need;
pub mod plain;
pub mod strace;
pub mod targets;
pub mod tools;
pub mod vm;
