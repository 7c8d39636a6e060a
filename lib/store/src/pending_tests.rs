use std::collections::BTreeMap;

use overlay::allocate::Stored;
use proptest::prelude::*;

use super::*;

fn value(n: u8) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null}}"#)
}

fn put(key: &str, n: u8) -> Event {
    Event::read(key, value(n).as_bytes(), 0, None)
}

fn config(text: &str) -> Event {
    Event::Config(Some(text.as_bytes().into()))
}

fn snapshot(events: Vec<Event>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    events.into_iter().for_each(|event| snapshot.add(event));
    snapshot
}

fn keys(changes: &LeaseChanges) -> (Vec<String>, Vec<String>) {
    (
        changes.put.iter().map(|lease| lease.subnets.to_string()).collect(),
        changes.gone.iter().map(|s| s.to_string()).collect(),
    )
}

#[test]
fn changes_of_one_key_are_one_change() {
    let mut pending = Pending::default();
    pending.replace(snapshot(vec![put("10.5.1.0-24", 1), config("{}")]));
    let (changes, now) = pending.take();
    assert!(changes.snapshot && keys(&changes).0 == ["10.5.1.0-24"]);
    assert_eq!(now.flatten().as_deref(), Some(&b"{}"[..]));
    assert!(pending.is_empty() && pending.take() == (LeaseChanges::default(), None));
    for n in 2..200 {
        pending.apply(put("10.5.1.0-24", n));
        pending.apply(put("10.5.2.0-24", n));
    }
    let (changes, now) = pending.take();
    assert_eq!(
        (keys(&changes).0, changes.snapshot, now),
        (vec!["10.5.1.0-24".into(), "10.5.2.0-24".into()], false, None)
    );
    assert_eq!(Stored::from(&changes.put[0]).public_ip, "192.0.2.199".parse().ok());
    // One lease disappears and comes back; the other appears and disappears.
    for event in [Event::gone("10.5.1.0-24"), put("10.5.1.0-24", 7), put("10.5.3.0-24", 3), Event::gone("10.5.3.0-24")]
    {
        pending.apply(event);
    }
    assert_eq!(keys(&pending.take().0), (vec!["10.5.1.0-24".into()], vec![]));
    pending.apply(put("10.5.2.0-24", 8));
    pending.apply(Event::gone("10.5.2.0-24"));
    assert_eq!(keys(&pending.take().0), (vec![], vec!["10.5.2.0-24".into()]));
}

#[test]
fn a_renewal_is_no_change() {
    let mut pending = Pending::default();
    let lease = |term| Event::read("10.5.1.0-24", value(1).as_bytes(), 0, term);
    pending.apply(lease(Some(1)));
    pending.take();
    for term in [Some(2), None] {
        pending.apply(lease(term));
        assert!(pending.is_empty());
        assert_eq!(pending.index().get(&"10.5.1.0-24".parse().unwrap()).unwrap().term, term);
    }
    pending.apply(Event::Config(None));
    assert_eq!(pending.take().1, Some(None), "a store without configuration says so once");
    pending.apply(Event::Config(None));
    assert!(pending.is_empty());
}

#[test]
fn a_snapshot_waits_with_what_came_after_it() {
    let mut pending = Pending::default();
    pending.apply(put("10.5.9.0-24", 9));
    pending.replace(snapshot(vec![put("10.5.1.0-24", 1), put("10.5.2.0-24", 2), put("10.5.3.0-24", 3)]));
    for event in [put("10.5.1.0-24", 7), Event::gone("10.5.2.0-24"), put("10.5.4.0-24", 4)] {
        pending.apply(event);
    }
    let (changes, _) = pending.take();
    assert!(changes.snapshot);
    let wanted = ["10.5.3.0-24", "10.5.1.0-24", "10.5.4.0-24"].map(str::to_owned).to_vec();
    assert_eq!(keys(&changes), (wanted, vec![]));
}

#[test]
fn what_is_refused_is_said_until_it_is_gone() {
    let mut pending = Pending::default();
    pending.replace(snapshot(vec![put("10.5.1.0-24", 1), put("10.5.1.0-024", 2), Event::read("README", b"", 0, None)]));
    let (changes, _) = pending.take();
    assert_eq!(changes.refused.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["10.5.1.0-024", "README"]);
    // A lease with a damaged value does not count, until the value is repaired.
    pending.apply(Event::read("10.5.1.0-24", b"{", 0, None));
    let (changes, _) = pending.take();
    assert_eq!((keys(&changes), changes.refused.len()), ((vec![], vec!["10.5.1.0-24".into()]), 1));
    pending.apply(put("10.5.1.0-24", 1));
    let (changes, _) = pending.take();
    assert_eq!(changes.refused, [("10.5.1.0-24".to_owned(), None)]);
    assert_eq!(keys(&changes).0, ["10.5.1.0-24"]);
    // The same entry again is no news; a snapshot without the entry says that it is gone.
    pending.apply(Event::read("README", b"", 0, None));
    assert!(pending.is_empty());
    pending.replace(Snapshot::default());
    let refused = pending.take().0.refused;
    assert_eq!(refused, [("10.5.1.0-024".to_owned(), None), ("README".to_owned(), None)]);
    pending.apply(Event::refused(CONFIG, Refusal::TooLarge));
    assert_eq!(pending.take().0.refused, [("config".to_owned(), Some(Refusal::TooLarge))]);
    pending.apply(config("{}"));
    let (changes, now) = pending.take();
    assert_eq!((changes.refused, now.flatten().is_some()), (vec![("config".to_owned(), None)], true));
}

proptest! {
    /// Whenever the consumer takes the changes, it has what the store has; and what waits never exceeds the two
    /// together.
    #[test]
    fn the_consumer_has_what_the_store_has(steps in proptest::collection::vec((0..9_u8, 0..4_u8, 0..6_u8), 0..200)) {
        let (mut pending, mut store, mut consumer) = (Pending::default(), BTreeMap::new(), BTreeMap::new());
        for (key, n, what) in steps {
            let text = format!("10.5.{key}.0-24");
            match what {
                0..3 => {
                    store.insert(text.clone(), n);
                    pending.apply(put(&text, n));
                }
                3 => {
                    store.remove(&text);
                    pending.apply(Event::gone(&text));
                }
                4 => pending.replace(snapshot(store.iter().map(|(key, n)| put(key, *n)).collect())),
                _ => {
                    let (changes, _) = pending.take();
                    if changes.snapshot { consumer.clear(); }
                    for lease in changes.put { consumer.insert(lease.subnets.to_string(), Stored::from(&lease).public_ip); }
                    for gone in changes.gone { prop_assert!(consumer.remove(&gone.to_string()).is_some()); }
                    let wanted: BTreeMap<_, _> = store.iter().map(|(key, n)| (key.clone(), format!("192.0.2.{n}").parse().ok())).collect();
                    prop_assert_eq!(&consumer, &wanted);
                }
            }
            let waiting = pending.snapshot.as_ref().map_or(0, Vec::len) + pending.leases.len();
            prop_assert!(waiting <= 2 * 9);
        }
    }
}
