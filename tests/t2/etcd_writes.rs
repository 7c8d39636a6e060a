//! What is written to etcd, and under which conditions.

use std::time::Duration;

use store::clock::Moment;
use store::{StoreError, Written};

use crate::Outcome;
use crate::etcd_server::{Lab, value};

const DAY: Option<Duration> = Some(Duration::from_secs(86_400));
const KEY: &str = "10.5.1.0-24";

pub fn a_lease_is_written_renewed_and_deleted_by_compare() -> Outcome {
    let lab = Lab::up(1)?;
    lab.with_store(async |store| {
        let (one, two) = (value(1), value(2));
        let (one, two) = (one.as_bytes(), two.as_bytes());
        store.until("an empty store", |view| view.health.complete && view.health.stale_since.is_none()).await?;
        let Written::Done(term) = store.create(KEY, one, DAY).await? else { return Err("it is not created".into()) };
        assert_eq!(store.create(KEY, two, DAY).await?, Written::Conflict);
        store.until("the lease", |view| view.leases.contains_key(KEY)).await?;
        let left = term.end.ok_or("its end is not known")?.left(Moment::now());
        assert!((86_390..=86_400).contains(&left.as_secs()), "{left:?}");

        // An unchanged lease is renewed without waking any host.
        let before = lab.key(KEY)?;
        assert!(store.renew(KEY, one, one, DAY).await?.is_done());
        assert_eq!(lab.key(KEY)?, before);
        // another value: the same etcd lease
        assert!(store.renew(KEY, one, two, DAY).await?.is_done());
        let after = lab.key(KEY)?;
        assert_eq!((after.value.as_bytes(), after.lease), (two, before.lease));
        // not what somebody else has written
        for refused in [store.renew(KEY, one, one, DAY).await?, store.delete(KEY, one).await?] {
            assert_eq!(refused, Written::Conflict);
        }
        assert_eq!(lab.key(KEY)?, after);
        assert_eq!(store.renew("10.5.9.0-24", one, one, DAY).await?, Written::Conflict, "it is not there");

        // a reservation, and a lease again
        assert!(store.renew(KEY, two, two, None).await?.is_done());
        assert_eq!(store.read(KEY).await?.ok_or("no lease")?.term.id, None, "a reservation");
        assert_eq!(lab.key(KEY)?.lease, 0);
        assert!(store.renew(KEY, two, two, DAY).await?.is_done());
        assert!(store.read(KEY).await?.ok_or("no lease")?.term.id.is_some(), "a lease");

        assert!(store.delete(KEY, two).await?.is_done());
        store.until("no lease", |view| view.leases.is_empty()).await?;
        Ok(())
    })
}

pub fn etcd_leases_are_not_left_behind() -> Outcome {
    let lab = Lab::up(1)?;
    let count = || -> Result<usize, crate::Failure> { Ok(lab.ctl(&["lease", "list"])?.lines().count() - 1) };
    lab.with_store(async |store| {
        let (one, two) = (value(1), value(2));
        let (one, two) = (one.as_bytes(), two.as_bytes());
        store.create(KEY, one, DAY).await?;
        assert_eq!(store.create(KEY, two, DAY).await?, Written::Conflict);
        store.renew(KEY, one, two, DAY).await?;
        assert_eq!(count()?, 1);
        // too short for what is asked: another is made, and the one before is ended
        let minute = Some(Duration::from_secs(60));
        store.create("10.5.2.0-24", one, minute).await?;
        assert_eq!(count()?, 2);
        assert!(store.renew("10.5.2.0-24", one, one, DAY).await?.is_done());
        assert_eq!(count()?, 2);
        store.renew("10.5.2.0-24", one, one, None).await?;
        assert_eq!(count()?, 1, "a reservation needs none");
        // Another process's etcd lease is not revoked, because other keys may be attached to it.
        let granted = lab.ctl(&["lease", "grant", "60"])?;
        let id = granted.split(' ').nth(1).ok_or("no lease")?;
        lab.ctl(&["put", "--lease", id, "/coreos.com/network/subnets/10.5.3.0-24", std::str::from_utf8(one)?])?;
        store.until("a lease by hand", |view| view.leases.contains_key("10.5.3.0-24")).await?;
        assert!(store.renew("10.5.3.0-24", one, one, DAY).await?.is_done());
        assert_eq!(count()?, 3);
        for (name, value) in [(KEY, two), ("10.5.2.0-24", one), ("10.5.3.0-24", one)] {
            assert!(store.delete(name, value).await?.is_done());
        }
        let left = lab.ctl(&["lease", "list"])?;
        assert!(count()? == 1 && left.contains(id), "{left}");
        Ok(())
    })
}

pub fn of_many_creators_one_wins() -> Outcome {
    let lab = Lab::up(1)?;
    let dual = |v4: usize, v6: usize| format!("10.5.{v4}.0-24&fd05:0:0:{v6:x}::-64");
    let dual_value = |n: usize| format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":"fd99::{n:x}"}}"#);
    lab.with_store(async |store| {
        // one key, and twelve that share one half
        for (name, first) in [(0_usize, 1_usize), (1, 20)] {
            let keys: Vec<_> = (0..12).map(|n| if name == 0 { dual(1, 1) } else { dual(9, first + n) }).collect();
            let values: Vec<_> = (0..12).map(|n| dual_value(first + n)).collect();
            let creations = keys.iter().zip(&values).map(|(key, value)| store.create(key, value.as_bytes(), DAY));
            let outcomes = all(creations).await?;
            let won = outcomes.iter().filter(|outcome| outcome.is_done()).count();
            assert_eq!(won, 1, "{outcomes:?}");
        }
        let left = lab.leases()?;
        assert_eq!(left.len(), 2, "{left:?}");
        // the host that has a half may have the whole
        let own = left.iter().find(|key| key.starts_with("10.5.9.0")).ok_or("no half")?;
        let mine = lab.key(own)?.value;
        assert!(store.create("10.5.9.0-24", mine.as_bytes(), DAY).await?.is_done());
        assert_eq!(store.create("0.0.0.0-0&fd05:0:0:1::-64", dual_value(99).as_bytes(), DAY).await?, Written::Conflict);
        assert_eq!(lab.leases()?.len(), 3);
        Ok(())
    })
}

/// Begins all at once and waits for all.
async fn all<F>(calls: impl Iterator<Item = F>) -> Result<Vec<Written>, crate::Failure>
where
    F: Future<Output = Result<Written, StoreError>>,
{
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    let mut outcomes: Vec<Option<Written>> = vec![None; calls.len()];
    std::future::poll_fn(|context| {
        for (call, outcome) in calls.iter_mut().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none()) {
            if let std::task::Poll::Ready(done) = call.as_mut().poll(context) {
                *outcome = Some(done?);
            }
        }
        if outcomes.iter().all(Option::is_some) {
            std::task::Poll::Ready(Ok::<_, StoreError>(()))
        } else {
            std::task::Poll::Pending
        }
    })
    .await?;
    Ok(outcomes.into_iter().flatten().collect())
}
