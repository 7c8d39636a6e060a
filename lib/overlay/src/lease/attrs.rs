//! The value of a lease: how to reach its host.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use gojson::{Json, JsonError, Reader, Wrong};
use kernel::types::{Family, Mac, Vni};

/// What a host publishes about itself.
///
/// As text it is upstream's JSON, compact and in this order: always `PublicIP` (`0.0.0.0` for none) and `PublicIPv6`
/// (`null` for none); the other fields unless they are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeaseAttrs {
    /// `PublicIP`
    pub public_ip: Option<Ipv4Addr>,
    /// `PublicIPv6`
    pub public_ipv6: Option<Ipv6Addr>,
    /// `BackendType`: `vxlan`, `host-gw`, …; empty for alloc and udp.
    pub backend_type: String,
    /// `BackendData`: the backend's data for IPv4.
    pub backend_data: Option<Json>,
    /// `BackendV6Data`: the same for IPv6.
    pub backend_v6_data: Option<Json>,
}

/// A value that is not a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttrsError {
    /// The value is not JSON.
    #[error("the lease is not JSON: {0}")]
    Json(#[from] JsonError),
    /// A field has the wrong type.
    #[error("the lease: {0}")]
    WrongType(#[from] Wrong),
    /// A field is not an address of its family.
    #[error("the lease: {field} {value:?} is not an address")]
    Address {
        /// `PublicIP` or `PublicIPv6`
        field: &'static str,
        /// The given value.
        value: String,
    },
    /// `VtepMAC` is missing or not an Ethernet address.
    #[error("VtepMAC {0:?} is not a MAC address")]
    Mac(String),
    /// `PublicKey` is missing, or not a key that a peer can have.
    #[error("PublicKey {0:?} is not a WireGuard key")]
    PublicKey(String),
    /// `Port` has more than 16 bits.
    #[error("Port {0} is not a port")]
    Port(u64),
    /// The extension backend's data is not a string.
    #[error("BackendData {0} is not a string")]
    NotText(String),
    /// `VNI` has more than 24 bits.
    #[error("VNI {0} is not a VNI")]
    Vni(u64),
}

impl LeaseAttrs {
    /// The published address of a family.
    pub fn public(&self, family: Family) -> Option<std::net::IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(Into::into),
            Family::V6 => self.public_ipv6.map(Into::into),
        }
    }

    /// The backend's data of a family.
    pub fn data(&self, family: Family) -> Option<&Json> {
        match family {
            Family::V4 => self.backend_data.as_ref(),
            Family::V6 => self.backend_v6_data.as_ref(),
        }
    }

    /// Sets the backend's data of a family.
    pub fn set_data(&mut self, family: Family, data: Json) {
        match family {
            Family::V4 => self.backend_data = Some(data),
            Family::V6 => self.backend_v6_data = Some(data),
        }
    }

    /// The stored text.
    pub fn to_json(&self) -> String {
        let mut fields = vec![
            ("PublicIP", self.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string().into()),
            ("PublicIPv6", self.public_ipv6.map_or(Json::Null, |addr| addr.to_string().into())),
        ];
        if !self.backend_type.is_empty() {
            fields.push(("BackendType", self.backend_type.as_str().into()));
        }
        for (key, data) in [("BackendData", &self.backend_data), ("BackendV6Data", &self.backend_v6_data)] {
            if let Some(data) = data {
                fields.push((key, data.clone()));
            }
        }
        Json::from_iter(fields).compact()
    }

    /// Parses a stored value. Unknown fields are ignored: a newer flannel may have written them.
    ///
    /// # Errors
    /// The text is not JSON, or a field cannot be read.
    pub fn parse(text: &[u8]) -> Result<Self, AttrsError> {
        let tree = Json::parse(text)?;
        let mut reader = Reader::new("", &tree)?;
        let public_ip = reader.take::<String>("PublicIP");
        let public_ipv6 = reader.take::<String>("PublicIPv6");
        let backend_type = reader.take::<String>("BackendType").unwrap_or_default();
        let data =
            ["BackendData", "BackendV6Data"].map(|key| reader.take::<Json>(key).filter(|data| *data != Json::Null));
        if let Some(wrong) = reader.finish().0.into_iter().next() {
            return Err(wrong.into());
        }
        let [backend_data, backend_v6_data] = data;
        Ok(Self {
            public_ip: address("PublicIP", public_ip)?.filter(|addr: &Ipv4Addr| !addr.is_unspecified()),
            public_ipv6: address("PublicIPv6", public_ipv6)?.filter(|addr: &Ipv6Addr| !addr.is_unspecified()),
            backend_type,
            backend_data,
            backend_v6_data,
        })
    }
}

fn address<A: FromStr>(field: &'static str, text: Option<String>) -> Result<Option<A>, AttrsError> {
    let Some(value) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| AttrsError::Address { field, value })
}

