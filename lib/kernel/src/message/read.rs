//! Decodes the kernel's bytes into rtnetlink messages.
//!
//! An object that cannot be decoded is an error: if it counted as missing, it would be created again and again.
//! Attributes that nobody here uses are left out first, because netlink-packet-route is strict about their sizes, and
//! kernels differ.

use std::borrow::Cow;

use netlink_packet_core::Parseable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;

use super::link::PORT_READ;
use crate::link::Bridge;
use crate::netlink::wire::{Attributes, Incoming, Writer};
use crate::netlink::{Errno, KernelError};

/// A kind of object: its message types (linux/rtnetlink.h), the length of its fixed part, and the attributes that must
/// be decodable.
struct Kind {
    types: std::ops::RangeInclusive<u16>,
    fixed: usize,
    needed: &'static [u16],
    /// The attributes that are read; if empty, all are. A link has 40 attributes, and each takes 208 bytes once
    /// decoded.
    read: &'static [u16],
}

/// IFLA_LINKINFO
const LINK_INFO: u16 = 18;
/// IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;

const KINDS: [Kind; 5] = [
    // struct ifinfomsg; IFLA_ADDRESS, IFNAME, MTU, LINK, MASTER, OPERSTATE, LINKINFO, IFALIAS
    // and QDISC, WIRELESS, PROTINFO, TXQLEN, AF_SPEC, LINK_NETNSID, PROTO_DOWN
    Kind {
        types: 16..=18,
        fixed: 16,
        needed: &[1, 3, 4, 5, 10, 16, LINK_INFO, 20],
        read: &[1, 3, 4, 5, 6, 10, 11, 12, 13, 16, LINK_INFO, 20, 26, 37, 39],
    },
    // struct ifaddrmsg; IFA_ADDRESS, LOCAL, FLAGS
    Kind { types: 20..=22, fixed: 8, needed: &[1, 2, 8], read: &[] },
    // struct rtmsg; RTA_DST, OIF, GATEWAY, PRIORITY, PREFSRC, METRICS, MULTIPATH, TABLE, VIA, ENCAP_TYPE, NH_ID
    Kind { types: 24..=26, fixed: 12, needed: &[1, 4, 5, 6, 7, 8, 9, 15, 18, 21, 30], read: &[] },
    // struct ndmsg; NDA_DST, LLADDR, VLAN, PORT, VNI, IFINDEX, MASTER, NH_ID
    Kind { types: 28..=30, fixed: 12, needed: &[1, 2, 5, 6, 7, 8, 9, 13], read: &[] },
    // struct fib_rule_hdr; FRA_DST, SRC, IIFNAME, PRIORITY, FWMARK, SUPPRESS_PREFIXLEN, TABLE
    Kind { types: 32..=34, fixed: 12, needed: &[1, 2, 3, 6, 10, 14, 15], read: &[] },
];

/// The link kinds whose data is read. Data of another kind is left out if it cannot be decoded.
const OURS: [&str; 11] =
    ["bridge", "veth", "vxlan", "ipip", "wireguard", "macvlan", "ipvlan", "vlan", "tun", "dummy", "ifb"];

/// Decodes the object of a message. `None` for a kind of object that is not read here.
pub(crate) fn object(message: &Incoming<'_>) -> Result<Option<RouteNetlinkMessage>, KernelError> {
    let Some(kind) = KINDS.iter().find(|kind| kind.types.contains(&message.kind)) else { return Ok(None) };
    let trimmed = kind.trimmed(message.body);
    let message = &Incoming { body: &trimmed, ..*message };
    if let Some(object) = decode(message.kind, message.body) {
        return Ok(Some(object));
    }
    let readable = without_unreadable(kind, message);
    readable.and_then(|body| decode(message.kind, &body)).map(Some).ok_or_else(|| unreadable(message))
}

impl Kind {
    /// The message without the attributes that are not read.
    fn trimmed<'a>(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        let parts = (!self.read.is_empty()).then(|| body.split_at_checked(self.fixed)).flatten();
        let Some((fixed, attributes)) = parts else { return Cow::Borrowed(body) };
        let mut writer = Writer::default();
        writer.raw(fixed);
        for (number, value) in Attributes::read(attributes).iter().filter(|(number, _)| self.read.contains(number)) {
            match number {
                LINK_INFO => writer.nest(number, |writer| trim_info(writer, value)),
                _ => writer.attr(number, value),
            }
        }
        writer.finish().map_or(Cow::Borrowed(body), Cow::Owned)
    }
}

