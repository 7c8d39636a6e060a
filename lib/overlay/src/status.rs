//! What the daemon says of itself: `status.json` beside subnet.env, for flannelctl, for the CNI plugin and for people.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::tunnels;
use crate::reach::{self, Tunnel};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The daemon's state after its last pass. Fields that are not known yet are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The daemon's process.
    pub pid: u32,
    /// Where the leases are kept: `etcd http://192.0.2.1:2379`, `embedded /var/lib/flannel/network`.
    pub store: String,
    /// Since when the store is not followed and what is shown may be old (RFC 3339, UTC); `null` while it is.
    pub store_stale_since: Option<String>,
    /// Why it is not followed.
    pub store_error: Option<String>,
    /// Upstream's name of the backend: `vxlan`, `host-gw`, `alloc`.
    pub backend: String,
    /// vxlan and ipip only: peers on the same segment are reached directly.
    pub direct_routing: bool,
    /// The networks that subnets are leased from, IPv4 first.
    pub network: Vec<IpNetwork>,
    /// This host's subnets, IPv4 first.
    pub subnets: Vec<IpNetwork>,
    /// The addresses that peers send to, IPv4 first.
    #[serde(rename = "publicIPs")]
    pub public_ips: Vec<IpAddr>,
    /// Where traffic between hosts leaves.
    pub underlay: Option<Underlay>,
    /// FLANNEL_MTU, bytes; 0 when not known yet.
    pub mtu: u32,
    /// The other hosts, one entry per subnet.
    pub peers: Peers,
    /// udp only: what has crossed so far. A change of this alone is not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// How often something of ours was repaired that somebody else had changed, since the daemon's start, by kind of
    /// object.
    pub drift: BTreeMap<String, u64>,
    /// What the store holds that is not followed.
    pub rejected: Vec<Rejected>,
    /// Other programs' routes inside the network, as `ip route` shows them: they stay, and may lead traffic for pods
    /// elsewhere.
    pub foreign_routes: Vec<String>,
    /// Chains of other programs' packet rules that drop forwarded packets of pods, or may do so, with what helps.
    pub dropping: Vec<String>,
    /// The attachments of this host's pods; `null` if they are not repaired (`--heal-attachments=false`).
    pub attachments: Option<Attachments>,
    /// What is wrong now; `null` when nothing is.
    pub last_error: Option<String>,
    /// When the last pass ended (RFC 3339, UTC).
    pub last_reconcile: Option<String>,
}

/// What the udp backend has moved since the daemon's start.
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
    /// Packets that were dropped, by reason; reasons without any are not there.
    pub dropped: BTreeMap<String, u64>,
}

/// The link below the overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Its name.
    pub dev: String,
    /// Its MTU, bytes.
    pub mtu: u32,
}

/// Another host's subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its subnet.
    pub subnet: IpNetwork,
    /// Its underlay address.
    #[serde(rename = "publicIP")]
    pub public_ip: IpAddr,
    /// How it is reached.
    pub path: Reach,
    /// Why it is reached so.
    pub reason: String,
    /// Its VTEP's address, when it has one.
    #[serde(rename = "vtepMAC")]
    pub vtep_mac: Option<String>,
    /// When any of this changed last, or was first seen by this daemon (RFC 3339, UTC).
    #[serde(default)]
    pub since: String,
}

impl Peer {
    /// True when the two differ in nothing but their age.
    pub fn is_as(&self, other: &Self) -> bool {
        (self.public_ip, self.path, &self.reason, &self.vtep_mac)
            == (other.public_ip, other.path, &other.reason, &other.vtep_mac)
    }
}

/// All other hosts' subnets, each once; a list in the order of the subnets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers(BTreeMap<IpNetwork, Peer>);

impl Peers {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.values()
    }

    /// The host of a subnet.
    pub fn get(&self, subnet: &IpNetwork) -> Option<&Peer> {
        self.0.get(subnet)
    }

    /// Adds one; it replaces the one with its subnet.
    pub fn put(&mut self, peer: Peer) {
        self.0.insert(peer.subnet, peer);
    }

    /// Removes the one with this subnet.
    pub fn remove(&mut self, subnet: &IpNetwork) {
        self.0.remove(subnet);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
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

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// By a route over the underlay.
    Direct,
    /// Packed in something.
    Through(Tunnel),
    /// Not at all.
    Unreachable,
}

impl Reach {
    /// All of them.
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
        let unknown = || serde::de::Error::custom(format_args!("{name:?} is no way to reach a peer"));
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

/// A lease or a key that is not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its key in the store.
    pub key: String,
    /// Why.
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

/// Where the status of the daemon that writes `subnet_file` lies.
pub fn path_beside(subnet_file: &Path) -> PathBuf {
    subnet_file.with_file_name("status.json")
}

impl Status {
    /// The content of status.json.
    #[expect(clippy::expect_used, reason = "a struct of strings, numbers and lists always serializes")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }
}

/// `time` in UTC as RFC 3339 writes it, to the second.
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
    use std::time::Duration;

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
            dropping: vec!["chain forward of table inet filter drops forwarded packets".into()],
            attachments: Some(Attachments { count: 3, ..Attachments::default() }),
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
                r#""rejected":[{"key":"x","reason":"not a subnet"}],"foreignRoutes":["10.5.9.0/24 via 192.0.2.9 dev eth0"],"attachments":{"count":3,"healed":{},"reported":[],"quarantined":[]},"lastError":null,"lastReconcile":"2026-01-02T03:04:05Z"}"#,
            )
        );
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), sample());
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
