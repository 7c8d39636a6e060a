use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::sys::calls;
use super::*;

const NET: &str = "net";

fn set(subnet: &str) -> RangeSet {
    RangeSet::canonical(&[RangeSpec { subnet: gojson::parse_cidr(subnet), ..RangeSpec::default() }]).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn number(text: &str) -> Number {
    ip(text).into()
}

struct World {
    data: tempfile::TempDir,
    sets: Vec<RangeSet>,
}

impl World {
    fn new(subnet: &str) -> Self {
        Self { data: tempfile::tempdir().unwrap(), sets: vec![set(subnet)] }
    }

    fn open(&self) -> Reservations {
        Reservations::open(self.data.path(), NET, &self.sets).unwrap()
    }

    fn dir(&self) -> PathBuf {
        self.data.path().join(NET)
    }

    fn index(&self) -> PathBuf {
        index::path_of(&self.dir(), NET)
    }

    fn add(&self, id: &str) -> Option<String> {
        let mut reservations = self.open();
        let last = reservations.last_reserved(0).unwrap();
        let got = reservations.reserve_next(&self.sets[0], last, eth0(id)).unwrap().map(|(ip, _)| ip);
        if let Some(ip) = got {
            reservations.set_last_reserved(0, ip).unwrap();
        }
        reservations.close();
        got.map(|ip| ip.to_string())
    }

    fn owned(&self, id: &str) -> Vec<String> {
        let mut reservations = self.open();
        let owned = reservations.of(eth0(id)).unwrap();
        reservations.close();
        owned.into_iter().map(|ip| ip.to_string()).collect()
    }

    fn del(&self, id: &str) {
        let mut reservations = self.open();
        reservations.release_all(eth0(id)).unwrap();
        reservations.close();
    }

    fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read_to_string(e.path()).unwrap())).collect()
    }
}

fn eth0(id: &str) -> Owner<'_> {
    Owner { container: id, ifname: "eth0" }
}

