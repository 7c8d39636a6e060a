use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use overlay::backend::vxlan;

use super::*;
use lab::wait;
use overlay::status::{Peer, Reach, Udp};

fn peer(subnet: &str, path: Reach) -> Peer {
    Peer {
        subnet: subnet.parse().unwrap(),
        public_ip: "192.0.2.2".parse().unwrap(),
        path,
        reason: "on the same segment".into(),
        vtep_mac: None,
        since: String::new(),
    }
}

fn head(time: &str) -> Status {
    Status { last_reconcile: Some(time.into()), mtu: 1450, ..Status::default() }
}

fn read(contents: &mut Contents) -> Status {
    serde_json::from_str(&contents.take_status(Default::default())).unwrap()
}

#[test]
fn only_news_is_written() {
    let mut contents = Contents::default();
    contents.passed(&head("one"), PeerChanges::default(), None, false);
    assert!(contents.is_unwritten());
    read(&mut contents);
    contents.passed(&head("two"), PeerChanges::default(), Some(Vec::new()), false);
    assert!(!contents.is_unwritten(), "only the time is new");
    contents.passed(&head("three"), PeerChanges::default(), None, true);
    assert_eq!(read(&mut contents).last_reconcile.as_deref(), Some("three"));
    let rejected = vec![Rejected { key: "x".into(), reason: "not a subnet".into() }];
    contents.passed(&head("four"), PeerChanges::default(), Some(rejected.clone()), false);
    assert_eq!(read(&mut contents).rejected, rejected);
    contents.passed(&head("five"), PeerChanges::default(), None, false);
    assert!(!contents.is_unwritten(), "no change of the rejected ones");
    assert_eq!(contents.rejected(), 1);
    contents.set_env_error(Some("disk full".into()));
    assert_eq!(read(&mut contents).last_error.as_deref(), Some("disk full"));
    let wrong = Status { last_error: Some("no route".into()), ..head("six") };
    contents.passed(&wrong, PeerChanges::default(), None, false);
    assert_eq!(read(&mut contents).last_error.as_deref(), Some("no route; disk full"));
    contents.set_env_error(None);
    assert_eq!(read(&mut contents).last_error.as_deref(), Some("no route"));
}

#[test]
fn attachments_outlive_a_pass() {
    let mut contents = Contents::default();
    contents.passed(&head("one"), PeerChanges::default(), None, false);
    assert_eq!(read(&mut contents).attachments, None);
    let attachments = Attachments { count: 2, ..Attachments::default() };
    contents.set_attachments(attachments.clone());
    assert!(contents.is_unwritten());
    assert_eq!(read(&mut contents).attachments, Some(attachments.clone()));
    contents.passed(&head("two"), PeerChanges::default(), None, false);
    contents.set_attachments(attachments.clone());
    assert!(!contents.is_unwritten(), "nothing is new");
    assert_eq!(read(&mut contents).attachments, Some(attachments));
}

#[test]
fn a_peer_is_as_old_as_its_last_change() {
    let mut contents = Contents::default();
    let all = vec![peer("10.5.2.0/24", Reach::Direct), peer("10.5.10.0/24", Reach::Through(vxlan::TUNNEL))];
    contents.passed(&head("one"), PeerChanges::Whole(all.clone()), None, false);
    contents.passed(&head("two"), PeerChanges::Whole(all.clone()), None, false);
    let ages = |contents: &mut Contents| -> Vec<(String, String)> {
        read(contents).peers.iter().map(|peer| (peer.subnet.to_string(), peer.since.clone())).collect()
    };
    let pair = |subnet: &str, since: &str| (subnet.to_owned(), since.to_owned());
    assert_eq!(ages(&mut contents), [pair("10.5.2.0/24", "one"), pair("10.5.10.0/24", "one")]);
    contents.passed(&head("three"), PeerChanges::default(), None, false);
    assert!(!contents.is_unwritten());
    let (subnet, moved) = (all[0].subnet, peer("10.5.2.0/24", Reach::Through(vxlan::TUNNEL)));
    contents.passed(&head("four"), PeerChanges::Some(vec![(subnet, Some(moved))]), None, false);
    assert_eq!((contents.counts().of(Reach::Direct), contents.counts().of(Reach::Through(vxlan::TUNNEL))), (0, 2));
    assert_eq!(ages(&mut contents), [pair("10.5.2.0/24", "four"), pair("10.5.10.0/24", "one")]);
    contents.passed(&head("five"), PeerChanges::Some(vec![(subnet, None)]), None, false);
    assert_eq!(ages(&mut contents), [pair("10.5.10.0/24", "one")]);
    contents.passed(&head("six"), PeerChanges::Some(vec![(subnet, None)]), None, false);
    assert!(!contents.is_unwritten(), "it was gone before");
    contents.passed(&head("seven"), PeerChanges::Whole(Vec::new()), None, false);
    assert!(contents.is_unwritten() && read(&mut contents).peers.is_empty());
    assert_eq!(contents.counts(), &Default::default());
}

