use super::super::pb::{Event, ResponseHeader};
use super::*;

const NAME: &str = "10.5.1.0-24";

fn kv(key: &str, value: &str, lease: i64, mod_revision: i64) -> KeyValue {
    KeyValue { key: key.into(), value: value.into(), lease, mod_revision, ..KeyValue::default() }
}

fn lease(name: &str, value: &str, id: i64, revision: i64) -> KeyValue {
    kv(&format!("/n/subnets/{name}"), value, id, revision)
}

fn listed(kvs: Vec<KeyValue>) -> Working {
    let mut working = Working::new(Keys::new("/n"));
    working.list(RangeResponse { header: None, kvs }, 10, &KnownEnds::new());
    working
}

fn told(revision: i64, events: Vec<(EventType, KeyValue)>) -> WatchResponse {
    let events = events.into_iter().map(|(r#type, kv)| Event { r#type: r#type.into(), kv: Some(kv) });
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    WatchResponse { header, events: events.collect(), ..WatchResponse::default() }
}

fn view(working: &Working) -> View {
    working.view("etcd".into())
}

#[test]
fn a_key_without_an_etcd_lease_does_not_end() {
    let working = listed(vec![lease(NAME, "a", 0, 3), lease("10.5.2.0-24", "b", 7, 4), kv("/n/config", "{}", 0, 2)]);
    let view = view(&working);
    assert_eq!(view.leases.len(), 2);
    assert_eq!(view.expires.keys().collect::<Vec<_>>(), ["10.5.2.0-24"]);
    assert_eq!(view.config.as_deref(), Some(&b"{}"[..]));
    assert!(view.complete && view.stale_since.is_none());
    assert_eq!((working.revision(), working.newest()), (10, Some(&(b"/n/subnets/10.5.2.0-24".to_vec(), 4))));
}

#[test]
fn changes_are_taken_one_by_one() {
    let mut working = listed(vec![lease(NAME, "a", 7, 3)]);
    let put = EventType::Put;
    working
        .apply(told(11, vec![(put, lease(NAME, "b", 0, 11)), (put, kv("/n/config", "{}", 0, 11))]), &KnownEnds::new());
    let now = view(&working);
    assert_eq!((&now.leases[NAME][..], now.expires.len()), (&b"b"[..], 0), "it has become a reservation");
    working.apply(told(12, vec![(EventType::Delete, lease(NAME, "", 0, 12))]), &KnownEnds::new());
    working.apply(told(13, vec![(EventType::Delete, kv("/n/config", "", 0, 13))]), &KnownEnds::new());
    let now = view(&working);
    assert!(now.leases.is_empty() && now.config.is_none());
    assert_eq!((working.revision(), working.newest()), (13, None));
}

#[test]
fn what_is_no_lease_disturbs_nobody() {
    let large = "x".repeat(LARGEST + 1);
    let mut working = listed(vec![
        lease(NAME, "a", 0, 3),
        lease("README", "", 0, 3),
        lease("10.5.9.0-24", &large, 7, 3),
        KeyValue { key: b"/n/subnets/\xff".into(), ..KeyValue::default() },
        kv("/n/subnets-x/10.5.3.0-24", "z", 0, 3),
        kv("/n/other", "z", 0, 3),
    ]);
    let now = view(&working);
    assert_eq!(now.leases.keys().collect::<Vec<_>>(), [NAME]);
    assert_eq!(now.ignored.keys().collect::<Vec<_>>(), ["10.5.9.0-24", "README", "\u{fffd}"]);
    working.apply(told(11, vec![(EventType::Put, lease("10.5.9.0-24", "good", 0, 11))]), &KnownEnds::new());
    working.apply(told(12, vec![(EventType::Put, lease(NAME, &large, 0, 12))]), &KnownEnds::new());
    working.apply(told(13, vec![(EventType::Delete, lease("README", "", 0, 13))]), &KnownEnds::new());
    let now = view(&working);
    assert_eq!(now.leases.keys().collect::<Vec<_>>(), ["10.5.9.0-24"]);
    assert_eq!(now.ignored.keys().collect::<Vec<_>>(), [NAME, "\u{fffd}"]);
    working.apply(told(14, vec![(EventType::Put, kv("/n/config", &large, 0, 14))]), &KnownEnds::new());
    assert!(view(&working).ignored.contains_key("config"));
    working.apply(told(15, vec![(EventType::Put, kv("/n/config", "{}", 0, 15))]), &KnownEnds::new());
    assert!(!view(&working).ignored.contains_key("config"));
}

#[test]
fn an_end_is_known_of_ones_own() {
    let end = Moment::default();
    let mut working = listed(vec![lease(NAME, "a", 7, 3), lease("10.5.2.0-24", "b", 8, 3)]);
    assert_eq!(view(&working).expires[NAME], None, "it ends, nobody has asked when");
    working.learn(&[(7, end)].into());
    assert_eq!(view(&working).expires[NAME], Some(end));
    assert_eq!(view(&working).expires["10.5.2.0-24"], None);
    working.apply(told(11, vec![(EventType::Put, lease(NAME, "a", 9, 11))]), &[(9, end)].into());
    assert_eq!(view(&working).expires[NAME], Some(end));
}

#[test]
fn the_revision_is_what_is_wholly_in() {
    let mut working = listed(vec![]);
    let part = WatchResponse { fragment: true, ..told(20, vec![(EventType::Put, lease(NAME, "a", 0, 20))]) };
    working.apply(part, &KnownEnds::new());
    assert_eq!(working.revision(), 10, "more of revision 20 is to come");
    working.apply(told(20, vec![(EventType::Put, lease("10.5.2.0-24", "a", 0, 20))]), &KnownEnds::new());
    assert_eq!(working.revision(), 20);
    // the store is ahead of what this watch has told
    working.apply(told(99, vec![(EventType::Put, lease(NAME, "b", 0, 21))]), &KnownEnds::new());
    assert_eq!(working.revision(), 21);
    working.apply(WatchResponse { created: true, ..told(99, vec![]) }, &KnownEnds::new());
    assert_eq!(working.revision(), 21);
    working.apply(told(99, vec![]), &KnownEnds::new());
    assert_eq!(working.revision(), 99, "without news it tells how far it is");
}

#[test]
fn a_view_that_was_given_out_stays_as_it_was() {
    let mut working = listed(vec![lease(NAME, "a", 7, 3)]);
    let before = view(&working);
    working.apply(told(11, vec![(EventType::Put, lease(NAME, "b", 0, 11))]), &KnownEnds::new());
    assert_eq!((&before.leases[NAME][..], before.expires.len()), (&b"a"[..], 1));
}
