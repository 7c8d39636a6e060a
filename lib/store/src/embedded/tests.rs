use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use tokio::sync::watch as level;

use super::layout::Layout;
use super::ttl::Now;
use crate::clock::Moment;
use crate::*;

const DAY: Option<Duration> = Some(Duration::from_secs(86_400));
const KEY: &str = "10.5.1.0-24";

fn value(n: usize) -> Vec<u8> {
    format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null}}"#).into_bytes()
}

/// Waits until the view is as wanted, and returns it.
async fn until(view: &mut level::Receiver<View>, what: &str, wanted: impl Fn(&View) -> bool) -> View {
    let found =
        tokio::time::timeout(Duration::from_secs(20), view.wait_for(|v| wanted(v))).await.map(|r| r.map(|v| v.clone()));
    match found {
        Ok(Ok(view)) => view,
        _ => panic!("{what}: not within 20 s; last seen {:?}", view.borrow()),
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn has(key: &'static str) -> impl Fn(&View) -> bool {
    move |view| view.leases.contains_key(key)
}

#[test]
fn of_many_creators_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("store"));
    for round in 0..50 {
        let key = format!("10.5.{round}.0-24");
        let won: usize = std::thread::scope(|scope| {
            let create = |n| {
                scope.spawn({
                    let (layout, key) = (&layout, &key);
                    move || layout.create(key, &value(n), DAY).unwrap()
                })
            };
            let threads: Vec<_> = (0..8).map(create).collect();
            threads.into_iter().map(|t| usize::from(t.join().unwrap() == Outcome::Done)).sum()
        });
        assert_eq!(won, 1, "{key}");
    }
    let found = layout.read(&layout.now()).unwrap();
    assert_eq!(found.leases.len(), 50);
    assert_eq!(found.expires.len(), 50);
    assert_eq!(std::fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn the_files_are_what_etcd_would_hold() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    let before = SystemTime::now();
    assert_eq!(layout.create("10.5.1.0-24&fd05:0:0:1::-64", &value(1), DAY).unwrap(), Outcome::Done);
    assert_eq!(std::fs::read(dir.path().join("subnets/10.5.1.0-24&fd05:0:0:1::-64")).unwrap(), value(1));
    let text = std::fs::read_to_string(dir.path().join("ttl/10.5.1.0-24&fd05:0:0:1::-64")).unwrap();
    let end: u64 = text.lines().next().unwrap().parse().unwrap();
    let wanted = before.duration_since(UNIX_EPOCH).unwrap().as_secs() + 86_400;
    assert!((wanted..wanted + 60).contains(&end), "{end}");
    assert_eq!(config_path(Path::new("/s"), "/coreos.com/network"), Path::new("/s/coreos.com/network/config"));
}

#[test]
fn half_of_a_lease_is_not_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    assert_eq!(layout.renew(KEY, &value(1), &value(1), DAY).unwrap(), Outcome::Conflict, "nothing there");
    let of = |ip: &str| format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan"}}"#).into_bytes();
    assert_eq!(layout.create("10.5.7.0-24&fd05:0:0:1::-64", &of("192.0.2.1"), DAY).unwrap(), Outcome::Done);
    // another host that chose the same IPv4 subnet, or the same IPv6 one
    for key in ["10.5.7.0-24&fd05:0:0:2::-64", "10.5.8.0-24&fd05:0:0:1::-64", "10.5.7.0-24"] {
        assert_eq!(layout.create(key, &of("192.0.2.2"), DAY).unwrap(), Outcome::Conflict, "{key}");
    }
    // the same host, which keeps its half under a new key; and another host with halves of its own
    assert_eq!(layout.create("10.5.7.0-24", &of("192.0.2.1"), DAY).unwrap(), Outcome::Done);
    assert_eq!(layout.create("10.5.9.0-24&fd05:0:0:3::-64", &of("192.0.2.2"), DAY).unwrap(), Outcome::Done);
}

