//! Tests on a real kernel, each in its own network namespace. `nft` is the independent reader.

mod converge;
mod objects;
mod text;
mod transactions;

use std::io::Write;
use std::process::{Command, Stdio};

use crate::nft::*;

/// Moves the test's own thread into a new network namespace, which ends with the thread.
fn namespace() {
    assert!(
        rustix::process::geteuid().is_root(),
        "needs root: this test makes a network namespace (unshare -rn works too)"
    );
    assert!(Command::new("nft").arg("--version").output().is_ok(), "needs nft (Debian package nftables) as the reader");
    #[expect(unsafe_code, reason = "the safe form is deprecated for CLONE_FILES' sake")]
    // SAFETY: no descriptor table is unshared, and the thread belongs to the test
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .expect("needs root: unshare(NEWNET)");
}

/// Runs `nft` in the thread's namespace.
fn nft(args: &[&str], stdin: &str) -> String {
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

/// The lines of `nft list ruleset` without the spaces around them.
fn ruleset() -> Vec<String> {
    nft(&["list", "ruleset"], "").lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

fn key() -> TableKey {
    TableKey::new(NftFamily::Inet, "t")
}

/// A batch that creates the table `inet t` with what `fill` adds.
fn batch(fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    batch.add_table(&Table { key: key(), comment: None, dormant: false });
    fill(&mut batch);
    batch
}

fn addr(text: &str) -> Value {
    Value::Addr(text.parse().unwrap())
}

fn net(text: &str) -> Element {
    Element::net(text.parse().unwrap())
}
