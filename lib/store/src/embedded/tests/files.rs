//! Reading and writing the files, without a follower.

use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::{Term, config_path};

#[test]
fn of_many_creators_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("store"));
    for round in 0..50 {
        let key = key(&format!("10.5.{round}.0-24"));
        let won: usize = std::thread::scope(|scope| {
            let create = |n| {
                scope.spawn({
                    let layout = &layout;
                    move || layout.create(key, &value(n), DAY).unwrap()
                })
            };
            let threads: Vec<_> = (0..8).map(create).collect();
            threads.into_iter().map(|t| usize::from(t.join().unwrap().is_done())).sum()
        });
        assert_eq!(won, 1, "{key}");
    }
    assert_eq!(read(&layout).leases.len(), 50);
    assert_eq!(ending(&layout).len(), 50);
    assert_eq!(std::fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn the_files_are_what_etcd_would_hold() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    let before = SystemTime::now();
    let name = "10.5.1.0-24&fd05:0:0:1::-64";
    assert!(layout.create(key(name), &value(1), DAY).unwrap().is_done());
    assert_eq!(std::fs::read(dir.path().join("subnets").join(name)).unwrap(), value(1));
    let text = std::fs::read_to_string(dir.path().join("ttl").join(name)).unwrap();
    let end: u64 = text.lines().next().unwrap().parse().unwrap();
    let wanted = before.duration_since(UNIX_EPOCH).unwrap().as_secs() + 86_400;
    assert!((wanted..wanted + 60).contains(&end), "{end}");
    assert_eq!(config_path(Path::new("/s"), "/coreos.com/network"), Path::new("/s/coreos.com/network/config"));
}

#[test]
fn half_of_a_lease_is_not_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    let of = |ip: &str| format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan"}}"#).into_bytes();
    let create = |name: &str, ip: &str| layout.create(key(name), &of(ip), DAY).unwrap();
    assert!(create("10.5.7.0-24&fd05:0:0:1::-64", "192.0.2.1").is_done());
    // Another host that chose the same IPv4 subnet, or the same IPv6 subnet.
    for name in ["10.5.7.0-24&fd05:0:0:2::-64", "10.5.8.0-24&fd05:0:0:1::-64", "10.5.7.0-24"] {
        assert_eq!(create(name, "192.0.2.2"), Written::Conflict, "{name}");
    }
    // The same host, which keeps its half under a new key; and another host with halves of its own.
    assert!(create("10.5.7.0-24", "192.0.2.1").is_done());
    assert!(create("10.5.9.0-24&fd05:0:0:3::-64", "192.0.2.2").is_done());
}

#[test]
fn a_write_needs_what_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    let lease = key(KEY);
    assert_eq!(layout.renew(lease, &value(1), &value(1), DAY).unwrap(), Written::Conflict, "nothing there");
    assert!(layout.create(lease, &value(1), None).unwrap().is_done());
    assert_eq!(layout.create(lease, &value(2), DAY).unwrap(), Written::Conflict);
    assert!(ending(&layout).is_empty(), "a lost race left its time of expiry");
    assert_eq!(layout.renew(lease, &value(2), &value(2), DAY).unwrap(), Written::Conflict);
    assert_eq!(layout.renew(lease, &value(1), &value(3), None).unwrap(), Written::Done(Term::default()));
    assert!(ending(&layout).is_empty(), "a reservation stays one");
    let Written::Done(term) = layout.renew(lease, &value(3), &value(3), DAY).unwrap() else { panic!("it is there") };
    assert_eq!(ending(&layout), [KEY]);
    let raw = layout.get(lease).unwrap().unwrap();
    assert_eq!((raw.value, raw.term.id), (value(3), term.id));
    assert_eq!(read(&layout).index.get(&lease).unwrap().term, term.id, "the reader sees the same term");
    assert_eq!(layout.delete(lease, &value(1)).unwrap(), Written::Conflict);
    assert!(layout.delete(lease, &value(3)).unwrap().is_done());
    assert!(read(&layout).leases.is_empty() && layout.get(lease).unwrap().is_none());
    assert_eq!(std::fs::read_dir(dir.path().join("ttl")).unwrap().count(), 0);
}

