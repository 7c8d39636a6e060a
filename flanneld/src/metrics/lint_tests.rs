//! The rules of `promtool check metrics` and of OpenMetrics, on everything that is exposed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expiry, Exposition, Metrics, PeerCounts, StepCount};

/// Every metric with a sample.
fn full() -> Metrics {
    let metrics = Metrics::default();
    metrics.passed(0.001, &[StepCount { kind: "route", op: "put", done: 3, failed: 1 }], true);
    metrics.count(&PeerCounts::default(), 1);
    metrics.store(None);
    metrics.clean();
    metrics.lease(Some(Expiry::Never));
    metrics
}

/// What a sample's name may have behind its family's.
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[""],
    }
}

/// What is wrong with metrics in the text format, by the rules of promtool 2.42 (client_golang's promlint).
fn lint(text: &str) -> Vec<String> {
    let (mut helps, mut kinds, mut wrong) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let known = match words[..] {
            ["#", "HELP", name, help] => helps.insert(name, help).is_some(),
            ["#", "TYPE", name, kind] => kinds.insert(name, kind).is_some(),
            _ => false,
        };
        wrong.extend(known.then(|| format!("{line}: a second time")));
    }
    for (name, kind) in &kinds {
        let mut check = |good: bool, rule: &str| wrong.extend((!good).then(|| format!("{name}: {rule}")));
        check(helps.get(name).is_some_and(|help| !help.trim_matches(['.', ' ']).is_empty()), "no help text");
        check((*kind == "counter") == name.ends_with("_total"), "a counter, and nothing else, ends in _total");
        let reserved = ["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix));
        check(!reserved, "a suffix of histograms");
        check(!name.split('_').any(|word| word == *kind), "the kind is part of the name");
        let small = ["ms", "us", "ns", "milliseconds", "minutes", "hours", "kilobytes", "megabytes", "percent"];
        check(!name.split('_').any(|word| small.contains(&word)), "not a base unit");
        check(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "not snake_case");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names: BTreeSet<&str> = samples.map(|line| line.split(['{', ' ']).next().unwrap_or_default()).collect();
    let of =
        |name: &str| kinds.iter().any(|(family, kind)| suffixes(kind).iter().any(|s| name == format!("{family}{s}")));
    wrong.extend(names.iter().filter(|name| !of(name)).map(|name| format!("{name}: a sample without a type")));
    wrong
}

#[test]
fn nothing_is_wrong_with_the_metrics() {
    let text = full().text(Exposition::Text);
    assert_eq!(lint(&text), Vec::<String>::new(), "\n{text}");
    for name in [
        "flanneld_build_info",
        "flanneld_ready",
        "flanneld_peers",
        "flanneld_lease_expiry_timestamp_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        let has = |line: &str| line.split(['{', ' ']).next() == Some(name);
        assert!(text.lines().any(has), "{name} has no sample in\n{text}");
    }
}

#[test]
fn what_is_wrong_is_found() {
    let wrong = "# HELP a .\n# TYPE a counter\na 1\nb_total 2\n# HELP c_ms x\n# TYPE c_ms gauge\nc_ms 3\n";
    let found = lint(wrong);
    for part in ["a: no help text", "a: a counter", "b_total: a sample without a type", "c_ms: not a base unit"] {
        assert!(found.iter().any(|text| text.starts_with(part)), "{part} is not in {found:?}");
    }
}

/// OpenMetrics 1.0 §4: a unit is the end of its family's name, a counter's samples end in `_total`, and the end is marked.
#[test]
fn openmetrics_has_units_and_an_end() {
    let text = full().text(Exposition::OpenMetrics);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut units = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# UNIT ")) {
        let (name, unit) = line.split_once(' ').unwrap();
        assert!(name.ends_with(&format!("_{unit}")), "{line}");
        units += 1;
    }
    assert!(units >= 5, "{text}");
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")) {
        assert!(!name.ends_with("_total"), "{name}");
        let samples = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        assert!(samples.clone().all(|line| line.starts_with(&format!("{name}_"))), "{name} in\n{text}");
    }
}
