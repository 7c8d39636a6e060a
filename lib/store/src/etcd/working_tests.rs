use super::super::pb::{Event as WatchEvent, ResponseHeader};
use super::*;
use crate::pending::Pending;
use crate::snapshot::parsed;

const NAME: &str = "10.5.1.0-24";
const VALUE: &str = r#"{"PublicIP":"192.0.2.1"}"#;

fn kv(key: &str, value: &str, lease: i64, revision: i64) -> KeyValue {
    let (create_revision, mod_revision) = (1, revision);
    KeyValue { key: key.into(), value: value.into(), lease, create_revision, mod_revision, ..KeyValue::default() }
}

fn lease(name: &str, value: &str, id: i64, revision: i64) -> KeyValue {
    kv(&format!("/n/subnets/{name}"), value, id, revision)
}

fn listed(kvs: Vec<KeyValue>) -> (Working, Pending) {
    let (mut working, mut pending, mut snapshot) =
        (Working::new(Keys::new("/n")), Pending::default(), Snapshot::default());
    working.page(kvs, &mut snapshot);
    working.listed(10);
    pending.replace(snapshot);
    (working, pending)
}

fn watched(revision: i64, events: Vec<(EventType, KeyValue)>) -> WatchResponse {
    let events = events.into_iter().map(|(r#type, kv)| WatchEvent { r#type: r#type.into(), kv: Some(kv) });
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    WatchResponse { header, events: events.collect(), ..WatchResponse::default() }
}

fn put(name: &str, value: &str, revision: i64) -> WatchResponse {
    watched(revision, vec![(EventType::Put, lease(name, value, 0, revision))])
}

fn names(pending: &mut Pending) -> (Vec<String>, Vec<String>) {
    let changes = pending.take().0;
    let text = |subnets: &overlay::lease::Subnets| subnets.to_string();
    (changes.put.iter().map(|lease| text(&lease.subnets)).collect(), changes.gone.iter().map(text).collect())
}

#[test]
fn a_list_is_a_snapshot() {
    let (working, mut pending) =
        listed(vec![lease(NAME, VALUE, 0, 3), lease("10.5.2.0-24", VALUE, 7, 4), kv("/n/config", "{}", 0, 2)]);
    let terms: Vec<_> =
        [NAME, "10.5.2.0-24"].map(|name| pending.index().get(&name.parse().unwrap()).unwrap().term).into();
    assert_eq!(terms, [None, Some(7)], "a key without an etcd lease does not end");
    let (changes, config) = pending.take();
    assert!(changes.snapshot && changes.put.len() == 2 && changes.put[0].created == 1);
    assert_eq!(config.flatten().as_deref(), Some(&b"{}"[..]));
    assert_eq!((working.revision(), working.newest()), (10, Some(&(b"/n/subnets/10.5.2.0-24".to_vec(), 4))));
}

#[test]
fn changes_are_taken_one_by_one() {
    let (mut working, mut pending) = listed(vec![lease(NAME, VALUE, 7, 3)]);
    names(&mut pending);
    let mut apply = |working: &mut Working, answer| working.apply(answer).into_iter().for_each(|e| pending.apply(e));
    apply(&mut working, put(NAME, "{}", 11));
    apply(&mut working, watched(12, vec![(EventType::Put, kv("/n/config", "{}", 0, 12))]));
    let (changes, config) = pending.take();
    assert_eq!((changes.put.len(), config.flatten().is_some()), (1, true));
    let mut apply = |working: &mut Working, answer| working.apply(answer).into_iter().for_each(|e| pending.apply(e));
    apply(&mut working, watched(13, vec![(EventType::Delete, lease(NAME, "", 0, 13))]));
    apply(&mut working, watched(14, vec![(EventType::Delete, kv("/n/config", "", 0, 14))]));
    let (changes, config) = pending.take();
    assert_eq!((changes.gone.len(), config), (1, Some(None)));
    assert_eq!((working.revision(), working.newest()), (14, None));
}

#[test]
fn what_is_no_lease_disturbs_nobody() {
    let (_, mut pending) = listed(vec![
        lease(NAME, VALUE, 0, 3),
        lease("README", "", 0, 3),
        KeyValue { key: b"/n/subnets/\xff".into(), ..KeyValue::default() },
        kv("/n/subnets-x/10.5.3.0-24", VALUE, 0, 3),
        kv("/n/other", "z", 0, 3),
    ]);
    let (changes, _) = pending.take();
    assert_eq!(changes.put.len(), 1);
    let refused: Vec<_> = changes.refused.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(refused, ["README", "\u{fffd}"]);
}

#[test]
fn the_revision_is_what_is_wholly_in() {
    let (mut working, mut pending) = listed(vec![]);
    names(&mut pending);
    let part = WatchResponse { fragment: true, ..put(NAME, VALUE, 20) };
    assert!(working.apply(part.clone()).is_empty());
    assert_eq!(working.revision(), 10, "more of revision 20 is to come");
    assert_eq!(working.apply(put("10.5.2.0-24", VALUE, 20)).len(), 2);
    assert_eq!(working.revision(), 20);
    // The watch breaks, and the next one repeats the part.
    assert!(working.apply(WatchResponse { fragment: true, ..put(NAME, "{}", 21) }).is_empty());
    working.watched();
    assert_eq!(working.apply(put(NAME, "{}", 21)).len(), 1);
    // The store is ahead of this watch.
    working.apply(watched(99, vec![(EventType::Put, lease(NAME, VALUE, 0, 22))]));
    assert_eq!(working.revision(), 22);
    working.apply(WatchResponse { created: true, ..watched(99, vec![]) });
    assert_eq!(working.revision(), 22);
    working.apply(watched(99, vec![]));
    assert_eq!(working.revision(), 99, "without events it says how far the watch is");
}

/// The cost of an event does not depend on the number of leases.
#[test]
fn an_event_reads_one_value() {
    for leases in [100, 4_000] {
        let name = |n: i64| format!("10.{}.{}.0-24", n / 250, n % 250);
        let (mut working, mut pending) = listed((0..leases).map(|n| lease(&name(n), VALUE, 7, 3)).collect());
        names(&mut pending);
        let before = parsed::count();
        for event in working.apply(put(&name(7), "{}", 11)) {
            pending.apply(event);
        }
        assert_eq!(parsed::count() - before, 1, "{leases} leases");
        assert_eq!(names(&mut pending), (vec![name(7)], vec![]), "{leases} leases");
        for event in working.apply(watched(12, vec![(EventType::Delete, lease(&name(7), "", 0, 12))])) {
            pending.apply(event);
        }
        assert_eq!(parsed::count() - before, 1, "{leases} leases");
        assert_eq!(names(&mut pending), (vec![], vec![name(7)]), "{leases} leases");
    }
}
