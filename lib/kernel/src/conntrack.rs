//! The kernel's connection table (`conntrack -L`, `conntrack -D`), over netlink.
//!
//! A UDP sender that keeps its port is one connection while it sends. It keeps the translation of its first packet, or
//! the absence of one, even if the rules change. Whoever changes such rules must delete the entries.
//!
//! ```no_run
//! use kernel::conntrack::{Conntrack, Filter, UDP};
//! use kernel::types::Family;
//! // conntrack -D -f ipv4 -p udp --dport 53
//! let filter = Filter { proto: Some(UDP), dport: Some(53), ..Filter::default() };
//! let deleted = Conntrack::open()?.delete_where(Family::V4, &filter, |_| true)?;
//! # Ok::<(), kernel::KernelError>(())
//! ```
//!
//! Sources: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c (Linux 6.18).

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::client::{Client, DUMP, DUMP_TRIES, Protocol};
use crate::netlink::wire::{Attributes, Incoming, Writer, message};
use crate::netlink::{Errno, KernelError};
use crate::types::Family;

/// TCP's protocol number (RFC 9293).
pub const TCP: u8 = 6;
/// UDP's protocol number (RFC 768).
pub const UDP: u8 = 17;

/// NFNL_SUBSYS_CTNETLINK, the high byte of the message types IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE.
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
/// NFPROTO_IPV4 and NFPROTO_IPV6.
const NUMBERS: [(Family, u8); 2] = [(Family::V4, 2), (Family::V6, 10)];

/// CTA_*
mod attr {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const MARK: u16 = 8;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const FILTER: u16 = 25;
    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTO: u16 = 2;
    /// CTA_IP_V4_SRC, CTA_IP_V4_DST; the next two are IPv6's.
    pub(super) const IP_V4: [u16; 2] = [1, 2];
    pub(super) const IP_V6: [u16; 2] = [3, 4];
    pub(super) const PROTO_NUM: u16 = 1;
    pub(super) const PROTO_SPORT: u16 = 2;
    pub(super) const PROTO_DPORT: u16 = 3;
    pub(super) const FILTER_ORIG_FLAGS: u16 = 1;
}

/// CTA_FILTER_F_CTA_* (net/netfilter/nf_internals.h): which fields of the filter's tuple are compared.
const BY_PROTO: u32 = 1 << 3;
const BY_DPORT: u32 = 1 << 5;

/// Deletions in one send.
const PAGE: usize = 100;

/// With more connections than this, the kernel's filter is cheaper than reading its table as text.
const FEW: usize = 2_000;

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's number for it. A later entry for the same addresses has another number, unless it has the same
    /// place in memory (`nf_ct_get_id`, net/netfilter/nf_conntrack_core.c).
    pub id: u32,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The IP protocol: [`TCP`], [`UDP`], …
    pub proto: u8,
    /// The first packet's direction, before any translation.
    pub original: Tuple,
    /// The direction of replies as they arrive. With a translation it is not the reverse of `original`.
    pub reply: Tuple,
    /// The connection's mark (`ct mark`).
    pub mark: u32,
    /// IPS_* bits (linux/netfilter/nf_conntrack_common.h); see [`Entry::is_answered`].
    pub status: u32,
    /// CTA_ZONE and CTA_TUPLE_ORIG as they were read. They identify the entry for deletion, whatever its protocol.
    zone: Option<Vec<u8>>,
    tuple: Vec<u8>,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// The sender's address.
    pub src: IpAddr,
    /// The receiver's address.
    pub dst: IpAddr,
    /// The sender's port; 0 where the protocol has none.
    pub sport: u16,
    /// The receiver's port; 0 where the protocol has none.
    pub dport: u16,
}

/// Selects entries whose original direction matches every given field. The default selects all entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// `-p`: the IP protocol.
    pub proto: Option<u8>,
    /// `--dport`: the port that the first packet was sent to.
    pub dport: Option<u16>,
    /// `-d`: the address that the first packet was sent to.
    pub dst: Option<IpAddr>,
}

/// Whether a connection that `filter` selects may exist: false is certain. Listing connections looks at each bucket of
/// the kernel's table, 9 ms for 262,144 buckets; if there are few connections in this network namespace, this takes
/// 0.2 ms (`/proc/net/nf_conntrack`, where the kernel has it).
pub fn may_exist(family: Family, filter: &Filter) -> bool {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or_default();
    match count.trim().parse() {
        Ok(0) => false,
        Ok(1..=FEW) => match std::fs::read_to_string("/proc/thread-self/net/nf_conntrack") {
            Ok(table) => table.lines().any(|line| filter.may_select(family, line)),
            Err(_) => true,
        },
        _ => true,
    }
}

/// A connection to the conntrack subsystem of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    client: Client,
}

