//! Turns announcements into news. Announcements identify links by index, news by name.

use std::collections::{HashMap, HashSet};

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::announcement::Body;
use super::{Announcement, News, netconf, port};
use crate::message::link::SeenLink;
use crate::message::neighbour::{GoneNeighbour, SeenNeighbour};
use crate::message::{Names, address, link, neighbour, route};
use crate::types::{IfIndex, IfName};

/// Reads announcements in order, and learns the names of links from them.
#[derive(Debug, Default)]
pub struct Reader {
    /// A deleted link keeps its name until the next survey, because its objects are announced after it.
    names: HashMap<u32, IfName>,
    /// The links that were announced since the survey started: the survey may have older data about them.
    announced: HashSet<u32>,
    /// Links that were made since, and have not been up.
    young: HashSet<u32>,
}

impl Names for Reader {
    fn name(&self, index: u32) -> Option<IfName> {
        self.names.get(&index).cloned()
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        self.names.iter().find(|(_, link)| *link == name).map(|(index, _)| IfIndex(*index))
    }
}

impl Reader {
    /// Call before all links are read.
    pub fn survey_begins(&mut self) {
        self.announced.clear();
    }

    /// Call after all links have been read; `links` are all of them.
    pub fn survey_ends(&mut self, links: &[SeenLink]) {
        let Self { names, announced, young } = self;
        young.retain(|index| announced.contains(index));
        names.retain(|index, _| announced.contains(index));
        for link in links {
            names.entry(link.index.0).or_insert_with(|| link.name.clone());
        }
    }

    /// Call after announcements were lost: links may have other names now.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// True for a link that is being made: it was announced for the first time, and has not been up yet. Nothing that needs a
    /// link which is up can have hung on it.
    pub fn is_young(&self, index: IfIndex) -> bool {
        self.young.contains(&index.0)
    }

    /// What `announcement` says. Nothing at all when it is of something that the vocabulary does not have.
    pub fn read(&mut self, announcement: Announcement) -> Vec<News> {
        let Announcement { body, appended } = announcement;
        let message = match body {
            Body::Object(message) => message,
            Body::Netconf(settings) => return netconf::news(&settings, self),
            Body::Queue(index) => return self.names.get(&index).cloned().map(News::Queue).into_iter().collect(),
            Body::Nothing => return Vec::new(),
            Body::Unreadable(why) => return vec![News::Unreadable(why)],
        };
        match message {
            Message::NewLink(message) => self.link(message, false),
            Message::DelLink(message) => self.link(message, true),
            Message::NewAddress(message) => self.address(message, false),
            Message::DelAddress(message) => self.address(message, true),
            Message::NewRoute(message) => self.route(message, false, appended),
            Message::DelRoute(message) => self.route(message, true, false),
            Message::NewNeighbour(message) => self.neighbour(message, false),
            Message::DelNeighbour(message) => self.neighbour(message, true),
            Message::NewRule(_) | Message::DelRule(_) => vec![News::Policy],
            _ => Vec::new(),
        }
    }

