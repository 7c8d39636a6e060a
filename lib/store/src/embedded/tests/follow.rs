//! What a follower publishes.

use super::*;
use crate::config_path;
use crate::snapshot::parsed;

fn one_second() -> Option<Duration> {
    Some(Duration::from_secs(1))
}

#[test]
fn leases_end_and_reservations_do_not() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let ((one, _first), (_, mut seen)) = (open(dir.path()), open(dir.path()));
        one.create(key(KEY), &value(1), one_second()).await.unwrap();
        one.create(key("10.5.2.0-24"), &value(2), None).await.unwrap();
        one.create(key("10.5.3.0-24"), &value(3), DAY).await.unwrap();
        seen.until("three leases", |seen| seen.leases.len() == 3).await;
        seen.until("the first has expired", |seen| !seen.leases.contains_key(KEY)).await;
        // A time that a person moves is noticed.
        std::fs::write(dir.path().join("ttl/10.5.3.0-24"), "1").unwrap();
        seen.until("the third has expired", |seen| seen.leases.len() == 1).await;
        assert!(seen.leases.contains_key("10.5.2.0-24"));
        assert!(!dir.path().join("ttl/10.5.3.0-24").exists());
        // The name is free again.
        assert!(one.create(key(KEY), &value(4), DAY).await.unwrap().is_done());
    });
}

#[test]
fn every_way_to_change_a_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_path(&dir.path().join("not/yet"), "/coreos.com/network");
    let root = config.parent().unwrap().to_owned();
    block_on(async {
        let (_store, mut seen) = open(&root);
        seen.until("an empty store is made", |seen| seen.health.complete).await;
        assert_eq!(seen.config, None);
        let is = |text: &'static str| move |seen: &Seen| seen.config.as_deref() == Some(text.as_bytes());
        std::fs::write(&config, "created").unwrap();
        seen.until("created", is("created")).await;
        std::fs::write(&config, "in place").unwrap();
        seen.until("in place", is("in place")).await;
        std::fs::write(dir.path().join("new"), "renamed").unwrap();
        std::fs::rename(dir.path().join("new"), &config).unwrap();
        seen.until("renamed over", is("renamed")).await;
        std::fs::remove_file(&config).unwrap();
        seen.until("removed", |seen| seen.config.is_none()).await;
        let lease = root.join("subnets").join(KEY);
        std::fs::write(&lease, value(1)).unwrap();
        seen.until("a lease by hand", |seen| seen.has(KEY, 1)).await;
        std::fs::write(&lease, "{").unwrap();
        seen.until("damaged by hand", |seen| seen.leases.is_empty() && seen.refused.contains_key(KEY)).await;
        std::fs::write(&lease, value(2)).unwrap();
        seen.until("mended by hand", |seen| seen.has(KEY, 2) && seen.refused.is_empty()).await;
        std::fs::remove_file(&lease).unwrap();
        seen.until("removed by hand", |seen| seen.leases.is_empty()).await;
        assert_eq!(seen.snapshots, 1, "everything was read once");
        // The whole store disappears and comes back.
        std::fs::remove_dir_all(dir.path().join("not")).unwrap();
        seen.until("noticed that it is gone", |seen| !seen.health.complete && seen.health.error.is_some()).await;
        seen.until("made again", |seen| seen.health.complete && seen.health.error.is_none()).await;
        std::fs::write(&config, "again").unwrap();
        seen.until("watched again", is("again")).await;
    });
}

#[test]
fn a_renewal_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (store, mut seen) = open(dir.path());
        store.create(key(KEY), &value(1), Some(Duration::from_secs(1000))).await.unwrap();
        seen.until("created", |seen| seen.has(KEY, 1)).await;
        store.renew(key(KEY), &value(1), &value(1), DAY).await.unwrap();
        store.create(key("10.5.9.0-24"), &value(2), DAY).await.unwrap();
        seen.more().await;
        assert!(seen.has("10.5.9.0-24", 2), "woken by the renewal");
    });
}

#[test]
fn a_newcomer_cannot_take_a_subnet_by_another_spelling() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (store, mut seen) = open(dir.path());
        store.create(key("10.5.40.0-24"), &value(1), DAY).await.unwrap();
        std::fs::write(dir.path().join("subnets/10.5.40.0-024"), value(2)).unwrap();
        seen.until("both", |seen| seen.leases.len() + seen.refused.len() == 2).await;
        assert!(seen.has("10.5.40.0-24", 1));
        assert_eq!(seen.refused["10.5.40.0-024"], "its key is not canonical: the key of these subnets is 10.5.40.0-24");
    });
}

