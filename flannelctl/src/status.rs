//! `flannelctl status`: shows the status that the daemon on this host writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::screen::Screen;
use overlay::status::{ANNOUNCEMENT, Reach, Status, path_beside};
use store::files::read_own;

/// The largest status file in bytes. The status of 100,000 peers has 30 MB.
const LARGEST: u64 = 256 << 20;

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The daemon has written no status.
    #[error(
        "status: {}: not found: flanneld has not run on this host since it booted, or uses another --subnet-file (pass the same)",
        .0.display()
    )]
    Absent(PathBuf),
    /// The file cannot be read.
    #[error("status: read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is not a status.
    #[error("status: {}: {source}: the file was not written by flanneld of this version", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: serde_json::Error,
    },
}

/// Reads the status of the daemon that writes `subnet_file`: its text, and the decoded form.
pub fn read(subnet_file: &Path) -> Result<(String, Status), StatusError> {
    let path = path_beside(subnet_file);
    let text = read_own(&path, LARGEST).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StatusError::Absent(path.clone()),
        _ => StatusError::Read { path: path.clone(), source },
    })?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = serde_json::from_str(&text).map_err(|source| StatusError::Decode { path, source })?;
    Ok((text, status))
}

/// Checks that the host works: the daemon runs, has a lease and reports no error.
///
/// # Errors
/// One line that says what is wrong.
pub fn health(status: &Status) -> Result<(), String> {
    match &status.last_error {
        _ if !is_running(status) => Err(format!("flanneld (process {}) is not running", status.pid)),
        Some(error) => Err(error.clone()),
        None if status.mtu == 0 => Err("flanneld has not finished its start".to_owned()),
        None => Ok(()),
    }
}

/// Whether the daemon that wrote the status runs: a process of this number and name, or, where the daemon has another PID
/// namespace, the socket by which it announces its network.
pub fn is_running(status: &Status) -> bool {
    let comm = fs::read_to_string(Path::new("/proc").join(status.pid.to_string()).join("comm"));
    let sockets = || fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    comm.is_ok_and(|comm| comm.starts_with("flannel")) || is_announced(status, &sockets())
}

/// Whether one of the open sockets (proc_net_unix(5)) has the name of the status's network.
fn is_announced(status: &Status, sockets: &str) -> bool {
    let names: Vec<String> = status.network.iter().map(|network| format!(" @{ANNOUNCEMENT}{network}")).collect();
    sockets.lines().any(|line| names.iter().any(|name| line.ends_with(name)))
}

/// Shows `status` as tables.
pub fn show(status: &Status, screen: &mut Screen) -> io::Result<()> {
    screen.table(["this host", ""], &host(status))?;
    if let Some(error) = &status.last_error {
        screen.verdict(false, format_args!("\n  error: {error}"))?;
    }
    for warning in &status.warnings {
        screen.verdict(false, format_args!("\n  warning: {warning}"))?;
    }
    screen.title(format_args!("Peers ({})", status.peers.len()))?;
    screen.table(["subnet", "underlay", "VTEP", "path", "reason", "since"], &peers(status))?;
    if !status.rejected.is_empty() {
        screen.title("Ignored in the store")?;
        let rows: Vec<_> = status.rejected.iter().map(|r| [r.key.clone(), r.reason.clone()]).collect();
        screen.table(["key", "reason"], &rows)?;
    }
    if let Some(attachments) = status.attachments.as_ref().filter(|attachments| !attachments.reported.is_empty()) {
        screen.title("Pods whose attachment is not as it was made")?;
        let rows: Vec<_> = attachments.reported.iter().map(|text| [text.clone()]).collect();
        screen.table(["what is wrong"], &rows)?;
    }
    if let Some(reclaim) = status.reclaim.as_ref().filter(|reclaim| !reclaim.kept.is_empty()) {
        screen.title("Left of pods that seem to be gone, and not removed")?;
        let rows: Vec<_> = reclaim.kept.iter().map(|text| [text.clone()]).collect();
        screen.table(["why"], &rows)?;
    }
    if !status.foreign_routes.is_empty() {
        screen.title("Other programs' routes inside the network")?;
        let rows: Vec<_> = status.foreign_routes.iter().map(|route| [route.clone()]).collect();
        screen.table(["route"], &rows)?;
    }
    if !status.dropping.is_empty() {
        screen.title("Packet rules that drop packets of pods")?;
        let rows: Vec<_> = status.dropping.iter().map(|text| [text.clone()]).collect();
        screen.table(["chain"], &rows)?;
    }
    Ok(())
}

fn host(status: &Status) -> Vec<[String; 2]> {
    let direct = if status.direct_routing { " with DirectRouting" } else { "" };
    let drift: Vec<String> = status.drift.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let underlay = status.underlay.as_ref().map(|underlay| format!("{}, MTU {}", underlay.dev, underlay.mtu));
    let row = |name: &str, value: String| [name.to_owned(), if value.is_empty() { "-".into() } else { value }];
    vec![
        row("daemon", format!("process {}{}", status.pid, if is_running(status) { "" } else { ", not running" })),
        row("store", store(status)),
        row("backend", format!("{}{direct}", status.backend)),
        row("network", joined(&status.network)),
        row("lease", joined(&status.subnets)),
        row("address", joined(&status.public_ips)),
        row("underlay", underlay.unwrap_or_default()),
        row("pods' MTU", if status.mtu == 0 { String::new() } else { status.mtu.to_string() }),
        row("drift repaired", drift.join(", ")),
        row("attachments", attachments(status)),
        row("reclaimed", reclaimed(status)),
        row("last pass", status.last_reconcile.clone().unwrap_or_default()),
    ]
}

