//! The daemon's metrics, with names and units in Prometheus' style.

mod exposition;
mod lease;
#[cfg(test)]
mod lint_tests;
mod process;

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

use crate::udp::counters::Counters;
use crate::udp::metrics::Crossed;
use overlay::plan::Work;
use overlay::status::Reach;

pub use exposition::Exposition;
pub use lease::Expiry;

/// The kinds of object that can drift, as `Step::object` names them.
const KINDS: [&str; 10] =
    ["link", "sysctl", "address", "wireguard", "wireguard-peer", "neighbour", "fdb", "route", "nft", FILE];

/// The kind for subnet.env and status.json, which are not kernel objects.
const FILE: &str = "file";

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
struct BuildLabels {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

/// The number of steps of one kind of object and operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepCount {
    /// The kind of object, such as `link` or `route`.
    pub kind: &'static str,
    /// The operation: `put` or `delete`.
    pub op: &'static str,
    /// The number of steps that succeeded.
    pub done: u64,
    /// The number of steps that failed.
    pub failed: u64,
}

/// The number of peers by how they are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCounts(BTreeMap<Reach, i64>);

impl PeerCounts {
    /// The number of peers that are reached this way.
    pub fn of(&self, reach: Reach) -> i64 {
        self.0.get(&reach).copied().unwrap_or_default()
    }

    /// Counts one more peer.
    pub fn add(&mut self, reach: Reach) {
        *self.0.entry(reach).or_default() += 1;
    }

    /// Counts one peer less.
    pub fn remove(&mut self, reach: Reach) {
        *self.0.entry(reach).or_default() -= 1;
        self.0.retain(|_, count| *count != 0);
    }
}

/// All metrics. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconcile: Histogram,
    passes: Counter,
    judged: Counter,
    rendered: Counter,
    compared: Counter,
    steps: Family<StepLabels, Counter>,
    drift: Family<KindLabel, Counter>,
    attachment_repairs: Family<KindLabel, Counter>,
    attachments_reclaimed: Counter,
    peers: Family<PathLabel, Gauge>,
    rejected: Gauge,
    last_clean: Gauge<f64, AtomicU64>,
    store_restarts: Counter,
    store_stale: Gauge<f64, AtomicU64>,
    ready: Gauge,
    lease: Arc<lease::Lease>,
    /// The counters of the udp backend's workers.
    pub udp: Arc<Counters>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.2 ms to 13 s
        let reconcile = Histogram::new(exponential_buckets(0.0002, 2.0, 17));
        let mut new = Self {
            registry: Arc::default(),
            reconcile,
            passes: Counter::default(),
            judged: Counter::default(),
            rendered: Counter::default(),
            compared: Counter::default(),
            steps: Family::default(),
            drift: Family::default(),
            attachment_repairs: Family::default(),
            attachments_reclaimed: Counter::default(),
            peers: Family::default(),
            rejected: Gauge::default(),
            last_clean: Gauge::default(),
            store_restarts: Counter::default(),
            store_stale: Gauge::default(),
            ready: Gauge::default(),
            lease: Arc::default(),
            udp: Arc::default(),
        };
        new.registry = Arc::new(new.register());
        new
    }
}