/// IFLA_LINKINFO without what is not read of a bridge and its ports: 45 and 38 attributes.
fn trim_info(writer: &mut Writer, info: &[u8]) {
    let info = Attributes::read(info);
    let is_bridge = |kind| info.is_text(kind, "bridge");
    for (number, value) in info.iter() {
        let read: &[u16] = match number {
            INFO_DATA if is_bridge(INFO_KIND) => &Bridge::READ,
            INFO_SLAVE_DATA if is_bridge(INFO_SLAVE_KIND) => &PORT_READ,
            _ => {
                writer.attr(number, value);
                continue;
            }
        };
        let kept = Attributes::read(value).iter().filter(|(number, _)| read.contains(number));
        writer.nest(number, |writer| kept.for_each(|(number, value)| writer.attr(number, value)));
    }
}

/// Decodes a message of one of [`KINDS`]. netlink-packet-route's own function would link the code for all other kinds.
fn decode(kind: u16, body: &[u8]) -> Option<RouteNetlinkMessage> {
    let link = |of: fn(LinkMessage) -> RouteNetlinkMessage| LinkMessage::parse(body).ok().map(of);
    let address = |of: fn(AddressMessage) -> RouteNetlinkMessage| AddressMessage::parse(body).ok().map(of);
    let route = |of: fn(RouteMessage) -> RouteNetlinkMessage| RouteMessage::parse(body).ok().map(of);
    let neighbour = |of: fn(NeighbourMessage) -> RouteNetlinkMessage| NeighbourMessage::parse(body).ok().map(of);
    let rule = |of: fn(RuleMessage) -> RouteNetlinkMessage| RuleMessage::parse(body).ok().map(of);
    match kind {
        16 => link(RouteNetlinkMessage::NewLink),
        17 => link(RouteNetlinkMessage::DelLink),
        18 => link(RouteNetlinkMessage::GetLink),
        20 => address(RouteNetlinkMessage::NewAddress),
        21 => address(RouteNetlinkMessage::DelAddress),
        22 => address(RouteNetlinkMessage::GetAddress),
        24 => route(RouteNetlinkMessage::NewRoute),
        25 => route(RouteNetlinkMessage::DelRoute),
        26 => route(RouteNetlinkMessage::GetRoute),
        28 => neighbour(RouteNetlinkMessage::NewNeighbour),
        29 => neighbour(RouteNetlinkMessage::DelNeighbour),
        30 => neighbour(RouteNetlinkMessage::GetNeighbour),
        32 => rule(RouteNetlinkMessage::NewRule),
        33 => rule(RouteNetlinkMessage::DelRule),
        34 => rule(RouteNetlinkMessage::GetRule),
        _ => None,
    }
}

/// The message without the attributes that cannot be decoded. `None` if one of them is needed.
fn without_unreadable(kind: &Kind, message: &Incoming<'_>) -> Option<Vec<u8>> {
    let fixed = message.body.get(..kind.fixed)?;
    let attributes = Attributes::read(message.body.get(kind.fixed..)?);
    let mut body = fixed.to_vec();
    for (number, value) in attributes.iter() {
        let alone = |value: &[u8]| {
            let mut writer = Writer::default();
            writer.attr(number, value);
            writer.finish().unwrap_or_default()
        };
        let attribute = alone(value);
        if decode(message.kind, &[fixed, &attribute].concat()).is_some() {
            body.extend(attribute);
        } else if number == LINK_INFO {
            body.extend(alone(&kinds_only(value)?));
        } else if kind.needed.contains(&number) {
            return None;
        }
    }
    Some(body)
}

/// IFLA_LINKINFO without the data of a kind that is not ours.
fn kinds_only(info: &[u8]) -> Option<Vec<u8>> {
    let info = Attributes::read(info);
    let kinds = [INFO_KIND, INFO_SLAVE_KIND].map(|number| (number, info.text(number)));
    let mut writer = Writer::default();
    for (number, word) in kinds.iter().filter_map(|(number, word)| Some((number, word.as_ref()?))) {
        if OURS.contains(&word.as_str()) {
            return None;
        }
        writer.text(*number, word);
    }
    writer.finish()
}

fn unreadable(message: &Incoming<'_>) -> KernelError {
    let index = message.body.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let what = match message.kind {
        16..=18 => format!("read link {index}"),
        20..=22 => format!("read an address of link {index}"),
        24..=26 => "read a route".to_owned(),
        _ => format!("read a neighbour of link {index}"),
    };
    let text = Some("the kernel's message is not of the expected form".into());
    KernelError { what, errno: Errno(libc::EPROTO), text }
}

