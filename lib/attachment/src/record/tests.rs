use super::*;

const KEY: Key<'_> = Key { network: "net", container: "c1", ifname: "eth0" };

fn record(handles: &[u64]) -> Record {
    let rule =
        |handle: &u64| RuleRecord { family: "inet".into(), table: "t".into(), chain: "c".into(), handle: *handle };
    Record { committed: true, rules: handles.iter().map(rule).collect(), ..Record::begun().unwrap() }
}

#[test]
fn what_is_written_is_read_back_also_when_it_is_shorter() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Locked::existing(dir.path(), KEY).unwrap().is_none());
    for handles in [&[1, 2, 300][..], &[], &[7]] {
        let mut locked = Locked::make(dir.path(), KEY).unwrap();
        locked.write(&record(handles)).unwrap();
        drop(locked);
        let again = Locked::existing(dir.path(), KEY).unwrap().unwrap();
        assert_eq!(again.record, Some(record(handles)));
    }
    Locked::existing(dir.path(), KEY).unwrap().unwrap().delete().unwrap();
    assert!(Locked::existing(dir.path(), KEY).unwrap().is_none());
}

#[test]
fn a_mark_takes_the_commitment_back_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Record {
        host: Some(HostLink { name: "veth1".into(), master: Some("cni0".into()), index: 7, ..HostLink::default() }),
        pod: Some(PodLink { name: "eth0".into(), addresses: vec!["10.1.2.3/24".into()], ..PodLink::default() }),
        ipam: Some("host-local".into()),
        ..record(&[1])
    };
    Locked::make(dir.path(), KEY).unwrap().write(&whole).unwrap();
    let mut locked = Locked::existing(dir.path(), KEY).unwrap().unwrap();
    locked.mark().unwrap();
    assert_eq!(locked.record, Some(whole.clone()), "who marks it still knows that it was committed");
    drop(locked);
    let again = Locked::existing(dir.path(), KEY).unwrap().unwrap();
    assert_eq!(again.record, Some(Record { committed: false, ..whole }));
}

#[test]
fn a_networks_records_are_listed_and_one_in_use_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(list(dir.path(), "net").unwrap(), []);
    let first = Locked::make(dir.path(), KEY).unwrap();
    drop(Locked::make(dir.path(), Key { ifname: "net1", ..KEY }).unwrap());
    drop(Locked::make(dir.path(), Key { network: "other", ..KEY }).unwrap());
    std::fs::write(dir.path().join("net/no record"), "").unwrap();
    let mut listed = list(dir.path(), "net").unwrap();
    listed.sort();
    assert_eq!(listed, [("c1", "eth0"), ("c1", "net1")].map(|(id, dev)| (id.to_owned(), dev.to_owned())));
    assert!(Locked::at_once(dir.path(), KEY).unwrap().is_none(), "it is locked");
    drop(first);
    assert!(Locked::at_once(dir.path(), KEY).unwrap().is_some());
    assert!(Locked::at_once(dir.path(), Key { container: "c2", ..KEY }).unwrap().is_none());
}

#[test]
fn another_boots_record_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let other = Record { boot: "another".into(), ..record(&[1]) };
    Locked::make(dir.path(), KEY).unwrap().write(&other).unwrap();
    assert_eq!(Locked::existing(dir.path(), KEY).unwrap().unwrap().record, None);
}

#[test]
fn damage_is_no_record_and_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    Locked::make(dir.path(), KEY).unwrap();
    for damage in ["", "{", "{\"schema\":99}", "\u{0}\u{1}", &"x".repeat(5000)] {
        std::fs::write(path(dir.path(), KEY), damage).unwrap();
        let mut locked = Locked::make(dir.path(), KEY).unwrap();
        assert_eq!(locked.record, None, "{damage:.10}");
        locked.write(&record(&[5])).unwrap();
        drop(locked);
        assert_eq!(Locked::existing(dir.path(), KEY).unwrap().unwrap().record, Some(record(&[5])));
    }
}

/// A link, a FIFO and a name that is too long do no harm.
#[test]
fn what_is_no_file_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net");
    std::fs::create_dir(&folder).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.join("c1@eth0")).unwrap();
    assert!(Locked::make(dir.path(), KEY).unwrap_err().to_string().contains("net/c1@eth0"));
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    let long = "c".repeat(4000);
    let key = Key { container: &long, ..KEY };
    assert!(Locked::existing(dir.path(), key).unwrap().is_none());
    Locked::make(dir.path(), key).unwrap_err();
}

#[test]
fn who_waited_for_a_deleted_record_makes_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = Locked::make(dir.path(), KEY).unwrap();
    let place = dir.path().to_owned();
    let second = std::thread::spawn(move || Locked::make(&place, KEY).unwrap().write(&record(&[9])).unwrap());
    first.delete().unwrap();
    second.join().unwrap();
    assert_eq!(Locked::existing(dir.path(), KEY).unwrap().unwrap().record, Some(record(&[9])));
}
