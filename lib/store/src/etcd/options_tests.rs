use super::*;

fn asked(endpoints: &str) -> Asked {
    Asked { endpoints: Some(endpoints.into()), ..Asked::default() }
}

fn shown(options: &Options) -> Vec<String> {
    options.endpoints.iter().map(ToString::to_string).collect()
}

#[test]
fn the_default_is_upstreams() {
    let options = Options::check(Asked::default()).unwrap();
    assert_eq!(shown(&options), ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    assert_eq!((&options.tls, &options.login), (&TlsFiles::default(), &None));
    assert!(options.warnings.is_empty());
}

#[test]
fn endpoints_are_a_list_of_urls() {
    let options = Options::check(asked("http://a:1, HTTPS://b.example:2379/,[fd00::1]:2379,10.0.0.1:2379")).unwrap();
    assert_eq!(
        shown(&options),
        ["http://a:1", "https://b.example:2379", "http://[fd00::1]:2379", "http://10.0.0.1:2379"]
    );
}

#[test]
fn every_bad_endpoint_is_named_with_its_reason() {
    let bad = "http://a,unix:///run/etcd:1,http://h:0,http://h:99999,http://fd00::1:2379,http://h:1/v3,,http://:2379";
    let mistakes = Options::check(asked(bad)).unwrap_err();
    let reasons = [
        (r#""http://a""#, "HOST:PORT"),
        ("unix", "begins with http"),
        ("h:0", "HOST:PORT"),
        ("h:99999", "HOST:PORT"),
        ("fd00::1:2379", "brackets"),
        ("/v3", "no path"),
        (r#""""#, "HOST:PORT"),
        ("http://:2379", "HOST:PORT"),
    ];
    assert_eq!(mistakes.len(), reasons.len(), "{mistakes:#?}");
    for (mistake, (text, reason)) in mistakes.iter().zip(reasons) {
        assert!(mistake.contains(text) && mistake.contains(reason), "{mistake}: {text} {reason}");
    }
}

#[test]
fn a_password_is_never_shown() {
    let mistakes = Options::check(asked("http://me:hunter2@h:2379")).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert!(!mistakes[0].contains("hunter2") && mistakes[0].contains("--etcd-username"), "{mistakes:?}");
    let login =
        Asked { username: Some("me".into()), password: Some(Secret::new("hunter2".into())), ..asked("https://h:2379") };
    assert!(!format!("{login:?}").contains("hunter2"));
    let options = Options::check(login).unwrap();
    assert!(!format!("{options:?}").contains("hunter2"), "{options:?}");
    assert_eq!(options.login.as_ref().map(|login| login.password.expose()), Some("hunter2"));
    assert!(options.warnings.is_empty(), "{:?}", options.warnings);
}

#[test]
fn contradictions_are_said_at_once() {
    let wrong = Asked { key_file: Some("key".into()), password: Some(Secret::new("x".into())), ..asked("ftp://h:1") };
    let mistakes = Options::check(wrong).unwrap_err();
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    let wrong = Asked { cert_file: Some("cert".into()), username: Some("me".into()), ..Asked::default() };
    assert_eq!(
        Options::check(wrong).unwrap_err(),
        ["--etcd-certfile needs --etcd-keyfile", "--etcd-username needs --etcd-password"]
    );
}

#[test]
fn certificates_mean_tls() {
    let ca = Asked { ca_file: Some("ca".into()), ..asked("http://h:1,https://i:2") };
    let options = Options::check(ca).unwrap();
    assert_eq!(shown(&options), ["https://h:1", "https://i:2"]);
    assert!(options.warnings[0].contains("using https://"), "{:?}", options.warnings);
    let pair = Asked { key_file: Some("k".into()), cert_file: Some("c".into()), ..asked("https://i:2") };
    let options = Options::check(pair).unwrap();
    assert_eq!(options.tls.pair, Some(("c".into(), "k".into())));
    assert!(options.warnings.is_empty());
    let empty = Asked { ca_file: Some("".into()), key_file: Some("".into()), ..asked("http://h:1") };
    assert_eq!(shown(&Options::check(empty).unwrap()), ["http://h:1"], "an empty flag says nothing");
}

#[test]
fn a_password_in_the_clear_is_worth_a_warning() {
    let login = Asked { username: Some("me".into()), password: Some(Secret::new("x".into())), ..asked("http://h:1") };
    assert!(Options::check(login).unwrap().warnings[0].contains("unencrypted"));
}
