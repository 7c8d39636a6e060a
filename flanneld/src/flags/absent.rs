//! Upstream's flags for parts that this version does not have. They are accepted so that a unit file for upstream
//! starts. Only a value that requests a missing part is refused, with a reason instead of "unknown flag".

use super::go::{self, Flag};

/// The kind of a flag's value.
#[derive(Clone, Copy)]
enum Kind {
    /// A switch that turns on a missing part. "true" is refused with this reason.
    Part(&'static str),
    /// A switch that configures a missing part. It has no effect while that part is off.
    Switch,
    /// A text that configures a missing part.
    Text,
}

struct Absent {
    name: &'static str,
    kind: Kind,
}

const fn flag(name: &'static str, kind: Kind) -> Absent {
    Absent { name, kind }
}

/// The flags of flannel 0.28.9, main.go. Those below a part configure that part alone.
const TABLE: &[Absent] = &[
    flag("kube-subnet-mgr", Kind::Part("the Kubernetes store is")),
    flag("kube-api-url", Kind::Text),
    flag("kube-annotation-prefix", Kind::Text),
    flag("kubeconfig-file", Kind::Text),
    flag("net-config-path", Kind::Text),
    flag("set-node-network-unavailable", Kind::Switch),
];

fn find(name: &str) -> Option<&'static Absent> {
    TABLE.iter().find(|flag| flag.name == name)
}

/// The names of all these flags.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|flag| flag.name)
}

/// Whether `name` is a switch. `None` if it is not one of these flags.
pub(super) fn boolean(name: &str) -> Option<bool> {
    find(name).map(|flag| matches!(flag.kind, Kind::Part(_) | Kind::Switch))
}

/// Why upstream cannot read `value` for the flag `name`. `None` if it can, or if `name` is not one of these flags.
pub(super) fn unreadable(name: &str, value: &str) -> Option<&'static str> {
    match find(name)?.kind {
        Kind::Part(_) | Kind::Switch if go::truth(value).is_none() => Some("neither true nor false"),
        _ => None,
    }
}

/// Removes these flags from `flags`. The second part of the result lists the mistakes in them. As in Go, the last of
/// several values is used, but every value must be valid.
pub(super) fn take_out(flags: Vec<Flag>) -> (Vec<Flag>, Vec<String>) {
    let (absent, kept): (Vec<Flag>, Vec<Flag>) = flags.into_iter().partition(|flag| find(&flag.name).is_some());
    let mut mistakes: Vec<String> = absent.iter().filter_map(unreadable_flag).collect();
    for Absent { name, kind } in TABLE {
        let last = absent.iter().rfind(|flag| flag.name == *name);
        if let (Kind::Part(missing), Some(true)) = (kind, last.and_then(|flag| go::truth(&flag.value))) {
            mistakes.push(format!("--{name}: {missing} not in this version; remove the flag"));
        }
    }
    (kept, mistakes)
}

fn unreadable_flag(flag: &Flag) -> Option<String> {
    let Flag { name, value, boolean: bare } = flag;
    if *bare && boolean(name) == Some(false) {
        return Some(format!("--{name}: needs a value"));
    }
    unreadable(name, value).map(|why| format!("--{name}={value}: {why}"))
}
