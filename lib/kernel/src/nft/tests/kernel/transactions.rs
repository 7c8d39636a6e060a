//! Transactions are carried out as a whole or not at all, and report the right refusals.

use super::objects::full;
use super::{batch, key, namespace, net, nft, ruleset};
use crate::nft::*;

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
    assert!(text.contains("add rule inet t absent: ENOENT: No such file"), "{text}");
    assert!(text.contains("delete set inet t nothing: ENOENT: No such file"), "{text}");
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
    // adding the same again, and neighbouring ranges, succeeds
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
    // every second /24, so that no two are adjacent
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
    // nothing of it exists any more: all operations are left out
    let mut gone = Batch::new();
    gone.destroy_table(&TableKey::new(NftFamily::Ip, "absent"));
    nft.commit(&gone).unwrap();
    // the real refusal is reported although others are ignored
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

    // another program changes something between the first read and its commit
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
    // the holder decides when it is closed; the deletion is done
    assert!(ruleset().is_empty());
}
