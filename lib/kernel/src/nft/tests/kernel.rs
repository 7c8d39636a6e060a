//! Against the kernel, each test in a network namespace of its own, and against `nft` as the independent reader.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::cases;
use crate::nft::*;
use crate::types::{Family, IfName};

/// Puts the test's own thread into a new network namespace, which ends with it.
pub fn namespace() {
    assert!(
        rustix::process::geteuid().is_root(),
        "needs root: this test makes a network namespace (unshare -rn works too)"
    );
    assert!(Command::new("nft").arg("--version").output().is_ok(), "needs nft (Debian package nftables) as the reader");
    #[expect(unsafe_code, reason = "the safe form is deprecated for CLONE_FILES' sake")]
    // SAFETY: no descriptor table is unshared, and the thread is the test's own
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .expect("needs root: unshare(NEWNET)");
}

/// Runs `nft` in the thread's namespace.
pub fn nft(args: &[&str], stdin: &str) -> String {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {args:?}: {}\n{stdin}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `nft list ruleset`, each line without the spaces around it.
pub fn ruleset() -> Vec<String> {
    nft(&["list", "ruleset"], "").lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

fn key() -> TableKey {
    TableKey::new(NftFamily::Inet, "t")
}

/// A batch that makes the table `inet t` with what `fill` adds.
fn batch(fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    batch.add_table(&Table { key: key(), comment: None });
    fill(&mut batch);
    batch
}

fn addr(text: &str) -> Value {
    Value::Addr(text.parse().unwrap())
}

fn net(text: &str) -> Element {
    Element::net(text.parse().unwrap())
}

fn sets() -> Vec<(Set, Vec<Element>)> {
    let name = |n: &str| Value::from(IfName::new(n).unwrap());
    let port_key = [Type::InetProto, Type::InetService];
    let target = DataType::Values(vec![Type::Ipv4Addr, Type::InetService]);
    let to = |a: &str, port| Data::Values(vec![addr(a), Value::Port(port)]);
    vec![
        (
            Set { comment: Some("pods".into()), ..Set::new("nets", [Type::Ipv4Addr]).interval() },
            vec![
                net("10.0.0.0/8").comment("a"),
                net("11.0.0.0/8"),
                net("12.1.2.3/32"),
                net("240.0.0.0/4").comment("z"),
            ],
        ),
        (Set::new("nets6", [Type::Ipv6Addr]).interval(), vec![net("::/64"), net("fd00::/8")]),
        (
            Set { timeout: Timeout::Default(Duration::from_secs(300)), ..Set::new("short", [Type::Mark]) },
            vec![Element { timeout: Some(Duration::from_secs(7200)), ..Element::new([Value::Word(0x2000)]) }],
        ),
        (
            Set::map("ports", port_key, target),
            vec![Element::new([Value::Proto(6), Value::Port(80)]).data(to("10.0.0.1", 8080)).comment("web")],
        ),
        (
            Set::map("links", [Type::IfName], DataType::Verdict),
            vec![
                Element::new([name("eth0")]).data(Data::Verdict(Verdict::Accept)),
                Element::new([name("veth0123456789a")]).data(Data::Verdict(Verdict::Jump("sub".into()))),
            ],
        ),
        (
            Set::new("both", [Type::Ipv4Addr, Type::InetService]).interval(),
            vec![Element {
                last: Some(vec![addr("10.0.0.255"), Value::Port(90)]),
                ..Element::new([addr("10.0.0.0"), Value::Port(80)])
            }],
        ),
    ]
}

/// `inet t` with some of everything.
fn full() -> Batch {
    let mut batch = Batch::new();
    batch.add_table(&Table { key: key(), comment: Some("a \u{fc} table".into()) });
    batch.add_chain(&key(), &Chain::regular("sub").comment("jumped to"));
    let input = Base { policy: Policy::Drop, ..Base::new(ChainKind::Filter, Hook::Input, -5) };
    batch.add_chain(&key(), &Chain::base("in", input).comment("from outside"));
    batch.add_chain(&key(), &Chain::base("post", Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT)));
    for (set, elements) in sets() {
        batch.add_set(&key(), &set);
        batch.add_elements(&key(), &set, &elements);
    }
    let rule = || RuleBuilder::new(NftFamily::Inet);
    let saddr = Field::Addr(Family::V4, Side::Source);
    batch.add_rule(&key(), "in", &rule().ct_state(Is::Eq, ct::ESTABLISHED).counter().accept().comment("known"));
    batch.add_rule(&key(), "in", &rule().in_set(&[saddr], Is::Eq, "nets").jump("sub").done());
    batch.add_rule(
        &key(),
        "in",
        &rule().in_set(&[saddr, Field::Port(Side::Destination)], Is::Eq, "both").accept().done(),
    );
    batch.add_rule(&key(), "in", &rule().vmap(&[Field::IifName], "links").done());
    batch.add_rule(&key(), "post", &rule().masquerade(true).comment("x".repeat(200)));
    batch
}

#[test]
fn nft_lists_what_was_written() {
    namespace();
    Nft::open().unwrap().commit(&full()).unwrap();
    let listed = ruleset();
    let long = format!("masquerade fully-random comment \"{}\"", "x".repeat(128));
    for line in [
        "table inet t {",
        "comment \"a \u{fc} table\"",
        "comment \"pods\"",
        "type ipv4_addr",
        "flags interval",
        "elements = { 10.0.0.0/8 comment \"a\", 11.0.0.0/8,",
        "12.1.2.3, 240.0.0.0/4 comment \"z\" }",
        "elements = { ::/64,",
        "fd00::/8 }",
        "timeout 5m",
        "type inet_proto . inet_service : ipv4_addr . inet_service",
        "elements = { tcp . 80 comment \"web\" : 10.0.0.1 . 8080 }",
        "type ifname : verdict",
        "elements = { 10.0.0.0/24 . 80-90 }",
        "comment \"jumped to\"",
        "comment \"from outside\"",
        "type filter hook input priority filter - 5; policy drop;",
        "ct state established counter packets 0 bytes 0 accept comment \"known\"",
        "ip saddr @nets jump sub",
        "ip saddr . th dport @both accept",
        "iifname vmap @links",
        "type nat hook postrouting priority srcnat; policy accept;",
        &long,
    ] {
        assert!(listed.iter().any(|l| l == line), "missing {line:?} in\n{}", listed.join("\n"));
    }
    for part in ["0x00002000 timeout 2h expires", "\"eth0\" : accept", "\"veth0123456789a\" : jump sub"] {
        assert!(listed.iter().any(|l| l.contains(part)), "missing {part:?} in\n{}", listed.join("\n"));
    }
    // and the JSON reader, which looks at more of it
    assert!(nft(&["-j", "list", "ruleset"], "").contains("\"masquerade\""));
}

#[test]
fn what_is_read_is_what_was_written() {
    namespace();
    let mut nft = Nft::open().unwrap();
    nft.commit(&full()).unwrap();
    let view = nft.view(&key()).unwrap();
    assert_eq!(view.table, Some(Table { key: key(), comment: Some("a \u{fc} table".into()) }));
    assert_eq!(nft.tables().unwrap(), [view.table.clone().unwrap()]);
    let chain = |name: &str| view.chains.iter().find(|c| c.name == name).unwrap();
    assert_eq!(*chain("sub"), Chain::regular("sub").comment("jumped to"));
    assert_eq!(chain("in").base.as_ref().map(|b| (b.policy, b.priority)), Some((Policy::Drop, -5)));
    assert_eq!(view.rules_of("post").next().unwrap().rule.comment.as_deref(), Some(&*"x".repeat(128)));
    assert_eq!(view.rules_of("in").count(), 4);

    let mut seen = view.sets.clone();
    let mut wanted = sets();
    let order = |all: &mut Vec<(Set, Vec<Element>)>| {
        all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        all.iter_mut().for_each(|(_, elements)| elements.sort_by_key(|e| format!("{:?}", e.key)));
    };
    order(&mut seen);
    order(&mut wanted);
    assert_eq!(seen, wanted);
}

#[test]
fn every_expression_is_listed_and_read_as_nft_does() {
    namespace();
    let mut ours = Nft::open().unwrap();
    for case in cases::all() {
        let table = TableKey::new(case.family, "t");
        let script = format!("table {table} {{ {} }}\nadd rule {table} c {}\n", cases::SURROUNDINGS, case.text);
        nft(&["-f", "-"], &script);
        let mut batch = Batch::new();
        batch.add_rule(&table, "c", &case.rule);
        ours.commit(&batch).unwrap_or_else(|e| panic!("{}: {e}", case.text));

        let listed = nft(&["list", "chain", &case.family.to_string(), "t", "c"], "");
        let lines: Vec<_> = listed.lines().map(str::trim).collect();
        assert_eq!(lines[2], lines[3], "{listed}");
        let read = ours.rules(&table, Some("c")).unwrap();
        assert_eq!(read.len(), 2, "{}", case.text);
        for listed in read {
            assert_eq!(listed.rule, case.rule, "{}", case.text);
        }
        let mut clean = Batch::new();
        clean.delete_table(&table);
        ours.commit(&clean).unwrap();
    }
}

#[test]
fn a_refused_transaction_leaves_nothing_and_names_its_fault() {
    namespace();
    let mut nft = Nft::open().unwrap();
    let before = nft.generation().unwrap();
    let refused = batch(|b| {
        b.add_chain(&key(), &Chain::regular("c"));
        b.add_rule(&key(), "absent", &RuleBuilder::new(NftFamily::Inet).accept().done());
        b.add_chain(&key(), &Chain::regular("d"));
        b.delete_set(&key(), "nothing");
    });
    let error = nft.commit(&refused).unwrap_err();
    assert!(error.is_absent() && !error.is_already() && !error.is_retryable(), "{error}");
    let text = error.to_string();
    assert!(text.contains("add rule inet t absent: No such file"), "{text}");
    assert!(text.contains("delete set inet t nothing: No such file"), "{text}");
    assert!(ruleset().is_empty());
    assert_eq!(nft.generation().unwrap(), before);

    let unfit = batch(|b| b.add_chain(&key(), &Chain::regular("a\0b")));
    assert!(matches!(nft.commit(&unfit), Err(NftError::Unencodable { .. })));
    assert!(ruleset().is_empty());
}

#[test]
fn overlapping_ranges_are_already_there() {
    namespace();
    let mut nft = Nft::open().unwrap();
    let set = Set::new("s", [Type::Ipv4Addr]).interval();
    nft.commit(&batch(|b| {
        b.add_set(&key(), &set);
        b.add_elements(&key(), &set, &[net("10.0.0.0/8")]);
    }))
    .unwrap();
    let add = |n: &str| batch(|b| b.add_elements(&key(), &set, &[net(n)]));
    let error = nft.commit(&add("10.1.0.0/16")).unwrap_err();
    assert!(error.is_already(), "{error}");
    // the same again, and its neighbours, are fine
    for n in ["10.0.0.0/8", "11.0.0.0/8", "9.0.0.0/8", "0.0.0.0/8"] {
        nft.commit(&add(n)).unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    assert_eq!(nft.elements(&key(), &set).unwrap(), ["0.0.0.0/8", "9.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8"].map(net));
    nft.commit(&batch(|b| b.delete_elements(&key(), &set, &["10.0.0.0/8", "0.0.0.0/8"].map(net)))).unwrap();
    assert_eq!(nft.elements(&key(), &set).unwrap(), ["9.0.0.0/8", "11.0.0.0/8"].map(net));
}

#[test]
fn five_thousand_ranges_go_in_and_come_back_at_once() {
    namespace();
    let mut nft = Nft::open().unwrap();
    let set = Set::new("s", [Type::Ipv4Addr]).interval();
    // every second /24, so that none touches the next
    let all: Vec<_> = (0..5000u32).map(|n| net(&format!("10.{}.{}.0/24", n >> 7, (n & 127) * 2))).collect();
    let before = nft.generation().unwrap();
    nft.commit(&batch(|b| {
        b.add_set(&key(), &set);
        b.add_elements(&key(), &set, &all);
    }))
    .unwrap();
    assert_eq!(nft.generation().unwrap(), before + 1);
    assert_eq!(nft.elements(&key(), &set).unwrap(), all);
    nft.commit(&batch(|b| b.delete_elements(&key(), &set, &all))).unwrap();
    assert_eq!(nft.elements(&key(), &set).unwrap(), []);
}

#[test]
fn destroying_passes_over_what_is_absent() {
    namespace();
    let mut nft = Nft::open().unwrap();
    let set = Set::new("s", [Type::InetService]);
    let port = |n| Element::new([Value::Port(n)]);
    nft.commit(&batch(|b| {
        b.add_set(&key(), &set);
        b.add_elements(&key(), &set, &[port(1), port(2)]);
        b.add_chain(&key(), &Chain::regular("keep"));
        b.add_chain(&key(), &Chain::regular("go"));
    }))
    .unwrap();
    let mut batch = Batch::new();
    batch.destroy_chain(&key(), "absent");
    batch.destroy_rule(&key(), "keep", 4711);
    batch.destroy_table(&TableKey::new(NftFamily::Ip, "absent"));
    batch.destroy_set(&key(), "absent");
    batch.destroy_elements(&key(), &set, &[port(1), port(3)]);
    batch.destroy_chain(&key(), "go");
    assert!(batch.deletes());
    nft.commit(&batch).unwrap();
    let view = nft.view(&key()).unwrap();
    assert!(view.has_chain("keep") && !view.has_chain("go"));
    assert_eq!(view.sets, [(set, vec![port(2)])]);
    // nothing of it is there any more: all operations are left out
    let mut gone = Batch::new();
    gone.destroy_table(&TableKey::new(NftFamily::Ip, "absent"));
    nft.commit(&gone).unwrap();
    // the real refusal is told, not hidden by the pardoned ones
    batch.delete_chain(&key(), "never");
    assert!(nft.commit(&batch).unwrap_err().to_string().contains("delete chain inet t never"));
}

#[test]
fn flushing_keeps_the_frame_and_foreign_tables_stay() {
    namespace();
    nft(&["-f", "-"], "table ip foreign {\nchain c {\naccept\n}\n}");
    let foreign = ruleset();
    let mut nft = Nft::open().unwrap();
    nft.commit(&full()).unwrap();
    let mut batch = Batch::new();
    batch.flush_chain(&key(), "post");
    nft.commit(&batch).unwrap();
    assert_eq!(nft.rules(&key(), Some("post")).unwrap(), []);
    assert_eq!(nft.rules(&key(), None).unwrap().len(), 4);
    batch.flush_table(&key());
    batch.flush_set(&key(), "nets");
    nft.commit(&batch).unwrap();
    let view = nft.view(&key()).unwrap();
    assert_eq!((view.rules.len(), view.chains.len()), (0, 3));
    assert!(view.sets.iter().find(|(s, _)| s.name == "nets").unwrap().1.is_empty());
    let mut batch = Batch::new();
    batch.delete_table(&key());
    nft.commit(&batch).unwrap();
    assert_eq!(ruleset(), foreign);
}

#[test]
fn an_outdated_generation_is_busy_and_an_update_reads_again() {
    namespace();
    let mut nft = Nft::open().unwrap();
    let old = nft.generation().unwrap();
    nft.commit(&batch(|_| {})).unwrap();
    let error = nft.commit(&batch(|b| b.delete_table(&key())).at_generation(old)).unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(nft.table(&key()).unwrap().is_some());

    // another changes something between the first reading and its commit
    let tries = std::cell::Cell::new(0);
    let done = nft
        .update(&key(), |seen| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                Nft::open().unwrap().commit(&batch(|b| b.add_chain(&key(), &Chain::regular("theirs")))).unwrap();
            }
            batch(|b| b.add_chain(&key(), &Chain::regular(format!("ours-{}", seen.chains.len()))))
        })
        .unwrap();
    assert_eq!((tries.get(), done.is_empty()), (2, false));
    let view = nft.view(&key()).unwrap();
    assert!(view.has_chain("theirs") && view.has_chain("ours-1") && !view.has_chain("ours-0"));
}

