//! This module writes what `nft` writes, and the kernel keeps it.

mod cases;
mod kernel;
mod text;

use super::expr::Expr;
use crate::netlink::wire::{Attributes, Incoming, Writer, message, stamp};

/// The attributes as (type with flags, value).
fn raw(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let [l0, l1, k0, k1, ..] = *bytes {
        let len = usize::from(u16::from_le_bytes([l0, l1]));
        all.push((u16::from_le_bytes([k0, k1]), &bytes[4..len]));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [(value.len() as u16 + 4).to_le_bytes(), kind.to_le_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The captured bytes without attributes that have no effect: a set's number inside nft's own transaction
/// (NFTA_LOOKUP_SET_ID), the operation of `&` and `|` (NFTA_BITWISE_OP 0), which nft leaves out for prefixes, and "has
/// a port" (NFTA_NAT_FLAGS 2), which nft leaves out for maps.
fn without_noise(list: &[u8]) -> Vec<u8> {
    let noise = |name: &[u8], kind: u16, value: &[u8]| {
        let implied = (name, kind, value) == (b"nat\0", 7, &[0, 0, 0, 2]);
        implied || matches!((name, kind), (b"lookup\0", 4) | (b"bitwise\0", 6))
    };
    let expression = |(element, value)| {
        let [(1, name), (data, attributes)] = raw(value)[..] else { panic!("not an expression: {value:?}") };
        let kept: Vec<u8> =
            raw(attributes).into_iter().filter(|(k, v)| !noise(name, *k, v)).flat_map(|(k, v)| tlv(k, v)).collect();
        tlv(element, &[tlv(1, name), tlv(data, &kept)].concat())
    };
    raw(list).into_iter().flat_map(expression).collect()
}

#[test]
fn expressions_are_byte_for_byte_those_of_nft() {
    for case in cases::all() {
        let mut w = Writer::default();
        case.rule.exprs.iter().for_each(|e| e.encode(&mut w));
        let bytes = w.finish().unwrap();
        let captured = without_noise(&case.captured);
        assert_eq!(cases::hex(&bytes), cases::hex(&captured), "{} {}", case.family, case.text);
    }
}

#[test]
fn captured_expressions_read_as_what_was_meant() {
    for case in cases::all() {
        assert_eq!(Expr::decode_all(&case.captured), case.rule.exprs, "{} {}", case.family, case.text);
    }
}

#[test]
fn unknown_expressions_are_kept_as_they_are() {
    // NFTA_LIST_ELEM { NFTA_EXPR_NAME "quota", NFTA_EXPR_DATA { 1: 8 bytes } }
    let mut w = Writer::default();
    w.nest(1, |w| {
        w.text(1, "quota");
        w.nest(2, |w| w.be64(1, 7));
    });
    let bytes = w.finish().unwrap();
    let exprs = Expr::decode_all(&bytes);
    assert!(matches!(&exprs[..], [Expr::Other { name, .. }] if name == "quota"), "{exprs:?}");
    let mut again = Writer::default();
    exprs[0].encode(&mut again);
    assert_eq!(again.finish().unwrap(), bytes);
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let long = |w: &mut Writer| w.nest(1, |w| w.attr(2, &[0; 65_532]));
    assert!(message(1, 0, 0, 0, long).is_none());
    assert!(message(1, 0, 0, 0, |w| w.text(1, "a\0b")).is_none());
    assert!(message(1, 0, 0, 0, |w| w.attr(1, &[0; 60_000])).is_some());
}

#[test]
fn errors_are_read_with_and_without_the_kernels_sentence() {
    let refused = |flags: i32, tail: &[u8]| {
        let mut body = (-libc::EBUSY).to_ne_bytes().to_vec();
        body.extend([20, 0, 0, 0]);
        body.extend([0; 12]);
        body.extend(tail);
        Incoming { kind: libc::NLMSG_ERROR as u16, flags: flags as u16, sequence: 1, body: &body }.verdict()
    };
    let mut w = Writer::default();
    w.text(1, "in use");
    let tlv = w.finish().unwrap();
    assert_eq!(refused(0, &[]), (libc::EBUSY, None));
    assert_eq!(refused(libc::NLM_F_ACK_TLVS | libc::NLM_F_CAPPED, &tlv), (libc::EBUSY, Some("in use".into())));
    let whole = [&[0; 4][..], &tlv].concat();
    assert_eq!(refused(libc::NLM_F_ACK_TLVS, &whole), (libc::EBUSY, Some("in use".into())));
    let empty = Incoming { kind: 2, flags: 0, sequence: 0, body: &[] };
    assert_eq!(empty.verdict().0, libc::EPROTO);
}

proptest::proptest! {
    /// Any bytes from the kernel are decoded without a panic.
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for message in Incoming::all(&bytes) {
            message.verdict();
            message.attributes();
        }
        Attributes::read(&bytes);
        Expr::decode_all(&bytes);
    }
}

#[test]
fn messages_of_a_datagram_are_told_apart() {
    let mut one = message(0x0a00, 0, 7, 0, |w| w.text(1, "abc")).unwrap();
    stamp(&mut one, 42, libc::NLM_F_ACK as u16);
    let both = [&one[..], &one[..], &one[..7]].concat();
    let read: Vec<_> = Incoming::all(&both).collect();
    assert_eq!(read.len(), 2);
    assert_eq!((read[1].kind, read[1].sequence, read[1].family()), (0x0a00, 42, 7));
    assert_eq!(i32::from(read[0].flags), libc::NLM_F_REQUEST | libc::NLM_F_ACK);
    assert_eq!(read[0].attributes().text(1).as_deref(), Some("abc"));
}
