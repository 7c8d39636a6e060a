use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlay::allocate::Choice;

use super::decide::{Decision, Facts, Own, Standing, Usurped, decide};
use super::*;
use crate::compare::{CompareStore, Raw, Term, Written};
use crate::feed::{Feed, Publisher};
use crate::index::Index;
use crate::snapshot::{Event, Snapshot};

const KEY: &str = "10.5.1.0-24";
const DAY: Duration = Duration::from_secs(86_400);

fn key(text: &str) -> Subnets {
    text.parse().unwrap()
}

fn conf(network: &str) -> NetConf {
    let text = format!(r#"{{"Network":"{network}","Backend":{{"Type":"host-gw"}}}}"#);
    NetConf::parse(text.as_bytes()).unwrap().conf
}

fn attrs(n: u8) -> LeaseAttrs {
    LeaseAttrs { public_ip: Some([192, 0, 2, n].into()), backend_type: "host-gw".into(), ..LeaseAttrs::default() }
}

fn value(n: u8) -> Vec<u8> {
    attrs(n).to_json().into_bytes()
}

fn index(leases: &[(&str, u8)]) -> Index {
    let mut snapshot = Snapshot::default();
    leases.iter().for_each(|(key, n)| snapshot.add(Event::read(key, &value(*n), 0, Some(1))));
    snapshot.index
}

fn own(n: u8) -> Own {
    let term = Term { id: Some(1), end: None };
    Own { subnets: key(KEY), value: value(n), term, renewed: Instant::now() }
}

/// The decision for a host that publishes 192.0.2.1.
fn decided(network: &str, leases: &[(&str, u8)], own: Option<&Own>, usurped: Usurped) -> Decision {
    let (conf, index, attrs) = (conf(network), index(leases), attrs(1));
    let previous = Subnets::default();
    decide(&Facts { conf: &conf, attrs: &attrs, previous, random: 0, avoid: &[], index: &index, own, usurped })
}

fn written(choice: Choice, standing: Option<Standing>) -> Decision {
    Decision::Write { choice, standing, given_up: false }
}

#[test]
fn a_lease_is_kept_while_it_is_as_it_was_written_and_fits() {
    let (held, subnets) = (own(1), key(KEY));
    let decided = |network, leases| decided(network, leases, Some(&held), Usurped::No);
    assert_eq!(decided("10.5.0.0/16", &[(KEY, 1), ("10.5.2.0-24", 2)]), Decision::Keep);
    let gone = written(Choice::Take { subnets }, Some(Standing::Gone));
    assert_eq!(decided("10.5.0.0/16", &[("10.5.2.0-24", 2)]), gone, "the same subnet is taken again");
    let Decision::Write { choice: Choice::Replace { old, .. }, .. } = decided("10.6.0.0/16", &[(KEY, 1)]) else {
        panic!("the network has moved");
    };
    assert_eq!(old, subnets);
}

#[test]
fn a_lease_that_another_wrote_is_adopted_or_lost() {
    let held = own(1);
    let decided = |leases| decided("10.5.0.0/16", leases, Some(&held), Usurped::No);
    // The lease has this host's address, but another value: a contest.
    let mut index = index(&[(KEY, 1)]);
    let other = LeaseAttrs { backend_type: "vxlan".into(), ..attrs(1) }.to_json();
    let Event::Put(found) = Event::read(KEY, other.as_bytes(), 0, Some(1)) else { panic!("{other}") };
    index.put(&found);
    let (conf, attrs) = (conf("10.5.0.0/16"), attrs(1));
    let previous = Subnets::default();
    let facts = Facts {
        conf: &conf,
        attrs: &attrs,
        previous,
        random: 0,
        avoid: &[],
        index: &index,
        own: Some(&held),
        usurped: Usurped::No,
    };
    assert_eq!(decide(&facts), written(Choice::Adopt { subnets: key(KEY) }, Some(Standing::Altered)));
    // The lease has another host's address, and pods here have addresses in its subnet.
    assert_eq!(decided(&[(KEY, 2)]), Decision::Lost(key(KEY)));
}

#[test]
fn a_lease_that_was_adopted_for_its_address_alone_is_given_up_when_its_host_is_alive() {
    let held = own(1);
    let decided = |usurped| decided("10.5.0.0/16", &[(KEY, 2)], Some(&held), usurped);
    assert_eq!(decided(Usurped::Unknown), Decision::Ask);
    let Decision::Write { choice: Choice::Take { subnets }, given_up: true, .. } = decided(Usurped::Yes) else {
        panic!("another subnet is taken")
    };
    assert_ne!(subnets, key(KEY));
    assert_eq!(decided(Usurped::No), Decision::Lost(key(KEY)));
}

#[test]
fn a_full_network_is_an_error() {
    let full = [("10.5.0.32-27", 2), ("10.5.0.64-27", 3), ("10.5.0.96-27", 4)];
    let text = r#"{"Network":"10.5.0.0/25","SubnetLen":27,"Backend":{"Type":"host-gw"}}"#;
    let (conf, attrs) = (NetConf::parse(text.as_bytes()).unwrap().conf, attrs(1));
    let (index, previous) = (index(&full), Subnets::default());
    let facts = Facts {
        conf: &conf,
        attrs: &attrs,
        previous,
        random: 0,
        avoid: &[],
        index: &index,
        own: None,
        usurped: Usurped::No,
    };
    assert!(matches!(decide(&facts), Decision::Full(_)));
}

/// A store in memory that shows each write at once.
#[derive(Debug)]
struct Memory {
    leases: Mutex<BTreeMap<Subnets, Raw>>,
    feed: Arc<Publisher>,
    terms: Mutex<u64>,
}

impl Memory {
    fn put(&self, key: Subnets, value: &[u8], ttl: Option<Duration>) -> Term {
        let id = ttl.map(|_| {
            let mut terms = self.terms.lock().unwrap();
            *terms += 1;
            *terms
        });
        let term = Term { id, end: ttl.map(|ttl| Moment::now().after(ttl)) };
        self.leases.lock().unwrap().insert(key, Raw { value: value.into(), term });
        self.feed.apply([Event::read(&key.to_string(), value, 0, id)]);
        term
    }

    fn holds(&self, key: Subnets, value: &[u8]) -> bool {
        self.leases.lock().unwrap().get(&key).is_some_and(|raw| raw.value == value)
    }

    fn remove(&self, key: Subnets) {
        self.leases.lock().unwrap().remove(&key);
        self.feed.apply([Event::gone(&key.to_string())]);
    }

    fn keys(&self) -> Vec<String> {
        self.leases.lock().unwrap().keys().map(Subnets::to_string).collect()
    }
}

impl CompareStore for Arc<Memory> {
    async fn read(&self, key: Subnets) -> Result<Option<Raw>, StoreError> {
        Ok(self.leases.lock().unwrap().get(&key).cloned())
    }

    async fn create(&self, key: Subnets, value: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        if self.leases.lock().unwrap().contains_key(&key) {
            return Ok(Written::Conflict);
        }
        Ok(Written::Done(self.put(key, value, ttl)))
    }

    async fn renew(&self, key: Subnets, old: &[u8], new: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        Ok(if self.holds(key, old) { Written::Done(self.put(key, new, ttl)) } else { Written::Conflict })
    }

    async fn delete(&self, key: Subnets, old: &[u8]) -> Result<Written, StoreError> {
        if !self.holds(key, old) {
            return Ok(Written::Conflict);
        }
        self.remove(key);
        Ok(Written::Done(Term::default()))
    }
}

/// A host that publishes 192.0.2.1, and its store.
struct Host {
    store: Arc<Memory>,
    keeper: Keeper<Arc<Memory>>,
    _feed: Feed,
}

impl Host {
    fn new(margin: Duration) -> Self {
        let mut publisher = None;
        let feed = Feed::start("memory".into(), |feed| {
            publisher = Some(Arc::new(feed));
            std::future::pending()
        });
        let feed_end = publisher.unwrap();
        feed_end.replace("memory".into(), Snapshot::default());
        let store = Arc::new(Memory { leases: Mutex::default(), feed: feed_end, terms: Mutex::default() });
        let keeper = Keeper::new(store.clone(), feed.shared(), margin);
        Self { store, keeper, _feed: feed }
    }

    async fn hold(&mut self, network: &str, previous: &str) -> Result<Held, HoldError> {
        let (conf, attrs, previous) = (conf(network), attrs(1), previous.parse().unwrap_or_default());
        let claim =
            Claim { conf: &conf, attrs: &attrs, previous, started: true, now: Instant::now(), random: 5, avoid: &[] };
        self.keeper.hold(&claim).await
    }

    async fn holds(&mut self) -> Held {
        self.hold("10.5.0.0/16", "").await.unwrap()
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work);
}

#[test]
fn a_subnet_is_taken_published_and_renewed_before_its_end() {
    block_on(async {
        let mut host = Host::new(DAY - Duration::from_secs(30));
        assert!(host.keeper.held(Instant::now()).is_none());
        let held = host.hold("10.5.0.0/16", KEY).await.unwrap();
        assert_eq!((held.subnets, held.reservation, held.note, held.moved_from), (key(KEY), false, None, None));
        let left = held.look_again.unwrap() - Instant::now();
        assert!((Duration::from_secs(25)..=Duration::from_secs(30)).contains(&left), "{left:?}");
        assert_eq!(host.keeper.publish(&attrs(1)).await.unwrap(), Published::Unchanged);
        let vxlan = LeaseAttrs { backend_type: "vxlan".into(), ..attrs(1) };
        assert_eq!(host.keeper.publish(&vxlan).await.unwrap(), Published::Written);
        assert!(host.store.holds(key(KEY), vxlan.to_json().as_bytes()));
        let before = *host.store.terms.lock().unwrap();
        assert_eq!(host.holds().await.subnets, key(KEY));
        assert_eq!(*host.store.terms.lock().unwrap(), before, "it is not time to renew it");
        // The end is past: at most one renewal in five seconds.
        host.keeper = {
            let Host { store, _feed, .. } = &host;
            Keeper::new(store.clone(), _feed.shared(), 2 * DAY)
        };
        host.hold("10.5.0.0/16", KEY).await.unwrap();
        let before = *host.store.terms.lock().unwrap();
        for _ in 0..4 {
            tokio::time::advance(Duration::from_secs(2)).await;
            host.holds().await;
        }
        assert_eq!(*host.store.terms.lock().unwrap() - before, 1);
    });
}

#[test]
fn a_reservation_stays_one_and_may_become_a_lease() {
    block_on(async {
        let mut host = Host::new(Duration::from_secs(60));
        host.store.put(key(KEY), &value(1), None);
        let held = host.holds().await;
        assert!(held.reservation && held.expires.is_none() && held.look_again.is_none(), "{held:?}");
        host.keeper.publish(&LeaseAttrs { backend_type: "x".into(), ..attrs(1) }).await.unwrap();
        assert!(host.holds().await.reservation);
        // A person gives the reservation an end: then it is renewed.
        let value = LeaseAttrs { backend_type: "x".into(), ..attrs(1) }.to_json();
        host.store.put(key(KEY), value.as_bytes(), Some(DAY));
        tokio::time::advance(Duration::from_secs(6)).await;
        let held = host.holds().await;
        assert!(!held.reservation && held.expires.is_some(), "{held:?}");
        assert_eq!(*host.store.terms.lock().unwrap(), 2);
        // A person makes the lease a reservation.
        host.store.put(key(KEY), value.as_bytes(), None);
        assert!(host.holds().await.reservation);
    });
}

#[test]
fn a_lease_that_is_gone_is_taken_again_and_one_that_is_anothers_is_lost() {
    block_on(async {
        let mut host = Host::new(Duration::from_secs(60));
        host.hold("10.5.0.0/16", KEY).await.unwrap();
        host.store.remove(key(KEY));
        assert_eq!(host.holds().await.subnets, key(KEY));
        assert_eq!(host.store.keys(), [KEY]);
        host.store.put(key(KEY), &value(2), Some(DAY));
        let lost = host.hold("10.5.0.0/16", "").await;
        assert!(matches!(lost, Err(HoldError::Lost(subnets)) if subnets == key(KEY)), "{lost:?}");
    });
}

#[test]
fn a_host_that_moves_deletes_its_lease_and_says_so() {
    block_on(async {
        let mut host = Host::new(Duration::from_secs(60));
        host.hold("10.5.0.0/16", KEY).await.unwrap();
        let held = host.hold("10.6.0.0/16", "").await.unwrap();
        assert_eq!(held.moved_from, Some(key(KEY)));
        assert_eq!(host.store.keys(), [held.subnets.to_string()]);
        assert_eq!(host.hold("10.6.0.0/16", "").await.unwrap().moved_from, None, "it is said once");
    });
}

#[test]
fn a_contest_is_no_race() {
    block_on(async {
        let mut host = Host::new(Duration::from_secs(60));
        host.hold("10.5.0.0/16", KEY).await.unwrap();
        let theirs = LeaseAttrs { backend_type: "vxlan".into(), ..attrs(1) }.to_json();
        for wait in [100, 200, 400] {
            host.store.put(key(KEY), theirs.as_bytes(), Some(DAY));
            let held = host.holds().await;
            assert!(held.note.unwrap().contains("does it publish the same address (192.0.2.1)?"));
            let after = Instant::now() + Duration::from_millis(wait);
            assert_eq!(host.keeper.publish(&attrs(1)).await.unwrap(), Published::After(after));
            tokio::time::advance(Duration::from_millis(wait)).await;
            assert_eq!(host.keeper.publish(&attrs(1)).await.unwrap(), Published::Written);
        }
        tokio::time::advance(Duration::from_secs(121)).await;
        assert_eq!(host.holds().await.note, None, "there is peace");
    });
}

#[test]
fn an_adopted_lease_is_given_back_to_a_host_that_is_alive() {
    block_on(async {
        let mut host = Host::new(Duration::from_secs(60));
        // The lease of another host behind the same address.
        let theirs = LeaseAttrs { backend_type: "vxlan".into(), ..attrs(1) }.to_json();
        host.store.put(key(KEY), theirs.as_bytes(), Some(DAY));
        assert_eq!(host.holds().await.subnets, key(KEY));
        host.keeper.publish(&attrs(1)).await.unwrap();
        host.store.put(key(KEY), theirs.as_bytes(), Some(DAY));
        let held = host.holds().await;
        assert_ne!(held.subnets, key(KEY));
        assert_eq!(held.moved_from, None, "it was never this host's");
        assert!(host.store.holds(key(KEY), theirs.as_bytes()));
        // A lease that subnet.env names belongs to this host.
        let mut host = Host::new(Duration::from_secs(60));
        host.store.put(key(KEY), theirs.as_bytes(), Some(DAY));
        host.hold("10.5.0.0/16", KEY).await.unwrap();
        host.keeper.publish(&attrs(1)).await.unwrap();
        host.store.put(key(KEY), theirs.as_bytes(), Some(DAY));
        assert_eq!(host.holds().await.subnets, key(KEY));
    });
}

#[test]
fn without_a_whole_reading_nothing_is_chosen_and_nothing_given_up() {
    block_on(async {
        let mut host = Host::new(Duration::from_secs(60));
        host.store.feed.fail(&"away", std::time::SystemTime::UNIX_EPOCH);
        assert!(matches!(host.hold("10.5.0.0/16", KEY).await, Err(HoldError::Wait(Waiting::Unread))));
        host.store.feed.resume("memory".into());
        host.hold("10.5.0.0/16", KEY).await.unwrap();
        host.store.remove(key(KEY));
        host.store.feed.fail(&"away", std::time::SystemTime::UNIX_EPOCH);
        assert_eq!(host.holds().await.subnets, key(KEY));
        assert!(host.store.keys().is_empty());
    });
}
