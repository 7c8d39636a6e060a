use overlay::status::Status;

fn run(args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    format!("{:?}", crate::run(&args, &Default::default()))
}

#[test]
fn exit_codes_that_need_no_kernel() {
    use std::process::ExitCode;
    for (args, code) in [
        (&["--bogus"][..], 64),
        (&["--store-dir=/a", "--etcd-cafile=/b"], 64),
        (&["--kube-subnet-mgr"], 64),
        (&["--log-format=xml"], 64),
        (&["-h"], 0),
        (&["--version"], 0),
    ] {
        assert_eq!(run(args), format!("{:?}", ExitCode::from(code)), "{args:?}");
    }
}

#[test]
fn a_start_that_fails_says_why_to_the_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut alone = std::process::Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net"]).arg(exe);
    alone
        .args(["--exact", "daemon::tests::without_a_network", "--ignored", "--nocapture"])
        .env("DAEMON_TEST_DIR", dir.path());
    let output = alone.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let status = std::fs::read(dir.path().join("run/status.json")).unwrap();
    let error = serde_json::from_slice::<Status>(&status).unwrap().last_error.unwrap();
    assert!(error.starts_with("unable to find default route"), "{error}");
    assert!(!dir.path().join("run/subnet.env").exists());
}

#[test]
#[ignore = "run by a_start_that_fails_says_why_to_the_plugin"]
fn without_a_network() {
    let dir = std::path::PathBuf::from(std::env::var_os("DAEMON_TEST_DIR").expect("only run by another test"));
    let config = store::config_path(&dir, "n");
    store::files::replace(&config, br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let (store, file) =
        (format!("-store-dir={}", dir.display()), format!("-subnet-file={}/run/subnet.env", dir.display()));
    assert_eq!(run(&[&store, "-etcd-prefix=n", &file]), format!("{:?}", std::process::ExitCode::FAILURE));
}
