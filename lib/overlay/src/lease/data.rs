//! The contents of stored leases, parsed once and kept small: a store may hold tens of thousands.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gojson::Json;
use kernel::types::Family;

use super::{AttrsError, LeaseAttrs, VxlanData, WireguardData};
use crate::backend::{Data, data_of};
use crate::net::ByFamily;

/// A `BackendType` as published, cut to 15 bytes. No backend has a longer name, so a cut text never equals a
/// backend's type. The default is empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseType {
    bytes: [u8; 15],
    len: u8,
}

impl LeaseType {
    /// The type with this name.
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

    /// The kind of data in such a lease; `None` when this program does not read it.
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

/// A lease's data for one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BackendData {
    /// The lease has no data.
    #[default]
    Nothing,
    /// A VTEP.
    Vxlan(VxlanData),
    /// A WireGuard key and port.
    Wireguard(Box<WireguardData>),
    /// The text of the extension backend.
    Text(Box<str>),
    /// The lease has a type whose data this program does not read.
    Other,
    /// The data is not what the lease's type requires.
    Unreadable(Box<AttrsError>),
}

impl BackendData {
    /// Parses the data of a lease of type `kind`.
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

/// A stored lease: [`LeaseAttrs`] with the data parsed.
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
    /// Parses a stored value.
    ///
    /// # Errors
    /// Those of [`LeaseAttrs::parse`]. Unreadable data is not an error, because the other family's data may be good.
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

    /// The VTEP of a family, not yet checked.
    pub fn vtep(&self, family: Family) -> Option<VxlanData> {
        if let BackendData::Vxlan(data) = self.data.get(family) { Some(*data) } else { None }
    }

    /// The WireGuard key and port of a family, not yet checked.
    pub fn wireguard(&self, family: Family) -> Option<WireguardData> {
        if let BackendData::Wireguard(data) = self.data.get(family) { Some(**data) } else { None }
    }

    /// The output of the first command of a host with the extension backend, empty without data. `None` for other
    /// types.
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

    /// The daemon's tests measure how much memory 10,000 of them take.
    #[test]
    fn a_lease_is_small() {
        assert_eq!((size_of::<BackendData>(), size_of::<StoredAttrs>()), (24, 88));
        assert_eq!(size_of::<super::super::StoredLease>(), 120);
    }
}
