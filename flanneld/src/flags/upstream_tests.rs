//! Every upstream flag with upstream's default, in every spelling that Go's `flag` package accepts.

use super::tests::{parse_with, run};
use super::*;

/// flannel 0.28.9: `flanneld --help` and main.go. A flag without a default has the empty value.
const TEXTS: &[(&str, &str)] = &[
    ("etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379"),
    ("etcd-prefix", "/coreos.com/network"),
    ("etcd-keyfile", ""),
    ("etcd-certfile", ""),
    ("etcd-cafile", ""),
    ("etcd-username", ""),
    ("etcd-password", ""),
    ("iface", ""),
    ("iface-regex", ""),
    ("iface-can-reach", ""),
    ("subnet-file", "/run/flannel/subnet.env"),
    ("public-ip", ""),
    ("public-ipv6", ""),
    ("subnet-lease-renew-margin", "60"),
    ("kube-api-url", ""),
    ("kube-annotation-prefix", "flannel.alpha.coreos.com"),
    ("kubeconfig-file", ""),
    ("healthz-ip", "0.0.0.0"),
    ("healthz-port", "0"),
    ("iptables-resync", "5"),
    ("net-config-path", "/etc/kube-flannel/net-conf.json"),
    ("v", "0"),
    ("vmodule", ""),
    ("log_backtrace_at", ":0"),
];

const SWITCHES: &[(&str, bool)] = &[
    ("ip-masq", false),
    ("ip-masq-fully-random-disable", false),
    ("kube-subnet-mgr", false),
    ("version", false),
    ("iptables-forward-rules", true),
    ("ip-blackhole-route", false),
    ("set-node-network-unavailable", true),
];

const YES: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
const NO: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];

fn spelt(value: bool) -> [&'static str; 6] {
    if value { YES } else { NO }
}

/// The options without the environment, which depends on the variables.
#[track_caller]
fn bare(args: &[&str], env: &[(&str, &str)]) -> Options {
    Options { environment: Environment::default(), ..run(args, env) }
}

#[test]
fn a_text_at_its_default_changes_nothing() {
    let plain = bare(&[], &[]);
    for (name, value) in TEXTS {
        let (one, two) = (format!("-{name}"), format!("--{name}"));
        let (one_eq, two_eq) = (format!("-{name}={value}"), format!("--{name}={value}"));
        for args in [&[one_eq.as_str()][..], &[&two_eq], &[&one, value], &[&two, value]] {
            assert_eq!(bare(args, &[]), plain, "{args:?}");
        }
        let variable = format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(bare(&[], &[(&variable, value)]), plain, "{variable}={value}");
    }
}

#[test]
fn a_switch_at_its_default_changes_nothing() {
    let plain = bare(&[], &[]);
    for (name, default) in SWITCHES {
        for word in spelt(*default) {
            for arg in [format!("-{name}={word}"), format!("--{name}={word}")] {
                assert_eq!(bare(&[&arg], &[]), plain, "{arg}");
            }
            let variable = format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(bare(&[], &[(&variable, word)]), plain, "{variable}={word}");
        }
        if *default {
            assert_eq!(bare(&[&format!("-{name}")], &[]), plain, "-{name}");
        }
    }
}

#[test]
fn all_of_upstreams_flags_together_start_it() {
    let mut args: Vec<String> = TEXTS.iter().map(|(name, value)| format!("-{name}={value}")).collect();
    args.extend(SWITCHES.iter().map(|(name, value)| format!("--{name}={value}")));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(bare(&args, &[]), bare(&[], &[]));
    let embedded = bare(&[&["-store-dir=/a"], &args[..]].concat(), &[]);
    assert_eq!(embedded, bare(&["-store-dir=/a"], &[]), "a flag with its default value does not select another store");
}

#[test]
fn what_only_a_part_that_is_off_reads_means_nothing() {
    for arg in [
        "-ip-masq-fully-random-disable",
        "-net-config-path=/elsewhere",
        "-kube-annotation-prefix=example.org",
        "-kube-api-url=https://192.0.2.1:6443",
        "-kubeconfig-file=/etc/kubernetes/admin.conf",
        "-set-node-network-unavailable=0",
    ] {
        assert_eq!(bare(&[arg], &[]), bare(&[], &[]), "{arg}");
    }
    // rules that plugins made with iptables are checked in any case
    assert_eq!(bare(&["-iptables-resync=0x1e"], &[]).resync.as_secs(), 30);
}

#[test]
fn the_last_value_counts_and_each_is_read() {
    assert_eq!(bare(&["-ip-masq", "-ip-masq=false"], &[]), bare(&[], &[]));
    let refused = |args: &[&str], env: &[(&str, &str)], says: &str| {
        let error = parse_with(args, env).unwrap_err().to_string();
        assert!(error.contains(says), "{args:?}: {error}");
    };
    for word in YES {
        assert!(bare(&[&format!("-ip-masq={word}")], &[]).rules.masquerade.is_some());
        refused(&[], &[("FLANNELD_KUBE_SUBNET_MGR", word)], "env variables POD_NAME and POD_NAMESPACE must be set");
    }
    assert!(bare(&["-ip-masq=false", "-ip-masq"], &[]).rules.masquerade.is_some());
    refused(&["-ip-masq=maybe"], &[], "invalid value 'maybe' for '--ip-masq");
    refused(&["-iptables-resync=often"], &[], "not a number");
    refused(&["-kube-subnet-mgr=maybe", "-kube-subnet-mgr=f"], &[], "invalid value 'maybe' for '--kube-subnet-mgr");
    refused(&["-kubeconfig-file"], &[], "a value is required for '--kubeconfig-file");
}

#[test]
fn a_variable_that_cannot_be_read_is_named_and_left_out() {
    for (variable, value) in
        [("FLANNELD_IP_MASQ", "maybe"), ("FLANNELD_IPTABLES_RESYNC", "5s"), ("FLANNELD_IP_BLACKHOLE_ROUTE", "yes")]
    {
        let options = bare(&[], &[(variable, value)]);
        assert!(
            options.warnings[0].starts_with(&format!("{variable}={value}: not a valid value")),
            "{:?}",
            options.warnings
        );
        assert!(!options.blackhole_route);
    }
    assert!(bare(&[], &[("FLANNELD_IP_BLACKHOLE_ROUTE", "T")]).blackhole_route);
}

#[test]
fn numbers_are_gos() {
    for (text, value) in [
        ("5", Some(5)),
        ("-5", Some(-5)),
        ("+5", Some(5)),
        ("0", Some(0)),
        ("0x1F", Some(31)),
        ("0b11", Some(3)),
        ("0o17", Some(15)),
        ("017", Some(15)),
        ("0x_1f", Some(31)),
        ("-0x8000000000000000", Some(i64::MIN)),
        ("1_000", None),
        ("0x", None),
        ("0x1__f", None),
        ("0xf_", None),
        ("", None),
        ("-", None),
        ("+-5", None),
        ("--5", None),
        ("5s", None),
        ("é5", None),
        ("9223372036854775808", None),
    ] {
        assert_eq!(go::integer(text), value, "{text:?}");
    }
    assert_eq!(bare(&["-subnet-lease-renew-margin=0x3c"], &[]).renew_margin, Duration::from_secs(3600));
    assert_eq!(bare(&["-healthz-port=-1"], &[]).health, None);
    assert_eq!(bare(&["-healthz-ip=", "-healthz-port=8471"], &[]).health, "[::]:8471".parse().ok());
}