#[test]
fn files_are_upstreams_byte_for_byte() {
    let world = World::new("10.1.2.0/24");
    assert_eq!(world.add("c1").unwrap(), "10.1.2.2");
    let want = [("10.1.2.2", "c1\r\neth0"), ("last_reserved_ip.0", "10.1.2.2"), ("lock", "")];
    assert_eq!(world.files(), want.map(|(n, c)| (n.to_owned(), c.to_owned())).into());
    for (name, mode) in [("10.1.2.2", 0o600), ("last_reserved_ip.0", 0o600), ("lock", 0o750)] {
        let got = fs::metadata(world.dir().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(got & 0o700, mode & 0o700, "{name}: {got:o}");
        assert_eq!(got & !mode, 0, "{name}: {got:o}");
    }
}

#[test]
fn the_index_is_used_and_notices_other_writers() {
    let world = World::new("10.1.2.0/24");
    world.add("c1").unwrap();
    calls::take();
    assert!(!world.open().index.index.fresh, "signed by its own last change");
    // as a Go plugin reserves
    fs::write(world.dir().join("10.1.2.3"), "go\r\neth0").unwrap();
    assert!(world.open().index.index.fresh);
    assert_eq!(world.owned("go"), ["10.1.2.3"]);
    assert_eq!(world.add("c2").unwrap(), "10.1.2.4");
    fs::remove_file(world.dir().join("10.1.2.2")).unwrap();
    assert_eq!(world.owned("c1"), [""; 0]);
    world.del("go");
    assert!(!world.files().contains_key("10.1.2.3"));
}

#[test]
fn a_writer_in_the_same_tick_of_the_clock_is_noticed() {
    let world = World::new("10.1.0.0/16");
    for n in 0..200 {
        let own = world.add(&format!("own{n}")).unwrap();
        let path = world.dir().join(name(number(&own).next()));
        fs::write(&path, format!("go{n}\r\neth0")).unwrap();
        assert!(world.open().index.index.fresh, "{n}");
        assert_eq!(world.owned(&format!("go{n}")).len(), 1);
    }
}

#[test]
fn a_damaged_or_missing_index_costs_time_only() {
    let world = World::new("10.1.2.0/24");
    world.add("c1").unwrap();
    let good = fs::read(world.index()).unwrap();
    let damages: [&dyn Fn(); 5] = [
        &|| fs::remove_file(world.index()).unwrap(),
        &|| fs::write(world.index(), "").unwrap(),
        &|| fs::write(world.index(), vec![0xff; 100_000]).unwrap(),
        // a valid header with nothing after it
        &|| fs::write(world.index(), &good[..192]).unwrap(),
        &|| {
            fs::remove_file(world.index()).unwrap();
            fs::create_dir(world.index()).unwrap();
        },
    ];
    for (n, damage) in damages.iter().enumerate() {
        damage();
        let id = format!("d{n}");
        assert_eq!(world.add(&id).unwrap(), format!("10.1.2.{}", n + 3));
        assert_eq!(world.owned(&id).len(), 1);
        assert_eq!(world.owned("c1"), ["10.1.2.2"]);
    }
}

#[test]
fn an_index_of_another_boot_or_directory_is_not_used() {
    let world = World::new("10.1.2.0/24");
    world.add("c1").unwrap();
    let good = fs::read(world.index()).unwrap();
    let mut other_boot = good.clone();
    other_boot[10] ^= 1;
    fs::write(world.index(), other_boot).unwrap();
    assert!(world.open().index.index.fresh);

    world.del("c1");
    world.add("c1").unwrap();
    fs::rename(world.dir(), world.data.path().join("moved")).unwrap();
    assert_eq!(world.owned("c1"), [""; 0]);
}

#[test]
fn a_call_that_died_leaves_no_wrong_index() {
    let world = World::new("10.1.2.0/24");
    world.add("c1").unwrap();
    let mut reservations = world.open();
    reservations.reserve(ip("10.1.2.9"), eth0("dead")).unwrap();
    drop(reservations);
    assert!(world.open().index.index.fresh);
    assert_eq!(world.owned("dead"), ["10.1.2.9"]);
    world.del("dead");
    assert_eq!(world.owned("c1"), ["10.1.2.2"]);
}

#[test]
fn empty_files_are_nobodys() {
    let world = World::new("10.1.2.0/29");
    fs::create_dir_all(world.dir()).unwrap();
    for last in 2..=6 {
        fs::write(world.dir().join(format!("10.1.2.{last}")), "").unwrap();
    }
    for last in 2..=6 {
        assert_eq!(world.add(&format!("c{last}")).unwrap(), format!("10.1.2.{last}"));
    }
    assert_eq!(world.add("one-too-many"), None);
    // one that appears while the index is valid
    world.del("c4");
    fs::write(world.dir().join("10.1.2.4"), "").unwrap();
    assert_eq!(world.add("c7").unwrap(), "10.1.2.4");
}

#[test]
fn names_that_are_no_reservations_stay_out_of_the_way() {
    let world = World::new("10.1.2.0/29");
    fs::create_dir_all(world.dir().join("10.1.2.2")).unwrap();
    fs::write(world.dir().join("notes.txt"), "c1\r\neth0").unwrap();
    fs::write(world.dir().join("010.1.2.3"), "c1\r\neth0").unwrap();
    fs::write(world.dir().join("10.1.2.4"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.dir().join("10.1.2.5")).unwrap();
    fs::write(world.dir().join("last_reserved_ip.0"), "garbage").unwrap();
    assert_eq!(world.owned("c1"), [""; 0]);
    assert_eq!(world.add("c1").unwrap(), "10.1.2.3");
    assert_eq!(world.add("c2").unwrap(), "10.1.2.6");
    assert_eq!(world.add("c3"), None);
    world.del("c1");
    let mut reservations = world.open();
    reservations.retain(|_| false).unwrap();
    reservations.close();
    for name in ["10.1.2.2", "notes.txt", "010.1.2.3", "10.1.2.4", "10.1.2.5", "lock"] {
        assert!(fs::symlink_metadata(world.dir().join(name)).is_ok(), "{name}");
    }
    assert!(!world.dir().join("10.1.2.6").exists());
}

#[test]
fn legacy_files_hold_an_id_alone() {
    let world = World::new("10.1.2.0/24");
    fs::create_dir_all(world.dir()).unwrap();
    fs::write(world.dir().join("10.1.2.7"), "old").unwrap();
    fs::write(world.dir().join("10.1.2.8"), "both\n").unwrap();
    fs::write(world.dir().join("10.1.2.9"), "both\r\neth0\n").unwrap();
    assert_eq!(world.owned("old"), ["10.1.2.7"]);
    assert_eq!(world.owned("both"), ["10.1.2.9"]);
    world.del("both");
    assert_eq!(world.owned("both"), ["10.1.2.8"], "only when no exact one is left");
    world.del("both");
    world.del("old");
    assert_eq!(world.owned("both").len() + world.owned("old").len(), 0);
    assert!(!world.open().index.index.has_legacy());
}

#[test]
fn without_unnamed_files_it_goes_by_a_draft() {
    let world = World::new("10.1.2.0/24");
    let reservations = world.open();
    let draft = || reservations.directory.draft("c1\r\neth0").unwrap().without_unnamed_files();
    assert!(draft().publish("10.1.2.2").unwrap());
    assert!(!draft().publish("10.1.2.2").unwrap());
    drop(reservations);
    let names: Vec<String> = world.files().into_keys().collect();
    assert_eq!(names, ["10.1.2.2", "lock"]);
    assert_eq!(world.owned("c1"), ["10.1.2.2"]);
}

#[test]
fn two_configurations_take_turns_without_rereading() {
    let mut world = World::new("10.1.2.0/24");
    world.add("a").unwrap();
    world.sets = vec![set("10.9.0.0/24")];
    assert_eq!(world.add("b").unwrap(), "10.9.0.2");
    for subnet in ["10.1.2.0/24", "10.9.0.0/24"] {
        world.sets = vec![set(subnet)];
        assert!(!world.open().index.index.fresh, "{subnet}");
    }
    // the caller that releases an address knows no range
    let mut reservations = Reservations::existing(world.data.path(), NET).unwrap().unwrap();
    reservations.release_all(eth0("b")).unwrap();
    reservations.close();
    world.sets = vec![set("10.9.0.0/30")];
    fs::remove_file(world.dir().join("last_reserved_ip.0")).unwrap();
    assert_eq!(world.add("c").unwrap(), "10.9.0.2");
}

#[test]
fn a_network_that_never_reserved_is_not_created() {
    let world = World::new("10.1.2.0/24");
    assert!(Reservations::existing(world.data.path(), NET).unwrap().is_none());
    assert_eq!(fs::read_dir(world.data.path()).unwrap().count(), 0);
}

#[test]
fn owners_beyond_a_bucket_are_found() {
    let world = World::new("10.1.0.0/16");
    let mut reservations = world.open();
    let first = number("10.1.1.0").0;
    for n in 0..1000 {
        assert!(reservations.reserve(Number(first + n).into(), eth0(&format!("c{n}"))).unwrap());
    }
    reservations.close();
    let mut reservations = world.open();
    assert!(!reservations.index.index.fresh);
    for n in 0..1000 {
        assert_eq!(reservations.of(eth0(&format!("c{n}"))).unwrap(), [IpAddr::from(Number(first + n))]);
    }
}

/// Makes the index look as if the machine had booted since the last call.
fn boot(world: &World) {
    let mut index = fs::read(world.index()).unwrap();
    index[10] ^= 1;
    fs::write(world.index(), index).unwrap();
}

#[test]
fn reservations_of_an_earlier_boot_give_way_when_nothing_else_is_free() {
    let world = World::new("10.1.2.0/29");
    for n in 2..=6 {
        world.add(&format!("old{n}")).unwrap();
    }
    boot(&world);
    assert_eq!(world.owned("old3"), ["10.1.2.3"], "they stay until they are needed");
    world.del("old4");
    assert_eq!(world.add("new1").unwrap(), "10.1.2.4", "what is free comes first");
    assert_eq!(world.add("new2").unwrap(), "10.1.2.5");
    assert_eq!(world.owned("old3"), [""; 0]);
    for (id, ip) in [("new3", "10.1.2.6"), ("new4", "10.1.2.2"), ("new5", "10.1.2.3")] {
        assert_eq!(world.add(id).unwrap(), ip);
    }
    assert_eq!(world.add("new6"), None, "those of this boot do not");
}

#[test]
fn an_address_that_is_asked_for_is_reclaimed_from_an_earlier_boot() {
    let world = World::new("10.1.2.0/24");
    world.add("old").unwrap();
    let reserve = |address: &str, id: &str| {
        let mut reservations = world.open();
        let got = reservations.reserve(ip(address), eth0(id)).unwrap();
        reservations.close();
        got
    };
    assert!(!reserve("10.1.2.2", "new"), "of this boot");
    boot(&world);
    assert!(reserve("10.1.2.2", "new"));
    assert_eq!((world.owned("old"), world.owned("new")), (vec![], vec!["10.1.2.2".to_owned()]));
    assert!(!reserve("10.1.2.2", "next"));
}

/// Neither the directory's time nor its names change.
#[test]
fn a_file_that_somebody_rewrote_in_place_is_of_its_new_owner() {
    let world = World::new("10.1.2.0/24");
    world.add("before").unwrap();
    fs::write(world.dir().join("10.1.2.2"), "after\r\neth0").unwrap();
    let mut reservations = world.open();
    assert!(!reservations.index.index.fresh);
    assert!(reservations.all_of(eth0("before")).unwrap().is_empty());
    drop(reservations);
    world.del("before");
    assert_eq!(world.files()["10.1.2.2"], "after\r\neth0");
    world.del("after");
    assert!(!world.files().contains_key("10.1.2.2"));
}

#[test]
fn they_are_listed_without_a_lock() {
    let world = World::new("10.1.2.0/24");
    assert_eq!(list(world.data.path(), NET).unwrap(), []);
    world.add("b").unwrap();
    world.add("a").unwrap();
    fs::write(world.dir().join("10.1.2.9"), "legacy\n").unwrap();
    fs::write(world.dir().join("10.1.2.10"), "").unwrap();
    fs::write(world.dir().join("fd00::1"), "c\r\nnet1").unwrap();
    fs::write(world.dir().join("notes.txt"), "x").unwrap();
    let locked = world.open();
    let found = list(world.data.path(), NET).unwrap();
    let text = |r: &Reservation| format!("{} {} {}", r.address, r.container, r.ifname.as_deref().unwrap_or("-"));
    let texts: Vec<String> = found.iter().map(text).collect();
    assert_eq!(texts, ["10.1.2.2 b eth0", "10.1.2.3 a eth0", "10.1.2.9 legacy -", "fd00::1 c net1"]);
    assert!(found[2].is_of(eth0("legacy")) && found[0].is_of(eth0("b")) && !found[3].is_of(eth0("c")));
    drop(locked);
}

#[test]
fn where_nothing_can_be_reserved_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let long = "n".repeat(300);
    for (data_dir, network) in [(file.as_path(), NET), (&dir.path().join("none"), NET), (dir.path(), &long)] {
        assert!(Reservations::existing(data_dir, network).unwrap().is_none(), "{}", data_dir.display());
        assert_eq!(list(data_dir, network).unwrap(), []);
    }
    let said = Reservations::open(&file, NET, &[]).err().unwrap().to_string();
    assert!(said.contains("'ipam.dataDir' and what is above it must be directories"), "{said}");
}

#[test]
fn what_cannot_be_removed_is_said_and_the_rest_goes() {
    let world = World::new("10.1.2.0/24");
    for id in ["a", "b", "c"] {
        world.add(id).unwrap();
    }
    let mut reservations = world.open();
    // read, but the file can no longer be unlinked
    let replaced = |number: &str| {
        fs::remove_file(world.dir().join(number)).unwrap();
        fs::create_dir(world.dir().join(number)).unwrap();
    };
    let refused = reservations.retain(|reservation| {
        if reservation.container != "c" {
            replaced(&reservation.address.to_string());
        }
        false
    });
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("10.1.2.2: ") && said.contains("10.1.2.3: ") && !said.contains("10.1.2.4"), "{said}");
    assert!(!world.dir().join("10.1.2.4").exists());
}

