//! Targets: what other programs on the host answer.

#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use attachment::firewalld::message::{CALL, ERROR, HEAD, Message, RETURN, Value};
use attachment::rules::iptables::{Line, Part, Place, Rule, Saved};
use kernel::types::Family;

/// A message of the bus is read, or refused. What is read is written so that it is read again, unless a part of it is of a
/// type that is not written.
pub fn firewalld(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<HEAD>() {
        assert!(Message::rest(head).is_none_or(|rest| rest <= 1 << 20));
    }
    let Some(message) = Message::decode(bytes) else { return };
    let again = message.encode();
    assert_eq!(Message::rest(again.first_chunk().unwrap()), Some(again.len() - HEAD));
    assert_eq!(Message::decode(&again), Some(message));
}

pub fn firewalld_seeds() -> Vec<Vec<u8>> {
    let reply = Message { kind: RETURN, serial: 9, reply_to: 2, ..Message::default() };
    let texts = Value::Texts(vec!["10.1.2.3/32".into(), "fd00::3/128".into()]);
    let seeds = [
        Message { body: vec![Value::Flag(true)], ..reply.clone() },
        Message { body: vec![texts], ..reply.clone() },
        Message {
            kind: ERROR,
            error: "org.fedoraproject.FirewallD1.Exception".into(),
            body: vec![Value::Text("INVALID_ZONE: x".into())],
            ..reply
        },
        Message {
            kind: CALL,
            serial: 3,
            path: "/a".into(),
            interface: "a.b".into(),
            member: "c".into(),
            destination: "d.e".into(),
            body: vec![Value::Text("trusted".into()), Value::Texts(Vec::new())],
            ..Message::default()
        },
    ];
    seeds.iter().map(Message::encode).collect()
}

/// A table as text. A rule is the same after it was written and read; what is found is not made again.
pub fn iptables_save(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Saved(found) = Saved::parse(text);
    for rule in found.values().flatten() {
        assert_eq!(Rule::parse(&rule.to_string()), *rule);
    }
    let entries = found.iter().flat_map(|(chain, rules)| {
        rules.iter().map(|rule| Line { chain: chain.clone(), place: Place::Last, rule: rule.clone() })
    });
    let part = Part { entries: entries.collect(), ..Part::new(Family::V4, "nat") };
    assert_eq!(part.differences(&Saved(found)), Vec::<String>::new());
}

pub fn iptables_save_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "*nat\n:PREROUTING ACCEPT [0:0]\n:CNI-1 - [0:0]\n-A POSTROUTING -s 10.1.2.3/32 -m comment --comment \"name: \\\"n\\\" id: \\\"c\\\"\" -j CNI-1\n-A CNI-1 ! -d 224.0.0.0/4 -j MASQUERADE\nCOMMIT\n",
        "*filter\n:FORWARD DROP [3:252]\n-A FORWARD -i cni0 ! -o cni0 -g CNI-2\nCOMMIT\n# Completed\n",
    ])
}