#[test]
fn the_time_of_day_ends_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.create(key(KEY), &value(1), DAY).unwrap();
    // As an earlier version, or a person, writes it.
    layout.create(key("10.5.2.0-24"), &value(2), DAY).unwrap();
    let plain = layout.now().wall.duration_since(UNIX_EPOCH).unwrap().as_secs() + 86_400;
    std::fs::write(dir.path().join("ttl/10.5.2.0-24"), plain.to_string()).unwrap();
    let mut first = ends(&layout, &layout.now());
    let before = first.next();
    let year = Duration::from_secs(365 * 86_400);
    let set = |layout: &Layout, wall| Now { wall, ..layout.now() };
    for wall in [layout.now().wall + year, layout.now().wall - year, UNIX_EPOCH] {
        // A daemon that is running, and one that starts now.
        let now = set(&layout, wall);
        layout.read_all().unwrap().ends.into_iter().for_each(|(key, ttl)| first.set(key, ttl, &now));
        for ends in [&first, &ends(&Layout::new(dir.path().to_owned()), &now)] {
            assert!(ends.over(now.moment).is_empty());
        }
        assert_eq!(first.next(), before);
    }
    let over = first.over(layout.now().moment.after(Duration::from_secs(86_402)));
    assert_eq!(layout.expire(&over).unwrap().len(), 2);
    assert!(read(&layout).leases.is_empty());
}

#[test]
fn a_lease_that_was_renewed_meanwhile_does_not_end() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.create(key(KEY), &value(1), Some(Duration::from_secs(1))).unwrap();
    let over = ends(&layout, &layout.now()).over(Moment::since_boot(Duration::MAX));
    layout.renew(key(KEY), &value(1), &value(1), DAY).unwrap();
    assert!(layout.expire(&over).unwrap().is_empty());
    assert_eq!(read(&layout).leases.len(), 1);
}

#[test]
fn garbage_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    layout.create(key(KEY), &value(1), DAY).unwrap();
    let subnets = dir.path().join("subnets");
    std::fs::create_dir(subnets.join("10.5.2.0-24")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", subnets.join("10.5.3.0-24")).unwrap();
    std::fs::write(subnets.join("10.5.4.0-24"), vec![b'x'; 70_000]).unwrap();
    std::fs::write(subnets.join(".10.5.5.0-24.swp"), "x").unwrap();
    std::fs::write(subnets.join(std::ffi::OsStr::from_bytes(b"10.5.\xff")), "x").unwrap();
    std::fs::write(subnets.join("$(reboot)"), "x").unwrap();
    std::fs::write(subnets.join("10.5.1.0-024"), value(2)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, subnets.join("10.5.6.0-24"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
    std::fs::write(dir.path().join("ttl/10.5.2.0-24"), "1").unwrap();
    std::fs::write(dir.path().join("ttl/10.5.1.0-24"), "soon").unwrap();

    let found = read(&layout);
    assert_eq!(found.leases.iter().map(|lease| lease.subnets.to_string()).collect::<Vec<_>>(), [KEY]);
    let refused: Vec<_> = found.refused.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    assert_eq!(refused.len(), 8, "{refused:#?}");
    for wanted in
        ["10.5.2.0-24: it is not a regular", "10.5.4.0-24: its value is larger", "10.5.1.0-024: its key is not can"]
    {
        assert!(refused.iter().any(|text| text.starts_with(wanted)), "{wanted}: {refused:#?}");
    }
    assert!(ending(&layout).is_empty(), "a time that is none ends nothing");
    assert_eq!(std::fs::read_dir(&subnets).unwrap().count(), 9);
    // A file with garbage still occupies its name.
    assert_eq!(layout.create(key("10.5.3.0-24"), &value(1), DAY).unwrap(), Written::Conflict);
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
    // The reading ends, uses little memory, and none of these is another host's lease.
    assert!(layout.create(key("10.5.7.0-24"), &value(1), DAY).unwrap().is_done());
}
