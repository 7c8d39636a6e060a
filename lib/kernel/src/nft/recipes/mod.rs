//! Tables of the CNI plugins, compatible with what the reference plugins write. Each is pure: from what a table holds
//! to what is to be changed, for [`Nft::update`](super::Nft::update).

pub mod macspoof;
pub mod masquerade;
