//! Attachments whose pods are gone without DEL: who they are, and their removal.
//!
//! A runtime that crashes, or that is told to forget a pod, never calls DEL. The pod's links go with its namespace. Its address,
//! packet rules, host ports and limits stay, and the address may be the last one of the subnet.
//!
//! Nothing is removed without proof of the namespace's end: ADD recorded its path and inode, and the path leads there no more. That
//! proves something only where paths are seen as the runtime sees them. A container that has not mounted the folder sees
//! nothing there, as if every pod were gone.

mod fate;
mod remove;

pub use fate::{Doubt, Fate, Sight, View, folder_of, look, namespaces};
pub use remove::{ReclaimError, has_link, remove};
