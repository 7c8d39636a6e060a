use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::plugin::Request;
use crate::trace::Trace;

/// A directory of plugins that are shell scripts.
struct Scripts(TempDir);

impl Scripts {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, name: &str, body: &str) -> Self {
        fs::write(self.file(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }
}

fn env(path: &str) -> Env {
    Env {
        container_id: "c1".into(),
        netns: "/nowhere".into(),
        ifname: "eth0".into(),
        args: "A=b".into(),
        path: path.into(),
        netns_override: false,
        trace: None,
        opened: crate::env::Opened::default(),
    }
}

const CONF: &[u8] = br#"{"cniVersion": "1.0.0",  "name": "n", "type": "top"}"#;

/// One call through new delegates without a suite. The second part is what was written to stderr.
fn call<T>(path: &str, work: impl Fn(&Delegates<'_>, &Env) -> T) -> (T, String) {
    let written = RefCell::new(Vec::new());
    let say = |bytes: &[u8]| written.borrow_mut().extend_from_slice(bytes);
    let outcome = work(&Delegates::new(path, &[], Environ::Inherit, &say), &env(path));
    (outcome, String::from_utf8(written.take()).unwrap())
}

fn add(path: &str, kind: &str) -> (Result<AddResult, Error>, String) {
    call(path, |delegates, env| delegates.add(kind, CONF, env))
}

fn add_fails(path: &str, kind: &str) -> (u32, String) {
    let error = add(path, kind).0.unwrap_err();
    (error.code, error.msg)
}

#[test]
fn hostile_names_run_nothing() {
    let scripts = Scripts::new().with("x", "touch \"$(dirname \"$0\")/ran\"");
    fs::create_dir(scripts.file("sub")).unwrap();
    fs::create_dir(scripts.file("dir")).unwrap();
    let inside = format!("{}/sub", scripts.path());
    let absolute = scripts.file("x");
    for kind in ["../x", "sub/../../x", "./x", "..", ".", "a/b", absolute.to_str().unwrap(), "x\0"] {
        assert_eq!(add_fails(&inside, kind), (999, format!("invalid plugin name: {kind}")));
    }
    assert_eq!(add_fails(&inside, ""), (999, "no plugin name provided".into()));
    assert_eq!(add_fails("", "x"), (999, "no paths provided".into()));
    assert_eq!(add_fails("::", "x"), (999, "no paths provided".into()));
    let missing = |kind: &str| (999, format!("failed to find plugin \"{kind}\" in path [/nowhere {inside}]"));
    let path = format!("/nowhere::{inside}");
    assert_eq!(add_fails(&path, "x"), missing("x"));
    assert_eq!(add_fails(&path, "dir"), missing("dir"));
    assert!(!scripts.file("ran").exists());
}

#[test]
fn the_first_directory_wins() {
    let first = Scripts::new().with("x", r#"echo '{"dns":{"domain":"first"}}'"#);
    let second = Scripts::new().with("x", r#"echo '{"dns":{"domain":"second"}}'"#);
    let path = format!("/nowhere:{}:{}", first.path(), second.path());
    assert_eq!(add(&path, "x").0.unwrap().dns.domain, "first");
}

#[test]
fn the_delegate_gets_the_bytes_and_the_environment() {
    let body = r#"cd "$(dirname "$0")"; cat >stdin; env | grep ^CNI_ | sort >env; pwd -P >/dev/null
        echo "from $CNI_COMMAND" >&2; echo '{"ips":[{"address":"10.0.0.2/24"}]}'"#;
    let scripts = Scripts::new().with("x", body);
    let (result, written) = add(scripts.path(), "x");
    assert_eq!(result.unwrap().ips[0].address.to_string(), "10.0.0.2/24");
    assert_eq!(written, "from ADD\n");
    assert_eq!(scripts.read("stdin").as_bytes(), CONF);
    let expected = format!(
        "CNI_ARGS=A=b\nCNI_COMMAND=ADD\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=/nowhere\nCNI_PATH={}\n",
        scripts.path()
    );
    assert_eq!(scripts.read("env"), expected);
    type Verb = fn(&Delegates<'_>, &Env) -> Result<(), Error>;
    let verbs: [(&str, Verb); 4] = [
        ("DEL", |delegates, env| delegates.del("x", CONF, env)),
        ("CHECK", |delegates, env| delegates.check("x", CONF, env)),
        ("GC", |delegates, env| delegates.gc("x", CONF, env)),
        ("STATUS", |delegates, env| delegates.status("x", CONF, env)),
    ];
    for (command, work) in verbs {
        assert_eq!(call(scripts.path(), work), (Ok(()), format!("from {command}\n")));
    }
}

#[test]
fn only_the_given_environment() {
    let scripts = Scripts::new().with("x", r#"env >"$(dirname "$0")/env""#);
    let environ = Environ::Exactly(vec![("GIVEN".into(), "1".into()), ("CNI_COMMAND".into(), "ADD".into())]);
    let env = Env { netns_override: true, ..env(scripts.path()) };
    Delegates::new(scripts.path(), &[], environ, &|_| ()).del("x", CONF, &env).unwrap();
    let seen = scripts.read("env");
    assert!(seen.contains("GIVEN=1\n") && seen.contains("CNI_COMMAND=DEL\n"), "{seen}");
    assert!(seen.contains("CNI_NETNS_OVERRIDE=TRUE\n") && !seen.contains("CARGO"), "{seen}");
}

#[test]
fn a_call_gets_a_span_of_the_callers_trace() {
    let scripts = Scripts::new().with("x", r#"echo "$TRACEPARENT" >>"$(dirname "$0")/spans""#);
    let (trace, given) = (Trace::begin(), Environ::Exactly(Vec::new()));
    let delegates = Delegates::new(scripts.path(), &[], given, &|_| ());
    delegates.del("x", CONF, &env(scripts.path())).unwrap();
    let env = Env { trace: Some(trace), ..env(scripts.path()) };
    delegates.del("x", CONF, &env).unwrap();
    delegates.del("x", CONF, &env).unwrap();
    let spans = scripts.read("spans");
    let [none, one, two] = spans.lines().collect::<Vec<_>>()[..] else { panic!("{spans}") };
    assert!(none.is_empty() && one != two, "{spans}");
    for span in [one, two] {
        assert!(span.starts_with(&trace.to_string()[..36]) && span != trace.to_string(), "{span} of {trace}");
    }
}

#[test]
fn failures_pass_through() {
    let scripts = Scripts::new()
        .with("own", r#"echo '{"cniVersion":"x","code":11,"msg":"later","details":"d"}'; echo noise >&2; exit 3"#)
        .with("text", "echo 'no json'; exit 1")
        .with("stderr", "printf 'bad \"luck\"\\n' >&2; exit 1")
        .with("mute", "exit 7")
        .with("killed", "kill -9 $$");
    let own = add(scripts.path(), "own").0.unwrap_err();
    assert_eq!(own, Error::new(11, "later").with_details("d"));
    let (code, msg) = add_fails(scripts.path(), "text");
    assert_eq!(code, 0);
    let said =
        r#"netplugin failed but error parsing its diagnostic message "no json\n": expected ident at line 1 column 2"#;
    assert_eq!(msg, said);
    assert_eq!(add_fails(scripts.path(), "stderr"), (0, r#"netplugin failed: "bad \"luck\"\n""#.into()));
    assert_eq!(add_fails(scripts.path(), "mute"), (0, "netplugin failed with no error message: exit status 7".into()));
    let killed = (0, "netplugin failed with no error message: killed by signal 9".into());
    assert_eq!(add_fails(scripts.path(), "killed"), killed);
}

#[test]
fn a_file_that_cannot_run_is_named() {
    let scripts = Scripts::new();
    fs::write(scripts.file("data"), "x").unwrap();
    let (code, msg) = add_fails(scripts.path(), "data");
    assert_eq!(code, 0);
    let expected = format!("netplugin failed with no error message: exec {}/data: ", scripts.path());
    assert!(msg.starts_with(&expected), "{msg}");
}

#[test]
fn a_result_takes_the_configs_version() {
    let scripts = Scripts::new()
        .with("old", r#"echo '{"ip4":{"ip":"10.0.0.2/24"}}'"#)
        .with("null", "echo null")
        .with("bad", r#"echo '{"ips":5}'"#);
    let conf = br#"{"name":"n","cniVersion":"0.2.0"}"#;
    let (result, _) = call(scripts.path(), |delegates, env| delegates.add("old", conf, env));
    assert_eq!(result.unwrap().ips.len(), 1);
    assert_eq!(add(scripts.path(), "old").0.unwrap(), AddResult::default());
    assert_eq!(add(scripts.path(), "null").0.unwrap(), AddResult::default());
    let (code, msg) = add_fails(scripts.path(), "bad");
    assert_eq!(code, 999);
    assert!(msg.contains("/bad: its ADD succeeded but the result is unusable: ips: "), "{msg}");
}

#[test]
fn pipes_never_lock_up() {
    let megabyte = "x".repeat(1 << 20);
    let conf = format!(r#"{{"name":"n","pad":"{megabyte}"}}"#);
    let flood = "yes | head -c 300000";
    let scripts = Scripts::new()
        .with("echo", r#"cat >"$(dirname "$0")/got"; echo '{}'"#)
        .with("deaf", "exec <&-; echo '{}'")
        .with("loud", &format!("{flood} >&2; {flood} | tr 'y\\n' '  '; cat >/dev/null; echo '{{}}'"));
    for kind in ["echo", "deaf", "loud"] {
        let (result, written) = call(scripts.path(), |delegates, env| delegates.add(kind, conf.as_bytes(), env));
        assert_eq!(result.unwrap(), AddResult::default(), "{kind}");
        assert_eq!(written.len(), if kind == "loud" { 300_000 } else { 0 });
    }
    assert_eq!(scripts.read("got"), conf);
    for _ in 0..20 {
        assert!(add(scripts.path(), "deaf").0.is_ok(), "a small document to a closed pipe");
    }
}

#[test]
fn a_busy_file_is_tried_again() {
    let scripts = Scripts::new();
    fs::copy("/bin/true", scripts.file("x")).unwrap();
    let open = fs::OpenOptions::new().append(true).open(scripts.file("x")).unwrap();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| call(scripts.path(), |delegates, env| delegates.del("x", CONF, env)).0);
        let started = std::time::Instant::now();
        while started.elapsed().as_millis() < 30 {
            assert!(!busy.is_finished(), "the file is open for writing");
            std::thread::yield_now();
        }
        drop(open);
        assert_eq!(busy.join().unwrap(), Ok(()));
    });
}

/// A plugin in this process. Depending on its name it delegates to itself or panics.
struct Inner(&'static str);

impl Plugin for Inner {
    fn name(&self) -> &'static str {
        self.0
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        if self.0 == "loop" {
            return request.delegates.add("loop", &request.conf.bytes, request.env);
        }
        assert_ne!(self.0, "broken", "of its name");
        Err(Error::new(11, format!("in process for {}", request.env.container_id)).with_details("d"))
    }

    fn del(&self, _: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn check(&self, _: &Request<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Installs a suite: hard or symbolic links to this executable.
fn linked(scripts: &Scripts, name: &str) {
    std::os::unix::fs::symlink("/proc/self/exe", scripts.file(name)).unwrap();
}

#[test]
fn this_very_executable_runs_in_process() {
    let scripts = Scripts::new().with("scripted", "echo '{\"code\":5,\"msg\":\"script\"}'; exit 1");
    linked(&scripts, "inner");
    linked(&scripts, "loop");
    linked(&scripts, "broken");
    let suite: [&dyn Plugin; 4] = [&Inner("inner"), &Inner("scripted"), &Inner("loop"), &Inner("broken")];
    let delegates = Delegates::new(scripts.path(), &suite, Environ::Inherit, &|_| ());
    let env = env(scripts.path());
    let expected = Error::new(11, "in process for c1").with_details("d");
    assert_eq!(delegates.add("inner", CONF, &env), Err(expected));
    assert_eq!(delegates.add("scripted", CONF, &env).unwrap_err().msg, "script", "another file of that name is run");
    assert_eq!(delegates.gc("inner", CONF, &env).unwrap_err().msg, "config version does not allow GC");
    assert_eq!(delegates.add("inner", b"{}", &env).unwrap_err().msg, "missing network name");
    let nobody = Env { container_id: String::new(), ..env.clone() };
    assert_eq!(
        delegates.del("inner", CONF, &nobody).unwrap_err().msg,
        "required env variables [CNI_CONTAINERID] missing"
    );
    let endless = delegates.add("loop", CONF, &env).unwrap_err();
    assert_eq!((endless.code, endless.msg.as_str()), (7, "loop: delegates nest deeper than 8: does one name itself?"));
    for _ in 0..2 * MAX_DEPTH {
        let broken = delegates.add("broken", CONF, &env).unwrap_err();
        assert!(broken.msg.starts_with("panic: ") && broken.msg.contains("of its name"), "{broken}");
    }
    assert!(delegates.del("loop", CONF, &env).is_ok(), "the depth is counted back");
}

/// What `flannelctl install` makes: a file of its own under every name, all of one time.
#[test]
fn a_copy_of_one_installation_is_the_same_executable() {
    let scripts = Scripts::new().with("one", "exit 0").with("copy", "exit 0").with("other", "exit 00");
    let (whole, fine) = (Duration::from_secs(1_000_000_000), Duration::from_nanos(1_000_000_000_000_000_007));
    let stamp = |name: &str, since: Duration| {
        let file = fs::File::options().write(true).open(scripts.file(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + since).unwrap();
        file.metadata().unwrap()
    };
    let one = stamp("one", fine);
    assert!(is_same(&one, &stamp("one", fine)), "one inode");
    assert!(is_same(&one, &stamp("copy", fine)));
    assert!(!is_same(&one, &stamp("other", fine)), "of another size");
    assert!(!is_same(&one, &stamp("copy", fine + Duration::from_nanos(1))));
    assert!(!is_same(&stamp("one", whole), &stamp("copy", whole)), "an archive's time says nothing");
}
