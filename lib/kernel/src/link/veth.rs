//! Pairs of Ethernet devices: drivers/net/veth.c.

use std::fmt;
use std::os::fd::RawFd;

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};

use super::{Kind, Phase};
use crate::message::link::message;
use crate::types::{IfName, Mac, Mtu};

/// One end of a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Veth {
    /// The other end. Used at creation only; an observed veth has none.
    pub peer: Option<Box<VethPeer>>,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethPeer {
    /// Its name at creation.
    pub name: IfName,
    /// The MAC address; `None`: random.
    pub mac: Option<Mac>,
    /// The MTU in bytes; `None`: the kernel's 1500.
    pub mtu: Option<Mtu>,
    /// An open file of the namespace that the peer is created in (IFLA_NET_NS_FD); `None`: the socket's namespace.
    pub netns: Option<RawFd>,
}

/// By default a veth has a pair of queues for each possible CPU, and each queue is an object in sysfs with its own
/// udev event. A veth never queues (noqueue, NETIF_F_LLTX), so the additional queues are only registered and removed.
const ONE_QUEUE: [LinkAttribute; 2] = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];

impl Kind for Veth {
    fn word(&self) -> &str {
        "veth"
    }

    fn data(&self, _lower: Option<u32>, _phase: Phase) -> Option<InfoData> {
        let peer = self.peer.as_ref()?;
        // Without IFF_UP: the kernel would raise the peer before its other end exists, and fail with ENOTCONN.
        let mut attributes = vec![LinkAttribute::IfName(peer.name.as_str().to_owned())];
        attributes.extend(ONE_QUEUE);
        attributes.extend(peer.mac.map(|Mac(mac)| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(peer.mtu.map(|Mtu(mtu)| LinkAttribute::Mtu(mtu)));
        attributes.extend(peer.netns.map(LinkAttribute::NetNsFd));
        Some(InfoData::Veth(InfoVeth::Peer(message(0, attributes))))
    }

    fn attributes(&self, _lower: Option<u32>) -> Vec<LinkAttribute> {
        ONE_QUEUE.into()
    }

    fn options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " numtxqueues 1 numrxqueues 1")
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>, _phase: Phase) -> fmt::Result {
        let Some(peer) = &self.peer else { return Ok(()) };
        write!(f, " peer name {} numtxqueues 1 numrxqueues 1", peer.name)?;
        peer.mac.map_or(Ok(()), |mac| write!(f, " address {mac}"))?;
        peer.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))?;
        peer.netns.map_or(Ok(()), |fd| write!(f, " netns {}", super::text::descriptor(fd)))
    }
}
