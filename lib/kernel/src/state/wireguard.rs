//! WireGuard devices: keys, port and peers (`wg show`; linux/wireguard.h).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// The keys and peers of a WireGuard device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardDevice {
    /// The private key. `None`: any.
    pub private_key: Option<Secret>,
    /// The UDP port that it listens on, for both families. `None`: any.
    pub listen_port: Option<u16>,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
}

/// A peer of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPeer {
    /// The address and port to send to. `None`: any; the kernel follows the peer's own packets.
    pub endpoint: Option<SocketAddr>,
    /// A key that both ends share in addition to their key pairs; `None` for none.
    pub preshared_key: Option<Secret>,
    /// The interval of keepalive packets in seconds, which keep a NAT's mapping alive; 0 for none.
    pub keepalive: u16,
    /// The prefixes that are sent to the peer, and accepted from it. A prefix belongs to one peer: adding it to
    /// another removes it here.
    pub allowed_ips: BTreeSet<IpNetwork>,
    /// Whether the kernel's endpoint is kept while the two ends communicate, because a peer behind a NAT is known
    /// only by its packets. Desired only.
    pub roams: bool,
    /// Whether the two ends communicate: their handshake was less than three minutes ago (REJECT_AFTER_TIME, the
    /// WireGuard paper §6.1). Observed only.
    pub live: bool,
}

/// The fields of a peer to change; `None` leaves a field unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPeerChange {
    /// The address and port to send to.
    pub endpoint: Option<SocketAddr>,
    /// The preshared key, or none.
    pub preshared_key: Option<Option<Secret>>,
    /// The keepalive interval in seconds.
    pub keepalive: Option<u16>,
    /// The prefixes to add to the peer …
    pub allowed_ips: BTreeSet<IpNetwork>,
    /// … or, if true, to replace its prefixes with. Adding never loses a prefix even for a moment.
    pub replace: bool,
}

/// A Curve25519 public key. Its text has 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A private or preshared key. It is never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

/// A text that is not a key. The error does not repeat it, because it may be a mistyped secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key of 32 bytes in base64 (44 characters, the last one =)")]
pub struct NotAKey;

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        decode(text).map(Self)
    }
}

impl Secret {
    /// The text of the key, as in its file. There is no other way to get it.
    pub fn reveal(&self) -> String {
        encode(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl FromStr for Secret {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        decode(text).map(Self)
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 §4
fn encode(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(44);
    for chunk in key.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|n| u32::from(chunk.get(n).copied().unwrap_or_default()));
        let bits = a << 16 | b << 8 | c;
        for n in 0..4 {
            let six = (bits >> (18 - 6 * n) & 63) as usize;
            text.push(if n <= chunk.len() { ALPHABET[six].into() } else { '=' });
        }
    }
    text
}

/// As in Go, the unused bits of the last character may have any value.
fn decode(text: &str) -> Result<[u8; 32], NotAKey> {
    let digits = text.strip_suffix('=').filter(|digits| digits.len() == 43).ok_or(NotAKey)?;
    let (mut key, mut at, mut bits, mut have) = ([0; 32], 0, 0_u32, 0);
    for digit in digits.bytes() {
        let six = ALPHABET.iter().position(|d| *d == digit).ok_or(NotAKey)? as u32;
        (bits, have) = (bits << 6 | six, have + 6);
        if have >= 8 {
            have -= 8;
            key[at] = (bits >> have) as u8;
            at += 1;
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_base64() {
        // `printf '\x00\x01…\x1f' | base64`
        let key = PublicKey(std::array::from_fn(|n| n as u8));
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=".parse(), Ok(key), "bits of no byte");
        assert_eq!(PublicKey([0xff; 32]).to_string().parse(), Ok(PublicKey([0xff; 32])));
        for bad in
            ["", "=", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", &text[1..], &format!("{text}="), &"é".repeat(22)]
        {
            assert_eq!(bad.parse::<PublicKey>(), Err(NotAKey), "{bad}");
        }
        assert!("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh-=".parse::<PublicKey>().is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let device = WireguardDevice { private_key: Some(Secret([65; 32])), ..WireguardDevice::default() };
        let text = format!("{device:?}");
        assert!(text.contains("(secret)") && !text.contains("65") && !text.contains("QUFB"), "{text}");
        assert!(!format!("{:?}", "QUFBQQ".parse::<Secret>()).contains("QUFB"));
        assert_eq!(Secret([65; 32]).reveal().parse(), Ok(Secret([65; 32])));
    }
}