/// Decodes a datagram of the kernel that did not come from a socket: its objects, its refusals, and the errors of
/// objects that cannot be decoded. An incomplete rest is dropped.
pub fn read_datagram(bytes: &[u8]) -> (Vec<RouteNetlinkMessage>, Vec<KernelError>) {
    let (mut objects, mut refusals) = (Vec::new(), Vec::new());
    for message in Incoming::all(bytes) {
        match i32::from(message.kind) {
            libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                let (errno, text) = message.verdict();
                if errno != 0 {
                    let what = format!("request {}", message.sequence);
                    refusals.push(KernelError { what, errno: Errno(errno), text });
                }
            }
            _ => match object(&message) {
                Ok(object) => objects.extend(object),
                Err(error) => refusals.push(error),
            },
        }
    }
    (objects, refusals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::link;
    use crate::netlink::wire::{HEADER, message};

    const NEW_LINK: u16 = 16;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const STATISTICS: u16 = 23;

    /// A message about link 7 with the attributes that `body` writes.
    fn link(body: impl FnOnce(&mut Writer)) -> Vec<u8> {
        // struct ifinfomsg behind its first four bytes: index, flags, change
        let mut writer = Writer::default();
        writer.raw(&[7u32.to_ne_bytes(), [0; 4], [0; 4]].concat());
        body(&mut writer);
        let behind = writer.finish().unwrap();
        message(NEW_LINK, 0, 0, 0, |w| w.raw(&behind)).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Option<String>, KernelError> {
        let (objects, refusals) = read_datagram(bytes);
        match refusals.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(objects.first().and_then(link::decode).map(|seen| seen.name.to_string())),
        }
    }

    #[test]
    fn a_link_that_cannot_be_read_is_an_error() {
        let short_mtu = link(|w| {
            w.text(NAME, "cni0");
            w.attr(MTU, &[1]);
        });
        let error = read(&short_mtu).unwrap_err();
        assert_eq!((error.what.as_str(), error.errno.0), ("read link 7", libc::EPROTO));
        let own_kind = link(|w| {
            w.text(NAME, "flannel.1");
            w.nest(LINK_INFO, |w| {
                w.text(INFO_KIND, "vxlan");
                w.nest(2, |w| w.attr(1, &[1]));
            });
        });
        assert_eq!(read(&own_kind).unwrap_err().what, "read link 7");
        assert_eq!(read(&link(|w| w.text(NAME, "cni0"))).unwrap().as_deref(), Some("cni0"));
    }

    #[test]
    fn what_is_not_used_makes_no_link_unreadable() {
        let odd = link(|w| {
            w.text(NAME, "cni0");
            w.attr(STATISTICS, &[1, 2, 3]);
        });
        assert_eq!(read(&odd).unwrap().as_deref(), Some("cni0"));
        let foreign = link(|w| {
            w.text(NAME, "bond0");
            w.nest(LINK_INFO, |w| {
                w.text(INFO_KIND, "bond");
                w.nest(2, |w| w.attr(1, &[]));
            });
        });
        assert_eq!(read(&foreign).unwrap().as_deref(), Some("bond0"));
    }

    /// RTM_NEWROUTE refused by Linux 6.18 with NETLINK_EXT_ACK and NETLINK_CAP_ACK, as received.
    fn refused() -> Vec<u8> {
        let mut body = (-libc::ENETUNREACH).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        let mut writer = Writer::default();
        writer.text(1, "Nexthop has invalid gateway");
        body.extend(writer.finish().unwrap());
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((libc::NLMSG_ERROR as u16).to_ne_bytes());
        bytes.extend(((libc::NLM_F_CAPPED | libc::NLM_F_ACK_TLVS) as u16).to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_kernels_sentence_is_found() {
        let (_, refusals) = read_datagram(&refused());
        let text = Some("Nexthop has invalid gateway".to_owned());
        assert_eq!(refusals, [KernelError { what: "request 7".into(), errno: Errno(libc::ENETUNREACH), text }]);
    }

    #[test]
    fn a_code_that_has_no_opposite_is_read() {
        for kind in [libc::NLMSG_ERROR, libc::NLMSG_DONE] {
            let mut bytes = refused();
            bytes[4..6].copy_from_slice(&(kind as u16).to_ne_bytes());
            bytes[HEADER..HEADER + 4].copy_from_slice(&i32::MIN.to_ne_bytes());
            let (objects, refusals) = read_datagram(&bytes);
            assert_eq!((objects.len(), refusals.len(), refusals[0].errno), (0, 1, Errno(i32::MIN)));
        }
    }

    #[test]
    fn cut_input_is_not_accepted() {
        let bytes = refused();
        for end in 0..bytes.len() {
            let (objects, refusals) = read_datagram(&bytes[..end]);
            assert_eq!((objects.len(), refusals.len()), (0, 0), "{end}");
        }
    }
}
