//! The lease data of the wireguard backend.

use gojson::{Json, Reader};
use kernel::state::PublicKey;

use super::AttrsError;

/// The data per family: `{"PublicKey":"HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=","Port":51820}`. A host has one
/// key for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardData {
    /// `PublicKey`, base64.
    pub public_key: PublicKey,
    /// `Port`: the port that the host listens on. Absent in leases of old peers, which listen on this host's port.
    pub port: Option<u16>,
}

impl WireguardData {
    /// The stored value.
    pub fn to_json(self) -> Json {
        let mut fields = vec![("PublicKey", Json::from(self.public_key.to_string()))];
        fields.extend(self.port.map(|port| ("Port", Json::from(u32::from(port)))));
        Json::from_iter(fields)
    }

    /// Parses a stored value. Port 0 means none.
    ///
    /// # Errors
    /// The type is wrong, the key is invalid, or the number is not a port.
    pub fn parse(data: &Json) -> Result<Self, AttrsError> {
        let mut reader = Reader::new("BackendData", data)?;
        let key = reader.take::<String>("PublicKey").unwrap_or_default();
        let port = reader.take::<u64>("Port").filter(|port| *port != 0);
        if let Some(wrong) = reader.finish().0.into_iter().next() {
            return Err(wrong.into());
        }
        let port = port.map(|port| u16::try_from(port).map_err(|_| AttrsError::Port(port))).transpose()?;
        // No private key belongs to a public key of zeros, and with it anyone could compute the session keys.
        let public_key = key.parse().ok().filter(|key| *key != PublicKey([0; 32]));
        Ok(Self { public_key: public_key.ok_or(AttrsError::PublicKey(key))?, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    #[test]
    fn values_are_upstreams_byte_for_byte() {
        let text = format!(r#"{{"PublicKey":"{KEY}","Port":51820}}"#);
        let data = WireguardData::parse(&Json::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!((data.public_key.to_string().as_str(), data.port), (KEY, Some(51820)));
        assert_eq!(data.to_json().compact(), text);
    }

    #[test]
    fn old_peers_name_no_port() {
        for text in [format!(r#"{{"PublicKey":"{KEY}"}}"#), format!(r#"{{"publickey":"{KEY}","Port":0,"New":1}}"#)] {
            let data = WireguardData::parse(&Json::parse(text.as_bytes()).unwrap()).unwrap();
            assert_eq!(data.port, None);
            assert_eq!(data.to_json().compact(), format!(r#"{{"PublicKey":"{KEY}"}}"#));
        }
    }

    #[test]
    fn garbage_is_named() {
        for (text, said) in [
            ("{}".to_owned(), r#"PublicKey "" is not a WireGuard key"#),
            (r#"{"PublicKey":"x"}"#.to_owned(), r#"PublicKey "x" is not a WireGuard key"#),
            (format!(r#"{{"PublicKey":"{}="}}"#, "A".repeat(43)), "is not a WireGuard key"),
            (format!(r#"{{"PublicKey":"{KEY}","Port":65536}}"#), "Port 65536 is not a port"),
            (format!(r#"{{"PublicKey":"{KEY}","Port":"1"}}"#), "Port must be"),
            (format!("\"{KEY}\""), "must be an object"),
        ] {
            let error = WireguardData::parse(&Json::parse(text.as_bytes()).unwrap()).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