    fn link(&mut self, message: LinkMessage, gone: bool) -> Vec<News> {
        let named = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => IfName::new(name).ok(),
            _ => None,
        });
        match (message.header.interface_family, named) {
            (AddressFamily::Bridge, Some(name)) => port::news(&name, &message, gone),
            (AddressFamily::Unspec, Some(name)) if gone => vec![News::Link(name, None)],
            (AddressFamily::Unspec, Some(_)) => self.new_link(message),
            (AddressFamily::Unspec | AddressFamily::Bridge, None) if !is_event(&message) => {
                vec![News::Unreadable(format!("link {} without a name", message.header.index))]
            }
            // Another family's settings of a link, or a wireless event.
            _ => Vec::new(),
        }
    }

    fn new_link(&mut self, message: LinkMessage) -> Vec<News> {
        let Some(mut seen) = link::decode(&Message::NewLink(message)) else { return Vec::new() };
        let mut news = Vec::new();
        let index = seen.index.0;
        self.announced.insert(index);
        match self.names.insert(index, seen.name.clone()) {
            None if !seen.link.up => drop(self.young.insert(index)),
            Some(before) if before != seen.name => news.push(News::Link(before, None)),
            _ => {}
        }
        if seen.link.up {
            self.young.remove(&index);
        }
        seen.link = seen.named(self);
        news.extend(seen.port.map(|port| News::Port(seen.name.clone(), Some(port))));
        news.push(News::Link(seen.name.clone(), Some(Box::new(seen))));
        news
    }

    /// No news when the link has no name yet, because it is about to be announced. The kernel announces some objects
    /// of a new link before the link itself (rtnl_configure_link, net/core/rtnetlink.c).
    fn on_link(&self, index: u32, read: impl FnOnce() -> Option<News>) -> Vec<News> {
        if !self.names.contains_key(&index) {
            return Vec::new();
        }
        vec![read().unwrap_or_else(|| News::Unreadable(format!("an object of link {index}")))]
    }

    fn address(&self, message: AddressMessage, gone: bool) -> Vec<News> {
        self.on_link(message.header.index, || {
            let seen = address::decode(&Message::NewAddress(message), self)?;
            Some(News::Address(seen.key.clone(), (!gone).then_some(seen)))
        })
    }

    fn neighbour(&self, message: NeighbourMessage, gone: bool) -> Vec<News> {
        let header = &message.header;
        if header.family == AddressFamily::Bridge && !header.flags.contains(NeighbourFlags::Own) {
            let entry = neighbour::decode_forwarding(&message, self);
            return entry.into_iter().map(|(entry, stays)| News::Forwarding(entry, stays && !gone)).collect();
        }
        // Proxy entries are in another table.
        if header.flags.contains(NeighbourFlags::Proxy) {
            return Vec::new();
        }
        self.on_link(header.ifindex, || {
            let message = Message::NewNeighbour(message);
            let seen = if gone { None } else { neighbour::decode(&message, self) };
            Some(match seen {
                Some(SeenNeighbour::Neighbour(key, mac)) => News::Neighbour(key, Some(mac)),
                Some(SeenNeighbour::Fdb(key, entry)) => News::Fdb(key, Some(entry)),
                None => self.no_neighbour(message)?,
            })
        })
    }

    fn no_neighbour(&self, message: Message) -> Option<News> {
        let Message::NewNeighbour(message) = message else { return None };
        Some(match neighbour::decode_gone(&Message::DelNeighbour(message), self)? {
            GoneNeighbour::Neighbour(key) => News::Neighbour(key, None),
            GoneNeighbour::Fdb(key) => News::Fdb(key, None),
        })
    }

    fn route(&self, message: RouteMessage, gone: bool, appended: bool) -> Vec<News> {
        // A cache entry, or a route for some sources only, which exists beside those for all sources.
        if message.header.flags.contains(RouteFlags::Cloned) || message.header.source_prefix_length > 0 {
            return Vec::new();
        }
        // IPv6 makes one route with several next hops of it.
        let behind = appended && message.header.address_family == AddressFamily::Inet;
        let message = Message::NewRoute(message);
        let read = match route::decode(&message, self) {
            Some((key, route)) => Some((key, (!gone).then_some(route))),
            None => key_alone(message, self),
        };
        match read {
            Some((mut key, route)) => {
                key.ordinal = u8::from(behind);
                vec![News::Route(key, route)]
            }
            None => vec![News::Unreadable("a route without a destination that can be read".to_owned())],
        }
    }
}

/// Whether the message is about a wireless event of the link (IFLA_WIRELESS; wireless_nlevent_flush,
/// net/wireless/wext-core.c).
fn is_event(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Wireless(_)))
}

/// The key of a route that the vocabulary cannot express.
fn key_alone(message: Message, names: &dyn Names) -> Option<(crate::state::RouteKey, Option<crate::state::Route>)> {
    let Message::NewRoute(mut message) = message else { return None };
    message.header.kind = RouteType::Unicast;
    message.attributes.retain(|attribute| {
        matches!(attribute, RouteAttribute::Destination(_) | RouteAttribute::Table(_) | RouteAttribute::Priority(_))
    });
    let (key, _) = route::decode(&Message::NewRoute(message), names)?;
    Some((key, None))
}
