//! etcd is away, silent, older than before, or delivers much at once.

use std::process::Command;
use std::time::{Duration, Instant};

use lab::topology::{Node, Topology};
use lab::world::World;
use store::etcd::Client;
use store::etcd::pb;
use tests::harness::figure;

use overlay::lease::StoredAttrs;

use crate::etcd_server::{Followed, Lab, Member, PREFIX, Start, View, ctl, options, patient, value, with_store};
use crate::{Failure, Outcome};

const DAY: Option<Duration> = Some(Duration::from_secs(86_400));
const KEY: &str = "10.5.1.0-24";

/// Three members; the one that is followed is killed, and the next one paused.
pub fn a_member_that_is_dead_or_paused_is_left() -> Outcome {
    let world = World::build(Topology::flat(4))?;
    let start = Start { hosts: vec![2, 3, 4], ..Start::default() };
    let mut members =
        [2, 3, 4].map(|host| Member::new(&world, host, &start)).into_iter().collect::<Result<Vec<_>, _>>()?;
    members.iter_mut().try_for_each(Member::launch)?;
    members.iter().try_for_each(|member| member.wait(&world))?;
    let urls = members.iter().map(Member::url).collect::<Vec<_>>().join(",");
    let put = |member: &Member, name: &str| {
        ctl(&world, 1, &member.url(), &["put", &format!("{PREFIX}/subnets/{name}"), &value(9)])
    };
    with_store(&world, options(&urls)?, async |store| {
        let view = store.until("a member", |view| view.health.complete).await?;
        let first = followed(&members, &view)?;
        assert!(store.create(KEY, value(1).as_bytes(), DAY).await?.is_done());
        store.until("the lease", |view| view.leases.contains_key(KEY)).await?;

        let begun = Instant::now();
        members[first].kill()?;
        // either of the others: the next one may find first that the cluster has no leader
        let dead = members[first].url();
        let view =
            store.until("another member", |view| view.health.complete && !view.health.name.contains(&dead)).await?;
        figure(format_args!("a killed member: the next is followed after {:?}", begun.elapsed()));
        put(&members[followed(&members, &view)?], "10.5.2.0-24")?;
        store.until("news by it", |view| view.leases.contains_key("10.5.2.0-24")).await?;
        members[first].start(&world)?;

        // No call is waiting, so only the keepalive finds out: it is sent after 0.5 s, and has 0.5 s for its answer.
        let silent = followed(&members, &view)?;
        let begun = Instant::now();
        members[silent].pause()?;
        let url = members[silent].url();
        let other = |view: &View| view.health.complete && !view.health.name.contains(&url);
        let view = store.until_within(Duration::from_secs(8), "another member", other).await?;
        figure(format_args!("a paused member: the next is followed after {:?}", begun.elapsed()));
        assert_eq!(view.leases.len(), 2, "{view:?}");
        let now = followed(&members, &view)?;
        put(&members[now], "10.5.3.0-24")?;
        store.until("news by it", |view| view.leases.contains_key("10.5.3.0-24")).await?;
        members[silent].resume()?;

        members[now].pause()?;
        // A call without an answer finds out earlier; a read is then repeated at the next member.
        let begun = Instant::now();
        let mut tries = 0;
        while let Err(error) = store.renew(KEY, value(1).as_bytes(), value(2).as_bytes(), DAY).await {
            tries += 1;
            assert!(tries < 8, "{error}");
        }
        let two = StoredAttrs::parse(value(2).as_bytes())?;
        store.until("the write", |view| view.leases.get(KEY) == Some(&two)).await?;
        figure(format_args!("a paused member that is asked: written and seen after {:?}", begun.elapsed()));
        members[now].resume()
    })
}

/// Which of the members the view is of.
fn followed(members: &[Member], view: &View) -> Result<usize, Failure> {
    let at = members.iter().position(|member| view.health.name.contains(&member.url()));
    at.ok_or_else(|| format!("{} is none of the members", view.health.name).into())
}

/// Cuts host 1 off, or plugs it in again.
fn cable(world: &World, up: bool) -> Outcome {
    let mut command = Command::new("ip");
    command.args(["link", "set", "host1", if up { "up" } else { "down" }]);
    let status = world.room(Node::Switch(1))?.enter(|| command.status())??;
    if status.success() { Ok(()) } else { Err("ip link set".into()) }
}