#[test]
fn a_view_is_of_one_moment_while_another_writes() {
    namespace();
    let (a, b) = (Chain::regular("a"), Chain::regular("b"));
    let write = |nft: &mut Nft, mark: u32| {
        let rule = RuleBuilder::new(NftFamily::Inet).mark(Is::Eq, mark).accept().done();
        nft.commit(&batch(|batch| {
            for chain in [&a, &b] {
                batch.add_chain(&key(), chain);
                batch.flush_chain(&key(), &chain.name);
                batch.add_rule(&key(), &chain.name, &rule);
            }
        }))
        .unwrap();
    };
    let mut reader = Nft::open().unwrap();
    let mut writer = Nft::open().unwrap();
    write(&mut writer, 0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut mark = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                mark += 1;
                write(&mut writer, mark);
            }
        });
        let mut whole = 0;
        for _ in 0..200 {
            match reader.view(&key()) {
                Ok(view) => {
                    whole += 1;
                    let rules: Vec<_> =
                        ["a", "b"].map(|c| view.rules_of(c).map(|r| &r.rule).collect::<Vec<_>>()).into();
                    assert_eq!((rules[0].len(), &rules[0]), (1, &rules[1]));
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(whole > 0);
    });
}

#[test]
fn the_socket_outlives_the_connection() {
    namespace();
    let mut nft = Nft::open().unwrap();
    nft.commit(&full()).unwrap();
    let mut batch = Batch::new();
    batch.delete_table(&key());
    nft.commit(&batch).unwrap();
    let fd = std::os::fd::OwnedFd::from(nft);
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    // whoever holds it decides when it is closed; the deletion is done
    assert!(ruleset().is_empty());
}
