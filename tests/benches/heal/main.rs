//! How long a repair takes: every kind of damage of the vandal's table, from before its command runs, or from when the daemon
//! that it stops continues, until host 1 looks as before. Kinds that are only said, or that affect nothing, have no time.
//!
//! `cargo bench -p tests --bench heal [-- BACKEND]`; needs no root. It judges no time; it fails when a kind does not do what
//! its row says.

#[path = "../../t2/disturb.rs"]
#[expect(dead_code, reason = "t2 disturbs in more ways")]
mod disturb;
#[path = "../../t2/vandal/mod.rs"]
#[expect(dead_code, reason = "t2 runs the tables as tests")]
mod vandal;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use lab::process::become_child;
use lab::sandbox;
use tests::harness::Outcome;

use vandal::judge::{self, Found};
use vandal::tables::{HOST, HOST_GW, PODS, RULES, UDP, V6, VXLAN};
use vandal::{Object, Table};

/// What a helper fails with.
type Failure = Box<dyn std::error::Error>;

/// All of them.
const TABLES: [Table; 7] = [VXLAN, HOST, PODS, RULES, V6, HOST_GW, UDP];

/// The first argument of a table's own process: each has a sandbox of its own.
const TABLE: &str = "--table";

#[expect(clippy::print_stderr, reason = "a program that shows its figures")]
fn main() -> ExitCode {
    if let Some(error) = become_child(std::env::args_os()) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let done = match (args.next(), args.next()) {
        (Some(first), Some(number)) if first == TABLE => number.parse().map_err(Into::into).and_then(measure),
        (filter, _) => tables(filter.as_deref().unwrap_or_default()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the tables whose titles have these words, and prints what all of them take.
#[expect(clippy::print_stdout, reason = "a program that shows its figures")]
fn tables(filter: &str) -> Outcome {
    let (mut all, mut wrong) = (Vec::new(), 0);
    for (number, table) in TABLES.iter().enumerate().filter(|(_, table)| table.title().contains(filter)) {
        let output = Command::new(std::env::current_exe()?).args([TABLE, &number.to_string()]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}\n{text}{}", table.title(), String::from_utf8_lossy(&output.stderr));
        all.extend(text.lines().filter_map(|line| line.split_once(" ms  ")?.0.trim().parse::<f64>().ok()));
        wrong += usize::from(!output.status.success());
    }
    println!("all: {}", figures(&mut all));
    if wrong == 0 { Ok(()) } else { Err("some kinds do not do what their rows say".into()) }
}

/// Does what the rows of a table say, and prints a line for each that is repaired.
#[expect(clippy::print_stdout, reason = "a program that shows its figures")]
fn measure(number: usize) -> Outcome {
    sandbox::enter()?;
    let table: &Table = TABLES.get(number).ok_or("no such table")?;
    let mut times: BTreeMap<Object, Vec<f64>> = BTreeMap::new();
    let wrong = judge::all(table, 1, |row, found| {
        if let Found::Healed(took) = found {
            let took = milliseconds(*took);
            println!("{took:8.1} ms  {:?}: {}", row.object, row.name);
            times.entry(row.object).or_default().push(took);
        }
    })?;
    for (object, times) in &mut times {
        println!("{object:?}: {}", figures(times));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn figures(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1))).copied();
    let [p50, p99, max] = [50, 99, 100].map(|part| at(part).unwrap_or_default());
    format!("{} repairs, p50 {p50:.0} ms, p99 {p99:.0} ms, longest {max:.0} ms", times.len())
}
