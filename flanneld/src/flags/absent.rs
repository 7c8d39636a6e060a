//! Upstream's flags whose part is not in this version. They are known, so that a unit file written for upstream gets a
//! reason instead of "unknown flag"; the value that switches such a part off is accepted.

use super::FlagError;
use super::go::{self, Flag};

struct Absent {
    name: &'static str,
    /// The value that asks for nothing; of a switch "false".
    off: Option<&'static str>,
    boolean: bool,
    missing: &'static str,
}

const KUBE: &str = "the Kubernetes store is";
const MASQ: &str = "masquerade rules are";
const RULES: &str = "packet rules are";

const fn value(name: &'static str, missing: &'static str) -> Absent {
    Absent { name, off: None, boolean: false, missing }
}

const fn switch(name: &'static str, missing: &'static str) -> Absent {
    Absent { name, off: Some("false"), boolean: true, missing }
}

const TABLE: &[Absent] = &[
    switch("kube-subnet-mgr", KUBE),
    value("kube-api-url", KUBE),
    value("kube-annotation-prefix", KUBE),
    value("kubeconfig-file", KUBE),
    value("net-config-path", KUBE),
    switch("set-node-network-unavailable", KUBE),
    switch("ip-masq", MASQ),
    switch("ip-masq-fully-random-disable", MASQ),
    value("iptables-resync", RULES),
    switch("iptables-forward-rules", RULES),
    switch("ip-blackhole-route", "the blackhole route is"),
    value("healthz-ip", "the health server is"),
    Absent { name: "healthz-port", off: Some("0"), boolean: false, missing: "the health server is" },
    value("vmodule", "verbosity per file is"),
    value("log_backtrace_at", "a backtrace per log line is"),
];

fn find(name: &str) -> Option<&'static Absent> {
    TABLE.iter().find(|flag| flag.name == name)
}

/// The names of all of them.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|flag| flag.name)
}

/// Whether `name` is one of them, and then whether it is a switch.
pub(super) fn boolean(name: &str) -> Option<bool> {
    find(name).map(|flag| flag.boolean)
}

/// The flags that are none of these; an error for one of these that asks for something.
pub(super) fn refuse(flags: Vec<Flag>) -> Result<Vec<Flag>, FlagError> {
    let mut kept = Vec::with_capacity(flags.len());
    for flag in flags {
        let Some(absent) = find(&flag.name) else {
            kept.push(flag);
            continue;
        };
        let value = if absent.boolean { go::truth(&flag.value).map(|t| t.to_string()) } else { None };
        if absent.off != Some(value.as_deref().unwrap_or(&flag.value)) {
            return Err(FlagError::Absent { flag: flag.name, missing: absent.missing });
        }
    }
    Ok(kept)
}
