//! The daemon's status: `status.json` beside subnet.env, for flannelctl, for the CNI plugin and for people.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, io};

use crate::backend::tunnels;
use crate::reach::{self, Tunnel, Why};
use ipnetwork::IpNetwork;
use kernel::types::Mac;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Deserialize, Serialize};

/// The daemon's state after its last pass. Fields that are not known yet are empty. `P` is where the peers come from: for a
/// reader the list, for the daemon what it knows of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status<P = Peers> {
    /// The daemon's process.
    pub pid: u32,
    /// The store of the leases: `etcd http://192.0.2.1:2379`, `embedded /var/lib/flannel/network`.
    pub store: String,
    /// Since when the store has not been followed, so that the status may be outdated (RFC 3339, UTC); `null` while
    /// it is followed.
    pub store_stale_since: Option<String>,
    /// Why the store is not followed.
    pub store_error: Option<String>,
    /// Upstream's name of the backend: `vxlan`, `host-gw`, `alloc`.
    pub backend: String,
    /// Whether peers on the same segment are reached directly; vxlan and ipip only.
    pub direct_routing: bool,
    /// The networks that contain the leased subnets, IPv4 first.
    pub network: Vec<IpNetwork>,
    /// This host's subnets, IPv4 first.
    pub subnets: Vec<IpNetwork>,
    /// The addresses that peers send to, IPv4 first.
    #[serde(rename = "publicIPs")]
    pub public_ips: Vec<IpAddr>,
    /// The link that traffic between hosts uses.
    pub underlay: Option<Underlay>,
    /// FLANNEL_MTU in bytes; 0 until it is known.
    pub mtu: u32,
    /// The other hosts, one entry per subnet.
    pub peers: P,
    /// udp only: the traffic so far, not older than a second; with many peers, than five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// How often the daemon repaired something of its own that another program had changed, by kind of object, since
    /// the daemon's start.
    pub drift: BTreeMap<String, u64>,
    /// The entries of the store that are not accepted.
    pub rejected: Vec<Rejected>,
    /// Other programs' routes inside the network, in the format of `ip route`. They stay, and may lead pods' traffic
    /// elsewhere.
    pub foreign_routes: Vec<String>,
    /// What an operator should change, although this host is ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Chains of other programs' packet rules that drop forwarded packets of pods, or may do so, with what helps.
    pub dropping: Vec<String>,
    /// The attachments of this host's pods; `null` if they are not repaired (`--heal-attachments=false`).
    pub attachments: Option<Attachments>,
    /// What was left of pods that are gone; `null` if it is not removed (`--reclaim=false`).
    pub reclaim: Option<Reclaim>,
    /// The current problem; `null` when there is none.
    pub last_error: Option<String>,
    /// When the last pass ended (RFC 3339, UTC).
    pub last_reconcile: Option<String>,
}

/// The traffic of the udp backend since the daemon's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Udp {
    /// Datagrams sent.
    pub sent_packets: u64,
    /// The bytes in them.
    pub sent_bytes: u64,
    /// Datagrams received and handed to the kernel.
    pub received_packets: u64,
    /// The bytes in them.
    pub received_bytes: u64,
    /// Dropped packets by reason; reasons without any are absent.
    pub dropped: BTreeMap<String, u64>,
}

/// The link that carries the overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The link's name.
    pub dev: String,
    /// The link's MTU in bytes.
    pub mtu: u32,
}

/// Another host's subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The host's underlay address.
    #[serde(rename = "publicIP")]
    pub public_ip: IpAddr,
    /// The way to it.
    pub path: Reach,
    /// The reason for this way.
    pub reason: String,
    /// The MAC address of its VTEP, if it has one.
    #[serde(rename = "vtepMAC")]
    pub vtep_mac: Option<String>,
    /// When any of this last changed, or when this daemon first saw it (RFC 3339, UTC).
    #[serde(default)]
    pub since: String,
}

/// What the daemon keeps of a peer: [`Peer`] without its texts, which are written when they are read. A store may hold tens
/// of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// `public_ip`
    pub public_ip: IpAddr,
    /// `path`
    pub path: Reach,
    /// `reason`
    pub reason: Why,
    /// `vtep_mac`
    pub vtep_mac: Option<Mac>,
    /// `since`, in seconds since 1970.
    pub since: u64,
}

impl Row {
    /// True when the two differ in nothing but their age.
    pub fn is_as(&self, other: &Self) -> bool {
        *self == Self { since: self.since, ..*other }
    }
}

/// A row under its subnet, written as a [`Peer`] is.
#[derive(Debug, Clone, Copy)]
pub struct Line(pub IpNetwork, pub Row);