impl Conntrack {
    /// Connects in the calling thread's network namespace.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { client: Client::open(Protocol::Netfilter)? })
    }

    /// `conntrack -L -f FAMILY` with the options of `filter`. Entries that come or go meanwhile may be missing.
    pub fn list(&mut self, family: Family, filter: &Filter) -> Result<Vec<Entry>, KernelError> {
        let what = format!("list connections{}", filter.text(family));
        let request = message(GET, 0, number(family), 0, |w| filter.encode(w))
            .ok_or_else(|| KernelError::new(&*what, Errno(libc::EMSGSIZE)))?;
        for _ in 0..DUMP_TRIES {
            let (mut entries, mut unread) = (Vec::new(), false);
            let mut put = |client: &mut Client| client.put_message(&request, DUMP);
            let consistent = self.client.dump_once(&mut put, &mut |answer| match Entry::decode(answer) {
                // a kernel before 5.8 ignores the filter and returns all entries
                Some(entry) if entry.family == family && filter.has(&entry) => entries.push(entry),
                Some(_) => {}
                None => unread = true,
            });
            match consistent {
                Err((errno, text)) => return Err(explain(KernelError { what, errno, text })),
                Ok(true) if unread => {
                    let text = Some("an entry of the kernel's answer is not understood".into());
                    return Err(KernelError { what, errno: Errno(libc::EPROTO), text });
                }
                Ok(true) => return Ok(entries),
                Ok(false) => {}
            }
        }
        Err(KernelError::new(what, Errno(libc::EINTR)))
    }

    /// `conntrack -D` of this entry. Returns false if it is already gone.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, KernelError> {
        self.delete_all(std::slice::from_ref(entry)).map(|deleted| deleted > 0)
    }

    /// Deletes many entries and returns how many still existed. A refused one does not stop the others; the first
    /// refusal is the error.
    pub fn delete_all(&mut self, entries: &[Entry]) -> Result<usize, KernelError> {
        let mut deleted = 0;
        let mut refused = None;
        for page in entries.chunks(PAGE) {
            for (entry, outcome) in page.iter().zip(self.delete_page(page)?) {
                match outcome {
                    (0, _) => deleted += 1,
                    (libc::ENOENT, _) => {}
                    (errno, text) => {
                        let error = KernelError { what: entry.deletion(), errno: Errno(errno), text };
                        refused.get_or_insert(error);
                    }
                }
            }
        }
        refused.map_or(Ok(deleted), Err)
    }

    /// `conntrack -D -f FAMILY` with the options of `filter`, limited to entries for which `also` is true. Returns how
    /// many were deleted.
    pub fn delete_where(
        &mut self,
        family: Family,
        filter: &Filter,
        also: impl Fn(&Entry) -> bool,
    ) -> Result<usize, KernelError> {
        let mut entries = self.list(family, filter)?;
        entries.retain(also);
        self.delete_all(&entries)
    }

    /// The kernel's outcome of each deletion.
    fn delete_page(&mut self, page: &[Entry]) -> Result<Vec<(i32, Option<String>)>, KernelError> {
        let failed = |errno| KernelError::new(format!("delete {} connections", page.len()), errno);
        self.client.expect_refusals(page.len());
        let first = self.client.begin();
        for entry in page {
            let request = entry.delete_request().ok_or_else(|| failed(Errno(libc::EMSGSIZE)))?;
            self.client.put_message(&request, libc::NLM_F_ACK as u16);
        }
        let mut open = page.len();
        let mut outcomes = vec![(libc::EPROTO, None); page.len()];
        self.client
            .exchange(|answer| {
                let outcome = outcomes.get_mut(answer.sequence.wrapping_sub(first) as usize);
                if let (libc::NLMSG_ERROR, Some(outcome)) = (i32::from(answer.kind), outcome) {
                    *outcome = answer.verdict();
                    open -= 1;
                }
                open == 0
            })
            .map_err(failed)?;
        Ok(outcomes)
    }
}

impl Filter {
    fn has(&self, entry: &Entry) -> bool {
        self.proto.is_none_or(|proto| proto == entry.proto)
            && self.dport.is_none_or(|port| port == entry.original.dport)
            && self.dst.is_none_or(|dst| dst == entry.original.dst)
    }

    /// Whether a line of /proc/net/nf_conntrack may be of an entry that the filter selects (`ct_seq_show`,
    /// net/netfilter/nf_conntrack_standalone.c). The original direction comes first.
    fn may_select(&self, family: Family, line: &str) -> bool {
        let words = || line.split_ascii_whitespace();
        // family and protocol, each as name and number
        let numbers = [1, 3].map(|place| words().nth(place).and_then(|word| word.parse::<u8>().ok()));
        let value = |name: &str| words().find_map(|word| word.strip_prefix(name));
        let [of, proto] = numbers;
        of == Some(number(family))
            && self.proto.is_none_or(|wanted| proto == Some(wanted))
            && self.dport.is_none_or(|port| value("dport=") == Some(&port.to_string()))
            && self.dst.is_none_or(|dst| value("dst=").and_then(|dst| dst.parse().ok()) == Some(dst))
    }

