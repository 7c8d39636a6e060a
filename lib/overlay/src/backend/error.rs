//! Errors in a backend's configuration keys, in upstream's words where it has them.

use kernel::state::NotAKey;

use crate::words::WordsError;

/// One error in `Backend`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// No backend has this `Backend.Type`.
    #[error("unknown backend type: {name}")]
    Unknown {
        /// The given type in lower case; empty when there is no `Type`.
        name: String,
    },
    /// An upstream backend that this program does not support.
    #[error("backend type {name} is not supported: {why}; set Backend.Type to vxlan, host-gw or alloc")]
    Unsupported {
        /// The backend's name.
        name: &'static str,
        /// The reason, and the closest alternative.
        why: &'static str,
    },
    /// A backend that carries only IPv4 is configured with IPv6 enabled.
    #[error(
        "backend type {name} carries only IPv4: set EnableIPv6 to false, or Backend.Type to vxlan, host-gw or wireguard"
    )]
    V4Only {
        /// The backend's name.
        name: &'static str,
    },
    /// wireguard's `PSK` is not a key.
    #[error("Backend.PSK is {0}: make one with wg genpsk")]
    Psk(NotAKey),
    /// wireguard's `Mode` is unknown.
    #[error("no valid Mode configured: Backend.Mode {value:?} is none of separate, auto, ipv4, ipv6")]
    WireguardMode {
        /// The given value.
        value: String,
    },
    /// A command of the extension backend cannot be split into words.
    #[error("Backend.{key} cannot be split into words: {error}")]
    Command {
        /// For example `SubnetAddCommand`.
        key: &'static str,
        /// The reason.
        error: WordsError,
    },
    /// A number is too small or too large.
    #[error("{key} {value} is out of range: it must be {wanted}")]
    OutOfRange {
        /// For example `Backend.Port`.
        key: &'static str,
        /// The given value.
        value: u64,
        /// The range and the reason for it.
        wanted: &'static str,
    },
}
