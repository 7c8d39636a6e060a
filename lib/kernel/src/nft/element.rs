//! Encodes elements of sets. In a set with one field, a range is a start and an end element.

use std::time::Duration;

use super::expr::{Verdict, decode_data, encode_data};
use super::types::{Data, DataType, Element, Set};
use super::userdata;
use super::value::{Type, Value};
use crate::netlink::wire::{Attributes, Writer};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;

/// The most bytes of elements in one message. The length of their list has 16 bits and wraps silently.
const CHUNK: usize = 60_000;

/// Encodes elements into lists, one per message. `None` in place of an element that cannot be encoded.
pub(super) fn chunks(set: &Set, elements: &[Element], fresh: bool) -> Vec<Option<Vec<u8>>> {
    let mut lists = Vec::new();
    let mut list = if fresh && set.start_and_end() { lower_bound(set, elements) } else { Vec::new() };
    for element in elements {
        let Some(bytes) = encode(set, element) else {
            lists.push(None);
            continue;
        };
        if list.len() + bytes.len() > CHUNK {
            lists.push(Some(std::mem::take(&mut list)));
        }
        list.extend(bytes);
    }
    lists.push(Some(list));
    lists.retain(|l| l.as_ref().is_none_or(|l| !l.is_empty()));
    lists
}

/// The end of the range "below all elements". `nft` puts it first in a set of ranges, and its own reader expects it.
fn lower_bound(set: &Set, elements: &[Element]) -> Vec<u8> {
    let zero = vec![0; Type::concat_len(&set.key)];
    if elements.iter().any(|e| Value::concat(&e.key) == zero) {
        return Vec::new();
    }
    let mut w = Writer::default();
    end(&mut w, &zero);
    w.finish().unwrap_or_default()
}

/// Encodes an element; a range becomes two.
pub(super) fn encode(set: &Set, element: &Element) -> Option<Vec<u8>> {
    let mut w = Writer::default();
    let first = Value::concat(&element.key);
    let last = Value::concat(element.last.as_ref().unwrap_or(&element.key));
    let after = set.start_and_end().then(|| successor(&last));
    w.nest(NFTA_LIST_ELEM, |w| {
        encode_data(w, NFTA_SET_ELEM_KEY, &first);
        if set.interval && after.is_none() {
            encode_data(w, NFTA_SET_ELEM_KEY_END, &last);
        }
        match &element.data {
            Some(Data::Values(values)) => encode_data(w, NFTA_SET_ELEM_DATA, &Value::concat(values)),
            Some(Data::Verdict(verdict)) => verdict.encode(w, NFTA_SET_ELEM_DATA),
            None => {}
        }
        if let Some(timeout) = element.timeout {
            w.be64(NFTA_SET_ELEM_TIMEOUT, millis(timeout));
        }
        let userdata = userdata::element(element.comment.as_deref(), after == Some(None));
        if !userdata.is_empty() {
            w.attr(NFTA_SET_ELEM_USERDATA, &userdata);
        }
    });
    if let Some(Some(after)) = after {
        end(&mut w, &after);
    }
    w.finish()
}

fn end(w: &mut Writer, key: &[u8]) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        encode_data(w, NFTA_SET_ELEM_KEY, key);
    });
}

/// The next key; `None` after the largest.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    step(key, 0xff, |byte| byte.wrapping_add(1))
}

/// The previous key; `None` before the smallest.
fn predecessor(key: &[u8]) -> Option<Vec<u8>> {
    step(key, 0, |byte| byte.wrapping_sub(1))
}

/// Increments or decrements a big-endian number; a byte at its `limit` carries.
fn step(key: &[u8], limit: u8, count: impl Fn(u8) -> u8) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let carries = *byte == limit;
        *byte = count(*byte);
        if !carries {
            return Some(next);
        }
    }
    None
}

/// Milliseconds, which is the kernel's unit.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An element as the kernel lists it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Raw<'a> {
    key: &'a [u8],
    /// Whether it is a start. False sorts first: if one range ends where the next starts, the end must come first.
    is_start: bool,
    attributes: &'a [u8],
}

