use std::path::Path;
use std::time::Duration;

use overlay::netconf::NetConf;
use overlay::peers::{self, Own};

use super::*;

const KEYS: [&str; 2] = ["10.5.2.0-24", "10.5.3.0-24"];

fn conf(backend: &str) -> NetConf {
    NetConf::parse(format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#).as_bytes()).unwrap().conf
}

/// Commands that write what they run with into files of `dir`; the adding one fails while `broken` is there.
fn recording(dir: &Path) -> NetConf {
    let dir = dir.display();
    let add = format!(r#"sh -c 'test ! -e {dir}/broken && {{ echo $SUBNET $PUBLIC_IP; cat; }} >> {dir}/added'"#);
    let remove = format!(r#"sh -c '{{ echo $SUBNET $PUBLIC_IP; cat; }} >> {dir}/removed'"#);
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    conf(&format!(
        r#"{{"Type":"extension","SubnetAddCommand":{},"SubnetRemoveCommand":{}}}"#,
        quoted(&add),
        quoted(&remove)
    ))
}

fn peers(conf: &NetConf, leases: &[(&str, &str)]) -> Vec<Peer> {
    let value = |public: &str| {
        format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"extension","BackendData":"of {public}"}}"#)
    };
    let leases: Vec<_> = leases.iter().map(|(key, public)| (*key, value(public))).collect();
    peers::check(conf, &Own::default(), leases.iter().map(|(key, value)| (key, value))).good
}

/// Passes the peers, and again whenever there is news or a retry is due, until `good`. The loop does the same.
async fn until(
    extension: &mut Extension,
    (conf, peers): (&NetConf, &[Peer]),
    good: impl Fn(&[String], bool) -> bool,
) -> Vec<String> {
    let work = async {
        loop {
            let mut due = Due::default();
            let failed = extension.follow(conf, peers.iter(), true, &mut due);
            let idle = lock(&extension.outcome).idle;
            if good(&failed, idle) {
                return failed;
            }
            let due = due.at.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                news = extension.news() => news.unwrap(),
                _ = tokio::time::timeout_at(due, std::future::pending::<()>()) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap()
}

fn text(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

#[tokio::test]
async fn peers_are_added_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let conf = recording(dir.path());
    let mut extension = Extension::new(Environment::default());
    let has = |name: &'static str, wanted: &'static str| {
        let dir = dir.path().to_owned();
        move |_: &[String], idle: bool| idle && text(&dir, name) == wanted
    };
    let two = peers(&conf, &[(KEYS[0], "10.99.0.2"), (KEYS[1], "10.99.0.3")]);
    let first = "10.5.2.0/24 10.99.0.2\nof 10.99.0.2\n10.5.3.0/24 10.99.0.3\nof 10.99.0.3\n";
    until(&mut extension, (&conf, &two), has("added", first)).await;
    let moved = peers(&conf, &[(KEYS[1], "10.99.0.4")]);
    let then = "10.5.2.0/24 10.99.0.2\nof 10.99.0.2\n10.5.3.0/24 10.99.0.3\nof 10.99.0.3\n10.5.3.0/24 10.99.0.4\nof 10.99.0.4\n";
    until(&mut extension, (&conf, &moved), has("added", then)).await;
    assert_eq!(text(dir.path(), "removed"), "10.5.2.0/24 10.99.0.2\nof 10.99.0.2\n", "as it was added");
    // Another backend: the peers are removed by the commands that added them.
    let vxlan = self::conf(r#"{"Type":"vxlan"}"#);
    let all = "10.5.2.0/24 10.99.0.2\nof 10.99.0.2\n10.5.3.0/24 10.99.0.4\nof 10.99.0.4\n";
    until(&mut extension, (&vxlan, &moved), has("removed", all)).await;
}

#[tokio::test]
async fn what_failed_is_said_and_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let conf = recording(dir.path());
    std::fs::write(dir.path().join("broken"), "").unwrap();
    let mut extension = Extension::new(Environment::default());
    let one = peers(&conf, &[(KEYS[0], "10.99.0.2")]);
    let failed = until(&mut extension, (&conf, &one), |failed, _| !failed.is_empty()).await;
    assert_eq!(failed, ["SubnetAddCommand for 10.5.2.0-24: sh: exit status: 1"]);
    std::fs::remove_file(dir.path().join("broken")).unwrap();
    until(&mut extension, (&conf, &one), |failed, idle| failed.is_empty() && idle).await;
    assert_eq!(text(dir.path(), "added"), "10.5.2.0/24 10.99.0.2\nof 10.99.0.2\n");
}

#[tokio::test]
async fn an_incomplete_view_removes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let conf = recording(dir.path());
    let mut extension = Extension::new(Environment::default());
    let one = peers(&conf, &[(KEYS[0], "10.99.0.2")]);
    until(&mut extension, (&conf, &one), |_, idle| idle && !text(dir.path(), "added").is_empty()).await;
    extension.follow(&conf, [].iter(), false, &mut Due::default());
    assert_eq!(extension.wanted.borrow().peers.len(), 1);
    extension.follow(&conf, [].iter(), true, &mut Due::default());
    assert_eq!(extension.wanted.borrow().peers.len(), 0);
}

/// Tries again whenever a command has ended or is due, as the loop does, until `step` no longer says that it is
/// running.
async fn ended(
    extension: &mut Extension,
    mut step: impl FnMut(&mut Extension, &mut Due) -> Result<(), Unready>,
) -> Result<(), Unready> {
    let work = async {
        loop {
            match step(extension, &mut Due::default()) {
                Err(Unready::Running(_)) => extension.news().await.unwrap(),
                result => return result,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap()
}

#[tokio::test]
async fn the_first_command_prints_the_leases_data() {
    let dir = tempfile::tempdir().unwrap();
    let count = dir.path().join("count");
    let command = format!(
        r#"{{"Type":"extension","PreStartupCommand":"sh -c 'echo x >> {}; echo \" a \"; echo b >&2'"}}"#,
        count.display()
    );
    let mut extension = Extension::new(Environment::default());
    for _ in 0..2 {
        ended(&mut extension, |extension, due| extension.prepare(&conf(&command), due)).await.unwrap();
        assert_eq!(extension.printed().as_deref(), Some("a \nb"));
    }
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n", "once");
    let broken = conf(r#"{"Type":"extension","PreStartupCommand":"false"}"#);
    let mut again = None;
    let outcome = ended(&mut extension, |extension, due| {
        let outcome = extension.prepare(&broken, due);
        again = due.at;
        outcome
    });
    assert_eq!(outcome.await, Err(Unready::Failed("PreStartupCommand: false: exit status: 1".into())));
    assert!(again.is_some(), "it runs again");
    assert!(extension.printed().is_some(), "what was published stays");
}

#[tokio::test]
async fn nobody_waits_for_a_command_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("go");
    let command = format!(
        r#"{{"Type":"extension","PreStartupCommand":"sh -c 'until test -e {}; do sleep 0.01; done'"}}"#,
        file.display()
    );
    let mut extension = Extension::new(Environment::default());
    let look = |extension: &mut Extension| extension.prepare(&conf(&command), &mut Due::default());
    for _ in 0..3 {
        assert!(matches!(look(&mut extension), Err(Unready::Running(_))));
    }
    std::fs::write(&file, "").unwrap();
    ended(&mut extension, |extension, _| look(extension)).await.unwrap();
}

#[tokio::test]
async fn the_second_command_is_told_of_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let command = format!(
        r#"{{"Type":"extension","PostStartupCommand":"sh -c 'echo $NETWORK $SUBNET $PUBLIC_IP.$IPV6SUBNET.$PUBLIC_IPV6. >> {}'"}}"#,
        file.display()
    );
    let mut extension = Extension::new(Environment::default());
    let attrs = LeaseAttrs { public_ip: "10.99.0.1".parse().ok(), ..LeaseAttrs::default() };
    for key in ["10.5.1.0-24", "10.5.1.0-24", "10.5.9.0-24"] {
        let subnets = key.parse().unwrap();
        ended(&mut extension, |extension, due| extension.announce(&conf(&command), &subnets, &attrs, due))
            .await
            .unwrap();
    }
    let wanted = "10.5.0.0/16 10.5.1.0/24 10.99.0.1...\n10.5.0.0/16 10.5.9.0/24 10.99.0.1...\n";
    assert_eq!(std::fs::read_to_string(&file).unwrap(), wanted, "once for each lease");
}

#[test]
fn who_goes_comes_first_and_what_failed_waits() {
    let input = |n: &str| Input { variables: vec![("SUBNET", n.into())], stdin: String::new() };
    let ran = |n: &str, well: bool| Ran { input: input(n), well };
    let wanted = [("a".to_owned(), input("1")), ("b".to_owned(), input("2"))].into();
    let nothing = BTreeMap::new();
    let old = [("a".to_owned(), ran("1", true)), ("z".to_owned(), ran("9", false))].into();
    assert_eq!(next(&wanted, &old, &nothing), Some(Next::Remove("z".into(), input("9"))));
    let failed = [("z".to_owned(), String::new())].into();
    assert_eq!(next(&wanted, &old, &failed), Some(Next::Add("b".into(), input("2"))));
    let done = [("a".to_owned(), ran("1", true)), ("b".to_owned(), ran("2", false))].into();
    assert_eq!(next(&wanted, &done, &nothing), Some(Next::Add("b".into(), input("2"))), "not well done");
    let done = [("a".to_owned(), ran("1", true)), ("b".to_owned(), ran("2", true))].into();
    assert_eq!(next(&wanted, &done, &nothing), None);
}