impl Serialize for Line {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(subnet, Row { public_ip, path, reason, vtep_mac, since }) = self;
        let mut fields = serializer.serialize_struct("Peer", 6)?;
        fields.serialize_field("subnet", subnet)?;
        fields.serialize_field("publicIP", public_ip)?;
        fields.serialize_field("path", path)?;
        fields.serialize_field("reason", &Text(reason))?;
        fields.serialize_field("vtepMAC", &vtep_mac.as_ref().map(Text))?;
        fields.serialize_field("since", &rfc3339(UNIX_EPOCH + Duration::from_secs(*since)))?;
        fields.end()
    }
}

/// All peers, given page by page: those after a subnet, in the order of the subnets; an empty page is the end. Written as
/// [`Peers`] are.
pub struct Pages<F>(pub F);

impl<F: Fn(Option<IpNetwork>) -> Vec<Line>> Serialize for Pages<F> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut after = None;
        loop {
            let page = (self.0)(after);
            page.iter().try_for_each(|line| list.serialize_element(line))?;
            match page.last() {
                Some(last) => after = Some(last.0),
                None => return list.end(),
            }
        }
    }
}

/// Written as it is shown.
struct Text<'a, T>(&'a T);

impl<T: fmt::Display> Serialize for Text<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// All other hosts' subnets, each once. Serialized as a list in subnet order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers(BTreeMap<IpNetwork, Peer>);

impl Peers {
    /// All subnets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.values()
    }

    /// The entry of a subnet.
    pub fn get(&self, subnet: &IpNetwork) -> Option<&Peer> {
        self.0.get(subnet)
    }

    /// Adds an entry, and replaces the previous one of its subnet.
    pub fn put(&mut self, peer: Peer) {
        self.0.insert(peer.subnet, peer);
    }

    /// Removes the entry of this subnet.
    pub fn remove(&mut self, subnet: &IpNetwork) {
        self.0.remove(subnet);
    }

    /// The number of subnets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Peer> for Peers {
    fn from_iter<I: IntoIterator<Item = Peer>>(peers: I) -> Self {
        Self(peers.into_iter().map(|peer| (peer.subnet, peer)).collect())
    }
}

impl Serialize for Peers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Peer>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// By a route over the underlay.
    Direct,
    /// Through a tunnel.
    Through(Tunnel),
    /// There is no way.
    Unreachable,
}

impl Reach {
    /// All ways.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Direct].into_iter().chain(tunnels().map(Self::Through)).chain([Self::Unreachable])
    }

    /// Its name in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Through(tunnel) => tunnel.name(),
            Self::Unreachable => "unreachable",
        }
    }
}

impl Serialize for Reach {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let unknown = || serde::de::Error::custom(format_args!("{name:?} is not a way to reach a peer"));
        Self::all().find(|reach| reach.as_str() == name).ok_or_else(unknown)
    }
}

impl From<reach::Reach> for Reach {
    fn from(reach: reach::Reach) -> Self {
        match reach {
            reach::Reach::Direct => Self::Direct,
            reach::Reach::Through(tunnel) => Self::Through(tunnel),
            reach::Reach::Unreachable(_) => Self::Unreachable,
        }
    }
}

/// An entry of the store that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its key in the store.
    pub key: String,
    /// The reason.
    pub reason: String,
}

/// The attachments of this host's pods, and what was wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attachments {
    /// The number of attachments in this host's subnets.
    pub count: usize,
    /// The number of repairs since the daemon's start, by kind: `bridge`, `port`, `rules`.
    pub healed: BTreeMap<String, u64>,
    /// The findings that are not repaired, each with its reason.
    pub reported: Vec<String>,
    /// The attachments that an operator has exempted from repair, as `NETWORK/ID@IF`.
    pub quarantined: Vec<String>,
}

/// The beginning of the name of the abstract Unix socket by which a daemon announces a network; the network follows.
pub const ANNOUNCEMENT: &str = "flanneld/";

/// What plugins made for pods that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reclaim {
    /// The number of attachments that were removed since the daemon's start.
    pub reclaimed: u64,
    /// What stays although its pod seems to be gone, each with its reason.
    pub kept: Vec<String>,
}

/// The path of the status file of the daemon that writes `subnet_file`.
pub fn path_beside(subnet_file: &Path) -> PathBuf {
    subnet_file.with_file_name("status.json")
}

impl<P> Status<P> {
    /// The same with its peers from elsewhere.
    pub fn with_peers<Q>(self, peers: Q) -> Status<Q> {
        Status {
            peers,
            pid: self.pid,
            store: self.store,
            store_stale_since: self.store_stale_since,
            store_error: self.store_error,
            backend: self.backend,
            direct_routing: self.direct_routing,
            network: self.network,
            subnets: self.subnets,
            public_ips: self.public_ips,
            underlay: self.underlay,
            mtu: self.mtu,
            udp: self.udp,
            drift: self.drift,
            rejected: self.rejected,
            foreign_routes: self.foreign_routes,
            attachments: self.attachments,
            reclaim: self.reclaim,
            dropping: self.dropping,
            warnings: self.warnings,
            last_error: self.last_error,
            last_reconcile: self.last_reconcile,
        }
    }
}

