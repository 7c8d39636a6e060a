//! A network of hosts on one machine. Network namespaces are the hosts, switches and the router, and run the real
//! executables. The demo and the tests with many hosts use it.
//!
//! Everything happens in a [`sandbox`], so that nothing outside is changed and nothing remains: the kernel removes the
//! namespaces with the last process in them.

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
