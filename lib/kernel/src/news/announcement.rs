//! Reads the kernel's announcements: their groups, and the contents of a message.

use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    NLM_F_APPEND, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::RecvFlags;

use super::netconf::{self, Netconf};
use crate::message::object;
use crate::netlink::KernelError;
use crate::netlink::client::{Client, Protocol};
use crate::netlink::wire::Incoming;

/// RTNLGRP_* (linux/rtnetlink.h): LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE,
/// IPV4_NETCONF and IPV6_NETCONF. Bridge ports and their VLANs are announced to LINK, forwarding entries to NEIGH.
const GROUPS: [u32; 11] = [1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25];

/// Room for about ten thousand announcements, in bytes. When it is full, announcements are lost, and everything must
/// be read again. The kernel's default of 208 KiB holds about 250 of another program's routes.
const ROOM: usize = 16 << 20;

/// RTM_* (linux/rtnetlink.h), a NEW and a DEL each: links, addresses, routes, neighbours and rules.
const OBJECTS: [u16; 10] = [16, 17, 20, 21, 24, 25, 28, 29, 32, 33];
/// RTM_NEW* and RTM_DEL* of queueing disciplines, their classes, and filters.
const QUEUES: [u16; 6] = [36, 37, 40, 41, 44, 45];
/// Actions and chains of filters, which are announced to the same group.
const TRAFFIC: [std::ops::RangeInclusive<u16>; 2] = [48..=50, 100..=102];
/// The kernel asks a program to resolve an address (`neigh_app_ns`, net/core/neighbour.c); nothing has changed.
const RTM_GETNEIGH: u16 = 30;

/// Adds `socket`, a NETLINK_ROUTE socket that is not bound yet, to the groups of all [`News`](super::News), and
/// enlarges its buffer for bursts.
pub fn listen(socket: &mut Socket) -> io::Result<()> {
    let groups = GROUPS.iter().fold(0, |all, group| all | 1 << (group - 1));
    socket.bind(&SocketAddr::new(0, groups))?;
    // Without CAP_NET_ADMIN the limit is net.core.rmem_max.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&*socket, ROOM).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&*socket, ROOM)?;
    }
    Ok(())
}

/// One message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub(super) body: Body,
    /// NLM_F_APPEND: the route follows others of its destination and metric.
    pub(super) appended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Object(Message),
    Netconf(Netconf),
    /// The queueing discipline of the link of this index, or a class or filter of it.
    Queue(u32),
    /// Nothing has changed.
    Nothing,
    Unreadable(String),
}

impl From<Message> for Announcement {
    fn from(message: Message) -> Self {
        Self { body: Body::Object(message), appended: false }
    }
}

impl NetlinkDeserializable for Announcement {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        let body = match header.message_type {
            kind if OBJECTS.contains(&kind) => {
                match object(&Incoming { kind, flags: header.flags, sequence: 0, body: payload }) {
                    Ok(Some(message)) => Body::Object(message),
                    Ok(None) => Body::Nothing,
                    Err(error) => Body::Unreadable(error.to_string()),
                }
            }
            netconf::RTM_NEWNETCONF => netconf::parse(payload)
                .map_or_else(|| Body::Unreadable("a RTM_NEWNETCONF that is cut short".to_owned()), Body::Netconf),
            kind if QUEUES.contains(&kind) => queue(payload)
                .map_or_else(|| Body::Unreadable("a queueing discipline that is cut short".to_owned()), Body::Queue),
            kind if TRAFFIC.iter().any(|kinds| kinds.contains(&kind)) => Body::Nothing,
            // The link is gone, too.
            netconf::RTM_DELNETCONF | RTM_GETNEIGH => Body::Nothing,
            kind => Body::Unreadable(format!("a message of type {kind}")),
        };
        Ok(Self { body, appended: header.flags & NLM_F_APPEND != 0 })
    }
}

/// The index in a struct tcmsg (linux/rtnetlink.h).
fn queue(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?))
}

/// An announcement is never sent, but a connection requires this of its message type.
impl NetlinkSerializable for Announcement {
    fn message_type(&self) -> u16 {
        0
    }

    fn buffer_len(&self) -> usize {
        0
    }

    fn serialize(&self, _: &mut [u8]) {}
}

/// The announcements in a datagram, for callers without a connection. An incomplete rest counts as an unreadable
/// announcement.
pub fn announcements(mut datagram: &[u8]) -> Vec<Announcement> {
    let mut all = Vec::new();
    while !datagram.is_empty() {
        let Ok(length) = NetlinkBuffer::new_checked(datagram).map(|buffer| buffer.length() as usize) else {
            all.push(unreadable("a message that is cut short"));
            break;
        };
        match NetlinkMessage::<Announcement>::deserialize(&datagram[..length]).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(announcement)) => all.push(announcement),
            Ok(_) => {}
            Err(error) => all.push(unreadable(&error.to_string())),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn unreadable(why: &str) -> Announcement {
    Announcement { body: Body::Unreadable(why.to_owned()), appended: false }
}

/// A blocking socket for announcements, for callers without a connection.
pub struct Listener {
    client: Client,
}

impl Listener {
    /// Listens in the thread's network namespace.
    pub fn open() -> Result<Self, KernelError> {
        let mut client = Client::open(Protocol::Route)?;
        GROUPS.iter().try_for_each(|group| client.join(*group))?;
        Ok(Self { client })
    }

    /// Waits for announcements. ENOBUFS means that some were lost.
    pub fn receive(&mut self) -> Result<Vec<Announcement>, KernelError> {
        let datagram = self.client.datagram(RecvFlags::empty());
        let datagram = datagram.map_err(|errno| KernelError::new("read the kernel's announcements", errno))?;
        Ok(datagram.map(announcements).unwrap_or_default())
    }
}