/// Waits until the content of `path` satisfies `is_right`.
async fn eventually(path: &Path, is_right: impl Fn(&str) -> bool + Send + 'static) -> String {
    let path = path.to_owned();
    let look = move || {
        wait::eventually(path.display(), Duration::from_secs(20), || match std::fs::read_to_string(&path) {
            Ok(text) if is_right(&text) => Ok(text),
            other => Err(format!("{other:?}")),
        })
    };
    tokio::task::spawn_blocking(look).await.unwrap().unwrap()
}

fn settings(dir: &Path) -> Settings {
    Settings {
        subnet_file: dir.join("flannel/subnet.env"),
        manager: None,
        metrics: Metrics::default(),
        readiness: Readiness::default(),
    }
}

#[tokio::test]
async fn a_file_that_somebody_changes_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (env, status) = (settings.subnet_file.clone(), path_beside(&settings.subnet_file));
    let task = Reporter::start(settings.clone());
    let reporter = task.handle();
    reporter.passed(&head("one"), PeerChanges::default(), None, true);
    eventually(&status, |text| text.contains("1450")).await;
    assert!(!settings.readiness.is_ready());
    reporter.subnet_env("FLANNEL_MTU=1450\n".into());
    eventually(&env, |text| text == "FLANNEL_MTU=1450\n").await;
    std::fs::remove_file(&env).unwrap();
    eventually(&env, |text| text == "FLANNEL_MTU=1450\n").await;
    std::fs::write(&env, "FLANNEL_MTU=9000\n").unwrap();
    eventually(&env, |text| text == "FLANNEL_MTU=1450\n").await;
    std::fs::write(&status, "").unwrap();
    eventually(&status, |text| text.contains("1450")).await;
    std::fs::remove_dir_all(env.parent().unwrap()).unwrap();
    eventually(&env, |text| text == "FLANNEL_MTU=1450\n").await;
    eventually(&status, |text| text.contains("1450")).await;
    assert!(settings.readiness.is_ready());
    assert!(settings.metrics.drifts().get("file").is_some_and(|count| *count >= 3), "{:?}", settings.metrics.drifts());
}

/// The error that ends the daemon stays in the status, although the task may be writing an older one.
#[test]
fn an_older_text_never_replaces_the_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Arc::new(Shared::default());
    let status = dir.path().join("status.json");
    let report = Report { shared: shared.clone(), metrics: Metrics::default(), status: status.clone() };
    for round in 0..200 {
        shared.write(&status, |contents| contents.last_words("")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| shared.write(&status, |contents| contents.take_status(BTreeMap::new())).unwrap());
            scope.spawn(|| report.last_words(&format!("error {round}")));
        });
        let text = std::fs::read_to_string(&status).unwrap();
        assert!(text.contains(&format!("error {round}")), "{text}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_said_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let env = settings.subnet_file.clone();
    std::fs::create_dir_all(&env).unwrap();
    let task = Reporter::start(settings.clone());
    let reporter = task.handle();
    reporter.passed(&head("one"), PeerChanges::default(), None, true);
    reporter.subnet_env("FLANNEL_MTU=1450\n".into());
    let text = eventually(&path_beside(&env), |text| text.contains("subnet.env: cannot replace")).await;
    assert!(!text.contains("draft"), "{text}");
    assert!(!settings.readiness.is_ready());
    std::fs::remove_dir(&env).unwrap();
    eventually(&env, |text| text == "FLANNEL_MTU=1450\n").await;
    eventually(&path_beside(&env), |text| text.contains(r#""lastError": null"#)).await;
    assert!(settings.readiness.is_ready());
}

#[tokio::test]
async fn what_udp_has_moved_is_written_without_a_pass() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let status = path_beside(&settings.subnet_file);
    let task = Reporter::start(settings.clone());
    let reporter = task.handle();
    reporter.subnet_env("FLANNEL_MTU=1472\n".into());
    reporter.passed(&Status { udp: Some(Udp::default()), ..head("one") }, PeerChanges::default(), None, true);
    eventually(&status, |text| text.contains(r#""sentPackets": 0"#)).await;
    for number in 1..=2 {
        settings.metrics.udp.sent(3, 400);
        let wanted = format!(r#""sentPackets": {}"#, 3 * number);
        eventually(&status, move |text| text.contains(&wanted)).await;
    }
    // of another backend none are shown
    reporter.passed(&head("two"), PeerChanges::default(), None, true);
    eventually(&status, |text| !text.contains("sentPackets")).await;
    settings.metrics.udp.sent(3, 400);
    eventually(&status, |text| !text.contains("sentPackets")).await;
}
