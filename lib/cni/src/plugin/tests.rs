use std::io;
use std::sync::Mutex;

use gojson::Json;

use super::*;
use crate::result::IpConfig;

/// A CNI_NETNS that the fake plugin rejects.
const REFUSED: &str = "/refused";

/// Records its calls and replies as its configuration says.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<String>>,
    versions: Option<&'static [Version]>,
}

impl Fake {
    fn seen(&self, what: &str) {
        self.calls.lock().unwrap().push(what.to_owned());
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Plugin for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn versions(&self) -> &'static [Version] {
        self.versions.unwrap_or(Version::ALL)
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        match request.env.netns.as_str() {
            REFUSED => Err(Error::new(code::INVALID_NETNS, "not this one")),
            _ => Ok(()),
        }
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        self.seen("add");
        match request.conf.tree().get("do").and_then(Json::as_str) {
            Some("panic") => panic!("of <{}>", request.conf.name),
            Some("fail") => Err(Error::internal("no")),
            Some("layer2") => Ok(AddResult::default()),
            _ => {
                let address = "10.0.0.2/24".parse().unwrap();
                let ips = vec![IpConfig { interface: None, address, gateway: None }];
                Ok(AddResult { ips, ..AddResult::default() })
            }
        }
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        self.seen(if request.conf.prev_result.is_some() { "del with prev" } else { "del" });
        Ok(())
    }