impl Metrics {
    fn register(&self) -> Registry {
        let mut root = Registry::default();
        let all = root.sub_registry_with_prefix("flanneld");
        let seconds = || Unit::Seconds;
        let (reconcile, clean, stale) = (self.reconcile.clone(), self.last_clean.clone(), self.store_stale.clone());
        all.register_with_unit("reconcile", "Time to read and change the kernel, per pass", seconds(), reconcile);
        all.register("passes", "Looks at the facts, each of which makes a plan if it can", self.passes.clone());
        let text = "Leases that were judged for a plan";
        all.register("leases_judged", text, self.judged.clone());
        all.register("peers_rendered", "Peers whose objects were written for a plan", self.rendered.clone());
        let text = "Objects of peers that were compared with the kernel's, or with the plan before";
        all.register("objects_compared", text, self.compared.clone());
        all.register("steps", "Changes made to the kernel", self.steps.clone());
        all.register("drift", "Repairs of what another program had changed", self.drift.clone());
        let text = "Repairs of what plugins had made for pods and another program had changed";
        all.register("attachment_repairs", text, self.attachment_repairs.clone());
        let text = "Attachments that were removed because their pods were gone without DEL";
        all.register("attachments_reclaimed", text, self.attachments_reclaimed.clone());
        all.register("peers", "Subnets of other hosts, by how they are reached", self.peers.clone());
        all.register("leases_rejected", "Entries in the store that are rejected", self.rejected.clone());
        let text = "End of the last pass without an error (Unix time)";
        all.register_with_unit("last_clean_reconcile_timestamp", text, seconds(), clean);
        let text = "How often the watch of the store was restarted";
        all.register("store_watch_restarts", text, self.store_restarts.clone());
        let text = "Since when the store cannot be read (Unix time); 0 if it can";
        all.register_with_unit("store_stale_since_timestamp", text, seconds(), stale);
        all.register_collector(Box::new(lease::Collected(self.lease.clone())));
        all.register_collector(Box::new(Crossed(self.udp.clone())));
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        all.register("build_info", "The program's version; always 1", build);
        all.register("ready", "1 while /readyz says 200, else 0", self.ready.clone());
        root.register_collector(Box::new(process::Process));
        root
    }

    /// Counts a pass that used the kernel for `took` seconds. `drift` is true if the desired state was not new.
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

    /// Counts a pass, whatever comes of it.
    pub fn looked(&self) {
        self.passes.inc();
    }

    /// Counts what a plan has cost. With few changes it must not depend on how many leases there are.
    pub fn worked(&self, work: &Work) {
        let add = |total: &Counter, by: usize| total.inc_by(u64::try_from(by).unwrap_or(u64::MAX));
        add(&self.judged, work.judged);
        add(&self.rendered, work.rendered);
        add(&self.compared, work.compared);
    }

    /// Notes that a pass had no error.
    pub fn clean(&self) {
        self.last_clean.set(unix(SystemTime::now()));
    }

    /// Sets the number of peers and of rejected entries in the store.
    pub fn count(&self, peers: &PeerCounts, rejected: usize) {
        for reach in Reach::all() {
            self.peers.get_or_create(&PathLabel { path: reach.as_str() }).set(peers.of(reach));
        }
        self.rejected.set(i64::try_from(rejected).unwrap_or(i64::MAX));
    }

    /// Counts a file that was written again after somebody had changed it.
    pub fn repaired_file(&self) {
        self.drift.get_or_create(&KindLabel { kind: FILE }).inc();
    }

