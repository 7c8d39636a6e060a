//! What is sent is read as it was, and equals what other programs send.

use super::*;
use crate::state::{Filter, FilterAction, FilterKey, Selects, Tbf};
use crate::types::IfName;

struct Links;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

impl Names for Links {
    fn name(&self, index: u32) -> Option<IfName> {
        ["veth0", "ifb0"].get(index.checked_sub(7)? as usize).map(|text| name(text))
    }

    fn index(&self, name: &IfName) -> Option<IfIndex> {
        ["veth0", "ifb0"].iter().position(|text| name.as_str() == *text).map(|at| IfIndex(at as u32 + 7))
    }
}

fn incoming(message: &Encoded) -> Incoming<'_> {
    message.into()
}

fn qdiscs() -> Vec<(QdiscPlace, Qdisc)> {
    let tbf = |rate, burst, limit| (QdiscPlace::Root, Qdisc::Tbf(Tbf { rate, burst, limit }));
    vec![
        tbf(125_000, 25_000, 28_125),
        tbf(1, 1, 1),
        tbf(12_500_000_000, 2_000_000_000, u32::MAX),
        (QdiscPlace::Ingress, Qdisc::Ingress),
        (QdiscPlace::Ingress, Qdisc::Clsact),
        (QdiscPlace::Root, Qdisc::Other("fq".into())),
    ]
}

#[test]
fn a_discipline_is_read_as_it_was_written() {
    for (place, qdisc) in qdiscs() {
        let sent = put(IfIndex(7), place, &qdisc);
        let (key, read) = decode(&incoming(&sent), &Links).unwrap();
        assert_eq!(key, QdiscKey { dev: name("veth0"), place });
        assert!(qdisc.agrees(&read), "{qdisc:?}: {read:?}");
    }
}

#[test]
fn what_is_not_asked_for_is_not_read() {
    let sent = put(IfIndex(9), QdiscPlace::Root, &Qdisc::Ingress);
    assert_eq!(decode(&incoming(&sent), &Links), None, "an unknown link");
    assert_eq!(decode(&incoming(&get(IfIndex(7), QdiscPlace::Root)), &Links), None, "a question");
    let own = Header { handle: 0, ..QdiscPlace::Root.header(IfIndex(7)) }.message(NEW, |w| w.text(KIND, "noqueue"));
    assert_eq!(decode(&incoming(&own), &Links), None, "the kernel's own");
    let inner = Header::of(IfIndex(7), 0x2_0000, 0x1_0001).message(NEW, |w| w.text(KIND, "bfifo"));
    assert_eq!(decode(&incoming(&inner), &Links), None, "a discipline below another");
    let peak = Header::of(IfIndex(7), ROOT_HANDLE, ROOT).message(NEW, |writer| {
        writer.text(KIND, "tbf");
        writer.nest(OPTIONS, |writer| writer.attr(1, &[1; 36]));
    });
    assert_eq!(decode(&incoming(&peak), &Links).unwrap().1, Qdisc::Other("tbf".into()), "with a peak rate");
}

/// The reference plugin's TBF of 1,000,000 bits per second with a burst of 200,000 bits, by strace: rate 125,000,
/// limit 28,125, buffer 3,125,000 ticks.
#[test]
fn the_parameters_are_the_reference_plugins() {
    let sent = put(IfIndex(7), QdiscPlace::Root, &qdiscs()[0].1);
    let (_, attributes) = Header::read(&sent.body).unwrap();
    let options = attributes.nested(OPTIONS).unwrap();
    let parameters = options.get(1).unwrap();
    let words = [8, 20, 24, 28, 32].map(|at| word(parameters, at).unwrap());
    assert_eq!((words, parameters.len()), ([125_000, 0, 28_125, 3_125_000, 0], 36));
    assert_eq!(options.get(4), None, "a rate that needs 64 bits");
}

fn filters() -> Vec<Filter> {
    let to = |net: &str| Selects::To(net.parse().unwrap());
    let selects = [
        Selects::All,
        to("10.0.0.0/8"),
        to("0.0.0.0/0"),
        to("192.0.2.1/32"),
        to("fd05::/48"),
        to("::/0"),
        to("2001:db8:1:2:3:4:5:6/128"),
        to("fd05:0:0:1::/64"),
        to("fd05:0:0:1:8000::/65"),
    ];
    let actions = [FilterAction::Redirect(Some(name("ifb0"))), FilterAction::Pass];
    let all = selects.iter().flat_map(|selects| actions.iter().map(|action| (*selects, action.clone())));
    all.map(|(selects, action)| Filter { selects, action }).collect()
}

#[test]
fn a_filter_is_read_as_it_was_written() {
    for filter in filters() {
        let sent = add_filter(IfIndex(7), 5, &filter, &Links).unwrap();
        let read = decode_filter(&incoming(&sent), &Links);
        assert_eq!(read, Some((FilterKey { dev: name("veth0"), prio: 5 }, filter)));
    }
}

#[test]
fn bits_outside_the_mask_are_none_of_the_network() {
    let filter = Filter { selects: Selects::To("10.1.0.0/16".parse().unwrap()), action: FilterAction::Pass };
    let mut sent = add_filter(IfIndex(7), 5, &filter, &Links).unwrap();
    let at = sent.body.windows(4).position(|bytes| bytes == [10, 1, 0, 0]).unwrap();
    sent.body[at + 3] = 9;
    assert_eq!(decode_filter(&incoming(&sent), &Links).unwrap().1, filter);
}

#[test]
fn a_filter_to_a_link_that_is_gone_is_known_as_such() {
    let filter = Filter { selects: Selects::All, action: FilterAction::Redirect(Some(name("ifb0"))) };
    let mut sent = add_filter(IfIndex(7), 1, &filter, &Links).unwrap();
    assert_eq!(target(&incoming(&sent)), Some(8));
    let end = sent.body.len();
    sent.body[end - 4..].copy_from_slice(&[0; 4]);
    assert_eq!(target(&incoming(&sent)), None);
    assert_eq!(decode_filter(&incoming(&sent), &Links).unwrap().1.action, FilterAction::Redirect(None));
    let lost = Filter { action: FilterAction::Redirect(Some(name("nosuch"))), ..filter };
    assert!(add_filter(IfIndex(7), 1, &lost, &Links).is_none());
}

#[test]
fn cut_input_is_not_accepted() {
    for filter in filters() {
        let sent = add_filter(IfIndex(7), 5, &filter, &Links).unwrap();
        for end in 0..sent.body.len() {
            let cut = Incoming { body: &sent.body[..end], ..incoming(&sent) };
            assert_ne!(decode_filter(&cut, &Links).map(|(_, read)| read).as_ref(), Some(&filter), "{end}");
            target(&cut);
        }
    }
    let sent = put(IfIndex(7), QdiscPlace::Root, &qdiscs()[0].1);
    for end in 0..sent.body.len() {
        let read = decode(&Incoming { body: &sent.body[..end], ..incoming(&sent) }, &Links);
        assert_ne!(read.map(|(_, read)| read), Some(qdiscs()[0].1.clone()), "{end}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), kind in 36..48_u16) {
        let message = Incoming { kind, flags: 0, sequence: 0, body: &body };
        decode(&message, &Links);
        decode_filter(&message, &Links);
        target(&message);
    }
}