/// The vxlan backend's data per family: `{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"}`, with exactly these fields in this
/// order, because Go flannel reads its own data back by cutting the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanData {
    /// `VNI`; absent in leases of old peers. Go publishes only the low 16 bits, and cannot read more.
    pub vni: Option<Vni>,
    /// `VtepMAC`: the Ethernet address of the host's VXLAN device.
    pub vtep_mac: Mac,
}

impl VxlanData {
    /// The stored value. It contains only the low 16 bits of the VNI: Go's field is a `uint16`, and a Go peer drops a
    /// lease whose VNI does not fit.
    pub fn to_json(self) -> Json {
        let mut fields = Vec::new();
        if let Some(vni) = self.vni {
            fields.push(("VNI", Json::from(vni.get() & 0xffff)));
        }
        fields.push(("VtepMAC", self.vtep_mac.to_string().into()));
        Json::from_iter(fields)
    }

    /// Parses a stored value.
    ///
    /// # Errors
    /// The type is wrong, or the MAC address is invalid.
    pub fn parse(data: &Json) -> Result<Self, AttrsError> {
        let mut reader = Reader::new("BackendData", data)?;
        let vni = reader.take::<u64>("VNI");
        let mac = reader.take::<String>("VtepMAC").unwrap_or_default();
        if let Some(wrong) = reader.finish().0.into_iter().next() {
            return Err(wrong.into());
        }
        let vni = vni.map(|vni| u32::try_from(vni).ok().and_then(|v| Vni::new(v).ok()).ok_or(AttrsError::Vni(vni)));
        Ok(Self { vni: vni.transpose()?, vtep_mac: mac.parse().map_err(|_| AttrsError::Mac(mac))? })
    }

    /// Whether the lease's VNI may be `vni`: their low 16 bits are equal, or the lease has no VNI.
    pub fn speaks(self, vni: Vni) -> bool {
        self.vni.is_none_or(|theirs| theirs.get() & 0xffff == vni.get() & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: &str = r#"{"PublicIP":"10.99.0.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}}"#;

    #[test]
    fn values_are_upstreams_byte_for_byte() {
        for text in [
            VXLAN,
            r#"{"PublicIP":"10.99.0.2","PublicIPv6":null,"BackendType":"host-gw"}"#,
            r#"{"PublicIP":"10.99.0.2","PublicIPv6":null}"#,
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::3"}"#,
            r#"{"PublicIP":"10.99.0.2","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"a+/=","Port":51820}}"#,
            r#"{"PublicIP":"10.99.0.2","PublicIPv6":null,"BackendType":"extension","BackendData":"text"}"#,
            r#"{"PublicIP":"10.99.0.2","PublicIPv6":null,"BackendType":"extension","BackendData":"\u003ca\u0026b\u003e"}"#,
        ] {
            assert_eq!(LeaseAttrs::parse(text.as_bytes()).unwrap().to_json(), text);
        }
        let attrs = LeaseAttrs::parse(VXLAN.as_bytes()).unwrap();
        let data = VxlanData::parse(attrs.data(Family::V6).unwrap()).unwrap();
        assert_eq!(data, VxlanData { vni: Vni::new(1).ok(), vtep_mac: "12:a5:0d:d7:d9:76".parse().unwrap() });
        assert_eq!(Some(&data.to_json()), attrs.data(Family::V6));
    }

    #[test]
    fn other_peoples_values_are_read() {
        let text = br#"{"publicip":"10.99.0.2","Future":[1],"BackendData":null}"#;
        let attrs = LeaseAttrs::parse(text).unwrap();
        assert_eq!(attrs.to_json(), r#"{"PublicIP":"10.99.0.2","PublicIPv6":null}"#);
        let old = VxlanData::parse(&Json::parse(br#"{"VtepMAC":"4a:ed:0f:9b:24:90","New":1}"#).unwrap()).unwrap();
        assert!(old.vni.is_none() && old.speaks(Vni::new(7).unwrap()));
        let far = VxlanData { vni: Vni::new(0x1_0002).ok(), ..old };
        assert_eq!(far.to_json().compact(), r#"{"VNI":2,"VtepMAC":"4a:ed:0f:9b:24:90"}"#);
        assert!(far.speaks(Vni::new(2).unwrap()) && !far.speaks(Vni::new(1).unwrap()));
    }

    #[test]
    fn garbage_is_named() {
        for (text, said) in [
            ("", "the lease is not JSON: unexpected end of JSON input"),
            ("[]", "the lease: the whole must be an object, not []"),
            (r#"{"PublicIP":7}"#, "the lease: PublicIP must be a string, not 7"),
            (r#"{"PublicIP":"fd99::3"}"#, r#"the lease: PublicIP "fd99::3" is not an address"#),
        ] {
            assert_eq!(LeaseAttrs::parse(text.as_bytes()).unwrap_err().to_string(), said);
        }
        for bad in ["{}", r#"{"VtepMAC":"4a:ed"}"#, r#"{"VNI":16777216,"VtepMAC":"4a:ed:0f:9b:24:90"}"#, r#""x""#, "7"]
        {
            assert!(VxlanData::parse(&Json::parse(bad.as_bytes()).unwrap()).is_err(), "{bad}");
        }
    }
}
