use super::*;
use ::overlay::rules::{Masquerade, Options as Rules};

pub(super) fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<Command, FlagError> {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    parse(&args, &env)
}

fn embedded(dir: &str) -> StoreOptions {
    StoreOptions::Embedded(dir.into())
}

#[track_caller]
pub(super) fn run(args: &[&str], env: &[(&str, &str)]) -> Options {
    match parse_with(args, env) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn one_dash_two_dashes_and_both_ways_to_give_a_value() {
    let args = ["-store-dir", "/s", "--iface=eth0", "-iface", "eth1", "-v=4", "--subnet-lease-renew-margin", "5"];
    let options = run(&args, &[]);
    assert_eq!(options.store, embedded("/s"));
    assert_eq!(options.select.iface, ["eth0", "eth1"]);
    assert_eq!(options.verbosity, 4);
    assert_eq!(options.renew_margin, Duration::from_secs(300));
    assert_eq!(options.etcd_prefix, "/coreos.com/network");
    assert_eq!(options.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
}

#[test]
fn a_value_may_begin_with_a_dash_and_the_last_one_counts() {
    assert_eq!(run(&["-store-dir", "-odd", "-v", "1", "-v", "2"], &[]).store, embedded("-odd"));
    assert_eq!(run(&["-store-dir=/a", "-store-dir=/b", "-v", "1", "-v", "2"], &[]).verbosity, 2);
}

#[test]
fn words_end_the_flags() {
    let options = run(&["-store-dir=/a", "word", "-v=3"], &[]);
    assert_eq!(options.verbosity, 0);
    assert!(options.warnings[0].ends_with(": word -v=3"), "{:?}", options.warnings);
    assert!(run(&["-store-dir=/a", "--"], &[]).warnings.is_empty());
}

#[test]
fn variables_fill_what_the_line_leaves_open() {
    let env = [
        ("FLANNELD_STORE_DIR", "/env"),
        ("FLANNELD_V", "2"),
        ("FLANNELD_IFACE", "a,b"),
        ("FLANNELD_PUBLIC_IP", ""),
        ("FLANNELD_VERSION", "true"),
    ];
    let options = run(&["-v=1"], &env);
    assert_eq!(options.store, embedded("/env"));
    assert_eq!(options.verbosity, 1);
    assert_eq!(options.select.iface, ["a,b"], "no comma list, as upstream");
    assert!(options.warnings.is_empty(), "{:?}", options.warnings);
}

#[test]
fn a_bad_variable_is_named_and_left_out() {
    let options = run(&["-store-dir=/a"], &[("FLANNELD_PUBLIC_IP", "nowhere"), ("FLANNELD_V", "x")]);
    assert_eq!(options.select.public_ip, None);
    assert_eq!(options.warnings.len(), 2, "{:?}", options.warnings);
    assert!(options.warnings.iter().any(|w| w.starts_with("FLANNELD_PUBLIC_IP=nowhere")), "{:?}", options.warnings);
}

#[test]
fn help_and_version_succeed() {
    assert!(matches!(parse_with(&["-h"], &[]), Ok(Command::Print(text)) if text.contains("--store-dir")));
    assert!(matches!(parse_with(&["--help"], &[]), Ok(Command::Print(_))));
    assert_eq!(parse_with(&["-version"], &[]), Ok(Command::Print(format!("v{}\n", env!("CARGO_PKG_VERSION")))));
}

#[test]
fn errors() {
    for args in [
        &["--unknown"][..],
        &["--store-dir"],
        &["-store-dir=/a", "-subnet-lease-renew-margin=0"],
        &["-store-dir=/a", "-subnet-lease-renew-margin=1440"],
        &["-store-dir=/a", "-public-ip=1.2.3"],
        &["-store-dir=/a", "-iface-regex=("],
        &["-store-dir=/a", "-v=x"],
        &["-store-dir=/a", "-version=maybe-not", "-bad"],
    ] {
        let result = parse_with(args, &[]);
        if args.iter().any(|a| a.starts_with("-version")) {
            assert!(matches!(result, Ok(Command::Print(_))), "{args:?}: {result:?}");
        } else {
            assert!(matches!(result, Err(FlagError::Usage(_))), "{args:?}: {result:?}");
        }
    }
    for prefix in ["/../x", "/", "a/./b"] {
        let result = parse_with(&["-store-dir=/a", "-etcd-prefix", prefix], &[]);
        assert!(matches!(&result, Err(FlagError::Mistakes(one)) if one.len() == 1), "{result:?}");
    }
}

#[test]
fn a_prefix_is_as_go_joins_it() {
    for (given, expected) in [("/a//b/", "/a/b"), ("a/b", "a/b"), ("//a", "/a")] {
        assert_eq!(run(&["-store-dir=/a", "-etcd-prefix", given], &[]).etcd_prefix, expected);
    }
}

#[track_caller]
fn etcd(args: &[&str], env: &[(&str, &str)]) -> store::etcd::Options {
    match run(args, env).store {
        StoreOptions::Etcd(options) => *options,
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn the_store_is_etcd_unless_a_directory_is_named() {
    let members =
        |options: store::etcd::Options| -> Vec<String> { options.endpoints.iter().map(ToString::to_string).collect() };
    assert_eq!(members(etcd(&[], &[])), ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    let env = [("FLANNELD_ETCD_ENDPOINTS", "https://a:1,https://b:2"), ("FLANNELD_ETCD_CAFILE", "/ca")];
    assert_eq!(members(etcd(&[], &env)), ["https://a:1", "https://b:2"]);
    assert_eq!(members(etcd(&["-etcd-endpoints=https://c:3"], &env)), ["https://c:3"]);
    let names = [("FLANNELD_ETCD_USERNAME", "me"), ("FLANNELD_ETCD_PASSWORD", "hunter2")];
    let options = run(&["--etcd-endpoints=http://a:1"], &names);
    assert!(options.warnings.iter().any(|warning| warning.contains("unencrypted")), "{:?}", options.warnings);
    assert!(!format!("{options:?}").contains("hunter2"));
    assert_eq!(run(&["-store-dir=/a", "-etcd-cafile=", "-etcd-endpoints", ""], &[]).store, embedded("/a"));
}

#[test]
fn mistakes_are_said_at_once_and_say_no_secret() {
    let args = [
        "-store-dir=/a",
        "-etcd-prefix=/..",
        "-etcd-endpoints=ftp://a:1",
        "-etcd-keyfile=/k",
        "-etcd-password=hunter2",
    ];
    let text = parse_with(&args, &[]).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines.iter().all(|line| line.starts_with("flanneld: --")), "{text}");
    assert!(text.contains("--store-dir and --etcd-endpoints, --etcd-keyfile, --etcd-password:"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_password_in_the_wrong_place_is_not_repeated() {
    for args in [
        &["-etcd-pasword=hunter2"][..],
        &["-etcd-password", "hunter2", "-bad"],
        &["word", "-etcd-password=hunter2"],
        &["word", "-etcd-password", "hunter2"],
    ] {
        let text = match parse_with(args, &[]) {
            Ok(Command::Run(options)) => options.warnings.join(" "),
            Ok(Command::Print(text)) => text,
            Err(error) => error.to_string(),
        };
        assert!(!text.contains("hunter2") && !text.is_empty(), "{args:?}: {text}");
    }
}

#[test]
fn packet_rules_are_as_the_flags_say() {
    let rules = |args: &[&str], env: &[(&str, &str)]| run(&[&["-store-dir=/a"], args].concat(), env).rules;
    assert_eq!(rules(&[], &[]), Rules { masquerade: None, forward: true });
    assert_eq!(rules(&["-iptables-forward-rules=F"], &[]), Rules::default());
    let masquerade = |fully_random, exclude: &[&str]| {
        let exclude = exclude.iter().map(|net| net.parse().unwrap()).collect();
        Rules { masquerade: Some(Masquerade { fully_random, exclude }), forward: true }
    };
    assert_eq!(rules(&[], &[("FLANNELD_IP_MASQ", "true")]), masquerade(true, &[]));
    let flags = ["--ip-masq", "-ip-masq-fully-random-disable", "--ip-masq-exclude=10.0.0.1/8,fd00::/8"];
    assert_eq!(rules(&flags, &[]), masquerade(false, &["10.0.0.0/8", "fd00::/8"]));
    let twice = ["--ip-masq", "--ip-masq-exclude", "10.0.0.0/8", "--ip-masq-exclude", "192.0.2.0/24"];
    assert_eq!(rules(&twice, &[]), masquerade(true, &["10.0.0.0/8", "192.0.2.0/24"]));
    assert_eq!(rules(&["--ip-masq", "--ip-masq-exclude="], &[]), masquerade(true, &[]));
    let warnings = run(&["-store-dir=/a", "--ip-masq-exclude=10.0.0.0/8"], &[]).warnings;
    assert_eq!(warnings, ["--ip-masq-exclude has no effect without --ip-masq"]);
    for value in ["10.0.0.0", "10.0.0.0/33", "x"] {
        let error = parse_with(&["-store-dir=/a", "--ip-masq-exclude", value], &[]).unwrap_err().to_string();
        assert!(error.contains("is not a network (CIDR)"), "{error}");
    }
}

#[test]
fn health_is_on_loopback_unless_told_otherwise() {
    let options = |args: &[&str]| run(&[&["-store-dir=/a"], args].concat(), &[]);
    assert_eq!(options(&[]).health, None);
    assert_eq!(options(&["-healthz-port", "8471"]).health, "127.0.0.1:8471".parse().ok());
    assert_eq!(options(&["--healthz-port=8471", "-healthz-ip=0.0.0.0"]).health, "0.0.0.0:8471".parse().ok());
    assert_eq!(options(&["-healthz-ip=::", "-healthz-port=0"]).health, None);
    assert!(options(&["-ip-blackhole-route"]).blackhole_route && options(&["-ip-blackhole-route=t"]).blackhole_route);
    assert!(!options(&["-ip-blackhole-route=false", "-v", "0"]).blackhole_route && !options(&[]).blackhole_route);
    let warnings = options(&["-vmodule=vxlan=4", "-log_backtrace_at", "a.go:1"]).warnings.join("; ");
    assert!(
        warnings.contains("--vmodule has no effect") && warnings.contains("--log_backtrace_at has no effect"),
        "{warnings}"
    );
}