/// Decodes the elements of the lists that were read.
pub(super) fn decode(set: &Set, lists: &[Vec<u8>]) -> Option<Vec<Element>> {
    let mut raws = lists
        .iter()
        .flat_map(|list| Attributes::read(list).iter())
        .map(|(_, attributes)| {
            let a = Attributes::read(attributes);
            let is_start = a.be32(NFTA_SET_ELEM_FLAGS).unwrap_or_default() & NFT_SET_ELEM_INTERVAL_END == 0;
            Some(Raw { key: decode_data(&a.nested(NFTA_SET_ELEM_KEY)?)?, is_start, attributes })
        })
        .collect::<Option<Vec<_>>>()?;
    raws.sort();
    let mut elements = Vec::new();
    for (at, raw) in raws.iter().enumerate().filter(|(_, raw)| raw.is_start) {
        let a = Attributes::read(raw.attributes);
        let last = if set.start_and_end() {
            Some(match raws.get(at + 1) {
                Some(next) => predecessor(next.key)?,
                None => vec![0xff; raw.key.len()],
            })
        } else {
            a.nested(NFTA_SET_ELEM_KEY_END).and_then(|a| decode_data(&a).map(<[u8]>::to_vec))
        };
        elements.push(decode_one(set, raw.key, last, &a)?);
    }
    Some(elements)
}

fn decode_one(set: &Set, key: &[u8], last: Option<Vec<u8>>, a: &Attributes<'_>) -> Option<Element> {
    let last = last.filter(|last| last != key);
    let data = match (&set.data, a.nested(NFTA_SET_ELEM_DATA)) {
        (Some(DataType::Verdict), Some(data)) => Some(Data::Verdict(Verdict::decode(&data)?)),
        (Some(DataType::Values(types)), Some(data)) => Some(Data::Values(Type::values(types, decode_data(&data)?)?)),
        _ => None,
    };
    Some(Element {
        key: Type::values(&set.key, key)?,
        last: last.map(|last| Type::values(&set.key, &last)).map_or(Some(None), |l| l.map(Some))?,
        data,
        timeout: a.be64(NFTA_SET_ELEM_TIMEOUT).map(Duration::from_millis),
        comment: a.get(NFTA_SET_ELEM_USERDATA).and_then(userdata::read_comment),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_count_with_carry() {
        assert_eq!(successor(&[10, 255, 255]), Some(vec![11, 0, 0]));
        assert_eq!(successor(&[255, 255]), None);
        assert_eq!(predecessor(&[11, 0, 0]), Some(vec![10, 255, 255]));
        assert_eq!(predecessor(&[0, 0]), None);
    }

    #[test]
    fn lists_stay_below_the_length_field() {
        let set = Set::new("s", [Type::Ipv4Addr]).interval();
        let elements: Vec<_> =
            (0..5000u32).map(|n| Element::net(format!("10.{}.{}.0/25", n >> 8, n & 255).parse().unwrap())).collect();
        let lists: Vec<_> = chunks(&set, &elements, true).into_iter().map(Option::unwrap).collect();
        assert!(lists.len() > 3 && lists.iter().all(|l| l.len() <= CHUNK), "{}", lists.len());
        assert_eq!(decode(&set, &lists).unwrap(), elements);
        assert!(chunks(&set, &[], false).is_empty());
    }

    proptest::proptest! {
        /// Adjacent ranges, ranges at both ends of the address space, and single addresses are all read back.
        #[test]
        fn ranges_come_back(cuts in proptest::collection::btree_set(proptest::num::u32::ANY, 0..20), full: bool) {
            let set = Set::new("s", [Type::Ipv4Addr]).interval();
            let mut starts: Vec<u32> = cuts.into_iter().collect();
            if full {
                starts.insert(0, 0);
                starts.dedup();
            }
            let addr = |n: u32| Value::Addr(std::net::Ipv4Addr::from(n).into());
            let elements: Vec<_> = starts
                .iter()
                .enumerate()
                .map(|(i, s)| Element::range(addr(*s), addr(starts.get(i + 1).map_or(u32::MAX, |n| n - 1))))
                .collect();
            let lists: Vec<_> = chunks(&set, &elements, true).into_iter().map(Option::unwrap).collect();
            proptest::prop_assert_eq!(decode(&set, &lists), Some(elements));
        }
    }
}
