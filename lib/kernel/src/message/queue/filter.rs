//! Filters of the packets that a link receives.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{Encoded, Header, KIND, Names, OPTIONS, Writer, word};
use crate::netlink::wire::{Attributes, Incoming};
use crate::state::{Filter, FilterAction, FilterKey, Selects};
use crate::types::IfIndex;

/// RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER
const NEW: u16 = 44;
const DELETE: u16 = 45;
const GET: u16 = 46;

/// The filters at ingress, of `ingress` and `clsact` alike (TC_H_CLSACT, TC_H_MIN_INGRESS).
const PARENT: u32 = 0xFFFF_FFF2;

/// TCA_CHAIN
const CHAIN: u16 = 11;

/// ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 (linux/if_ether.h)
const ALL: u16 = 0x0003;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;

/// The kind of filter, TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT
const U32: &str = "u32";
const CLASS: u16 = 1;
const SELECTOR: u16 = 5;
const ACTIONS: u16 = 7;
/// TC_U32_TERMINAL: a packet that matches is not compared with others.
const TERMINAL: u8 = 1;
/// Bytes of `struct tc_u32_sel` before its keys, and of `struct tc_u32_key`.
const SELECTOR_FIXED: usize = 16;
const KEY: usize = 16;

/// `flowid 1:1`
const ANY_CLASS: u32 = 0x0001_0001;

/// Bytes from the start of the network header to the destination address.
const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;

/// TCA_ACT_KIND, TCA_ACT_OPTIONS; TCA_MIRRED_PARMS and TCA_GACT_PARMS
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const ACTION_PARAMETERS: u16 = 2;
/// TC_ACT_OK, TC_ACT_STOLEN, TCA_EGRESS_REDIR
const OK: u32 = 0;
const STOLEN: u32 = 4;
const EGRESS_REDIRECT: u32 = 1;
/// Places in `struct tc_mirred`, which begins with `struct tc_gact`.
const VERDICT: usize = 8;
const DIRECTION: usize = 20;
const TARGET: usize = 24;

/// A comparison of 32 bits: the mask, the value, and the place in the packet.
type Key = ([u8; 4], [u8; 4], usize);

fn header(index: IfIndex, prio: u16, protocol: u16) -> Header {
    let info = u32::from(prio) << 16 | u32::from(protocol.to_be());
    Header { info, ..Header::of(index, 0, PARENT) }
}

/// `tc filter add`. `None` if the filter sends packets to an unknown link.
pub(crate) fn add(index: IfIndex, prio: u16, filter: &Filter, names: &dyn Names) -> Option<Encoded> {
    let to = match &filter.action {
        FilterAction::Redirect(to) => Some(names.index(to.as_ref()?)?),
        FilterAction::Pass | FilterAction::Other => None,
    };
    let (protocol, keys) = match filter.selects {
        Selects::To(net) => keys(net),
        Selects::All | Selects::Other => (ALL, vec![([0; 4], [0; 4], 0)]),
    };
    Some(header(index, prio, protocol).message(NEW, |writer| {
        writer.text(KIND, U32);
        writer.nest(OPTIONS, |writer| {
            // it means nothing here; the reference plugin and `tc` send it
            writer.attr(CLASS, &ANY_CLASS.to_ne_bytes());
            write_selector(writer, &keys);
            if let Some(to) = to {
                writer.nest(ACTIONS, |writer| writer.nest(1, |writer| write_redirect(writer, to)));
            }
        });
    }))
}

/// `tc filter del … prio`, whatever is there.
pub(crate) fn delete(index: IfIndex, prio: u16) -> Encoded {
    header(index, prio, 0).message(DELETE, |_| {})
}

/// `tc filter show dev INDEX ingress`
pub(crate) fn list(index: IfIndex) -> Encoded {
    Header::of(index, 0, PARENT).message(GET, |_| {})
}

fn keys(net: IpNetwork) -> (u16, Vec<Key>) {
    let (protocol, first, value, mask) = match net {
        IpNetwork::V4(v4) => (IPV4, IPV4_DESTINATION, v4.network().octets().to_vec(), v4.mask().octets().to_vec()),
        IpNetwork::V6(v6) => (IPV6, IPV6_DESTINATION, v6.network().octets().to_vec(), v6.mask().octets().to_vec()),
    };
    let words = |bytes: &[u8]| -> Vec<[u8; 4]> { bytes.as_chunks().0.to_vec() };
    let all =
        words(&mask).into_iter().zip(words(&value)).enumerate().map(|(i, (mask, value))| (mask, value, first + 4 * i));
    // a key without a bit to compare is needed only where it is the only one
    (protocol, all.enumerate().filter(|(i, (mask, ..))| *i == 0 || *mask != [0; 4]).map(|(_, key)| key).collect())
}

fn write_selector(writer: &mut Writer, keys: &[Key]) {
    let mut selector = vec![TERMINAL, 0, keys.len() as u8];
    selector.resize(SELECTOR_FIXED, 0);
    for (mask, value, place) in keys {
        selector.extend(mask);
        selector.extend(value);
        selector.extend((*place as u32).to_ne_bytes());
        selector.extend([0; 4]);
    }
    writer.attr(SELECTOR, &selector);
}

