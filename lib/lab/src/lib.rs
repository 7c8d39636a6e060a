//! A network of hosts on one machine: network namespaces as hosts, switches and a router, with the real executables in
//! them. The demo and the tests of many hosts are made of it.
//!
//! Everything happens in a [`sandbox`] of its own, so that nothing outside is touched and nothing is left: the kernel
//! takes the world away with the last process in it.

pub mod capture;
pub mod cluster;
pub mod error;
pub mod executables;
pub mod flow;
pub mod mode;
pub mod netns;
pub mod ping;
pub mod pods;
pub mod process;
pub mod sandbox;
pub mod topology;
pub mod traffic;
pub mod wait;
pub mod world;

pub use error::{Doing, Error};