/// One more lease costs one reading, however many there are.
#[test]
fn a_change_reads_what_has_changed() {
    for leases in [100, 4_000] {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.prepare().unwrap();
        for n in 0..leases {
            std::fs::write(dir.path().join(format!("subnets/10.{}.{}.0-24", n / 250, n % 250)), value(1)).unwrap();
        }
        std::fs::write(dir.path().join("subnets/10.99.1.0-24"), value(2)).unwrap();
        let before = parsed::count();
        let reading = layout.read_these(&["10.99.1.0-24".into(), "10.99.2.0-24".into()]).unwrap();
        assert_eq!((reading.entries.len(), parsed::count() - before), (2, 1), "{leases} leases");
        block_on(async {
            let (store, mut seen) = open(dir.path());
            seen.until("all", |seen| seen.leases.len() == leases + 1).await;
            store.create(key("10.99.3.0-24"), &value(3), DAY).await.unwrap();
            seen.until("one more", |seen| seen.has("10.99.3.0-24", 3)).await;
            assert_eq!(seen.snapshots, 1, "everything was read once");
        });
    }
}

#[test]
fn a_flood_of_events_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (_store, mut seen) = open(dir.path());
        seen.until("opened", |seen| seen.health.complete).await;
        // This thread would read the queue, so the queue overflows.
        let limit: usize =
            std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let subnets = dir.path().join("subnets");
        for n in 0..=limit / 3 {
            let noise = subnets.join(format!("{n}"));
            std::fs::write(&noise, "").unwrap();
            std::fs::remove_file(&noise).unwrap();
        }
        std::fs::write(subnets.join(KEY), value(1)).unwrap();
        seen.until("the lease after the flood", |seen| seen.leases.len() == 1 && seen.has(KEY, 1)).await;
        assert_eq!(seen.snapshots, 2, "everything was read again");
        std::fs::remove_file(subnets.join(KEY)).unwrap();
        seen.until("still watching", |seen| seen.leases.is_empty()).await;
    });
}

#[test]
fn a_store_that_cannot_be_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::write(&path, "a file where a directory is needed").unwrap();
    block_on(async {
        let (store, mut seen) = open(&path);
        seen.until("the error is shown", |seen| seen.health.error.is_some()).await;
        assert!(!seen.health.complete && seen.health.stale_since.is_some());
        assert!(seen.health.error.as_ref().unwrap().contains("/store: cannot create"), "{:?}", seen.health);
        let error = store.create(key(KEY), &value(1), DAY).await.unwrap_err().to_string();
        assert!(error.contains("cannot create"), "{error}");
        std::fs::remove_file(&path).unwrap();
        seen.until("it heals", |seen| seen.health.complete && seen.health.error.is_none()).await;
        assert_eq!(seen.health.stale_since, None);
    });
}

/// A file operation that does not return is reported, blocks nothing else, and its result is used when it does
/// return.
#[test]
fn a_slow_disk_is_said() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let layout = Arc::new(Layout::new(dir.path().to_owned()));
        let desk = Desk::with_patience(layout, Duration::from_millis(20));
        let (go_on, hang) = std::sync::mpsc::channel::<()>();
        let said = std::cell::RefCell::new(Vec::new());
        let hangs = move |_: &Layout| hang.recv().map_err(|_| StoreError::Stopped);
        let mut work = std::pin::pin!(desk.finish(hangs, |error| said.borrow_mut().push(error.to_string())));
        // Work that waits for its turn gives up.
        let another = async { desk.run(|_| Ok::<_, StoreError>(())).await.unwrap_err().to_string() };
        tokio::select! {
            biased;
            _ = &mut work => panic!("it hangs"),
            error = another => assert!(error.contains("does not answer"), "{error}"),
        }
        go_on.send(()).unwrap();
        work.await.unwrap();
        assert!(matches!(&said.borrow()[..], [error] if error.contains("does not answer")), "{said:?}");
        desk.finish(|_| Ok::<_, StoreError>(()), |_| {}).await.unwrap();
    });
}
