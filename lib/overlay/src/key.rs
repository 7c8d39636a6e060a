//! Keys of 32 bytes in base64, as WireGuard writes them (`wg genkey`, `wg pubkey`, `wg genpsk`).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// 32 bytes that may be shown: a public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

/// 32 bytes that must not be shown: a private key, or one that peers share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub Key);

/// A text that is no key. It does not say what the text is: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key of 32 bytes in base64 (44 characters, the last one =)")]
pub struct BadKey;

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let bytes = STANDARD.decode(text).map_err(|_| BadKey)?;
        bytes.try_into().map(Self).map_err(|_| BadKey)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_wireguards() {
        let text = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
        let key: Key = text.parse().unwrap();
        assert_eq!(key.0[..3], [0x1c, 0x88, 0x28]);
        assert_eq!(key.to_string(), text);
        for bad in ["", "x", &text[..43], "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw", "AAAA", &format!("{text}\n")] {
            assert_eq!(bad.parse::<Key>(), Err(BadKey), "{bad:?}");
        }
        assert!(!format!("{:?}", Secret(key)).contains("HIgo"));
    }
}
