//! What a stored lease says, read once and kept small: a store may hold tens of thousands.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gojson::Json;
use kernel::types::Family;

use super::{AttrsError, LeaseAttrs, VxlanData, WireguardData};
use crate::backend::{Data, data_of};
use crate::net::ByFamily;

/// A `BackendType` as published: its first 15 bytes. No backend has a longer name, so a text that is cut is nobody's type
/// either.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseType {
    bytes: [u8; 15],
    len: u8,
}

impl LeaseType {
    /// The type of this name.
    pub fn new(name: &str) -> Self {
        let mut kind = Self::default();
        let end = name.floor_char_boundary(kind.bytes.len());
        for (byte, from) in kind.bytes.iter_mut().zip(name[..end].bytes()) {
            *byte = from;
            kind.len += 1;
        }
        kind
    }

    /// The name; empty for alloc and udp.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.len.into()).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// What the data of such a lease is; `None`: nothing that this program reads.
    pub(crate) fn says(&self) -> Option<Data> {
        data_of(self.as_str())
    }
}

impl PartialEq<&str> for LeaseType {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

impl fmt::Display for LeaseType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LeaseType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// One family's data of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BackendData {
    /// There is none.
    #[default]
    Nothing,
    /// A VTEP.
    Vxlan(VxlanData),
    /// A WireGuard key and port.
    Wireguard(Box<WireguardData>),
    /// The text of the extension backend.
    Text(Box<str>),
    /// Of a type whose data is not read.
    Other,
    /// It is not what the lease's type needs.
    Unreadable(Box<AttrsError>),
}

impl BackendData {
    /// Reads the data of a lease of type `kind`.
    pub fn read(kind: LeaseType, data: Option<&Json>) -> Self {
        let Some(data) = data else { return Self::Nothing };
        let read = match kind.says() {
            Some(Data::Vtep | Data::KeptVtep) => VxlanData::parse(data).map(Self::Vxlan),
            Some(Data::Key) => WireguardData::parse(data).map(|data| Self::Wireguard(Box::new(data))),
            Some(Data::Text) => match data {
                Json::String(text) => Ok(Self::Text(text.as_str().into())),
                other => Err(AttrsError::NotText(other.to_string())),
            },
            None => Ok(Self::Other),
        };
        read.unwrap_or_else(|error| Self::Unreadable(Box::new(error)))
    }
}

/// What a stored lease says of its host: [`LeaseAttrs`] with the data read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredAttrs {
    /// `PublicIP`
    pub public_ip: Option<Ipv4Addr>,
    /// `PublicIPv6`
    pub public_ipv6: Option<Ipv6Addr>,
    /// `BackendType`
    pub backend_type: LeaseType,
    /// `BackendData` and `BackendV6Data`
    pub data: ByFamily<BackendData>,
}

impl StoredAttrs {
    /// Reads a stored value.
    ///
    /// # Errors
    /// Those of [`LeaseAttrs::parse`]. Data that cannot be read is none of them: the other family's may be good.
    pub fn parse(text: &[u8]) -> Result<Self, AttrsError> {
        Ok(Self::from(&LeaseAttrs::parse(text)?))
    }

    /// The published address of a family.
    pub fn public(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(Into::into),
            Family::V6 => self.public_ipv6.map(Into::into),
        }
    }

    /// The VTEP of a family, whatever it is worth.
    pub fn vtep(&self, family: Family) -> Option<VxlanData> {
        if let BackendData::Vxlan(data) = self.data.get(family) { Some(*data) } else { None }
    }

    /// The WireGuard key and port of a family.
    pub fn wireguard(&self, family: Family) -> Option<WireguardData> {
        if let BackendData::Wireguard(data) = self.data.get(family) { Some(**data) } else { None }
    }

    /// What the first command of a host with backend extension printed; no data is an empty text. `None` for other types.
    pub fn extension(&self) -> Option<&str> {
        match (self.backend_type.says(), &self.data.v4) {
            (Some(Data::Text), BackendData::Text(text)) => Some(text),
            (Some(Data::Text), BackendData::Nothing) => Some(""),
            _ => None,
        }
    }
}

impl From<&LeaseAttrs> for StoredAttrs {
    fn from(attrs: &LeaseAttrs) -> Self {
        let backend_type = LeaseType::new(&attrs.backend_type);
        let read = |family| BackendData::read(backend_type, attrs.data(family));
        Self {
            public_ip: attrs.public_ip,
            public_ipv6: attrs.public_ipv6,
            backend_type,
            data: ByFamily { v4: read(Family::V4), v6: read(Family::V6) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(kind: &str, data: &str) -> StoredAttrs {
        let text = format!(r#"{{"PublicIP":"192.0.2.1","BackendType":"{kind}","BackendV6Data":{data}}}"#);
        StoredAttrs::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn data_is_what_the_type_says() {
        let vtep = r#"{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"}"#;
        for kind in ["vxlan", "host-gw"] {
            let attrs = attrs(kind, vtep);
            assert_eq!(attrs.vtep(Family::V6).unwrap().vtep_mac.to_string(), "4a:ed:0f:9b:24:90");
            assert_eq!((attrs.data.v4, attrs.public_ip), (BackendData::Nothing, "192.0.2.1".parse().ok()));
        }
        let key = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
        let attrs_of_key = attrs("wireguard", &format!(r#"{{"PublicKey":"{key}"}}"#));
        assert_eq!(attrs_of_key.wireguard(Family::V6).unwrap().public_key.to_string(), key);
        assert_eq!(attrs("extension", r#""text""#).data.v6, BackendData::Text("text".into()));
        for kind in ["", "ipip"] {
            assert!(attrs(kind, vtep).vtep(Family::V6).is_some(), "the VTEP that a host keeps");
        }
        for kind in ["udp", "wireguards", "a type of more than fifteen bytes"] {
            assert_eq!(attrs(kind, vtep).data.v6, BackendData::Other, "{kind}");
        }
        for (kind, bad) in [("vxlan", "7"), ("host-gw", "{}"), ("wireguard", vtep), ("extension", "7")] {
            assert!(matches!(attrs(kind, bad).data.v6, BackendData::Unreadable(_)), "{kind}");
        }
    }

    #[test]
    fn a_type_is_cut_between_characters() {
        assert_eq!(LeaseType::new("wireguard").as_str(), "wireguard");
        assert_eq!(LeaseType::new("fourteen bytesé").as_str(), "fourteen bytes");
        assert_eq!(LeaseType::new(""), LeaseType::default());
    }

    #[test]
    fn only_an_extensions_data_is_its_text() {
        let text = br#"{"PublicIP":"192.0.2.1","BackendType":"extension","BackendData":"of 192.0.2.1"}"#;
        assert_eq!(StoredAttrs::parse(text).unwrap().extension(), Some("of 192.0.2.1"));
        assert_eq!(attrs("extension", "null").extension(), Some(""));
        assert_eq!(attrs("vxlan", "null").extension(), None);
    }

    /// What 10,000 of them take is a figure of the daemon's.
    #[test]
    fn a_lease_is_small() {
        assert_eq!((size_of::<BackendData>(), size_of::<StoredAttrs>()), (24, 88));
        assert_eq!(size_of::<super::super::StoredLease>(), 120);
    }
}
