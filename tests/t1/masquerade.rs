//! Sixteen pods with `ipMasq` come and go at once, beside a program that keeps committing a table of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use attachment::record::DIRECTORY;
use attachment::rules::{macspoof, masquerade};
use kernel::Kernel;
use kernel::nft::{Batch, Element, Nft, NftFamily, Set, Table, TableKey, Type, Value};
use lab::netns::Room;
use lab::wait::eventually;
use serde_json::{Value as Json, json};
use tests::harness::{Outcome, figure};

use crate::bridge::{conf, links, with};
use crate::call::{Answer, Caller, Pod, Whose};

const PODS: [&str; 16] =
    ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13", "p14", "p15"];
/// How often all of them come and go.
const ROUNDS: usize = 5;

/// Commits a table until `stopped` is closed, with `pause` in between. Returns the number of commits.
fn other_program(stopped: &Receiver<()>, pause: Duration) -> usize {
    let key = TableKey::new(NftFamily::Ip, "other");
    let set = Set::new("ports", [Type::InetService]);
    let mut nft = Nft::open().unwrap();
    for n in 0.. {
        let mut batch = Batch::new();
        batch.add_table(&Table { key: key.clone(), comment: None, dormant: false });
        batch.add_set(&key, &set);
        batch.flush_set(&key, "ports");
        batch.add_elements(&key, &set, &[Element::new([Value::Port(n as u16)])]);
        nft.commit(&batch).unwrap();
        if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return n;
        }
    }
    0
}

/// Calls the plugin for all pods at once. Returns the refusals.
fn at_once(caller: &Caller, command: &str, pods: &[Pod], conf: &Json) -> Vec<Answer> {
    let start = Barrier::new(pods.len());
    let call = |pod: &Pod| {
        start.wait();
        caller.call(command, pod, conf)
    };
    thread::scope(|scope| {
        let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| call(pod))).collect();
        let answers = calls.into_iter().map(|call| call.join().unwrap());
        answers.filter(|answer| answer.status != 0).collect()
    })
}

/// How many rules there are that attachments have to themselves.
fn rules() -> [usize; 2] {
    let count = |table: TableKey, chain: &str| {
        // read anew as often as the other program makes it necessary
        let what = format!("the rules of {table} {chain} can be counted");
        let look = || match Nft::open().and_then(|mut nft| nft.rules(&table, Some(chain))) {
            Ok(rules) => Ok(rules.len()),
            Err(error) => Err(error.to_string()),
        };
        eventually(what, Duration::from_secs(20), look).unwrap()
    };
    [count(masquerade::table(), "masq_checks"), count(macspoof::table(), "PREROUTING")]
}

/// What attachments of `net` have left: links, reservations, records.
fn left(caller: &Caller) -> Vec<String> {
    let mut left = links(&mut Kernel::open().unwrap());
    left.retain(|link| link.starts_with("veth"));
    left.extend(caller.reserved("net"));
    let records = std::fs::read_dir(Path::new(DIRECTORY).join("net")).into_iter().flatten();
    left.extend(records.map(|record| record.unwrap().path().display().to_string()));
    left
}

fn all_are_served(pause: Duration, more: Json, each: [usize; 2]) -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let rooms: Vec<Room> = PODS.iter().map(|name| Room::create(name)).collect::<Result<_, _>>()?;
    let pods: Vec<Pod> = rooms.iter().zip(PODS).map(|(room, name)| Pod::of(room, name)).collect();
    let conf = with(&conf(&caller), more);
    let (stop, stopped) = channel::<()>();
    let commits = thread::scope(|scope| {
        let other = scope.spawn(move || other_program(&stopped, pause));
        for round in 0..ROUNDS {
            let refused = at_once(&caller, "ADD", &pods, &conf);
            assert!(refused.is_empty(), "round {round}: of 16 ADDs at once some were refused: {refused:#?}");
            assert_eq!(rules(), each.map(|rules| rules * PODS.len()), "round {round}: rules behind the ADDs");
            let refused = at_once(&caller, "DEL", &pods, &conf);
            assert!(refused.is_empty(), "round {round}: of 16 DELs at once some were refused: {refused:#?}");
            assert_eq!((rules(), left(&caller)), ([0, 0], Vec::new()), "round {round}: left behind the DELs");
        }
        drop(stop);
        other.join().unwrap()
    });
    assert!(commits > ROUNDS, "the other program committed {commits} times only");
    figure(format_args!(
        "{ROUNDS} × 16 ADDs and DELs at once beside {commits} commits of another program: none refused"
    ));
    Ok(())
}

pub fn sixteen_at_once_beside_fifty_commits_a_second_are_served() -> Outcome {
    all_are_served(Duration::from_millis(20), json!({ "ipMasq": true }), [2, 0])
}

/// The same beside a program that does nothing else, with a rule in another table, too.
pub fn sixteen_at_once_with_mac_check_beside_commits_without_a_pause_are_served() -> Outcome {
    all_are_served(Duration::ZERO, json!({ "ipMasq": true, "macspoofchk": true }), [2, 1])
}

/// A refused transaction costs the kernel a grace period of 10 ms and more. Neither the first pod of a host, nor the
/// first after all tables were deleted, pays it.
pub fn the_first_pod_is_refused_nothing() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut nft = Nft::open()?;
    for (more, each) in [(json!({ "ipMasq": true }), [2, 0]), (json!({ "ipMasq": true, "macspoofchk": true }), [2, 1])]
    {
        let conf = with(&conf(&caller), more);
        let (output, refused) = caller.traced("ADD", &pod, &conf, |traced| {
            traced.find(caller.files.path(), "recvfrom", &["error=-E", "NFT_MSG_NEW"])
        })?;
        Answer::from(output).ok();
        assert_eq!(refused, None, "the kernel refused a transaction of the first ADD");
        assert_eq!(rules(), each);
        caller.call("DEL", &pod, &conf).ok();
        let mut batch = Batch::new();
        for table in nft.tables()? {
            batch.delete_table(&table.key);
        }
        nft.commit(&batch)?;
    }
    Ok(())
}
