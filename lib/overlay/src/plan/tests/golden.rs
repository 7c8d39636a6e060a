//! Facts as a host had them, in a file, with the plans that were made for them.
//!
//! A file has several moments. Lines that begin with `>` are the plan of the moment above them; the test writes a file's
//! plans anew when BLESS is set, and fails then too, so that somebody reads what has changed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use kernel::diff::diff;
use kernel::state::State;

use super::host::Host;
use crate::plan::{Leased, PeerView, Plan};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/tests/golden")
}

/// The plan as lines.
fn text(host: &Host, plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(plan.underlay.iter().map(|found| format!("underlay {} ({})", found.underlay.dev, found.why)));
    match &plan.attrs {
        Ok(attrs) => lines.push(format!("publish {}", attrs.to_json())),
        Err(blocked) => lines.push(format!("blocked: {blocked}")),
    }
    lines.extend(plan.leased.iter().flat_map(|leased| leased_text(host, leased)));
    lines.extend(plan.notes.iter().map(|note| format!("note {note}")));
    lines.extend(plan.look_again.map(|at| format!("look again at {}", host.millis_of(at))));
    lines
}

fn leased_text(host: &Host, leased: &Leased) -> Vec<String> {
    let mut lines = Vec::new();
    let whole = host.memory.desired().unwrap();
    match &leased.delta {
        Some(delta) => {
            let steps = diff(&delta.desired, &delta.assumed, &leased.scope).steps;
            lines.extend(steps.iter().take(20).map(|step| format!("step {step}")));
            lines.extend((steps.len() > 20).then(|| format!("{} steps", steps.len())));
        }
        None if whole.routes.len() > 30 => lines.push(format!("{} routes, {}", whole.routes.len(), few(whole))),
        None => {
            let steps = diff(whole, &State::default(), &leased.scope).steps;
            lines.extend(steps.iter().map(|step| format!("desired {step}")));
            let scope = &leased.scope;
            let links: Vec<&str> = scope.links.iter().map(|name| name.as_str()).collect();
            let kept = if scope.keep { ", and nothing is deleted" } else { "" };
            lines.push(format!("ours {}{kept}", if links.is_empty() { "none".to_owned() } else { links.join(" ") }));
        }
    }
    let path = |peer: &PeerView| format!("peer {} at {}: {} ({})", peer.subnet, peer.public, peer.reach, peer.reason);
    lines.extend(leased.peers.put.iter().take(8).map(path));
    lines.extend(leased.peers.gone.iter().map(|subnet| format!("no peer {subnet}")));
    let rejected = leased.rejected.iter().flatten();
    lines.extend(rejected.map(|rejected| format!("rejected {}: {}", rejected.key, rejected.reason)));
    lines.extend(leased.warnings.iter().map(|warning| format!("warning {warning}")));
    lines.extend(leased.data_path.map(|path| format!("data path on port {} of {}", path.conf.port, path.local)));
    lines.extend(leased.commands.as_ref().map(|_| "commands".to_owned()));
    lines.extend(leased.contested.then(|| "contested".to_owned()));
    lines.push(format!("subnet.env {}", leased.subnet_env.format().trim_end().replace('\n', " ")));
    lines.push(format!("{:?}", leased.work));
    lines
}

/// The settings, and how many scopes the routes have.
fn few(state: &State) -> String {
    let scopes: std::collections::BTreeSet<_> = state.routes.values().map(|route| route.scope).collect();
    let mut text = format!("{} scopes", scopes.len());
    for (path, value) in &state.sysctls {
        let _ = write!(text, ", {path}={value}");
    }
    text
}

/// The file with the plans that are made now.
fn replay(file: &str) -> String {
    let mut host = Host::default();
    let mut text_now = String::new();
    for moment in file.split_inclusive("\n\n") {
        let facts: Vec<&str> = moment.lines().filter(|line| !line.starts_with('>')).collect();
        facts.iter().filter(|line| !line.is_empty() && !line.starts_with('#')).for_each(|line| host.learn(line));
        let plan = host.plan();
        host.memory.settle();
        let facts = facts.iter().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect::<String>();
        let plans = text(&host, &plan).iter().map(|line| format!("> {line}\n")).collect::<String>();
        let gap = if text_now.is_empty() { "" } else { "\n" };
        let _ = write!(text_now, "{gap}{facts}{plans}");
    }
    text_now
}

#[test]
fn recorded_facts_have_their_plans() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{}", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let file = std::fs::read_to_string(&path).unwrap();
        let now = replay(&file);
        if now != file {
            let line = now.lines().zip(file.lines()).find(|(now, then)| now != then);
            wrong.push(format!("{}: {line:?}", path.display()));
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&path, now).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
