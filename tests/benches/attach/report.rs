//! Prints the table, in Markdown.

use std::fmt::Write;
use std::time::Duration;

use crate::measure::quantile;

/// A row: what was measured, our value, theirs, the ratio, the goal.
#[derive(Debug)]
pub struct Row {
    cells: [String; 5],
}

/// The text for a side without a value.
const NONE: &str = "–";

impl Row {
    /// Values as text.
    pub fn text(what: &str, ours: String, theirs: Option<String>, goal: &str) -> Self {
        let theirs = theirs.unwrap_or_else(|| NONE.into());
        Self { cells: [what.into(), ours, theirs, NONE.into(), goal.into()] }
    }

    /// Times: the middle and what nine of ten need; the ratio is that of the middles. None at all where there is none.
    pub fn times(what: &str, ours: &[Duration], theirs: &[Duration], goal: &str) -> Self {
        let mut row = Self::text(what, spread(ours), Some(spread(theirs)), goal);
        let middle = |values: &[Duration]| quantile(values, 0.5).map(|d| d.as_secs_f64());
        row.ratio(middle(theirs), middle(ours));
        row
    }

    /// Calls per second: the middle of the rounds.
    pub fn rates(what: &str, ours: &[f64], theirs: &[f64], goal: &str) -> Self {
        let text = |values: &[f64]| quantile(values, 0.5).map_or(NONE.into(), |rate| format!("{rate:.0}/s"));
        let mut row = Self::text(what, text(ours), Some(text(theirs)), goal);
        row.ratio(quantile(ours, 0.5), quantile(theirs, 0.5));
        row
    }

    /// Numbers of which fewer are better.
    pub fn numbers(what: &str, ours: u64, theirs: Option<u64>, goal: &str) -> Self {
        let mut row = Self::text(what, ours.to_string(), theirs.map(|n| n.to_string()), goal);
        row.ratio(theirs.map(|n| n as f64), Some(ours as f64));
        row
    }

    /// One number that stands for itself.
    pub fn number(what: &str, number: f64, goal: &str) -> Self {
        let text = if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.2}×") };
        Self::text(what, text, None, goal)
    }

    /// Sizes in bytes.
    pub fn bytes(what: &str, ours: u64, theirs: Option<u64>, goal: &str) -> Self {
        let mut row = Self::text(what, megabytes(ours), theirs.map(megabytes), goal);
        row.ratio(theirs.map(|n| n as f64), Some(ours as f64));
        row
    }

    fn ratio(&mut self, more: Option<f64>, less: Option<f64>) {
        if let (Some(more), Some(less)) = (more, less)
            && less > 0.0
        {
            let ratio = more / less;
            self.cells[3] = if ratio < 10.0 { format!("{ratio:.1}×") } else { format!("{ratio:.0}×") };
        }
    }
}

fn spread(times: &[Duration]) -> String {
    let milliseconds = |part| quantile(times, part).map(|d| d.as_secs_f64() * 1e3);
    match (milliseconds(0.5), milliseconds(0.9)) {
        (Some(middle), Some(most)) => format!("{middle:.2} / {most:.2} ms"),
        _ => NONE.into(),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The rows under their heads, in columns.
pub fn table(rows: &[Row]) -> String {
    let heads = ["", "this project", "Go", "better by", "goal"].map(str::to_owned);
    let all = || std::iter::once(&heads).chain(rows.iter().map(|row| &row.cells));
    let widths: Vec<_> =
        (0..heads.len()).map(|i| all().map(|cells| cells[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (n, cells) in all().enumerate() {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // writing to a String cannot fail
        let _ = writeln!(text, "| {} |", padded.join(" | "));
        if n == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

/// On what all this was measured.
pub fn machine() -> String {
    let name = rustix::system::uname();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (system, release) = (name.sysname().to_string_lossy(), name.release().to_string_lossy());
    let model = model.trim_start_matches([' ', '\t', ':']);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{system} {release} {}, {cores} cores, {model}, load {load}", name.machine().to_string_lossy())
}