#[test]
fn what_somebody_else_wrote_since_the_boot_is_never_taken() {
    let world = World::new("10.1.2.0/29");
    for n in 2..=5 {
        world.add(&format!("old{n}")).unwrap();
    }
    boot(&world);
    fs::write(world.dir().join("10.1.2.6"), "go\r\neth0").unwrap();
    assert_eq!(world.add("new"), None, "nobody knows which of them are of this boot");
    assert_eq!(world.owned("go"), ["10.1.2.6"]);

    let world = World::new("10.1.2.0/29");
    for n in 2..=6 {
        world.add(&format!("old{n}")).unwrap();
    }
    boot(&world);
    world.owned("old2");
    fs::remove_file(world.dir().join("10.1.2.3")).unwrap();
    fs::write(world.dir().join("10.1.2.3"), "old3\r\neth0").unwrap();
    assert_eq!(world.add("new"), None);
}

#[test]
fn a_container_started_again_after_a_boot_gets_an_address() {
    let world = World::new("10.1.2.0/24");
    world.add("c1").unwrap();
    world.add("c2").unwrap();
    let mut reservations = world.open();
    reservations.release_outlived(eth0("c1")).unwrap();
    reservations.close();
    assert_eq!(world.owned("c1"), ["10.1.2.2"], "of this boot");
    boot(&world);
    let mut reservations = world.open();
    reservations.release_outlived(eth0("c1")).unwrap();
    reservations.close();
    assert_eq!((world.owned("c1"), world.owned("c2")), (vec![], vec!["10.1.2.3".to_owned()]));
}