#[test]
fn a_write_needs_what_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    assert_eq!(layout.renew(KEY, &value(1), &value(1), DAY).unwrap(), Outcome::Conflict, "nothing there");
    assert_eq!(layout.create(KEY, &value(1), None).unwrap(), Outcome::Done);
    assert_eq!(layout.create(KEY, &value(2), DAY).unwrap(), Outcome::Conflict);
    assert!(layout.read(&layout.now()).unwrap().expires.is_empty(), "a lost race left its time of expiry");
    assert_eq!(layout.renew(KEY, &value(2), &value(2), DAY).unwrap(), Outcome::Conflict);
    assert_eq!(layout.renew(KEY, &value(1), &value(3), None).unwrap(), Outcome::Done);
    assert!(layout.read(&layout.now()).unwrap().expires.is_empty(), "a reservation stays one");
    assert_eq!(layout.renew(KEY, &value(3), &value(3), DAY).unwrap(), Outcome::Done);
    assert_eq!(layout.read(&layout.now()).unwrap().expires.len(), 1);
    assert_eq!(layout.delete(KEY, &value(1)).unwrap(), Outcome::Conflict);
    assert_eq!(layout.delete(KEY, &value(3)).unwrap(), Outcome::Done);
    let view = layout.read(&layout.now()).unwrap();
    assert!(view.leases.is_empty() && view.expires.is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("ttl")).unwrap().count(), 0);
    for bad in ["../x", "", ".", "a/b", "10.5.1.0-24\n", "UPPER"] {
        assert!(matches!(layout.create(bad, b"x", None), Err(StoreError::Key(_))), "{bad:?}");
    }
}

#[test]
fn leases_end_and_reservations_do_not() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (one, two) = (Store::embedded(dir.path(), "n"), Store::embedded(dir.path(), "n"));
        let mut view = two.view();
        one.create(KEY, &value(1), Some(Duration::from_secs(1))).await.unwrap();
        one.create("10.5.2.0-24", &value(2), None).await.unwrap();
        one.create("10.5.3.0-24", &value(3), DAY).await.unwrap();
        until(&mut view, "three leases", |v| v.leases.len() == 3).await;
        until(&mut view, "the first has expired", |v| !v.leases.contains_key(KEY)).await;
        // a time moved by hand is noticed
        std::fs::write(dir.path().join("n/ttl/10.5.3.0-24"), "1").unwrap();
        let left = until(&mut view, "the third has expired", |v| v.leases.len() == 1).await;
        assert!(left.leases.contains_key("10.5.2.0-24"));
        assert!(!dir.path().join("n/ttl/10.5.3.0-24").exists());
        // the name is free again
        assert_eq!(one.create(KEY, &value(4), DAY).await.unwrap(), Outcome::Done);
    });
}

#[test]
fn every_way_to_change_a_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("not/yet");
    block_on(async {
        let store = Store::embedded(&store_dir, "/coreos.com/network");
        let mut view = store.view();
        let empty = until(&mut view, "an empty store is made", |v| v.complete).await;
        assert_eq!(empty.config, None);
        let config = config_path(&store_dir, "/coreos.com/network");
        let is = |text: &'static str| move |v: &View| v.config.as_deref() == Some(text.as_bytes());
        std::fs::write(&config, "created").unwrap();
        until(&mut view, "created", is("created")).await;
        std::fs::write(&config, "in place").unwrap();
        until(&mut view, "in place", is("in place")).await;
        std::fs::write(dir.path().join("new"), "renamed").unwrap();
        std::fs::rename(dir.path().join("new"), &config).unwrap();
        until(&mut view, "renamed over", is("renamed")).await;
        std::fs::remove_file(&config).unwrap();
        until(&mut view, "removed", |v| v.config.is_none()).await;
        let lease = config.with_file_name("subnets").join(KEY);
        std::fs::write(&lease, value(1)).unwrap();
        until(&mut view, "a lease by hand", has(KEY)).await;
        std::fs::remove_file(&lease).unwrap();
        until(&mut view, "removed by hand", |v| v.leases.is_empty()).await;
        // the whole store goes and comes back
        std::fs::remove_dir_all(&store_dir).unwrap();
        until(&mut view, "noticed that it is gone", |v| !v.complete && v.error.is_some()).await;
        until(&mut view, "made again", |v| v.complete && v.error.is_none()).await;
        std::fs::write(&config, "again").unwrap();
        until(&mut view, "watched again", is("again")).await;
    });
}

#[test]
fn a_renewal_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = Store::embedded(dir.path(), "n");
        let mut view = store.view();
        store.create(KEY, &value(1), Some(Duration::from_secs(1000))).await.unwrap();
        let first = until(&mut view, "created", has(KEY)).await;
        view.mark_unchanged();
        store.renew(KEY, &value(1), &value(1), DAY).await.unwrap();
        store.create("10.5.9.0-24", &value(2), DAY).await.unwrap();
        view.changed().await.unwrap();
        let second = view.borrow_and_update().clone();
        assert!(second.leases.contains_key("10.5.9.0-24"), "woken by the renewal");
        assert!(second.expires[KEY] > first.expires[KEY]);
    });
}

