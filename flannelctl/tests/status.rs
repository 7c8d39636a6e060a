//! The exit status of `flannelctl status`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Output};

use overlay::status::{ANNOUNCEMENT, Status};

fn status(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannelctl"));
    command.arg("status").arg("--subnet-file").arg(dir.join("subnet.env")).args(more).output().unwrap()
}

#[test]
fn the_exit_status_is_the_hosts_health() {
    let dir = tempfile::tempdir().unwrap();
    // the socket stands for a daemon that runs, as it would in a container
    let network = vec!["203.0.113.0/24".parse().unwrap()];
    let name = SocketAddr::from_abstract_name(format!("{ANNOUNCEMENT}{}", network[0])).unwrap();
    let _announced = UnixListener::bind_addr(&name).unwrap();
    let ready = Status::<overlay::status::Peers> { network, mtu: 1450, ..Status::default() };
    let down = Status { last_error: Some("eth0 is down".into()), ..ready.clone() };
    let starts = Status { mtu: 0, ..ready.clone() };
    for (status_json, code, error) in [
        (ready.to_json(), 0, ""),
        (down.to_json(), 1, "flannelctl: eth0 is down\n"),
        (starts.to_json(), 1, "flannelctl: flanneld has not finished its start\n"),
        ("{".to_owned(), 2, "was not written by flanneld of this version\n"),
    ] {
        fs::write(dir.path().join("status.json"), &status_json).unwrap();
        for more in [&[][..], &["--json"]] {
            let output = status(dir.path(), more);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{more:?} {status_json}: {said}");
            assert!(said.ends_with(error) && said.is_empty() == error.is_empty(), "{said}");
        }
    }
    fs::remove_file(dir.path().join("status.json")).unwrap();
    assert_eq!(status(dir.path(), &[]).status.code(), Some(2), "no flanneld has run");
    assert_eq!(status(dir.path(), &["--no-such-flag"]).status.code(), Some(2));
}