fn attachments(status: &Status) -> String {
    let Some(attachments) = &status.attachments else { return "not looked after".to_owned() };
    let healed = attachments.healed.iter().map(|(kind, count)| format!(", {kind} repaired {count}"));
    let exempted = attachments.quarantined.iter().map(|name| format!(", {name} exempted"));
    format!("{}{}", attachments.count, healed.chain(exempted).collect::<String>())
}

fn reclaimed(status: &Status) -> String {
    match &status.reclaim {
        None => "what is left of dead pods stays".to_owned(),
        Some(reclaim) if reclaim.reclaimed == 0 => String::new(),
        Some(reclaim) => format!("{} attachments of dead pods", reclaim.reclaimed),
    }
}

fn store(status: &Status) -> String {
    match &status.store_stale_since {
        None => status.store.clone(),
        Some(since) => format!("{}, not followed since {since}", status.store),
    }
}

fn peers(status: &Status) -> Vec<[String; 6]> {
    let path = |reach| match reach {
        Reach::Direct => "direct",
        Reach::Through(tunnel) => tunnel.title(),
        Reach::Unreachable => "none",
    };
    let row = |peer: &overlay::status::Peer| {
        [
            peer.subnet.to_string(),
            peer.public_ip.to_string(),
            peer.vtep_mac.clone().unwrap_or_else(|| "-".into()),
            path(peer.path).to_owned(),
            peer.reason.clone(),
            peer.since.clone(),
        ]
    };
    status.peers.iter().map(row).collect()
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = concat!(
        r#"{"pid":0,"backend":"vxlan","directRouting":true,"network":["10.5.0.0/16"],"subnets":["10.5.1.0/24"],"#,
        r#""publicIPs":["192.0.2.1"],"underlay":{"dev":"eth0","mtu":1500},"mtu":1450,"#,
        r#""peers":[{"subnet":"10.5.2.0/24","publicIP":"192.0.2.2","path":"direct","reason":"same segment","vtepMAC":null}],"#,
        r#""rejected":[{"key":"x","reason":"not a subnet"}],"#,
        r#""attachments":{"count":3,"healed":{"port":2},"reported":["veth1 is gone"],"quarantined":["net/c1@eth0"]},"#,
        r#""lastError":"no store","lastReconcile":null}"#,
    );

    fn shown(json: &str) -> Result<String, StatusError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("status.json"), json).unwrap();
        let (text, status) = read(&dir.path().join("subnet.env"))?;
        assert_eq!(text, json);
        let out = dir.path().join("out");
        show(&status, &mut Screen::new(Box::new(fs::File::create(&out).unwrap()), false)).unwrap();
        Ok(fs::read_to_string(out).unwrap())
    }

    /// A daemon in a container has a number that another process has here.
    #[test]
    fn a_daemon_is_known_by_its_announcement() {
        let status: Status = serde_json::from_str(&STATUS.replace(r#""pid":0"#, r#""pid":1"#)).unwrap();
        let line = |name: &str| format!("0000: 00000002 00000000 00010000 0001 01 7777 {name}\n");
        assert!(is_announced(&status, &[line("/run/x"), line("@flanneld/10.5.0.0/16")].concat()));
        for other in ["@flanneld/10.6.0.0/16", "@x/flanneld/10.5.0.0/16", "/flanneld/10.5.0.0/16"] {
            assert!(!is_announced(&status, &line(other)), "{other}");
        }
        assert!(!is_running(&status), "the first process is not flanneld");
    }

    #[test]
    fn a_store_that_is_not_followed_is_said_to_be_old() {
        let old = STATUS.replace(
            r#""pid":0,"#,
            r#""pid":0,"store":"etcd http://192.0.2.9:2379","storeStaleSince":"2026-01-02T03:04:05Z","storeError":"x","#,
        );
        let text = shown(&old).unwrap();
        assert!(text.contains("etcd http://192.0.2.9:2379, not followed since 2026-01-02T03:04:05Z"), "{text}");
    }

    #[test]
    fn health_is_a_daemon_that_runs_and_reports_no_error() {
        let healthy = Status { pid: std::process::id(), mtu: 1450, ..Status::default() };
        assert_eq!(health(&healthy), Ok(()));
        let starts = Status { mtu: 0, ..healthy.clone() };
        assert!(health(&starts).unwrap_err().contains("start"));
        let fails = Status { last_error: Some("no route".into()), ..healthy.clone() };
        assert_eq!(health(&fails), Err("no route".into()));
        let ended = Status { pid: 0, ..fails };
        assert_eq!(health(&ended), Err("flanneld (process 0) is not running".into()));
    }

    #[test]
    fn everything_is_shown() {
        let text = shown(STATUS).unwrap();
        for words in [
            "process 0, not running",
            "vxlan with DirectRouting",
            "eth0, MTU 1500",
            "error: no store",
            "10.5.2.0/24  192.0.2.2  -     direct  same segment",
            "x    not a subnet",
            "3, port repaired 2, net/c1@eth0 exempted",
            "veth1 is gone",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn an_absent_and_a_broken_file_are_told_apart() {
        let absent = read(Path::new("/no/such/subnet.env")).unwrap_err().to_string();
        assert!(absent.contains("/no/such/status.json: not found: flanneld has not run"), "{absent}");
        assert!(shown("{").unwrap_err().to_string().contains("the file was not written by flanneld of this version"));
    }
}
