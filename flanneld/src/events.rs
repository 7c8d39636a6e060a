//! Notice that something of ours changed in the kernel. Only that: what it was is read again by whoever is woken.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use ipnetwork::IpNetwork;
use kernel::message::Names;
use kernel::message::neighbour::{self, GoneNeighbour, SeenNeighbour};
use kernel::message::route;
use kernel::state::State;
use kernel::types::{IfIndex, IfName, RouteProtocol, TableId};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::backoff::Backoff;

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What of the kernel's news concerns us. Pods come and go on other links than these, and wake nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// Our links and the underlay, by name: they may come and go.
    pub names: BTreeSet<IfName>,
    /// Our links.
    pub ours: BTreeSet<IfIndex>,
    /// The underlay; `None` while none can be found, and every link, address and route may be it.
    pub underlay: Option<IfIndex>,
    /// The networks that peers' subnets are in.
    pub networks: Vec<IpNetwork>,
    /// What is wanted of the kernel. An announcement that agrees with it is no news: most are of what we wrote.
    pub wanted: Arc<State>,
    /// The names of links, for reading announcements.
    pub links: BTreeMap<u32, IfName>,
}

impl Names for Interest {
    fn name(&self, index: u32) -> Option<IfName> {
        self.links.get(&index).cloned()
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        self.links.iter().find(|(_, link)| *link == name).map(|(index, _)| IfIndex(*index))
    }
}

impl Interest {
    /// True when `message` tells of something that is ours or that we depend on, and that is not as it is wanted.
    pub fn concerns(&self, message: &Message) -> bool {
        self.touches(message) && !self.agrees(message)
    }

    /// The kernel has become what is wanted.
    fn agrees(&self, message: &Message) -> bool {
        let wanted = &self.wanted;
        match message {
            Message::NewRoute(_) => route::decode(message, self).is_some_and(|(key, have)| {
                wanted.routes.get(&key).is_some_and(|want| kernel::diff::satisfies(want, &have))
            }),
            // a route that is not for us to want may be one that the underlay is chosen by
            Message::DelRoute(_) => route::decode_gone(message, self).is_some_and(|(key, route)| {
                (route.protocol == RouteProtocol::FLANNEL || self.is_in_networks(key.dst.ip()))
                    && !wanted.routes.contains_key(&key)
            }),
            Message::NewNeighbour(_) => match neighbour::decode(message, self) {
                Some(SeenNeighbour::Neighbour(key, mac)) => wanted.neighbours.get(&key) == Some(&mac),
                Some(SeenNeighbour::Fdb(key, dst)) => wanted.fdb.get(&key) == Some(&dst),
                None => false,
            },
            Message::DelNeighbour(_) => match neighbour::decode_gone(message, self) {
                Some(GoneNeighbour::Neighbour(key)) => !wanted.neighbours.contains_key(&key),
                Some(GoneNeighbour::Fdb(key)) => !wanted.fdb.contains_key(&key),
                None => false,
            },
            _ => false,
        }
    }

    fn touches(&self, message: &Message) -> bool {
        match message {
            Message::NewLink(link) | Message::DelLink(link) => self.link(link),
            Message::NewAddress(address) | Message::DelAddress(address) => self.watches(address.header.index),
            Message::NewRoute(route) => self.route(route),
            Message::DelRoute(route) => self.route(route),
            Message::NewNeighbour(neighbour) => self.owns(neighbour.header.ifindex) && is_permanent(neighbour),
            Message::DelNeighbour(neighbour) => self.owns(neighbour.header.ifindex),
            _ => false,
        }
    }

    fn is_in_networks(&self, dst: std::net::IpAddr) -> bool {
        self.networks.iter().any(|net| net.contains(dst))
    }

    fn owns(&self, index: u32) -> bool {
        self.ours.contains(&IfIndex(index))
    }

    fn watches(&self, index: u32) -> bool {
        self.owns(index) || self.underlay.is_none_or(|underlay| underlay.0 == index)
    }

    fn link(&self, link: &LinkMessage) -> bool {
        let named = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::IfName(name) => self.names.iter().any(|ours| ours.as_str() == name),
            _ => false,
        };
        self.watches(link.header.index) || link.attributes.iter().any(named)
    }

    fn route(&self, route: &RouteMessage) -> bool {
        let mut table = u32::from(route.header.table);
        let mut dst = None;
        let mut by = None;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(RouteAddress::Inet(addr)) => dst = Some((*addr).into()),
                RouteAttribute::Destination(RouteAddress::Inet6(addr)) => dst = Some((*addr).into()),
                RouteAttribute::Oif(index) => by = Some(*index),
                _ => {}
            }
        }
        let protocol = RouteProtocol(route.header.protocol.into());
        let in_networks = dst.is_some_and(|dst| self.is_in_networks(dst));
        table == TableId::MAIN.0
            && (by.is_some_and(|index| self.watches(index))
                || route.header.destination_prefix_length == 0
                || protocol == RouteProtocol::FLANNEL
                // the kernel's own is the bridge's, when the first pod comes
                || (in_networks && protocol != RouteProtocol::KERNEL))
    }
}

fn is_permanent(neighbour: &NeighbourMessage) -> bool {
    neighbour.header.state == NeighbourState::Permanent
}

/// Follows the kernel's announcements while it lives.
#[derive(Debug)]
pub struct Events {
    interest: Arc<Mutex<Interest>>,
    news: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Events {
    /// Listens in the network namespace of this thread; should the socket fail, on another one. Needs a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let mut next = Ok(rtnetlink::new_multicast_connection(GROUPS)?);
        let (interest, news) = (Arc::new(Mutex::new(Interest::default())), Arc::new(Notify::new()));
        let (filter, waker) = (interest.clone(), news.clone());
        let follow = async move {
            let mut backoff = Backoff::default();
            loop {
                match next {
                    Ok((connection, handle, messages)) => {
                        tokio::select! {
                            () = connection => {}
                            () = hear(messages, &filter, &waker) => {}
                        }
                        // kept until here: the connection ends with it
                        drop(handle);
                        tracing::warn!("the kernel's announcements ended; listening anew");
                    }
                    Err(error) => tracing::warn!(%error, "the kernel's announcements cannot be heard"),
                }
                tokio::time::sleep(backoff.next()).await;
                next = rtnetlink::new_multicast_connection(GROUPS);
                // whatever was announced in between
                waker.notify_one();
            }
        };
        let task = tokio::spawn(follow).abort_handle();
        Ok(Self { interest, news, task })
    }

    /// Replaces what is of interest.
    pub fn set_interest(&self, interest: Interest) {
        *lock(&self.interest) = interest;
    }

    /// Waits for news since the last wait.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

async fn hear<A>(
    mut messages: impl Stream<Item = (NetlinkMessage<Message>, A)> + Unpin,
    interest: &Mutex<Interest>,
    news: &Notify,
) {
    while let Some((message, _)) = messages.next().await {
        let matters = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => lock(interest).concerns(inner),
            // some were lost: whatever they told, it is read again
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        };
        if matters {
            tracing::trace!(?message, "the kernel tells");
            news.notify_one();
        }
    }
}

fn lock(interest: &Mutex<Interest>) -> std::sync::MutexGuard<'_, Interest> {
    interest.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
