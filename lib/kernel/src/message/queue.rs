//! Queueing disciplines and filters: RTM_*QDISC and RTM_*TFILTER (Documentation/netlink/specs/tc.yaml; structures:
//! linux/pkt_sched.h, linux/pkt_cls.h).

mod filter;
mod rate;
#[cfg(test)]
mod tests;

pub(crate) use filter::{
    add as add_filter, decode as decode_filter, delete as delete_filter, list as list_filters, target,
};

use super::{Encoded, Names};
use crate::netlink::wire::{Attributes, Incoming, Writer, framed};
use crate::state::{FilterAction, Qdisc, QdiscKey, QdiscPlace, Selects, State};
use crate::types::IfIndex;

/// RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC
const NEW: u16 = 36;
const DELETE: u16 = 37;
const GET: u16 = 38;

/// TCA_KIND, TCA_OPTIONS
const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// TC_H_ROOT, TC_H_INGRESS; the numbers of the disciplines that are made here.
const ROOT: u32 = 0xFFFF_FFFF;
const INGRESS: u32 = 0xFFFF_FFF1;
const ROOT_HANDLE: u32 = 0x0001_0000;
const INGRESS_HANDLE: u32 = 0xFFFF_0000;

/// Bytes of `struct tcmsg`.
const FIXED: usize = 20;

/// `struct tcmsg`
#[derive(Debug, Clone, Copy, Default)]
struct Header {
    index: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

impl Header {
    fn of(index: IfIndex, handle: u32, parent: u32) -> Self {
        Self { index: index.0, handle, parent, info: 0 }
    }

    fn message(self, kind: u16, attributes: impl FnOnce(&mut Writer)) -> Encoded {
        let mut writer = Writer::default();
        for word in [0, self.index, self.handle, self.parent, self.info] {
            writer.raw(&word.to_ne_bytes());
        }
        attributes(&mut writer);
        Encoded { kind, body: writer.finish().unwrap_or_default() }
    }

    fn read(body: &[u8]) -> Option<(Self, Attributes<'_>)> {
        let (fixed, attributes) = body.split_at_checked(FIXED)?;
        let [index, handle, parent, info] = [4, 8, 12, 16].map(|at| word(fixed, at).unwrap_or_default());
        Some((Self { index, handle, parent, info }, Attributes::read(attributes)))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

impl QdiscPlace {
    fn header(self, index: IfIndex) -> Header {
        match self {
            Self::Root => Header::of(index, ROOT_HANDLE, ROOT),
            Self::Ingress => Header::of(index, INGRESS_HANDLE, INGRESS),
        }
    }
}

/// Decodes a datagram of the kernel that did not come from a socket: its disciplines and filters.
pub fn read_queues(datagram: &[u8], names: &dyn Names) -> State {
    let mut state = State::default();
    for message in Incoming::all(datagram) {
        state.qdiscs.extend(decode(&message, names));
        state.filters.extend(decode_filter(&message, names));
        target(&message);
    }
    state
}

/// The messages that add the disciplines and filters of `state`. What is only observed is left out.
pub fn write_queues(state: &State, names: &dyn Names) -> Vec<u8> {
    let is_made = |qdisc: &Qdisc| !matches!(qdisc, Qdisc::Other(_));
    let qdiscs = state.qdiscs.iter().filter(|(_, qdisc)| is_made(qdisc));
    let qdiscs = qdiscs.filter_map(|(key, qdisc)| Some(put(names.index(&key.dev)?, key.place, qdisc)));
    let filters = state.filters.iter().filter(|(_, filter)| {
        filter.selects != Selects::Other && !matches!(filter.action, FilterAction::Other | FilterAction::Redirect(None))
    });
    let filters = filters.filter_map(|(key, filter)| add_filter(names.index(&key.dev)?, key.prio, filter, names));
    let whole = |Encoded { kind, body }: Encoded| {
        let (first, rest) = body.split_first_chunk()?;
        framed(kind, 0, *first, |writer| writer.raw(rest))
    };
    qdiscs.chain(filters).filter_map(whole).flatten().collect()
}

/// `tc qdisc add`, or with other flags `tc qdisc change`. The kernel refuses a kind that is only observed.
pub(crate) fn put(index: IfIndex, place: QdiscPlace, qdisc: &Qdisc) -> Encoded {
    place.header(index).message(NEW, |writer| {
        writer.text(KIND, qdisc.word());
        if let Qdisc::Tbf(tbf) = qdisc {
            writer.nest(OPTIONS, |writer| rate::write(writer, *tbf));
        }
    })
}

/// `tc qdisc del`. Whatever discipline is there is deleted, with its filters.
pub(crate) fn delete(index: IfIndex, place: QdiscPlace) -> Encoded {
    Header { handle: 0, ..place.header(index) }.message(DELETE, |_| {})
}

/// The discipline at one place. The kernel's answer is ENOENT, or an acknowledgement alone, where it has only its own.
pub(crate) fn get(index: IfIndex, place: QdiscPlace) -> Encoded {
    Header { handle: 0, ..place.header(index) }.message(GET, |_| {})
}

/// Decodes a discipline at the root or at ingress of a known link. `None` for another message, or the kernel's own
/// discipline, which has no handle.
pub(crate) fn decode(message: &Incoming<'_>, names: &dyn Names) -> Option<(QdiscKey, Qdisc)> {
    let (header, attributes) = Header::read(message.body).filter(|_| message.kind == NEW)?;
    let place = match header.parent {
        ROOT if header.handle != 0 => QdiscPlace::Root,
        INGRESS => QdiscPlace::Ingress,
        _ => return None,
    };
    let key = QdiscKey { dev: names.name(header.index)?, place };
    let kind = attributes.text(KIND)?;
    let qdisc = match kind.as_str() {
        "tbf" => attributes.nested(OPTIONS).and_then(|options| rate::read(&options)).map(Qdisc::Tbf),
        "ingress" => Some(Qdisc::Ingress),
        "clsact" => Some(Qdisc::Clsact),
        _ => None,
    };
    Some((key, qdisc.unwrap_or(Qdisc::Other(kind))))
}
