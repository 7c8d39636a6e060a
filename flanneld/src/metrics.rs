//! What the daemon counts, in the names and units of Prometheus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::status::Reach;
use crate::udp::counters::Counters;
use crate::udp::metrics::Crossed;

/// What can drift, by `Step::object`.
const KINDS: [&str; 9] =
    ["link", "sysctl", "address", "wireguard", "wireguard-peer", "neighbour", "fdb", "route", FILE];

/// subnet.env and status.json, which are no objects of the kernel.
const FILE: &str = "file";

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    kind: &'static str,
    op: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

/// How many steps there were: by kind of object, the operation, and whether it succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepCount {
    /// `link`, `route`, …
    pub kind: &'static str,
    /// `put` or `delete`
    pub op: &'static str,
    /// How many.
    pub done: u64,
    /// How many could not be done.
    pub failed: u64,
}

/// How many peers are reached how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounts([i64; Reach::ALL.len()]);

impl PeerCounts {
    /// How many are reached so.
    pub fn of(&self, reach: Reach) -> i64 {
        self.0[reach as usize]
    }

    /// One more.
    pub fn add(&mut self, reach: Reach) {
        self.0[reach as usize] += 1;
    }

    /// One less.
    pub fn remove(&mut self, reach: Reach) {
        self.0[reach as usize] -= 1;
    }
}

/// Everything that is counted. A clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconcile: Histogram,
    steps: Family<StepLabels, Counter>,
    drift: Family<KindLabel, Counter>,
    peers: Family<PathLabel, Gauge>,
    rejected: Gauge,
    last_clean: Gauge<f64, AtomicU64>,
    store_restarts: Counter,
    store_stale: Gauge<f64, AtomicU64>,
    /// What the udp backend's workers count.
    pub udp: Arc<Counters>,
}

impl Default for Metrics {
    fn default() -> Self {
        // from 0.2 ms to 13 s
        let reconcile = Histogram::new(exponential_buckets(0.0002, 2.0, 17));
        let mut new = Self {
            registry: Arc::default(),
            reconcile,
            steps: Family::default(),
            drift: Family::default(),
            peers: Family::default(),
            rejected: Gauge::default(),
            last_clean: Gauge::default(),
            store_restarts: Counter::default(),
            store_stale: Gauge::default(),
            udp: Arc::default(),
        };
        new.registry = Arc::new(new.register());
        new
    }
}

impl Metrics {
    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("flanneld");
        let seconds = || Unit::Seconds;
        let (reconcile, clean, stale) = (self.reconcile.clone(), self.last_clean.clone(), self.store_stale.clone());
        all.register_with_unit("reconcile", "Reading and changing the kernel, per pass", seconds(), reconcile);
        all.register("steps", "Changes made to the kernel", self.steps.clone());
        all.register("drift", "Changes that undid what somebody else had changed", self.drift.clone());
        all.register("peers", "Subnets of other hosts, by how they are reached", self.peers.clone());
        all.register("leases_rejected", "What the store holds that is not followed", self.rejected.clone());
        let text = "When the last pass without a trouble ended (Unix time)";
        all.register_with_unit("last_clean_reconcile_timestamp", text, seconds(), clean);
        let text = "How often following the store began anew";
        all.register("store_watch_restarts", text, self.store_restarts.clone());
        let text = "Since when the store cannot be followed (Unix time); 0 while it is";
        all.register_with_unit("store_stale_since_timestamp", text, seconds(), stale);
        all.register_collector(Box::new(Crossed(self.udp.clone())));
        all
    }

    /// A pass that took `took` seconds with the kernel. `drift`: nothing new was wanted.
    pub fn passed(&self, took: f64, steps: &[StepCount], drift: bool) {
        self.reconcile.observe(took);
        for StepCount { kind, op, done, failed } in steps.iter().copied() {
            for (outcome, count) in [("done", done), ("failed", failed)] {
                if count > 0 {
                    self.steps.get_or_create(&StepLabels { kind, op, outcome }).inc_by(count);
                }
            }
            if drift {
                self.drift.get_or_create(&KindLabel { kind }).inc_by(done);
            }
        }
    }

    /// The pass has left no trouble.
    pub fn clean(&self) {
        self.last_clean.set(unix(SystemTime::now()));
    }

    /// How many peers are reached how, and how many entries of the store are not followed.
    pub fn count(&self, peers: &PeerCounts, rejected: usize) {
        for reach in Reach::ALL {
            self.peers.get_or_create(&PathLabel { path: reach.as_str() }).set(peers.of(reach));
        }
        self.rejected.set(i64::try_from(rejected).unwrap_or(i64::MAX));
    }

    /// A file of ours was written again after somebody had changed it.
    pub fn repaired_file(&self) {
        self.drift.get_or_create(&KindLabel { kind: FILE }).inc();
    }

    /// The store cannot be followed since `since`, or is again.
    pub fn store(&self, since: Option<SystemTime>) {
        let before = self.store_stale.set(since.map_or(0.0, unix));
        if before > 0.0 && since.is_none() {
            self.store_restarts.inc();
        }
    }

    /// How much drift was repaired, by kind of object; kinds without any are left out.
    pub fn drifts(&self) -> BTreeMap<String, u64> {
        let of = |kind: &'static str| self.drift.get_or_create(&KindLabel { kind }).get();
        KINDS.into_iter().map(|kind| (kind.to_owned(), of(kind))).filter(|(_, count)| *count > 0).collect()
    }

    /// All of it, as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_units() {
        let metrics = Metrics::default();
        let route = StepCount { kind: "route", op: "put", done: 3, failed: 1 };
        metrics.passed(0.001, &[route], false);
        metrics.passed(0.001, &[StepCount { done: 2, failed: 0, ..route }], true);
        let mut peers = PeerCounts::default();
        [Reach::Direct, Reach::Vxlan, Reach::Vxlan, Reach::Udp].into_iter().for_each(|reach| peers.add(reach));
        peers.remove(Reach::Udp);
        metrics.count(&peers, 4);
        metrics.repaired_file();
        metrics.store(Some(UNIX_EPOCH + std::time::Duration::from_secs(7)));
        metrics.store(None);
        metrics.udp.sent(3, 400);
        metrics.udp.dropped(crate::udp::counters::Loss::UnknownSender, 2);
        metrics.clean();
        let text = metrics.text();
        for line in [
            "flanneld_reconcile_seconds_count 2",
            r#"flanneld_steps_total{kind="route",op="put",outcome="done"} 5"#,
            r#"flanneld_steps_total{kind="route",op="put",outcome="failed"} 1"#,
            r#"flanneld_drift_total{kind="route"} 2"#,
            r#"flanneld_peers{path="direct"} 1"#,
            r#"flanneld_peers{path="vxlan"} 2"#,
            r#"flanneld_peers{path="unreachable"} 0"#,
            "flanneld_leases_rejected 4",
            "flanneld_store_watch_restarts_total 1",
            "flanneld_store_stale_since_timestamp_seconds 0.0",
            r#"flanneld_udp_packets_total{direction="sent"} 3"#,
            r#"flanneld_udp_bytes_total{direction="sent"} 400"#,
            r#"flanneld_udp_packets_dropped_total{reason="unknown-sender"} 2"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("flanneld_last_clean_reconcile_timestamp_seconds 1"), "{text}");
        assert_eq!(metrics.drifts(), [("route".to_owned(), 2), ("file".to_owned(), 1)].into());
    }
}
