//! The wireguard backend's keys.

use gojson::Reader;
use kernel::state::Secret;
use kernel::types::Mtu;

use super::backend::{number, port};
use super::{Mistake, Notes};

/// Which device carries which family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WireguardMode {
    /// A device per family of the underlay: IPv4 by IPv4, IPv6 by IPv6.
    #[default]
    Separate,
    /// One device; the family of the underlay is chosen per peer.
    Auto,
    /// One device over IPv4.
    Ipv4,
    /// One device over IPv6.
    Ipv6,
}

/// The wireguard backend's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardConf {
    /// `ListenPort`, default 51820.
    pub listen_port: u16,
    /// `ListenPortV6`, default 51821: the IPv6 device's, with [`WireguardMode::Separate`].
    pub listen_port_v6: u16,
    /// `MTU` of the *underlay*, of which WireGuard's own 80 bytes are taken; `None` is the underlay interface's.
    pub mtu: Option<Mtu>,
    /// `PSK`: 32 bytes in base64, mixed into the handshake with every peer.
    pub psk: Option<Secret>,
    /// `PersistentKeepaliveInterval`, seconds; 0 is off.
    pub keepalive: u16,
    /// `Mode`
    pub mode: WireguardMode,
}

impl Default for WireguardConf {
    fn default() -> Self {
        Self {
            listen_port: 51820,
            listen_port_v6: 51821,
            mtu: None,
            psk: None,
            keepalive: 0,
            mode: WireguardMode::default(),
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>, ipv6: bool, notes: &mut Notes) -> WireguardConf {
    let default = WireguardConf::default();
    WireguardConf {
        listen_port: port(reader, "ListenPort", notes).unwrap_or(default.listen_port),
        listen_port_v6: port(reader, "ListenPortV6", notes).unwrap_or(default.listen_port_v6),
        mtu: mtu(reader.take("MTU"), ipv6, notes),
        psk: psk(reader.take("PSK"), notes),
        keepalive: keepalive(reader.take("PersistentKeepaliveInterval"), notes),
        mode: mode(reader.take("Mode"), notes).unwrap_or_default(),
    }
}

/// What is inside must still carry the smallest packet of its family: 68 bytes (RFC 791 §3.2), 1280 (RFC 8200 §5).
fn mtu(value: Option<u64>, ipv6: bool, notes: &mut Notes) -> Option<Mtu> {
    let range = if ipv6 {
        (1360, 65535, "1360 to 65535: it is the underlay's MTU, and IPv6 needs 1280 bytes inside WireGuard's 80")
    } else {
        (148, 65535, "148 to 65535: it is the underlay's MTU, and IPv4 needs 68 bytes inside WireGuard's 80")
    };
    number(value, "Backend.MTU", range, notes).and_then(|mtu| u32::try_from(mtu).ok()).map(Mtu)
}

fn psk(value: Option<String>, notes: &mut Notes) -> Option<Secret> {
    let text = value.filter(|text| !text.is_empty())?;
    // not what is there: it is half a secret
    text.parse().map_err(|error| notes.wrong(Mistake::Psk(error))).ok()
}

fn keepalive(value: Option<u64>, notes: &mut Notes) -> u16 {
    let range = (1, 65535, "0 (off) to 65535 seconds");
    let value = number(value, "Backend.PersistentKeepaliveInterval", range, notes);
    value.and_then(|value| u16::try_from(value).ok()).unwrap_or_default()
}

fn mode(value: Option<String>, notes: &mut Notes) -> Option<WireguardMode> {
    match value?.as_str() {
        "" | "separate" => Some(WireguardMode::Separate),
        "auto" => Some(WireguardMode::Auto),
        "ipv4" => Some(WireguardMode::Ipv4),
        "ipv6" => Some(WireguardMode::Ipv6),
        other => {
            notes.wrong(Mistake::WireguardMode { value: other.to_owned() });
            None
        }
    }
}