    fn check(&self, _: &Request<'_>) -> Result<(), Error> {
        self.seen("check");
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
struct Said {
    status: u8,
    stdout: String,
    stderr: String,
}

const COMPLETE: &[(&str, &str)] =
    &[("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/nowhere/ns"), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/nowhere")];

fn call(fake: &Fake, vars: &[(&str, &str)], stdin: &str) -> Said {
    let lookup = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = serve(fake, &[fake], &lookup, &mut stdin.as_bytes(), &mut stdout, &mut stderr);
    Said { status, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

fn with(command: &'static str, more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut vars = vec![("CNI_COMMAND", command)];
    vars.extend(more);
    vars.extend(COMPLETE);
    vars
}

fn complaint(fake: &Fake, command: &'static str, stdin: &str) -> (u32, String, String) {
    let said = call(fake, &with(command, &[]), stdin);
    assert_eq!((said.status, said.stderr.as_str()), (1, ""), "{said:?}");
    assert!(!said.stdout.contains("cniVersion") && !said.stdout.ends_with('\n'));
    let error: Error = gojson::decode(said.stdout.as_bytes()).unwrap();
    (error.code, error.msg, error.details)
}

fn quiet(status: u8) -> Said {
    Said { status, stdout: String::new(), stderr: String::new() }
}

#[test]
fn without_a_command_it_introduces_itself() {
    let said = call(&Fake::default(), &[], "");
    assert_eq!((said.status, said.stdout.as_str()), (0, ""));
    let mut lines = said.stderr.lines();
    assert!(lines.next().unwrap().starts_with("CNI fake plugin v"));
    assert_eq!(lines.next(), Some("CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"));
    assert_eq!(lines.next(), None);
}

#[test]
fn a_call_of_a_trace_is_logged() {
    const SPAN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let conf = r#"{"cniVersion":"1.0.0","name":"n","type":"fake"}"#;
    let said = call(&Fake::default(), &with("DEL", &[("TRACEPARENT", SPAN)]), conf);
    assert_eq!((said.status, said.stderr), (0, format!("fake: DEL of c@eth0: TRACEPARENT={SPAN}\n")));
    for text in ["", "nothing", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"] {
        assert_eq!(call(&Fake::default(), &with("DEL", &[("TRACEPARENT", text)]), conf), quiet(0), "{text:?}");
    }
}

struct Unreadable;

impl io::Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("gone"))
    }
}

#[test]
fn version_reads_no_stdin() {
    let fake = Fake { versions: Some(&[Version::V040, Version::V100]), ..Fake::default() };
    let mut stdout = Vec::new();
    let vars = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
    assert_eq!(serve(&fake, &[], &vars, &mut Unreadable, &mut stdout, &mut io::sink()), 0);
    assert_eq!(stdout, b"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.4.0\",\"1.0.0\"]}\n");
}

#[test]
fn an_unreadable_stdin_is_an_io_error() {
    let mut stdout = Vec::new();
    let vars = |name: &str| with("ADD", &[]).iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    assert_eq!(serve(&Fake::default(), &[], &vars, &mut Unreadable, &mut stdout, &mut io::sink()), 1);
    let error: Error = gojson::decode(&stdout).unwrap();
    assert_eq!(error, Error::new(5, "error reading from stdin: gone"));
}

#[test]
fn checks_come_in_the_go_librarys_order() {
    let fake = Fake::default();
    let missing = call(&fake, &[("CNI_COMMAND", "ADD")], "garbage");
    assert_eq!(
        missing.stdout,
        "{\n    \"code\": 4,\n    \"msg\": \"required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing\"\n}"
    );
    let text = |t: &str| t.to_owned();
    let nothing = String::new();
    assert_eq!(complaint(&fake, "FOO", "{}"), (7, text("missing network name"), nothing.clone()));
    assert_eq!(complaint(&fake, "FOO", r#"{"name":"n"}"#), (4, text("unknown CNI_COMMAND: FOO"), nothing.clone()));
    assert_eq!(
        complaint(&fake, "ADD", ""),
        (6, text("error unmarshall network config: unexpected end of JSON input"), nothing.clone())
    );
    assert_eq!(complaint(&fake, "ADD", r#"{"cniVersion":"9.9.9"}"#).0, 7);
    assert_eq!(
        complaint(&fake, "ADD", r#"{"name":"n","cniVersion":"9.9.9"}"#),
        (
            1,
            text("incompatible CNI versions"),
            text(r#"config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#)
        )
    );
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[test]
fn commands_need_their_version() {
    let fake = Fake::default();
    for (command, version, allowed) in [
        ("CHECK", "0.3.1", false),
        ("CHECK", "", false),
        ("CHECK", "0.4.0", true),
        ("GC", "1.0.0", false),
        ("GC", "1.1.0", true),
        ("STATUS", "1.0.0", false),
        ("STATUS", "1.1.0", true),
        ("DEL", "", true),
    ] {
        let stdin = format!(r#"{{"name":"n","cniVersion":"{version}","cni.dev/valid-attachments":[]}}"#);
        if allowed {
            assert_eq!(call(&fake, &with(command, &[]), &stdin), quiet(0), "{command} {version}");
        } else {
            let (code, msg, _) = complaint(&fake, command, &stdin);
            assert_eq!((code, msg), (1, format!("config version does not allow {command}")));
        }
    }
    let unknown = call(&fake, &with("GC", &[]), r#"{"name":"n","cniVersion":"1.1.0"}"#);
    assert_eq!(
        (unknown.status, unknown.stderr),
        (0, "fake: GC without cni.dev/valid-attachments removes nothing\n".into())
    );
    assert_eq!(complaint(&fake, "CHECK", r#"{"name":"n","cniVersion":"abc"}"#).0, 6);
    assert_eq!(complaint(&fake, "CHECK", r#"{"name":"n","cniVersion":"9.9.9"}"#).0, 1);
    let old = Fake { versions: Some(&[Version::V040]), ..Fake::default() };
    assert_eq!(complaint(&old, "ADD", r#"{"name":"n"}"#).2, r#"config is "0.1.0", plugin supports ["0.4.0"]"#);
}

#[test]
fn results_are_printed_in_the_configs_version() {
    let fake = Fake::default();
    let said = call(&fake, &with("ADD", &[]), r#"{"name":"n","cniVersion":"0.3.1"}"#);
    assert_eq!(
        said.stdout,
        "{\n    \"cniVersion\": \"0.3.1\",\n    \"ips\": [\n        {\n            \"version\": \"4\",\n            \"address\": \"10.0.0.2/24\"\n        }\n    ],\n    \"dns\": {}\n}"
    );
    assert_eq!((said.status, fake.calls()), (0, vec!["add".to_owned()]));
}

#[test]
fn an_add_whose_result_fits_no_old_version_is_undone() {
    let fake = Fake::default();
    let (code, msg, _) = complaint(&fake, "ADD", r#"{"name":"n","do":"layer2"}"#);
    assert_eq!((code, msg.as_str()), (999, "cannot convert: no valid IP addresses"));
    assert_eq!(fake.calls(), ["add", "del"]);
}

#[test]
fn a_panic_is_an_answer() {
    let (code, msg, details) = complaint(&Fake::default(), "ADD", r#"{"name":"n","do":"panic"}"#);
    assert_eq!((code, details.as_str()), (999, "this is a bug"));
    assert!(msg.starts_with("panic: of <n> (") && msg.contains("tests.rs:"), "{msg}");
    assert_eq!(complaint(&Fake::default(), "ADD", r#"{"name":"n","do":"fail"}"#).1, "no");
}

#[test]
fn a_namespace_is_refused_before_the_work() {
    let fake = Fake::default();
    let stdin = r#"{"name":"n","cniVersion":"1.0.0"}"#;
    for command in ["ADD", "CHECK"] {
        let said = call(&fake, &with(command, &[("CNI_NETNS", REFUSED)]), stdin);
        let error: Error = gojson::decode(said.stdout.as_bytes()).unwrap();
        assert_eq!((said.status, error.code), (1, 8));
        assert_eq!(fake.calls(), Vec::<String>::new(), "nothing was done");
        assert_eq!(call(&fake, &with(command, &[]), stdin).status, 0);
        assert_eq!(fake.calls().len(), 1);
    }
    // for DEL it is gone
    assert_eq!(call(&fake, &with("DEL", &[("CNI_NETNS", REFUSED)]), stdin).status, 0);
    // the other commands do not check it
    let stdin = r#"{"name":"n","cniVersion":"1.1.0"}"#;
    assert_eq!(call(&fake, &with("STATUS", &[("CNI_NETNS", REFUSED)]), stdin).status, 0);
}

#[test]
fn a_damaged_prev_result_stops_add_but_not_del() {
    let fake = Fake::default();
    let bad = r#"{"name":"n","cniVersion":"1.0.0","prevResult":{"cniVersion":"0.4.0"}}"#;
    assert!(complaint(&fake, "ADD", bad).1.starts_with("could not parse prevResult: result type supports"));
    let said = call(&fake, &with("DEL", &[]), bad);
    assert_eq!((said.status, said.stdout.as_str()), (0, ""));
    assert!(said.stderr.starts_with("fake: DEL continues without prevResult: "), "{}", said.stderr);
    assert_eq!(fake.calls(), ["del"]);
    let good = r#"{"name":"n","cniVersion":"1.0.0","prevResult":{}}"#;
    assert_eq!(call(&fake, &with("DEL", &[]), good), quiet(0));
    assert_eq!(fake.calls(), ["del with prev"]);
}

struct Full;

impl io::Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let mut stderr = Vec::new();
    let vars = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
    assert_eq!(serve(&Fake::default(), &[], &vars, &mut io::empty(), &mut Full, &mut stderr), 1);
    let text = String::from_utf8(stderr).unwrap();
    assert!(text.starts_with("fake: VERSION: the answer cannot be written to stdout: "), "{text}");
}

#[test]
fn found_by_base_name() {
    let fake = Fake::default();
    let suite: [&dyn Plugin; 1] = [&fake];
    assert!(find(&suite, "/opt/cni/bin/fake").is_some());
    assert!(find(&suite, "fake").is_some());
    assert!(find(&suite, "/opt/fake/").is_none());
    assert!(find(&suite, "fakes").is_none());
}