#[test]
fn the_time_of_day_ends_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.create(KEY, &value(1), DAY).unwrap();
    // as an earlier version wrote it, or a person
    layout.create("10.5.2.0-24", &value(2), DAY).unwrap();
    let plain = layout.now().wall.duration_since(UNIX_EPOCH).unwrap().as_secs() + 86_400;
    std::fs::write(dir.path().join("ttl/10.5.2.0-24"), plain.to_string()).unwrap();
    let first = layout.read(&layout.now()).unwrap();
    let year = Duration::from_secs(365 * 86_400);
    let set = |layout: &Layout, wall| Now { wall, ..layout.now() };
    for wall in [layout.now().wall + year, layout.now().wall - year, UNIX_EPOCH] {
        assert!(layout.expire(&set(&layout, wall)).unwrap().is_empty());
        assert_eq!(layout.read(&set(&layout, wall)).unwrap().expires, first.expires);
        // a daemon that is started now
        let new = Layout::new(dir.path().to_owned());
        assert!(new.expire(&set(&new, wall)).unwrap().is_empty());
        assert_eq!(new.read(&set(&new, wall)).unwrap().expires[KEY], first.expires[KEY]);
    }
    let days = layout.now().moment.after(Duration::from_secs(86_402));
    let over = layout.expire(&Now { moment: days, ..layout.now() }).unwrap();
    assert_eq!(over, [KEY, "10.5.2.0-24"]);
}

#[test]
fn garbage_is_ignored_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.create(KEY, &value(1), DAY).unwrap();
    let subnets = dir.path().join("subnets");
    std::fs::create_dir(subnets.join("10.5.2.0-24")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", subnets.join("10.5.3.0-24")).unwrap();
    std::fs::write(subnets.join("10.5.4.0-24"), vec![b'x'; 70_000]).unwrap();
    std::fs::write(subnets.join(".10.5.5.0-24.swp"), "x").unwrap();
    std::fs::write(subnets.join(std::ffi::OsStr::from_bytes(b"10.5.\xff")), "x").unwrap();
    std::fs::write(subnets.join("$(reboot)"), "x").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, subnets.join("10.5.6.0-24"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
    std::fs::write(dir.path().join("ttl/10.5.2.0-24"), "1").unwrap();
    std::fs::write(dir.path().join("ttl/10.5.1.0-24"), "soon").unwrap();

    let found = layout.read(&layout.now()).unwrap();
    assert_eq!(found.leases.keys().collect::<Vec<_>>(), [KEY]);
    assert!(found.expires.is_empty(), "a time that is none ends nothing");
    assert_eq!(found.ignored.len(), 7, "{:?}", found.ignored);
    assert!(layout.expire(&layout.now()).unwrap().is_empty());
    assert_eq!(std::fs::read_dir(&subnets).unwrap().count(), 8);
    // and a name that garbage takes is taken
    assert_eq!(layout.create("10.5.3.0-24", &value(1), DAY).unwrap(), Outcome::Conflict);
}

#[test]
fn what_lies_where_a_half_would_is_read_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.prepare().unwrap();
    let at = |key: &str| dir.path().join("subnets").join(key);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("10.5.7.0-24&fd05:0:0:1::-64"), fifo, 0o644.into(), 0).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("10.5.7.0-24&fd05:0:0:2::-64")).unwrap();
    std::fs::File::create(at("10.5.7.0-24&fd05:0:0:3::-64")).unwrap().set_len(1 << 40).unwrap();
    std::fs::create_dir(at("10.5.7.0-24&fd05:0:0:4::-64")).unwrap();
    // it ends, takes no memory, and none of them is another host's
    assert_eq!(layout.create("10.5.7.0-24", &value(1), DAY).unwrap(), Outcome::Done);
}

#[test]
fn a_flood_of_events_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = Store::embedded(dir.path(), "n");
        let mut view = store.view();
        until(&mut view, "opened", |v| v.complete).await;
        // this thread is the one that would read the queue: it overflows
        let limit: usize =
            std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let subnets = dir.path().join("n/subnets");
        for n in 0..=limit / 3 {
            let noise = subnets.join(format!("{n}"));
            std::fs::write(&noise, "").unwrap();
            std::fs::remove_file(&noise).unwrap();
        }
        std::fs::write(subnets.join(KEY), value(1)).unwrap();
        until(&mut view, "the lease after the flood", |v| v.leases.len() == 1 && v.leases.contains_key(KEY)).await;
        std::fs::remove_file(subnets.join(KEY)).unwrap();
        until(&mut view, "still watching", |v| v.leases.is_empty()).await;
    });
}