/// A /16 whose first nine tenths are taken, with the cursor before them: the longest search for a free address.
fn nearly_full() -> World {
    let world = World::new("10.2.0.0/16");
    fs::create_dir_all(world.dir()).unwrap();
    for n in 2..59_000_u128 {
        let free = Number(number("10.2.0.0").0 + n);
        fs::write(world.dir().join(name(free)), format!("c{n}\r\neth0")).unwrap();
    }
    world
}

#[test]
fn a_16_nine_tenths_full_costs_what_an_empty_24_does() {
    let costs = |world: &World, id: &str| {
        fs::write(world.dir().join("last_reserved_ip.0"), "").unwrap();
        calls::take();
        world.add(id).unwrap();
        let add = calls::take();
        world.del(id);
        (add, calls::take())
    };
    let empty = World::new("10.1.2.0/24");
    empty.add("x").unwrap();
    empty.del("x");
    let (small_add, small_del) = costs(&empty, "y");
    let full = nearly_full();
    full.add("x").unwrap();
    full.del("x");
    let (big_add, big_del) = costs(&full, "y");
    for (mut small, mut big, what) in [(small_add, big_add, "ADD"), (small_del, big_del, "DEL")] {
        assert!(!small.contains_key("list") && !big.contains_key("list"), "{what}: {small:?} {big:?}");
        // the table of owners is not in the first read: each look-up reads a page
        let reads = |counts: &mut BTreeMap<_, usize>| counts.remove("read").unwrap_or(0);
        let (small_reads, big_reads) = (reads(&mut small), reads(&mut big));
        assert!(big_reads <= small_reads + 2, "{what}: {small_reads} {big_reads}");
        assert_eq!(small, big, "{what}");
        let all = big_reads + big.values().sum::<usize>();
        assert!(all <= 25, "{what}: {all} calls: {big_reads} reads, {big:?}");
    }
}