impl<P: Serialize> Status<P> {
    /// Writes the content of status.json.
    ///
    /// # Errors
    /// Those of `file`.
    pub fn write_to(&self, mut file: impl io::Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")
    }

    /// The content of status.json.
    #[expect(clippy::expect_used, reason = "a struct of strings, numbers and lists always serializes")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }
}

/// `time` in UTC in the format of RFC 3339, in seconds.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // days to civil date, era by era of 400 years from 1 March 0000 (Howard Hinnant, chrono-compatible algorithms)
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        Status {
            pid: 7,
            store: "etcd http://192.0.2.9:2379".into(),
            store_stale_since: None,
            store_error: None,
            backend: "vxlan".into(),
            direct_routing: true,
            network: vec!["10.5.0.0/16".parse().unwrap()],
            subnets: vec!["10.5.1.0/24".parse().unwrap()],
            public_ips: vec!["192.0.2.1".parse().unwrap()],
            underlay: Some(Underlay { dev: "eth0".into(), mtu: 1500 }),
            mtu: 1450,
            peers: [Peer {
                subnet: "10.5.2.0/24".parse().unwrap(),
                public_ip: "192.0.2.2".parse().unwrap(),
                path: Reach::Direct,
                reason: "on the same segment".into(),
                vtep_mac: None,
                since: "2026-01-02T03:00:00Z".into(),
            }]
            .into_iter()
            .collect(),
            drift: [("route".to_owned(), 2)].into(),
            udp: None,
            rejected: vec![Rejected { key: "x".into(), reason: "not a subnet".into() }],
            foreign_routes: vec!["10.5.9.0/24 via 192.0.2.9 dev eth0".into()],
            warnings: vec!["the network overlaps a LAN".into()],
            dropping: vec!["chain forward of table inet filter drops forwarded packets".into()],
            attachments: Some(Attachments { count: 3, ..Attachments::default() }),
            reclaim: Some(Reclaim { reclaimed: 1, kept: Vec::new() }),
            last_error: None,
            last_reconcile: Some("2026-01-02T03:04:05Z".into()),
        }
    }

    #[test]
    fn golden() {
        let text = serde_json::to_string(&sample()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"pid":7,"store":"etcd http://192.0.2.9:2379","storeStaleSince":null,"storeError":null,"backend":"vxlan","directRouting":true,"network":["10.5.0.0/16"],"subnets":["10.5.1.0/24"],"#,
                r#""publicIPs":["192.0.2.1"],"underlay":{"dev":"eth0","mtu":1500},"mtu":1450,"#,
                r#""peers":[{"subnet":"10.5.2.0/24","publicIP":"192.0.2.2","path":"direct","reason":"on the same segment","vtepMAC":null,"since":"2026-01-02T03:00:00Z"}],"#,
                r#""drift":{"route":2},"#,
                r#""rejected":[{"key":"x","reason":"not a subnet"}],"foreignRoutes":["10.5.9.0/24 via 192.0.2.9 dev eth0"],"warnings":["the network overlaps a LAN"],"dropping":["chain forward of table inet filter drops forwarded packets"],"attachments":{"count":3,"healed":{},"reported":[],"quarantined":[]},"reclaim":{"reclaimed":1,"kept":[]},"lastError":null,"lastReconcile":"2026-01-02T03:04:05Z"}"#,
            )
        );
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), sample());
    }

    #[test]
    fn a_row_is_written_as_a_peer_is() {
        let row = Row {
            public_ip: "192.0.2.2".parse().unwrap(),
            path: Reach::Unreachable,
            reason: Why::OtherVni(kernel::types::Vni::new(7).unwrap()),
            vtep_mac: "4a:ed:0f:9b:24:90".parse().ok(),
            since: 951_782_400,
        };
        let subnet = "10.5.2.0/24".parse().unwrap();
        let peer = Peer {
            subnet,
            public_ip: row.public_ip,
            path: row.path,
            reason: "the peer's VNI is 7".into(),
            vtep_mac: Some("4a:ed:0f:9b:24:90".into()),
            since: "2000-02-29T00:00:00Z".into(),
        };
        for (row, peer) in [(row, peer.clone()), (Row { vtep_mac: None, ..row }, Peer { vtep_mac: None, ..peer })] {
            let [row, peer] = [serde_json::to_string(&Line(subnet, row)), serde_json::to_string(&peer)];
            assert_eq!(row.unwrap(), peer.unwrap());
        }
    }

    /// What 10,000 of them take is a figure of the daemon's.
    #[test]
    fn a_row_is_small() {
        assert!(size_of::<Row>() <= 72, "{}", size_of::<Row>());
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
