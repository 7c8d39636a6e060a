//! WireGuard devices: keys, port and peers (`wg show`; linux/wireguard.h).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// What a WireGuard device holds beside being a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardDevice {
    /// Its private key. `None`: whatever the kernel has.
    pub private_key: Option<Secret>,
    /// The UDP port it listens on, both families. `None`: whatever the kernel has.
    pub listen_port: Option<u16>,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
}

/// Another host, as a device knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Where it is sent to. `None`: whatever the kernel has, which follows the peer's own packets.
    pub endpoint: Option<SocketAddr>,
    /// A key that both ends have beside their pairs; `None` for none.
    pub preshared_key: Option<Secret>,
    /// Seconds between two packets that keep a NAT's mapping; 0 for none.
    pub keepalive: u16,
    /// What is sent to the peer, and what may come from it. One prefix has one peer: giving it to another takes it away.
    pub allowed_ips: BTreeSet<IpNetwork>,
    /// Where the kernel knows better: while the two ends speak, the endpoint that it has is kept. Behind a NAT a peer is known
    /// by its packets. Wanted only.
    pub roams: bool,
    /// The two ends speak: their handshake was less than three minutes ago (REJECT_AFTER_TIME, the WireGuard paper §6.1).
    /// Observed only.
    pub live: bool,
}

/// What of a peer is to be written; `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPeerChange {
    /// Where it is sent to.
    pub endpoint: Option<SocketAddr>,
    /// The second key, or none.
    pub preshared_key: Option<Option<Secret>>,
    /// Seconds.
    pub keepalive: Option<u16>,
    /// Prefixes to give to the peer …
    pub allowed_ips: BTreeSet<IpNetwork>,
    /// … which are then all that it has. Without this they are added, and none is missing for a moment.
    pub replace: bool,
}

/// A Curve25519 public key; as text 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A private or preshared key. It is never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

/// A text that is no key. The text is not repeated: it may be a secret with a typing mistake.
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
    /// The key as its file holds it. The only way out.
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

/// The bits of the last character that belong to no byte may be anything, as Go has it.
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
