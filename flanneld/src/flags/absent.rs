//! Upstream's flags whose part is not in this version. They are known, so that a unit file written for upstream starts,
//! or gets a reason instead of "unknown flag": only a value that asks for a part that is missing is refused.

use super::go::{self, Flag};

/// What a flag's value is.
#[derive(Clone, Copy)]
enum Kind {
    /// A switch that turns a missing part on; "true" is refused with this reason.
    Part(&'static str),
    /// A switch that says how a missing part does its work. It means nothing while that part is off.
    Switch,
    /// Text, of the same kind.
    Text,
    /// A number, of the same kind.
    Number,
}

struct Absent {
    name: &'static str,
    kind: Kind,
}

const fn flag(name: &'static str, kind: Kind) -> Absent {
    Absent { name, kind }
}

/// flannel 0.28.9, main.go. The flags below a part are read by that part alone.
const TABLE: &[Absent] = &[
    flag("kube-subnet-mgr", Kind::Part("the Kubernetes store is")),
    flag("kube-api-url", Kind::Text),
    flag("kube-annotation-prefix", Kind::Text),
    flag("kubeconfig-file", Kind::Text),
    flag("net-config-path", Kind::Text),
    flag("set-node-network-unavailable", Kind::Switch),
    flag("ip-masq", Kind::Part("masquerade rules are")),
    flag("ip-masq-fully-random-disable", Kind::Switch),
    flag("iptables-resync", Kind::Number),
    // on by default, and so no more of a wish than its absence
    flag("iptables-forward-rules", Kind::Switch),
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
    find(name).map(|flag| matches!(flag.kind, Kind::Part(_) | Kind::Switch))
}

/// Why upstream cannot read `value` for the flag `name`; `None` when it can, or the flag is none of these.
pub(super) fn unreadable(name: &str, value: &str) -> Option<&'static str> {
    match find(name)?.kind {
        Kind::Part(_) | Kind::Switch if go::truth(value).is_none() => Some("neither true nor false"),
        Kind::Number if go::integer(value).is_none() => Some("not a number"),
        _ => None,
    }
}

/// Takes the flags of the table out of `flags`; what is wrong with them is the second part. As in Go the last of several
/// values counts, but each must be readable.
pub(super) fn take_out(flags: Vec<Flag>) -> (Vec<Flag>, Vec<String>) {
    let (absent, kept): (Vec<Flag>, Vec<Flag>) = flags.into_iter().partition(|flag| find(&flag.name).is_some());
    let mut mistakes: Vec<String> = absent.iter().filter_map(unreadable_flag).collect();
    for Absent { name, kind } in TABLE {
        let last = absent.iter().rfind(|flag| flag.name == *name);
        if let (Kind::Part(missing), Some(true)) = (kind, last.and_then(|flag| go::truth(&flag.value))) {
            mistakes.push(format!("--{name}: {missing} not in this version; leave the flag out"));
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