#[test]
fn a_store_that_cannot_be_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::write(&path, "a file where a directory is needed").unwrap();
    block_on(async {
        let store = Store::embedded(&path, "n");
        let mut view = store.view();
        let broken = until(&mut view, "the error is shown", |v| v.error.is_some()).await;
        assert!(!broken.complete);
        assert!(broken.error.unwrap().contains("/store: cannot create"), "{broken:?}", broken = view.borrow());
        let error = store.create(KEY, &value(1), DAY).await.unwrap_err().to_string();
        assert!(error.contains("cannot create"), "{error}");
        std::fs::remove_file(&path).unwrap();
        until(&mut view, "it heals", |v| v.complete && v.error.is_none()).await;
    });
}

/// Runs one of the ignored tests below in a process of its own, after `prepare` (a line for `sh`).
fn helper(name: &str, dir: &Path, prepare: &str) -> Command {
    let exe = std::env::current_exe().unwrap();
    let line = format!(r#"{prepare} exec "$0" --exact embedded::tests::{name} --ignored --nocapture"#);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &line]).arg(exe).env("STORE_TEST_DIR", dir);
    command.stdout(Stdio::piped());
    command
}

fn helper_dir() -> std::path::PathBuf {
    std::env::var_os("STORE_TEST_DIR").expect("only run by other tests").into()
}

#[test]
fn a_killed_writer_leaves_whole_leases() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.prepare().unwrap();
    for round in 0..10 {
        let mut writer = helper("writer", dir.path(), "").spawn().unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        lines.by_ref().filter(|l| l.as_ref().unwrap().contains("wrote")).nth(20 + 7 * round).unwrap().unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();
        let found = layout.read(&layout.now()).unwrap();
        assert!(found.ignored.is_empty(), "{:?}", found.ignored);
        for (key, content) in found.leases.iter() {
            assert_eq!(content[..], value(1), "{key}");
            assert!(found.expires.contains_key(key), "{key} would never end");
        }
        layout.expire(&Now { moment: Moment::default(), ..layout.now() }).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
#[ignore = "run by a_killed_writer_leaves_whole_leases"]
fn writer() {
    let layout = Layout::new(helper_dir());
    for n in 0.. {
        let key = format!("10.5.{}.0-24", n % 250);
        if layout.create(&key, &value(1), DAY).unwrap() == Outcome::Conflict {
            layout.delete(&key, &value(1)).unwrap();
        }
        println!("wrote");
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mount = r#"mount -t tmpfs -o size=64k tmpfs "$STORE_TEST_DIR" &&"#;
    let output = helper("tight", dir.path(), mount).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("all said"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by a_full_disk_and_a_read_only_one_say_so"]
fn tight() {
    let dir = helper_dir();
    block_on(async {
        let store = Store::embedded(&dir, "n");
        let mut view = store.view();
        store.create(KEY, &value(1), DAY).await.unwrap();
        until(&mut view, "a lease", has(KEY)).await;
        let fill = |dir: &Path| std::fs::write(dir.join("fill"), vec![0; 100_000]).unwrap_err();
        assert_eq!(fill(&dir).kind(), std::io::ErrorKind::StorageFull);
        let error = store.renew(KEY, &value(1), &value(2), DAY).await.unwrap_err().to_string();
        assert!(
            error.contains("/n/") && error.contains("No space left") && error.contains("free some space"),
            "{error}"
        );
        assert_eq!(view.borrow().leases[KEY][..], value(1), "nothing was lost");
        std::fs::remove_file(dir.join("fill")).unwrap();
        assert_eq!(store.renew(KEY, &value(1), &value(2), DAY).await.unwrap(), Outcome::Done);

        std::fs::write(dir.join("n/ttl").join(KEY), "1").unwrap();
        // refused while a file is open for writing, and the follower removes the lease that has just ended
        let remount = || Command::new("mount").args(["-o", "remount,ro"]).arg(&dir).status().unwrap();
        let read_only = async {
            while !remount().success() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read_only).await.expect("it is not made read-only");
        let error = store.create("10.5.2.0-24", &value(1), DAY).await.unwrap_err().to_string();
        assert!(error.contains("Read-only") && error.contains("mount it writable"), "{error}");
        let again = Store::embedded(&dir, "n");
        let seen = until(&mut again.view(), "a read-only store is read", |v| v.complete).await;
        assert!(seen.leases.contains_key(KEY) || seen.leases.is_empty());
    });
    println!("all said");
}
