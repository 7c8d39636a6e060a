//! The metrics of a process that all Prometheus client libraries have, from /proc/self (proc_pid_stat(5)).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Clock ticks per second (USER_HZ), which is 100 on every architecture.
const TICKS: f64 = 100.0;

/// A collector that reads /proc/self on each scrape.
#[derive(Debug, Default)]
pub(super) struct Process;

#[derive(Debug, Default, PartialEq)]
struct Seen {
    cpu_seconds: f64,
    /// The start in seconds after boot.
    started: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

/// Parses /proc/self/stat. The second field, a name in parentheses, may contain anything.
fn parse(stat: &str) -> Option<Seen> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // `fields` begins with field 3, the state
    let number = |field: usize| fields.get(field - 3)?.trim().parse::<u64>().ok();
    let seconds = |field: usize| Some(number(field)? as f64 / TICKS);
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Seen {
        cpu_seconds: seconds(14)? + seconds(15)?,
        started: seconds(22)?,
        virtual_bytes: number(23)?,
        resident_bytes: number(24)? * page,
    })
}

/// The boot time in seconds of Unix time, computed from the uptime.
fn booted() -> Option<f64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = uptime.split(' ').next()?.parse().ok()?;
    Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64() - up)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(seen) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse) else {
            return Ok(());
        };
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge("process_virtual_memory", "Virtual memory.", Some(&Unit::Bytes), seen.virtual_bytes as f64)?;
        gauge("process_resident_memory", "Resident memory.", Some(&Unit::Bytes), seen.resident_bytes as f64)?;
        if let Some(booted) = booted() {
            let help = "When the process started (Unix time).";
            gauge("process_start_time", help, Some(&Unit::Seconds), booted + seen.started)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors.", None, open.count() as f64)?;
        }
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = most.map_or(f64::INFINITY, |most| most as f64);
        gauge("process_max_fds", "The limit of open file descriptors.", None, most)?;
        let cpu = ConstCounter::new(seen.cpu_seconds);
        let help = "Processor time, of the kernel too.";
        cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_manual_page() {
        let mut fields: Vec<String> = (1..=52).map(|n| (n * 100).to_string()).collect();
        fields[1] = "(a) b)".into();
        let seen = parse(&fields.join(" ")).unwrap();
        let page = rustix::param::page_size() as u64;
        assert_eq!((seen.cpu_seconds, seen.started), (29.0, 22.0));
        assert_eq!((seen.virtual_bytes, seen.resident_bytes), (2300, 2400 * page));
        assert_eq!(parse("7 (x"), None);
    }
}
