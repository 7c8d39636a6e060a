//! `firewall` with a firewalld of Debian's, on a bus of the test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attachment::firewalld;
use lab::process::{Daemon, Launch};
use lab::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::harness::Outcome;

use crate::call::Whose;
use crate::firewall::Attached;
use crate::firewall_traffic::{host, misses, reaches};
use crate::portmap::CLIENT;

/// Ample for a program in Python on a machine whose cores are all busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A bus on which every user may do everything.
const BUS: &str = r#"<busconfig>
  <type>custom</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_type="method_call"/><allow send_type="signal"/>
    <allow send_type="method_return" send_requested_reply="true"/>
    <allow send_type="error" send_requested_reply="true"/>
    <allow receive_type="method_call"/><allow receive_type="method_return"/>
    <allow receive_type="error"/><allow receive_type="signal"/>
  </policy>
</busconfig>
"#;

fn start(program: &str, args: &[OsString], files: &Path) -> Result<Daemon, Box<dyn std::error::Error>> {
    Ok(Launch {
        program: PathBuf::from(program),
        args: args.to_vec(),
        env: Vec::new(),
        netns: PathBuf::from(format!("/proc/{}/ns/net", std::process::id())),
        log: files.join(Path::new(program).file_name().unwrap()).with_extension("log"),
        outlive: false,
    }
    .start()?)
}

fn start_firewalld(files: &Path) -> Result<Daemon, Box<dyn std::error::Error>> {
    let config = files.join("firewalld");
    std::fs::create_dir_all(&config)?;
    let args = ["--nofork", "--nopid", "--log-target=console", "--system-config"].map(OsString::from);
    let daemon = start("/usr/sbin/firewalld", &[&args[..], &[config.into()]].concat(), files)?;
    // it has its name before its zones
    eventually("firewalld answers", LIMIT, || lost(&[]))?;
    Ok(daemon)
}

/// The pod's sources that the zone has not.
fn lost(sources: &[&str]) -> Result<BTreeSet<String>, String> {
    let desired = sources.iter().map(|source| (*source).to_owned()).collect();
    let lost = firewalld::lost(&BTreeMap::from([("trusted", desired)])).map_err(|error| error.to_string())?;
    Ok(lost.into_iter().map(|(_, source)| source).collect())
}

const SOURCES: [&str; 2] = ["10.9.1.2/32", "fd09:1::2/128"];

/// ADD, CHECK, a reload that forgets, DEL; then a firewalld that does not answer, and one that has ended.
pub fn a_real_firewalld_gets_and_loses_the_sources() -> Outcome {
    let host = host(Whose::Ours)?;
    let files = tempfile::tempdir()?;
    let conf = files.path().join("bus.conf");
    std::fs::write(&conf, BUS)?;
    std::fs::create_dir("/run/dbus")?;
    let config = OsString::from(format!("--config-file={}", conf.display()));
    let _bus = start("/usr/bin/dbus-daemon", &[config, "--nofork".into(), "--nopidfile".into()], files.path())?;
    eventually("the bus answers", LIMIT, || firewalld::runs().map(drop).map_err(|error| error.to_string()))?;
    let pod = Attached::new(&host.caller, "cid");
    let more = json!({ "backend": "firewalld" });
    let call = |command: &str| pod.call(&host.caller, command, more.clone());
    let daemon = start_firewalld(files.path())?;
    misses("without the plugin", &pod.room, CLIENT);

    call("ADD").ok();
    assert_eq!(lost(&SOURCES)?, BTreeSet::new());
    reaches("with the plugin", &pod.room, CLIENT);
    call("CHECK").ok();
    pod.call(&host.caller, "STATUS", json!({ "cniVersion": "1.1.0", "prevResult": null, "backend": "firewalld" })).ok();
    let reload = std::process::Command::new("firewall-cmd").arg("--reload").output()?;
    assert!(reload.status.success(), "{reload:?}");
    let error = call("CHECK").error();
    assert!(error.contains("firewall-cmd --zone=trusted --add-source=10.9.1.2/32"), "{error}");
    call("ADD").ok();
    call("CHECK").ok();
    call("DEL").ok();
    assert_eq!(lost(&SOURCES)?.len(), 2);
    call("DEL").ok();

    let pid = Pid::from_raw(i32::try_from(daemon.pid())?).ok_or("no process")?;
    kill_process(pid, Signal::STOP)?;
    let error = call("ADD").error();
    assert!(error.starts_with("11 ") && error.contains("did not answer within 5 s"), "{error}");
    kill_process(pid, Signal::CONT)?;
    // what was asked for while it did not answer is gone as well
    call("DEL").ok();
    eventually("the sources are gone", LIMIT, || match lost(&SOURCES)?.len() {
        2 => Ok(()),
        lost => Err(format!("{lost} of the sources are gone")),
    })?;
    daemon.stop(LIMIT)?;
    let error = call("ADD").error();
    assert!(error.contains("firewalld does not run"), "{error}");
    call("DEL").ok();
    pod.leave(&host.caller)
}
