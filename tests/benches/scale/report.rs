//! The table.

use std::time::Duration;

/// A line: what was measured, and what came of it.
pub struct Row {
    what: String,
    value: String,
}

impl Row {
    /// Any value.
    pub fn text(what: &str, value: String) -> Self {
        Self { what: what.into(), value }
    }

    /// One time, or the middle, nine of ten and 99 of 100 of many.
    pub fn time(what: &str, times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |part: f64| sorted.get((sorted.len() as f64 * part) as usize).map_or(0.0, |d| d.as_secs_f64() * 1e3);
        let value = match sorted.len() {
            1 => format!("{:.2} ms", at(0.0)),
            count => format!("p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms of {count}", at(0.5), at(0.9), at(0.99)),
        };
        Self::text(what, value)
    }

    /// Memory.
    pub fn bytes(what: &str, bytes: u64) -> Self {
        Self::text(what, format!("{:.1} MB", bytes as f64 / 1e6))
    }
}

/// The rows as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    format!("| what | measured |\n|---|---|\n{}", lines(rows))
}

/// The rows alone.
pub fn lines(rows: &[Row]) -> String {
    rows.iter().map(|Row { what, value }| format!("| {what} | {value} |\n")).collect()
}
