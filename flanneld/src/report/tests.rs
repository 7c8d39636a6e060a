use std::time::Duration;

use overlay::backend::vxlan;
use overlay::plan::{PeerChanges, PeerView};
use overlay::reach::{Reach, Why};

use super::*;
use lab::wait;
use overlay::status::{Pages, Reach as Path, Reclaim, Rejected, Status, Udp};

fn peer(subnet: &str, reach: Reach) -> PeerView {
    PeerView {
        subnet: subnet.parse().unwrap(),
        public: "192.0.2.2".parse().unwrap(),
        reach,
        reason: Why::OnLink,
        vtep_mac: None,
    }
}

fn head(time: &str) -> Head {
    Head { last_reconcile: Some(time.into()), mtu: 1450, ..Head::default() }
}

/// A pass without news.
fn passed(time: &str) -> Passed {
    Passed { head: head(time), ..Passed::default() }
}

fn all(put: Vec<PeerView>) -> Vec<PeerChanges> {
    vec![PeerChanges { whole: true, put, ..PeerChanges::default() }]
}

/// The status as it is written and read.
fn read(shared: &Shared) -> Status {
    let head = shared.lock().take_head(Default::default());
    let mut text = Vec::new();
    head.with_peers(Pages(|after| shared.lock().page(after))).write_to(&mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn only_news_is_written() {
    let shared = Shared::default();
    let pass = |passed| shared.lock().passed(passed);
    let is_unwritten = || shared.lock().is_unwritten();
    pass(passed("one"));
    assert!(is_unwritten());
    read(&shared);
    pass(Passed { rejected: Some(Vec::new()), ..passed("two") });
    assert!(!is_unwritten(), "only the time is new");
    pass(Passed { fresh: true, ..passed("three") });
    assert_eq!(read(&shared).last_reconcile.as_deref(), Some("three"));
    let rejected = vec![Rejected { key: "x".into(), reason: "not a subnet".into() }];
    pass(Passed { rejected: Some(rejected.clone()), ..passed("four") });
    assert_eq!(read(&shared).rejected, rejected);
    pass(passed("five"));
    assert!(!is_unwritten(), "no change of the rejected ones");
    assert_eq!(shared.lock().rejected(), 1);
    shared.lock().set_env_error(Some("disk full".into()));
    assert_eq!(read(&shared).last_error.as_deref(), Some("disk full"));
    pass(Passed { head: Head { last_error: Some("no route".into()), ..head("six") }, ..Passed::default() });
    assert_eq!(read(&shared).last_error.as_deref(), Some("no route; disk full"));
    shared.lock().set_env_error(None);
    assert_eq!(read(&shared).last_error.as_deref(), Some("no route"));
}

#[test]
fn attachments_outlive_a_pass() {
    let shared = Shared::default();
    shared.lock().passed(passed("one"));
    assert_eq!((read(&shared).attachments, read(&shared).reclaim), (None, None));
    let reclaim = Reclaim { reclaimed: 1, kept: vec!["net/c@eth0: no".into()] };
    shared.lock().set_reclaim(reclaim.clone());
    let attachments = Attachments { count: 2, ..Attachments::default() };
    shared.lock().set_attachments(attachments.clone());
    assert!(shared.lock().is_unwritten());
    assert_eq!(read(&shared).attachments, Some(attachments.clone()));
    shared.lock().passed(passed("two"));
    shared.lock().set_attachments(attachments.clone());
    assert!(!shared.lock().is_unwritten(), "nothing is new");
    assert_eq!(read(&shared).attachments, Some(attachments));
}

#[test]
fn a_peer_is_as_old_as_its_last_change() {
    let shared = Shared::default();
    let pass = |at, peers| shared.lock().passed(Passed { at, peers, ..passed("now") });
    let ages = || -> Vec<(String, String)> {
        read(&shared).peers.iter().map(|peer| (peer.subnet.to_string(), peer.since.clone())).collect()
    };
    let pair = |subnet: &str, second: u8| (subnet.to_owned(), format!("1970-01-01T00:00:0{second}Z"));
    let (tunnel, put) = (Reach::Through(vxlan::TUNNEL), |peer| PeerChanges { put: vec![peer], ..Default::default() });
    let two = vec![peer("10.5.2.0/24", Reach::Direct), peer("10.5.10.0/24", tunnel)];
    pass(1, all(two.clone()));
    pass(2, all(two.clone()));
    assert_eq!(ages(), [pair("10.5.2.0/24", 1), pair("10.5.10.0/24", 1)]);
    pass(3, Vec::new());
    pass(3, vec![put(two[0])]);
    assert!(!shared.lock().is_unwritten(), "as it was");
    pass(4, vec![put(peer("10.5.2.0/24", tunnel))]);
    let of = |path| shared.lock().counts().of(path);
    assert_eq!((of(Path::Direct), of(Path::Through(vxlan::TUNNEL))), (0, 2));
    assert_eq!(ages(), [pair("10.5.2.0/24", 4), pair("10.5.10.0/24", 1)]);
    let gone = || vec![PeerChanges { gone: vec![two[0].subnet], ..PeerChanges::default() }];
    pass(5, gone());
    assert_eq!(ages(), [pair("10.5.10.0/24", 1)]);
    pass(6, gone());
    assert!(!shared.lock().is_unwritten(), "it was gone before");
    pass(7, all(Vec::new()));
    assert!(shared.lock().is_unwritten() && read(&shared).peers.is_empty());
    assert_eq!(shared.lock().counts(), &Default::default());
}

#[test]
fn many_peers_are_written_page_by_page() {
    let shared = Shared::default();
    let subnets: Vec<String> = (0..1000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let peers = subnets.iter().map(|subnet| peer(subnet, Reach::Direct)).collect();
    shared.lock().passed(Passed { peers: all(peers), ..passed("one") });
    assert_eq!(read(&shared).peers.iter().map(|peer| peer.subnet.to_string()).collect::<Vec<_>>(), subnets);
}

/// Waits until the content of `path` satisfies `is_right`.
async fn eventually(path: &std::path::Path, is_right: impl Fn(&str) -> bool + Send + 'static) -> String {
    let path = path.to_owned();
    let look = move || {
        wait::eventually(path.display(), Duration::from_secs(20), || match std::fs::read_to_string(&path) {
            Ok(text) if is_right(&text) => Ok(text),
            other => Err(format!("{other:?}")),
        })
    };
    tokio::task::spawn_blocking(look).await.unwrap().unwrap()
}

fn settings(dir: &std::path::Path) -> Settings {
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
    reporter.passed(Passed { fresh: true, ..passed("one") });
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
        document::write(&status, &shared, |contents| contents.last_words("")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                document::write(&status, &shared, |contents| contents.take_head(Default::default())).unwrap()
            });
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
    reporter.passed(Passed { fresh: true, ..passed("one") });
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
    let moved = Head { udp: Some(Udp::default()), ..head("one") };
    reporter.passed(Passed { head: moved, fresh: true, ..Passed::default() });
    eventually(&status, |text| text.contains(r#""sentPackets": 0"#)).await;
    for number in 1..=2 {
        settings.metrics.udp.sent(3, 400);
        let wanted = format!(r#""sentPackets": {}"#, 3 * number);
        eventually(&status, move |text| text.contains(&wanted)).await;
    }
    // of another backend none are shown
    reporter.passed(Passed { fresh: true, ..passed("two") });
    eventually(&status, |text| !text.contains("sentPackets")).await;
    settings.metrics.udp.sent(3, 400);
    eventually(&status, |text| !text.contains("sentPackets")).await;
}