    /// Counts a repair of an attachment's object: `bridge`, `port`, `pair` or `rules`.
    pub fn repaired_attachment(&self, kind: &'static str) {
        self.attachment_repairs.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts an attachment that was removed because its pod was gone.
    pub fn reclaimed_attachment(&self) {
        self.attachments_reclaimed.inc();
    }

    /// Sets since when the store cannot be read; `None` if it can.
    pub fn store(&self, since: Option<SystemTime>) {
        let before = self.store_stale.set(since.map_or(0.0, unix));
        if before > 0.0 && since.is_none() {
            self.store_restarts.inc();
        }
    }

    /// Sets when this host's lease ends; `None` if it has none.
    pub fn lease(&self, expiry: Option<Expiry>) {
        self.lease.set(expiry);
    }

    /// Whether this host is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// The number of repairs by kind of object. Kinds without repairs are left out.
    pub fn drifts(&self) -> BTreeMap<String, u64> {
        let of = |kind: &'static str| self.drift.get_or_create(&KindLabel { kind }).get();
        KINDS.into_iter().map(|kind| (kind.to_owned(), of(kind))).filter(|(_, count)| *count > 0).collect()
    }

    /// All metrics as text.
    pub fn text(&self, exposition: Exposition) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = encode(&mut text, &self.registry);
        exposition.of_openmetrics(text)
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay::backend::{udp, vxlan};

    #[test]
    fn names_carry_their_units() {
        let metrics = Metrics::default();
        let route = StepCount { kind: "route", op: "put", done: 3, failed: 1 };
        metrics.passed(0.001, &[route], false);
        metrics.passed(0.001, &[StepCount { done: 2, failed: 0, ..route }], true);
        let mut peers = PeerCounts::default();
        let (vxlan, udp) = (Reach::Through(vxlan::TUNNEL), Reach::Through(udp::TUNNEL));
        [Reach::Direct, vxlan, vxlan, udp].into_iter().for_each(|reach| peers.add(reach));
        peers.remove(udp);
        metrics.count(&peers, 4);
        metrics.repaired_file();
        metrics.repaired_attachment("port");
        metrics.reclaimed_attachment();
        metrics.store(Some(UNIX_EPOCH + std::time::Duration::from_secs(7)));
        metrics.store(None);
        metrics.udp.sent(3, 400);
        metrics.udp.dropped(crate::udp::counters::Loss::UnknownSender, 2);
        metrics.clean();
        metrics.looked();
        metrics.worked(&Work { judged: 5, rendered: 6, compared: 7 });
        let text = metrics.text(Exposition::OpenMetrics);
        for line in [
            "flanneld_reconcile_seconds_count 2",
            r#"flanneld_steps_total{kind="route",op="put",outcome="done"} 5"#,
            r#"flanneld_steps_total{kind="route",op="put",outcome="failed"} 1"#,
            r#"flanneld_drift_total{kind="route"} 2"#,
            r#"flanneld_attachment_repairs_total{kind="port"} 1"#,
            "flanneld_attachments_reclaimed_total 1",
            r#"flanneld_peers{path="direct"} 1"#,
            r#"flanneld_peers{path="vxlan"} 2"#,
            r#"flanneld_peers{path="unreachable"} 0"#,
            "flanneld_leases_rejected 4",
            "flanneld_passes_total 1",
            "flanneld_leases_judged_total 5",
            "flanneld_peers_rendered_total 6",
            "flanneld_objects_compared_total 7",
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
        let plain = metrics.text(Exposition::Text);
        for line in [
            "# HELP flanneld_steps_total Changes made to the kernel.",
            "# TYPE flanneld_steps_total counter",
            "# TYPE flanneld_reconcile_seconds histogram",
            "flanneld_build_info{version=\"0.1.0\"} 1",
            "flanneld_ready 0",
            "# TYPE process_start_time_seconds gauge",
        ] {
            assert!(plain.lines().any(|l| l == line), "{line} is not in\n{plain}");
        }
        assert!(!plain.contains("# UNIT") && !plain.contains("# EOF"), "{plain}");
        assert_eq!(metrics.drifts(), [("route".to_owned(), 2), ("file".to_owned(), 1)].into());
    }

    /// The names in the first column of the table, each with its labels: `flanneld_steps_total{kind,op,outcome}`.
    fn documented(text: &str) -> BTreeMap<String, String> {
        let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let names = names
            .flat_map(|cell| cell.split('`'))
            .filter(|name| ["flanneld_", "process_"].iter().any(|prefix| name.starts_with(prefix)));
        let split = |name: &str| name.split_once('{').map(|(name, rest)| (name.to_owned(), format!("{{{rest}")));
        names.map(|name| split(name).unwrap_or_else(|| (name.to_owned(), String::new()))).collect()
    }

    /// Every metric with its labels, as they are exposed.
    fn exposed(text: &str) -> BTreeMap<String, String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let plain =
            |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
        let sample = |line: &str| {
            let (name, rest) = line.split_once(['{', ' ']).unwrap();
            let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
            let keys: Vec<&str> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
            match plain(name) {
                Some(name) => (name, String::new()),
                None if keys.is_empty() => (name.to_owned(), String::new()),
                None => (name.to_owned(), format!("{{{}}}", keys.join(","))),
            }
        };
        samples.map(sample).collect()
    }

    #[test]
    fn the_operators_list_of_metrics_is_complete() {
        let documented = documented(include_str!("../../docs/operations.md"));
        let metrics = Metrics::default();
        metrics.passed(0.0, &[StepCount { kind: "route", op: "put", done: 1, failed: 1 }], true);
        metrics.count(&PeerCounts::default(), 0);
        metrics.lease(Some(Expiry::Never));
        metrics.repaired_attachment("port");
        let exposed = exposed(&metrics.text(Exposition::Text));
        assert_eq!(documented, exposed);
    }
}