pub fn what_was_missed_is_seen_after_compaction_and_restore() -> Outcome {
    let mut lab = Lab::up(1)?;
    for name in ["10.5.1.0-24", "10.5.2.0-24"] {
        lab.put(&format!("subnets/{name}"), &value(1))?;
    }
    let backup = lab.etcd.data_dir().with_file_name("backup");
    let backup = backup.to_str().ok_or("a path that is not text")?.to_owned();
    let world_url = lab.etcd.url();
    let Lab { world, etcd } = &mut lab;
    let ctl = |args: &[&str]| ctl(world, 2, &world_url, args);
    let put = |name: &str| ctl(&["put", &format!("{PREFIX}/subnets/{name}"), &value(2)]);
    let names = |view: &View| view.leases.keys().cloned().collect::<Vec<_>>();
    with_store(world, options(&world_url)?, async |store| {
        store.until("two leases", |view| view.health.complete && view.leases.len() == 2).await?;
        // short of what was: a watch is begun from where the last one was left
        cut(world, store).await?;
        put("10.5.3.0-24")?;
        cable(world, true)?;
        store.until("the third", |view| view.health.complete && view.leases.len() == 3).await?;

        ctl(&["snapshot", "save", &backup])?;
        let view = cut(world, store).await?;
        assert_eq!((view.leases.len(), view.health.error.is_some()), (3, true), "what was seen last stays");
        ctl(&["del", &format!("{PREFIX}/subnets/10.5.1.0-24")])?;
        put("10.5.4.0-24")?;
        ctl(&["compact", &revision(&ctl(&["get", "x", "-w", "fields"])?)?])?;
        cable(world, true)?;
        let view = store.until("the list after the compaction", |view| view.health.complete).await?;
        assert_eq!(names(&view), ["10.5.2.0-24", "10.5.3.0-24", "10.5.4.0-24"]);

        // an older state, and then ahead of where the watch was
        cut(world, store).await?;
        etcd.kill()?;
        etcd.wipe()?;
        let data = etcd.data_dir();
        let data = data.to_str().ok_or("a path that is not text")?;
        let peer = etcd.url().replace("2379", "2380");
        let cluster = format!("m2={peer}");
        ctl(&[
            "snapshot",
            "restore",
            &backup,
            "--name",
            "m2",
            "--data-dir",
            data,
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &peer,
        ])?;
        etcd.start(world)?;
        for _ in 0..6 {
            put("10.5.9.0-24")?;
        }
        cable(world, true)?;
        let view = store.until("the restored store", |view| view.health.complete).await?;
        assert_eq!(names(&view), ["10.5.1.0-24", "10.5.2.0-24", "10.5.3.0-24", "10.5.9.0-24"]);
        put("10.5.5.0-24")?;
        store.until("news of it", |view| view.leases.contains_key("10.5.5.0-24")).await?;

        // nothing is left of it
        etcd.kill()?;
        store.until("its end", |view| !view.health.complete).await?;
        etcd.wipe()?;
        etcd.start(world)?;
        let view = store.until("the new store", |view| view.health.complete).await?;
        assert!(view.leases.is_empty(), "{view:?}");
        put("10.5.6.0-24")?;
        store.until("news of it", |view| view.leases.contains_key("10.5.6.0-24")).await?;
        Ok(())
    })
}

/// Cuts the store off and waits until it says so.
async fn cut(world: &World, store: &mut Followed) -> Result<View, Failure> {
    cable(world, false)?;
    store.until("the cut", |view| !view.health.complete && view.health.stale_since.is_some()).await
}

fn revision(fields: &str) -> Result<String, Failure> {
    let line = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
    Ok(line.ok_or_else(|| format!("no revision in {fields}"))?.to_owned())
}

/// Changes that arrive while the consumer is busy are merged, and a list is read in pages.
pub fn a_burst_is_few_changes() -> Outcome {
    const KEYS: usize = 10_000;
    const PAGE: usize = 100;
    let lab = Lab::up(1)?;
    // what it writes at once keeps a busy etcd at work for longer than a daemon's call may take
    let client = Client::new(patient(&lab.etcd.url())?);
    let name = |n: usize| format!("10.{}.{}.0-24", 100 + n / 250, n % 250);
    lab.with_store(async |store| {
        store.until("an empty store", |view| view.health.complete).await?;
        let before = store.view.changes;
        let begun = Instant::now();
        for first in (0..KEYS).step_by(PAGE) {
            let put = |n: usize| pb::PutRequest {
                key: format!("{PREFIX}/subnets/{}", name(n)).into_bytes(),
                value: value(n % 250).into_bytes(),
                lease: 0,
            };
            let steps = (first..first + PAGE).map(put).map(pb::Request::Put);
            let success = steps.map(|request| pb::RequestOp { request: Some(request) }).collect();
            client.txn(pb::TxnRequest { success, ..pb::TxnRequest::default() }).await?;
        }
        let written = begun.elapsed();
        store.until("all of them", |view| view.leases.len() == KEYS).await?;
        let (changes, seen) = (store.view.changes - before, begun.elapsed());
        figure(format_args!("{KEYS} puts written in {written:?}, all seen after {seen:?}, as {changes} changes"));
        assert!(changes < KEYS / PAGE, "{changes} changes: as many as there were writes, and nothing was gathered");
        assert_eq!(store.view.snapshots, 1, "nothing was listed again");
        // and a list of as many
        let begun = Instant::now();
        let mut again = Followed::open(options(&lab.etcd.url())?);
        again.until("all of them", |view| view.leases.len() == KEYS).await?;
        assert_eq!((again.view.snapshots, again.view.changes), (1, 1), "one snapshot");
        figure(format_args!("{KEYS} leases listed in {:?}", begun.elapsed()));
        Ok(())
    })
}