    /// Encodes the filter for the kernel. There a port needs a protocol. The address is left out: for IPv6, Linux 5.8
    /// to 6.18 also return entries with other addresses (ctnetlink_filter_match_tuple).
    fn encode(&self, w: &mut Writer) {
        let Some(proto) = self.proto else { return };
        w.nest(attr::TUPLE_ORIG, |w| {
            w.nest(attr::TUPLE_PROTO, |w| {
                w.attr(attr::PROTO_NUM, &[proto]);
                self.dport.iter().for_each(|port| w.attr(attr::PROTO_DPORT, &port.to_be_bytes()));
            });
        });
        let flags = BY_PROTO | self.dport.map_or(0, |_| BY_DPORT);
        w.nest(attr::FILTER, |w| w.attr(attr::FILTER_ORIG_FLAGS, &flags.to_ne_bytes()));
    }

    /// The filter as options of `conntrack`.
    fn text(&self, family: Family) -> String {
        let mut text = format!(" -f {}", if family == Family::V4 { "ipv4" } else { "ipv6" });
        text.extend(self.proto.map(|proto| format!(" -p {proto}")));
        text.extend(self.dport.map(|port| format!(" --dport {port}")));
        text.extend(self.dst.map(|dst| format!(" -d {dst}")));
        text
    }
}

impl Entry {
    /// Whether packets were seen in both directions (IPS_SEEN_REPLY).
    pub fn is_answered(&self) -> bool {
        self.status & 1 << 1 != 0
    }

    fn decode(answer: &Incoming<'_>) -> Option<Self> {
        let attributes = answer.attributes();
        let tuple = attributes.get(attr::TUPLE_ORIG)?;
        let (proto, original) = decode_tuple(&Attributes::read(tuple))?;
        let (_, reply) = decode_tuple(&attributes.nested(attr::TUPLE_REPLY)?)?;
        Some(Self {
            id: attributes.be32(attr::ID)?,
            family: NUMBERS.into_iter().find(|(_, number)| *number == answer.family())?.0,
            proto,
            original,
            reply,
            // left out if it is zero
            mark: attributes.be32(attr::MARK).unwrap_or_default(),
            status: attributes.be32(attr::STATUS)?,
            zone: attributes.get(attr::ZONE).map(Into::into),
            tuple: tuple.into(),
        })
    }

    /// The deletion request. Without a tuple it would delete all entries; an `Entry` always has one.
    fn delete_request(&self) -> Option<Vec<u8>> {
        message(DELETE, 0, number(self.family), 0, |w| {
            w.nest(attr::TUPLE_ORIG, |w| w.raw(&self.tuple));
            self.zone.iter().for_each(|zone| w.attr(attr::ZONE, zone));
            w.be32(attr::ID, self.id);
        })
    }

    /// The deletion's name in an error.
    fn deletion(&self) -> String {
        let Tuple { src, dst, sport, dport } = self.original;
        format!("conntrack -D -p {} -s {src} -d {dst} --sport {sport} --dport {dport}", self.proto)
    }
}

/// Decodes protocol and addresses of CTA_TUPLE_ORIG or CTA_TUPLE_REPLY.
fn decode_tuple(tuple: &Attributes<'_>) -> Option<(u8, Tuple)> {
    let (ip, proto) = (tuple.nested(attr::TUPLE_IP)?, tuple.nested(attr::TUPLE_PROTO)?);
    let addr = |side: usize| match (ip.get(attr::IP_V4[side]), ip.get(attr::IP_V6[side])) {
        (Some(v4), _) => Some(IpAddr::from(Ipv4Addr::from(*<&[u8; 4]>::try_from(v4).ok()?))),
        (None, v6) => Some(IpAddr::from(Ipv6Addr::from(*<&[u8; 16]>::try_from(v6?).ok()?))),
    };
    let port = |kind| proto.get(kind).map_or(Some(0), |port| port.try_into().ok().map(u16::from_be_bytes));
    let [number] = *proto.get(attr::PROTO_NUM)? else { return None };
    let (sport, dport) = (port(attr::PROTO_SPORT)?, port(attr::PROTO_DPORT)?);
    Some((number, Tuple { src: addr(0)?, dst: addr(1)?, sport, dport }))
}

fn number(family: Family) -> u8 {
    NUMBERS.into_iter().find(|(of, _)| *of == family).map_or(0, |(_, number)| number)
}

/// Adds a text for EINVAL, which means that no module provides the subsystem (nfnetlink_rcv_msg).
fn explain(error: KernelError) -> KernelError {
    match error.errno.0 {
        libc::EINVAL if error.text.is_none() => {
            KernelError { text: Some(crate::apply::no_module("nf_conntrack_netlink")), ..error }
        }
        _ => error,
    }
}
