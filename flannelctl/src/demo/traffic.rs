//! Changes the backend while packets flow.

use std::time::{Duration, Instant};

use super::{DemoError, report, way};
use crate::screen::Screen;
use lab;
use lab::cluster::Cluster;
use lab::flow::Counts;
use lab::mode::Mode;
use lab::topology::Topology;
use lab::traffic::{RATE, Traffic};

/// Datagrams in each mode after all paths have changed: half a second.
const PER_MODE: u64 = RATE / 2;

/// A sequence of modes, and which pairs send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tour {
    /// The modes in order. The first is the current one.
    modes: [Mode; 3],
    /// Whether only pairs on one segment take part.
    one_segment: bool,
    /// Whether to follow a ping on each path that the previous mode does not have.
    ways: bool,
}

/// What a tour has shown.
#[derive(Debug)]
pub(super) struct Passed {
    /// What failed.
    pub(super) failures: Vec<String>,
    /// The datagrams that were sent.
    pub(super) sent: u64,
}

/// Tours from `mode` to other modes and back.
pub(super) fn tours(mode: Mode, topology: &Topology) -> Vec<Tour> {
    let all = |other| Tour { modes: [mode, other, mode], one_segment: false, ways: true };
    // it cuts off hosts behind a router, and adds no path that the first tour does not show
    let near = Tour { modes: [mode, Mode::HostGw, mode], one_segment: topology.segments.len() > 1, ways: false };
    match mode {
        Mode::Vxlan => vec![all(Mode::DirectRouting), near],
        Mode::DirectRouting => vec![all(Mode::Vxlan), near],
        // the demo uses only modes that every kernel supports
        _ => vec![all(Mode::Vxlan)],
    }
}

/// Changes the modes of the tour under traffic.
pub(super) fn run(cluster: &Cluster, tour: &Tour, screen: &mut Screen) -> Result<Passed, DemoError> {
    let [first, then @ ..] = tour.modes;
    let names: Vec<_> = tour.modes.iter().map(Mode::to_string).collect();
    screen.title(format_args!("Live: {} ({})", names.join(" → "), who(tour)))?;
    let pairs: Vec<_> = cluster.pairs().into_iter().filter(|pair| takes_part(cluster, tour, *pair)).collect();
    let traffic = Traffic::start(cluster, &pairs)?;
    screen.progress(format_args!("{} streams, {RATE} datagrams a second in all", traffic.streams()))?;
    traffic.pass(PER_MODE)?;
    let mut rows = Vec::new();
    for (from, to) in [first, then[0]].into_iter().zip(then) {
        screen.progress(format_args!("{from} → {to}"))?;
        let took = change(cluster, to)?;
        rows.push([format!("{from} → {to}"), format!("{:.1} ms", took.as_secs_f64() * 1e3)]);
        traffic.pass(PER_MODE)?;
        if tour.ways && to != first {
            way::show_news(cluster, first, to, screen)?;
        }
    }
    let counts = traffic.stop()?;
    screen.table(["change", "all hosts' paths changed after"], &rows)?;
    let text = counted(&counts);
    screen.verdict(counts.lost == 0, format_args!("  {text}"))?;
    let mut failures = Vec::new();
    if counts.lost > 0 {
        failures.push(format!("{}: {text}", names.join(" → ")));
    }
    // the hosts that were cut off must have their paths again
    if tour.one_segment {
        failures.extend(report::pairs(cluster, first, screen)?);
    }
    Ok(Passed { failures, sent: counts.sent })
}

fn who(tour: &Tour) -> &'static str {
    if tour.one_segment { "the hosts on one segment" } else { "all hosts" }
}

fn takes_part(cluster: &Cluster, tour: &Tour, (from, to): (usize, usize)) -> bool {
    !tour.one_segment || cluster.spec.topology.on_one_segment(from, to)
}

/// Changes the configuration and waits until every host has the new paths. Returns how long that took.
fn change(cluster: &Cluster, to: Mode) -> Result<Duration, lab::Error> {
    let started = Instant::now();
    cluster.configure(to)?;
    cluster.wait_paths(to)?;
    Ok(started.elapsed())
}

fn counted(counts: &Counts) -> String {
    format!(
        "{} sent at {} a second, {} lost, {} duplicated, {} reordered; longest pause {:.1} ms",
        counts.sent,
        counts.rate(),
        counts.lost,
        counts.duplicated,
        counts.reordered,
        counts.longest_gap.as_secs_f64() * 1e3
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tours_come_back() {
        for (mode, topology) in [
            (Mode::Vxlan, Topology::every_third_routed(3)),
            (Mode::DirectRouting, Topology::every_third_routed(3)),
            (Mode::HostGw, Topology::flat(2)),
        ] {
            for tour in tours(mode, &topology) {
                assert_eq!((tour.modes[0], tour.modes[2]), (mode, mode));
                // host-gw cuts off hosts behind a router
                assert_eq!(tour.one_segment, tour.modes.contains(&Mode::HostGw) && topology.segments.len() > 1);
            }
        }
    }
}
