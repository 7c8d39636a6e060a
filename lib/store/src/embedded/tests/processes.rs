//! Tests that need a process or a file system of their own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Runs one of the ignored tests below in a process of its own, after `prepare` (a line for `sh`).
fn helper(name: &str, dir: &Path, prepare: &str) -> Command {
    let exe = std::env::current_exe().unwrap();
    let line = format!(r#"{prepare} exec "$0" --exact embedded::tests::processes::{name} --ignored --nocapture"#);
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
        let found = read(&layout);
        assert!(found.refused.is_empty(), "{:?}", found.refused);
        let ending = ending(&layout);
        for lease in &found.leases {
            assert_eq!(Stored::from(lease).public_ip, "192.0.2.1".parse().ok());
            assert!(ending.contains(&lease.subnets.to_string()), "{} would never end", lease.subnets);
        }
        layout.expire(&[]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
#[ignore = "run by a_killed_writer_leaves_whole_leases"]
fn writer() {
    let layout = Layout::new(helper_dir());
    for n in 0.. {
        let key = key(&format!("10.5.{}.0-24", n % 250));
        if !layout.create(key, &value(1), DAY).unwrap().is_done() {
            layout.delete(key, &value(1)).unwrap();
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
    let root = dir.join("n");
    block_on(async {
        let (store, mut seen) = open(&root);
        store.create(key(KEY), &value(1), DAY).await.unwrap();
        seen.until("a lease", |seen| seen.has(KEY, 1)).await;
        let fill = |dir: &Path| std::fs::write(dir.join("fill"), vec![0; 100_000]).unwrap_err();
        assert_eq!(fill(&dir).kind(), std::io::ErrorKind::StorageFull);
        let error = store.renew(key(KEY), &value(1), &value(2), DAY).await.unwrap_err().to_string();
        assert!(
            error.contains("/n/") && error.contains("No space left") && error.contains("free some space"),
            "{error}"
        );
        assert_eq!(store.read(key(KEY)).await.unwrap().unwrap().value, value(1), "nothing was lost");
        std::fs::remove_file(dir.join("fill")).unwrap();
        assert!(store.renew(key(KEY), &value(1), &value(2), DAY).await.unwrap().is_done());

        std::fs::write(root.join("ttl").join(KEY), "1").unwrap();
        // The remount is refused while a file is open for writing, and the follower removes the lease that has just
        // ended.
        let remount = || Command::new("mount").args(["-o", "remount,ro"]).arg(&dir).status().unwrap();
        let read_only = async {
            while !remount().success() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read_only).await.expect("it is not made read-only");
        let error = store.create(key("10.5.2.0-24"), &value(1), DAY).await.unwrap_err().to_string();
        assert!(error.contains("Read-only") && error.contains("mount it writable"), "{error}");
        let (_store, mut again) = open(&root);
        again.until("a read-only store is read", |seen| seen.health.complete).await;
        assert!(again.leases.contains_key(KEY) || again.leases.is_empty());
    });
    println!("all said");
}