#[test]
fn threads_never_share_an_address() {
    let world = World::new("10.1.2.0/24");
    let got: Vec<Option<String>> = std::thread::scope(|scope| {
        let world = &world;
        let workers: Vec<_> = (0..8)
            .map(|t| scope.spawn(move || (0..32).map(|n| world.add(&format!("t{t}n{n}"))).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let mut given: Vec<String> = got.into_iter().flatten().collect();
    let count = given.len();
    given.sort();
    given.dedup();
    assert_eq!(count, 253, "all but network, gateway and broadcast");
    assert_eq!(given.len(), count);
}

#[derive(Debug, Clone)]
enum Op {
    Add(u8),
    Request(u8, u8),
    Del(u8),
    /// Takes an address as a Go plugin does.
    Foreign(u8),
    Operator(u8),
    Crash(u8),
    Empty(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..24_u8).prop_map(Op::Add),
        2 => (0..24_u8, 1..31_u8).prop_map(|(id, host)| Op::Request(id, host)),
        4 => (0..24_u8).prop_map(Op::Del),
        1 => (1..31_u8).prop_map(Op::Foreign),
        1 => (1..31_u8).prop_map(Op::Operator),
        1 => (1..31_u8).prop_map(Op::Crash),
        1 => (1..31_u8).prop_map(Op::Empty),
    ]
}

/// Upstream's result: owners by the last number of 10.1.2.0/27, and the cursor.
#[derive(Default)]
struct Model {
    owners: BTreeMap<u8, String>,
    last: Option<u8>,
}

impl Model {
    fn add(&mut self, id: &str) -> Option<u8> {
        let start = self.last.unwrap_or(0);
        let host = (start + 1..=30).chain(1..=start).find(|h| *h != 1 && !self.owners.contains_key(h))?;
        self.owners.insert(host, id.to_owned());
        self.last = Some(host);
        Some(host)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_allocates_as_the_model_does(ops in prop::collection::vec(op(), 1..80)) {
        let world = World::new("10.1.2.0/27");
        drop(world.open());
        let mut model = Model::default();
        let address = |host: u8| format!("10.1.2.{host}");
        for op in ops {
            match op {
                Op::Add(id) => {
                    let id = format!("c{id}");
                    prop_assert_eq!(world.add(&id), model.add(&id).map(address));
                }
                Op::Request(id, host) => {
                    let id = format!("c{id}");
                    let mut reservations = world.open();
                    let got = reservations.reserve(ip(&address(host)), eth0(&id)).unwrap();
                    reservations.close();
                    prop_assert_eq!(got, !model.owners.contains_key(&host));
                    model.owners.entry(host).or_insert(id);
                }
                Op::Del(id) => {
                    let id = format!("c{id}");
                    world.del(&id);
                    model.owners.retain(|_, owner| *owner != id);
                }
                Op::Foreign(host) if !model.owners.contains_key(&host) => {
                    world.open();
                    // as Go's plugin does: it creates the file exclusively, so an empty file makes it fail
                    let path = world.dir().join(address(host));
                    if let Ok(mut file) = fs::File::create_new(path) {
                        std::io::Write::write_all(&mut file, format!("c{}\r\neth0", host % 24).as_bytes()).unwrap();
                        model.owners.insert(host, format!("c{}", host % 24));
                    }
                }
                Op::Operator(host) if world.dir().join(address(host)).exists() => {
                    fs::remove_file(world.dir().join(address(host))).unwrap();
                    model.owners.remove(&host);
                }
                Op::Crash(host) if !model.owners.contains_key(&host) => {
                    let mut reservations = world.open();
                    prop_assert!(reservations.reserve(ip(&address(host)), eth0("crashed")).unwrap());
                    model.owners.insert(host, "crashed".to_owned());
                }
                Op::Empty(host) if !model.owners.contains_key(&host) => {
                    world.open();
                    fs::write(world.dir().join(address(host)), "").unwrap();
                }
                Op::Foreign(_) | Op::Operator(_) | Op::Crash(_) | Op::Empty(_) => {}
            }
        }
        let mut files = world.files();
        files.retain(|name, content| name.parse::<IpAddr>().is_ok() && !content.is_empty());
        let want = model.owners.iter().map(|(host, id)| (address(*host), format!("{id}\r\neth0"))).collect();
        prop_assert_eq!(files, want);
    }
}