fn write_redirect(writer: &mut Writer, to: IfIndex) {
    writer.text(ACTION_KIND, "mirred");
    writer.nest(ACTION_OPTIONS, |writer| {
        let words = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to.0];
        writer.attr(ACTION_PARAMETERS, &words.map(u32::to_ne_bytes).concat());
    });
}

/// Decodes a filter on a known link. `None` for a message that is no filter of its own: each begins with some about
/// its tables.
pub(crate) fn decode(message: &Incoming<'_>, names: &dyn Names) -> Option<(FilterKey, Filter)> {
    let (header, attributes) = Header::read(message.body).filter(|_| message.kind == NEW)?;
    // a filter of another chain is reached by way of one that is no filter of ours
    if attributes.get(CHAIN).and_then(|chain| word(chain, 0)).unwrap_or_default() != 0 {
        return None;
    }
    let [prio, protocol] = [(header.info >> 16) as u16, u16::from_be(header.info as u16)];
    let key = FilterKey { dev: names.name(header.index)?, prio };
    if !attributes.is_text(KIND, U32) {
        return Some((key, Filter { selects: Selects::Other, action: FilterAction::Other }));
    }
    let options = attributes.nested(OPTIONS)?;
    let selects = selects(protocol, options.get(SELECTOR)?);
    Some((key, Filter { selects, action: action(options.nested(ACTIONS), names) }))
}

fn selects(protocol: u16, selector: &[u8]) -> Selects {
    let keys = selector.get(SELECTOR_FIXED..).unwrap_or_default().as_chunks::<KEY>().0;
    let keys: Vec<Key> = keys.iter().filter_map(read_key).collect();
    match protocol {
        ALL if keys.iter().all(|(mask, ..)| *mask == [0; 4]) => Selects::All,
        IPV4 => network(&keys, IPV4_DESTINATION).map_or(Selects::Other, Selects::To),
        IPV6 => network(&keys, IPV6_DESTINATION).map_or(Selects::Other, Selects::To),
        _ => Selects::Other,
    }
}

fn read_key(bytes: &[u8; KEY]) -> Option<Key> {
    let (mask, rest) = bytes.split_first_chunk()?;
    let (value, _) = rest.split_first_chunk()?;
    Some((*mask, *value, word(bytes, 8)? as usize))
}

/// The network whose addresses the keys select, from the place of the address on.
fn network(keys: &[Key], first: usize) -> Option<IpNetwork> {
    let (mut mask, mut value) = ([0; 16], [0; 16]);
    for (i, (m, v, place)) in keys.iter().enumerate() {
        let at = 4 * i..4 * i + 4;
        mask.get_mut(at.clone())?.copy_from_slice(m);
        value.get_mut(at)?.copy_from_slice(v);
        if *place != first + 4 * i {
            return None;
        }
    }
    let mask = u128::from_be_bytes(mask);
    // the kernel compares no bits outside the mask
    let value = u128::from_be_bytes(value) & mask;
    let prefix = mask.leading_ones();
    let prefix =
        u8::try_from(prefix).ok().filter(|_| prefix + mask.trailing_zeros() == u128::BITS || mask == u128::MAX)?;
    match first {
        IPV4_DESTINATION => Ipv4Network::new(Ipv4Addr::from((value >> 96) as u32), prefix).ok().map(Into::into),
        _ => Ipv6Network::new(Ipv6Addr::from(value), prefix).ok().map(Into::into),
    }
}

/// A filter without an action lets packets pass. The reference plugin's has the same action twice.
fn action(actions: Option<Attributes<'_>>, names: &dyn Names) -> FilterAction {
    let Some(actions) = actions else { return FilterAction::Pass };
    let mut all = actions.iter().map(|(_, action)| one_action(&Attributes::read(action), names));
    let first = all.next().unwrap_or(FilterAction::Pass);
    if all.all(|action| action == first) { first } else { FilterAction::Other }
}

fn one_action(action: &Attributes<'_>, names: &dyn Names) -> FilterAction {
    let parameters = action.nested(ACTION_OPTIONS).and_then(|options| options.get(ACTION_PARAMETERS));
    let number = |at| parameters.and_then(|bytes| word(bytes, at));
    if action.is_text(ACTION_KIND, "gact") && number(VERDICT) == Some(OK) {
        return FilterAction::Pass;
    }
    let redirects = action.is_text(ACTION_KIND, "mirred") && number(DIRECTION) == Some(EGRESS_REDIRECT);
    match number(TARGET) {
        // the kernel reports a link that is gone as 0
        Some(target) if redirects => FilterAction::Redirect(names.name(target)),
        _ => FilterAction::Other,
    }
}

/// The link that a filter sends packets to, if its name may be unknown.
pub(crate) fn target(message: &Incoming<'_>) -> Option<u32> {
    let (_, attributes) = Header::read(message.body).filter(|_| message.kind == NEW)?;
    let actions = attributes.nested(OPTIONS)?.nested(ACTIONS)?;
    let (_, first) = actions.iter().next()?;
    let parameters = Attributes::read(first).nested(ACTION_OPTIONS)?.get(ACTION_PARAMETERS)?;
    word(parameters, TARGET).filter(|index| *index != 0)
}
