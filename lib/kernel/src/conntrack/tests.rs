//! Entries as the kernel reports them, and the requests that identify them.

use super::*;

/// An entry as the kernel reports it, with a different tuple for each direction.
fn shown(family: u8, tuples: [&dyn Fn(&mut Writer); 2]) -> Vec<u8> {
    let message = message(SUBSYSTEM << 8, 0, family, 0, |w| {
        w.nest(attr::TUPLE_ORIG, tuples[0]);
        w.nest(attr::TUPLE_REPLY, tuples[1]);
        w.be32(attr::ID, 7);
        w.be32(attr::STATUS, 0b1010);
        w.attr(attr::ZONE, &[0, 5]);
    });
    message.unwrap()
}

fn tuple(w: &mut Writer, kinds: [u16; 2], addresses: [&[u8]; 2], protocol: &[(u16, &[u8])]) {
    w.nest(attr::TUPLE_IP, |w| (0..2).for_each(|n| w.attr(kinds[n], addresses[n])));
    w.nest(attr::TUPLE_PROTO, |w| protocol.iter().for_each(|(kind, value)| w.attr(*kind, value)));
}

fn read(message: &[u8]) -> Option<Entry> {
    Entry::decode(&Incoming::all(message).next().unwrap())
}

#[test]
fn an_entry_is_named_for_deletion_by_all_that_names_it() {
    // CTA_PROTO_ICMP_ID, _TYPE, _CODE: an entry without ports
    let icmp: &[(u16, &[u8])] = &[(1, &[1]), (4, &[0, 9]), (5, &[8]), (6, &[0])];
    let there = |w: &mut Writer| tuple(w, attr::IP_V4, [&[10, 0, 0, 1], &[10, 0, 0, 2]], icmp);
    let back = |w: &mut Writer| tuple(w, attr::IP_V4, [&[10, 0, 0, 2], &[10, 0, 0, 1]], icmp);
    let entry = read(&shown(2, [&there, &back])).unwrap();
    assert_eq!((entry.id, entry.family, entry.proto, entry.mark), (7, Family::V4, 1, 0));
    assert!(entry.is_answered());
    let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    assert_eq!(entry.original, Tuple { src, dst, sport: 0, dport: 0 });
    assert_eq!(entry.reply, Tuple { src: dst, dst: src, sport: 0, dport: 0 });
    assert_eq!(entry.deletion(), "conntrack -D -p 1 -s 10.0.0.1 -d 10.0.0.2 --sport 0 --dport 0");

    let request = entry.delete_request().unwrap();
    let request = Incoming::all(&request).next().unwrap();
    let mut named = Writer::default();
    there(&mut named);
    assert_eq!((request.kind, request.family()), (DELETE, 2));
    assert_eq!(request.attributes().get(attr::TUPLE_ORIG), named.finish().as_deref());
    assert_eq!(request.attributes().get(attr::ZONE), Some(&[0, 5][..]));
    assert_eq!(request.attributes().be32(attr::ID), Some(7));
}

#[test]
fn an_entry_that_is_not_whole_is_not_read() {
    let ports: &[(u16, &[u8])] = &[(1, &[17]), (2, &[0, 53]), (3, &[1, 0])];
    let good = |w: &mut Writer| tuple(w, attr::IP_V6, [&[1; 16], &[2; 16]], ports);
    let short = |w: &mut Writer| tuple(w, attr::IP_V6, [&[1; 16], &[2; 15]], ports);
    let odd_port = |w: &mut Writer| tuple(w, attr::IP_V6, [&[1; 16], &[2; 16]], &[(1, &[17]), (2, &[0])]);
    let entry = read(&shown(10, [&good, &good])).unwrap();
    assert_eq!((entry.original.sport, entry.original.dport), (53, 256));
    assert!(read(&shown(3, [&good, &good])).is_none(), "ARP has no connections");
    for bad in [&short as &dyn Fn(&mut Writer), &odd_port, &|_| ()] {
        assert!(read(&shown(10, [bad, &good])).is_none());
        assert!(read(&shown(10, [&good, bad])).is_none());
    }
}

#[test]
fn a_line_of_the_table_as_text_is_compared_by_its_first_direction() {
    let v4 = "ipv4     2 udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=4000 dport=53 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 \
              sport=53 dport=4000 mark=0 zone=0 use=2";
    let v6 = v4.replace("ipv4     2", "ipv6     10").replace("10.0.0.2", "fd00:0000:0000:0000:0000:0000:0000:0002");
    let port = |port| Filter { proto: Some(UDP), dport: Some(port), dst: None };
    let to = |dst: &str| Filter { dst: Some(dst.parse().unwrap()), ..Filter::default() };
    for (line, family, filter, selected) in [
        (v4, Family::V4, Filter::default(), true),
        (v4, Family::V6, Filter::default(), false),
        (v4, Family::V4, port(53), true),
        (v4, Family::V4, port(5), false),
        (v4, Family::V4, port(4000), false),
        (v4, Family::V4, Filter { proto: Some(TCP), ..port(53) }, false),
        (v4, Family::V4, to("10.0.0.2"), true),
        (v4, Family::V4, to("10.0.0.1"), false),
        (&v6, Family::V6, to("fd00::2"), true),
        (&v6, Family::V4, to("fd00::2"), false),
        ("", Family::V4, Filter::default(), false),
    ] {
        assert_eq!(filter.may_select(family, line), selected, "{filter:?} {line:?}");
    }
}
