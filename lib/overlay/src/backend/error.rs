//! What can be wrong with a backend's keys, in upstream's words where it has any.

use kernel::state::NotAKey;

use crate::words::WordsError;

/// One thing that is wrong with `Backend`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// A `Backend.Type` that is nobody's.
    #[error("unknown backend type: {name}")]
    Unknown {
        /// What is there, in lower case; empty when there is no `Type`
        name: String,
    },
    /// A backend of upstream's that this program does not have.
    #[error("backend type {name} is not supported: {why}; set Backend.Type to vxlan, host-gw or alloc")]
    Unsupported {
        /// Its name
        name: &'static str,
        /// The reason, and what comes closest
        why: &'static str,
    },
    /// A backend that moves IPv4 only, with IPv6 on.
    #[error(
        "backend type {name} moves IPv4 only: set EnableIPv6 to false, or Backend.Type to vxlan, host-gw or wireguard"
    )]
    V4Only {
        /// Its name
        name: &'static str,
    },
    /// wireguard's `PSK`.
    #[error("Backend.PSK is {0}: wg genpsk makes one")]
    Psk(NotAKey),
    /// wireguard's `Mode`.
    #[error("no valid Mode configured: Backend.Mode {value:?} is none of separate, auto, ipv4, ipv6")]
    WireguardMode {
        /// What is there
        value: String,
    },
    /// A command of extension's that cannot be split into words.
    #[error("Backend.{key} cannot be split into words: {error}")]
    Command {
        /// `SubnetAddCommand`
        key: &'static str,
        /// Why
        error: WordsError,
    },
    /// A number that is too small or too large.
    #[error("{key} {value} is out of range: it must be {wanted}")]
    OutOfRange {
        /// `Backend.Port`
        key: &'static str,
        /// What is there
        value: u64,
        /// The range and its reason
        wanted: &'static str,
    },
}
