//! What may stand where.

use crate::sources::File;

/// Words that are allowed only in some places.
pub struct Rule {
    pub words: &'static [&'static str],
    /// Beginnings of paths, each with what the word is for there.
    pub only_in: &'static [(&'static str, &'static str)],
    /// Code for tests is bound, too.
    pub in_tests: bool,
    /// For the one who meets it.
    pub reason: &'static str,
}

pub const RULES: &[Rule] = &[
    Rule {
        words: &["Command::new"],
        only_in: &[
            ("lib/cni/src/delegate", "a CNI delegate is an executable"),
            ("lib/attachment/src/rules/iptables/run.rs", "iptables, where a configuration names it"),
            ("flanneld/src/commands.rs", "the extension backend's own commands, without a shell"),
            ("lib/lab/src/", "the lab starts daemons, and builds them"),
        ],
        in_tests: false,
        reason: "no program is executed except a CNI delegate, the extension backend's commands, and iptables where a configuration names it: everything else is netlink",
    },
    Rule {
        words: &["thread::sleep", "sleep(", "park_timeout("],
        only_in: &[
            ("lib/lab/src/wait.rs", "bounded waiting on a condition"),
            ("flanneld/src/instance.rs", "bounded waiting for a daemon that ends"),
            ("lib/cni/src/delegate", "back-off while an executable is being written"),
            ("lib/store/src/embedded/follow.rs", "back-off after the store could not be read"),
            ("lib/store/src/embedded/lock.rs", "bounded waiting for another daemon"),
            ("lib/store/src/etcd/follow.rs", "back-off after etcd could not be followed"),
            ("lib/store/src/kubernetes/follow.rs", "back-off after the API server could not be followed"),
            ("lib/store/src/kubernetes/condition.rs", "the patience before a condition, and back-off"),
            ("flanneld/src/events.rs", "back-off after the kernel's announcements ended"),
            ("flanneld/src/health.rs", "back-off while no connection can be accepted"),
        ],
        in_tests: true,
        reason: "nothing sleeps but a bounded wait and a back-off: wait for the event",
    },
    Rule {
        words: &["sleep_until("],
        only_in: &[
            ("flanneld/src/overlay/mod.rs", "the loop's timers"),
            ("flanneld/src/attachments/", "the loop's timers"),
            ("flanneld/src/reclaim/mod.rs", "the loop's timer"),
            ("flanneld/src/rules_watch.rs", "the pause after lost announcements"),
            ("flanneld/src/report/task.rs", "the loop's timers"),
            ("lib/store/src/embedded/follow.rs", "the next expiry of a lease"),
            ("lib/store/src/feed.rs", "what comes in a burst is one change set"),
            ("lib/store/src/kubernetes/follow.rs", "the next saving of the last known leases"),
        ],
        in_tests: true,
        reason: "a timer belongs to a loop: pass the time in as an argument",
    },
    Rule {
        words: &[
            "env::var",
            "env::vars",
            "env::var_os",
            "env::vars_os",
            "env::args",
            "env::args_os",
            "env::set_var",
            "env::remove_var",
        ],
        only_in: &[
            ("plugins/build.rs", "what cargo says of the target"),
            ("plugins/src/main.rs", "CNI_* and the name it is called by"),
            ("flanneld/src/bin/", "flags and FLANNELD_*"),
            ("flannelctl/src/main.rs", "its arguments, and whether cargo runs it"),
        ],
        in_tests: false,
        reason: "environment and arguments are read only in a main, and are arguments below it",
    },
    Rule {
        words: &["setns", "move_into_link_name_space"],
        only_in: &[
            ("lib/kernel/src/netns.rs", "a namespace is entered in a scope that cannot leak"),
            ("tests/floor/", "the least an attachment takes, without the library's part"),
        ],
        in_tests: true,
        reason: "a thread that stays in the wrong namespace does its work there: use kernel::netns",
    },
    Rule {
        words: &["diff::diff", "diff(&", "observe(&", "kernel.apply(", "host.apply(", "pod.apply(", "apply_from("],
        only_in: &[("lib/kernel/src/", "where they are")],
        in_tests: false,
        reason: "the kernel is made as it is wanted by Kernel::converge: it observes, compares and applies",
    },
    Rule {
        words: &["NLM_F_DUMP"],
        only_in: &[("lib/kernel/src/netlink/", "the one client")],
        in_tests: true,
        reason: "a dump may be interrupted or refused, and only the client notices",
    },
    Rule {
        words: &["unsafe", "unsafe_code"],
        only_in: &[("lib/kernel/src/", "system calls that no safe crate has")],
        in_tests: true,
        reason: "unsafe code is in lib/kernel only",
    },
    Rule {
        words: &["#[allow(", "#![allow("],
        only_in: &[],
        in_tests: true,
        reason: "an exception from a lint is #[expect(…, reason = \"…\")]: it goes when its reason does",
    },
];

/// Each place that breaks the rule, and each permission that nothing uses.
pub fn breaches(rule: &Rule, files: &[File]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut used = vec![false; rule.only_in.len()];
    for file in files.iter().filter(|file| file.is_rust()) {
        let may = rule.only_in.iter().position(|(start, _)| file.path.starts_with(start));
        for word in rule.words {
            let found = if may.is_some() { file.find(word, true) } else { file.find(word, rule.in_tests) };
            match may {
                Some(n) => used[n] |= !found.is_empty(),
                None => breaches.extend(found.iter().map(|at| said(file, *at, word, rule))),
            }
        }
    }
    let idle = rule.only_in.iter().zip(used).filter(|(_, used)| !used);
    breaches.extend(idle.map(|((start, _), _)| {
        format!(
            "{start}: may use {}, but does not: take the permission away in tests/tidy/rules.rs",
            rule.words.join(", ")
        )
    }));
    breaches
}

fn said(file: &File, at: usize, word: &str, rule: &Rule) -> String {
    let places: Vec<String> = rule.only_in.iter().map(|(start, what)| format!("{start} ({what})")).collect();
    let only = if places.is_empty() { "nowhere".to_owned() } else { format!("only in {}", places.join(", ")) };
    format!("{}: {word}: {}; allowed {only}", file.place(at), rule.reason)
}
