use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// Plugins that record every call. They reply with the file `answer-<name>`, or fail with `fail-<name>-<COMMAND>`.
struct World {
    dir: TempDir,
}

const RECORDER: &str = r#"#!/bin/sh
cd "$(dirname "$0")" && name=$(basename "$0")
{ echo "$name $CNI_COMMAND [$CNI_CONTAINERID|$CNI_NETNS|$CNI_IFNAME|$CNI_ARGS]"; cat; echo; } >>calls
if [ -e "fail-$name-$CNI_COMMAND" ]; then cat "fail-$name-$CNI_COMMAND"; exit 1; fi
if [ "$CNI_COMMAND" = ADD ]; then cat "answer-$name"; fi
"#;

const ANSWER: &str = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}"#;

impl World {
    fn new(plugins: &[&str]) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        for name in plugins {
            world.write(name, RECORDER);
            fs::set_permissions(world.file(name), fs::Permissions::from_mode(0o755)).unwrap();
            world.write(&format!("answer-{name}"), ANSWER);
        }
        world
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    fn runtime(&self) -> Runtime<'static> {
        Runtime::new(self.dir.path().to_str().unwrap(), self.file("cache"))
    }

    /// The calls since the last look: alternately call and document.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.file("calls"));
        text.lines().map(str::to_owned).collect()
    }

    fn verbs(&self) -> Vec<String> {
        self.calls().iter().step_by(2).map(|c| c.split(" [").next().unwrap().to_owned()).collect()
    }
}

fn list(version: &str) -> NetworkList {
    let plugins = r#"[{"type":"one","mtu":1500.0,"capabilities":{"portMappings":true,"ips":false}},{"type":"two"}]"#;
    NetworkList::parse(format!(r#"{{"cniVersion":"{version}","name":"net","plugins":{plugins}}}"#).as_bytes()).unwrap()
}

fn attachment() -> Attachment {
    let json = |text: &str| Json::parse(text.as_bytes()).unwrap();
    Attachment {
        container_id: "c1".into(),
        netns: "/run/netns/c1".into(),
        ifname: "eth0".into(),
        args: vec![("IgnoreUnknown".into(), "1".into()), ("K".into(), "v".into())],
        capability_args: [("portMappings".into(), json(r#"[{"hostPort":80}]"#)), ("ips".into(), json("[]"))].into(),
    }
}

const CALL: &str = "[c1|/run/netns/c1|eth0|IgnoreUnknown=1;K=v]";
const PREV: &str = r#""prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}"#;
const ONE: &str = r#"{"capabilities":{"ips":false,"portMappings":true},"cniVersion":"1.1.0","mtu":1500,"name":"net""#;
const PORTS: &str = r#""runtimeConfig":{"portMappings":[{"hostPort":80}]}"#;

#[test]
fn add_chains_results_and_caches_the_last() {
    let world = World::new(&["one", "two"]);
    let second = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.9/24"}],"dns":{"domain":"<d>"}}"#;
    world.write("answer-two", second);
    let result = world.runtime().add(&list("1.1.0"), &attachment()).unwrap();
    assert_eq!(result.dns.domain, "<d>");
    let expected = [
        format!("one ADD {CALL}"),
        format!(r#"{ONE},{PORTS},"type":"one"}}"#),
        format!("two ADD {CALL}"),
        format!(r#"{{"cniVersion":"1.1.0","name":"net",{PREV},"type":"two"}}"#),
    ];
    assert_eq!(world.calls(), expected);
    let file = world.file("cache/results/net-c1-eth0");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(world.file("cache")).unwrap().count(), 1, "no temporary file is left");
    let text = fs::read_to_string(file).unwrap();
    let (before, after) = text.split_once(r#""config":""#).unwrap();
    assert_eq!(before, r#"{"kind":"cniCacheV1","containerId":"c1","#);
    assert!(after.starts_with("eyJjbmlWZXJzaW9uIjoiMS4xLjAiLC"), "{after}");
    let rest = concat!(
        r#"","ifName":"eth0","networkName":"net","netns":"/run/netns/c1","cniArgs":[["IgnoreUnknown","1"],["K","v"]],"#,
        r#""capabilityArgs":{"ips":[],"portMappings":[{"hostPort":80}]},"#,
        r#""result":{"cniVersion":"1.1.0","dns":{"domain":"\u003cd\u003e"},"ips":[{"address":"10.0.0.9/24"}]}}"#
    );
    assert!(after.ends_with(rest), "{after}");
}

#[test]
fn del_runs_backward_with_the_cached_result() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    runtime.add(&list("1.1.0"), &attachment()).unwrap();
    world.calls();
    runtime.del(&list("1.1.0"), &attachment()).unwrap();
    let expected = [
        format!("two DEL {CALL}"),
        format!(r#"{{"cniVersion":"1.1.0","name":"net",{PREV},"type":"two"}}"#),
        format!("one DEL {CALL}"),
        format!(r#"{ONE},{PREV},{PORTS},"type":"one"}}"#),
    ];
    assert_eq!(world.calls(), expected);
    assert!(!world.file("cache/results/net-c1-eth0").exists());
    runtime.del(&list("1.1.0"), &attachment()).unwrap();
    assert!(world.calls().iter().all(|line| !line.contains("prevResult")), "many DELs may come");
}

#[test]
fn del_stops_at_a_failure_and_keeps_the_cache() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    runtime.add(&list("1.1.0"), &attachment()).unwrap();
    world.write("fail-two-DEL", r#"{"code":11,"msg":"busy"}"#);
    world.calls();
    let error = runtime.del(&list("1.1.0"), &attachment()).unwrap_err();
    assert_eq!(error.to_string(), r#"plugin type="two" name="net" failed (delete): busy"#);
    assert_eq!(world.verbs(), ["two DEL"]);
    assert!(runtime.cached(&list("1.1.0"), &attachment()).unwrap().is_some());
}

#[test]
fn old_versions_get_no_prev_result_for_del_and_no_check() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    runtime.add(&list("0.3.1"), &attachment()).unwrap();
    assert!(world.calls()[3].contains(r#""prevResult":{"cniVersion":"0.3.1","#));
    runtime.del(&list("0.3.1"), &attachment()).unwrap();
    assert!(world.calls().iter().all(|line| !line.contains("prevResult")));
    let error = runtime.check(&list("0.3.1"), &attachment()).unwrap_err();
    assert_eq!(error.to_string(), r#"configuration version "0.3.1" does not support CHECK command"#);
    runtime.status(&list("1.0.0")).unwrap();
    runtime.gc(&list("1.0.0"), Some(&[])).unwrap();
    assert!(world.calls().is_empty());
}

#[test]
fn check_runs_forward_and_can_be_disabled() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    runtime.add(&list("1.1.0"), &attachment()).unwrap();
    world.calls();
    runtime.check(&list("1.1.0"), &attachment()).unwrap();
    let calls = world.calls();
    assert_eq!(calls[0], format!("one CHECK {CALL}"));
    assert!(calls[1].contains(PREV) && calls[3].contains(PREV));
    world.write("fail-one-CHECK", r#"{"code":999,"msg":"gone"}"#);
    let error = runtime.check(&list("1.1.0"), &attachment()).unwrap_err();
    assert_eq!(error.to_string(), r#"plugin type="one" name="net" failed (check): gone"#);
    assert_eq!(world.verbs(), ["one CHECK"]);
    runtime.check(&NetworkList { disable_check: true, ..list("1.1.0") }, &attachment()).unwrap();
    assert!(world.calls().is_empty());
}

#[test]
fn a_failed_add_is_undone_on_demand() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    world.write("fail-two-ADD", r#"{"code":11,"msg":"later"}"#);
    let error = runtime.add(&list("1.1.0"), &attachment()).unwrap_err();
    assert!(matches!(error, RuntimeError::Plugin { action: "add", source: Error { code: 11, .. }, .. }), "{error}");
    assert_eq!(world.verbs(), ["one ADD", "two ADD"]);
    assert!(!world.file("cache").exists());
    let error = runtime.add_or_undo(&list("1.1.0"), &attachment()).unwrap_err();
    assert_eq!(error.to_string(), r#"plugin type="two" name="net" failed (add): later"#);
    assert_eq!(world.verbs(), ["one ADD", "two ADD", "two DEL", "one DEL"]);
    world.write("fail-one-DEL", r#"{"code":5,"msg":"stuck"}"#);
    let error = runtime.add_or_undo(&list("1.1.0"), &attachment()).unwrap_err();
    assert!(error.to_string().ends_with(r#"undoing it failed: plugin type="one" name="net" failed (delete): stuck"#));
}

#[test]
fn hostile_attachments_reach_no_plugin_and_no_file() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    for (id, ifname) in [("../x", "eth0"), ("", "eth0"), ("c1", "a/b"), ("c1", "..")] {
        let bad = Attachment { container_id: id.into(), ifname: ifname.into(), ..attachment() };
        assert!(matches!(runtime.add(&list("1.1.0"), &bad), Err(RuntimeError::Attachment(_))));
        assert!(matches!(runtime.del(&list("1.1.0"), &bad), Err(RuntimeError::Attachment(_))));
        assert!(matches!(runtime.check(&list("1.1.0"), &bad), Err(RuntimeError::Attachment(_))));
    }
    assert!(world.calls().is_empty() && !world.file("cache").exists());
}

#[test]
fn gc_deletes_stale_attachments_then_asks_every_plugin() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    let other = NetworkList { name: "other".into(), ..list("1.1.0") };
    for (list, id) in [(list("1.1.0"), "keep"), (list("1.1.0"), "stale"), (other, "foreign")] {
        runtime.add(&list, &Attachment { container_id: id.into(), ..attachment() }).unwrap();
    }
    world.write("cache/results/garbage", "x");
    world.write("fail-two-GC", r#"{"code":5,"msg":"first"}"#);
    world.write("fail-one-GC", r#"{"code":5,"msg":"second"}"#);
    world.calls();
    let keep = conf::Attachment { container_id: "keep".into(), ifname: "eth0".into() };
    let error = runtime.gc(&list("1.1.0"), Some(&[keep])).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"plugin type="one" name="net" failed (gc): second; plugin type="two" name="net" failed (gc): first"#
    );
    let calls = world.calls();
    assert_eq!(calls[0], "two DEL [stale|/run/netns/c1|eth0|IgnoreUnknown=1;K=v]");
    assert!(calls[3].contains(PORTS), "cached arguments are used");
    assert_eq!(calls[4], "one GC [|||]");
    let valid = r#"[{"containerID":"keep","ifname":"eth0"}]"#;
    assert_eq!(
        calls[7],
        format!(
            r#"{{"cni.dev/attachments":{valid},"cni.dev/valid-attachments":{valid},"cniVersion":"1.1.0","name":"net","type":"two"}}"#
        )
    );
    let left: Vec<_> = runtime.attachments(&list("1.1.0")).unwrap().into_iter().map(|a| a.container_id).collect();
    assert_eq!(left, ["keep"]);
}

#[test]
fn gc_without_a_list_of_valid_ones() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    runtime.add(&list("1.1.0"), &attachment()).unwrap();
    world.calls();
    runtime.gc(&NetworkList { disable_gc: true, ..list("1.1.0") }, None).unwrap();
    assert!(world.calls().is_empty());
    runtime.gc(&list("1.1.0"), None).unwrap();
    let calls = world.calls();
    assert_eq!(calls.len(), 8);
    assert!(calls[0].starts_with("two DEL") && !calls[5].contains("cni.dev"), "{calls:?}");
    runtime.gc(&list("1.1.0"), Some(&[])).unwrap();
    assert!(world.calls()[1].contains(r#""cni.dev/valid-attachments":[]"#));
}

#[test]
fn status_stops_at_the_first_failure() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    runtime.status(&list("1.1.0")).unwrap();
    assert_eq!(world.calls()[..2], ["one STATUS [|||]".to_owned(), format!(r#"{ONE},"type":"one"}}"#)]);
    world.write("fail-one-STATUS", r#"{"code":50,"msg":"full"}"#);
    let error = runtime.status(&list("1.1.0")).unwrap_err();
    assert!(matches!(error, RuntimeError::Plugin { action: "status", source: Error { code: 50, .. }, .. }), "{error}");
    assert_eq!(world.verbs(), ["one STATUS"]);
}

#[test]
fn damaged_and_old_cache_files() {
    let world = World::new(&["one", "two"]);
    let runtime = world.runtime();
    fs::create_dir_all(world.file("cache/results")).unwrap();
    let file = "cache/results/net-c1-eth0";
    world.write(file, r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"},"dns":{}}"#);
    runtime.check(&list("1.1.0"), &attachment()).unwrap();
    assert!(world.calls()[1].contains(PREV), "a raw result of an old version is converted");
    for damage in ["", "{", r#"{"kind":"cniCacheV1","result":{"ips":[{}]}}"#] {
        world.write(file, damage);
        let error = runtime.check(&list("1.1.0"), &attachment()).unwrap_err().to_string();
        assert!(error.contains("net-c1-eth0 is damaged: "), "{error}");
        assert!(world.calls().is_empty());
        runtime.del(&list("1.1.0"), &attachment()).unwrap();
        assert!(!world.calls()[1].contains("prevResult"));
        assert!(!world.file(file).exists());
    }
}

fn parse(text: &str) -> Result<NetworkList, String> {
    NetworkList::parse(text.as_bytes()).map_err(|e| e.to_string())
}

#[test]
fn the_version_of_a_list() {
    let version = |members: &str| {
        parse(&format!(r#"{{"name":"n","plugins":[{{"type":"x"}}]{members}}}"#)).map(|list| list.version.to_string())
    };
    assert_eq!(version("").unwrap(), "0.1.0");
    assert_eq!(version(r#","cniVersion":"0.4.0""#).unwrap(), "0.4.0");
    assert_eq!(version(r#","cniVersion":"0.4.0","cniVersions":["0.3.1","1.0.0","9.0.0"]"#).unwrap(), "1.0.0");
    assert_eq!(version(r#","cniVersion":"9.0.0","cniVersions":["0.3.1"]"#).unwrap(), "0.3.1");
    assert_eq!(version(r#","cniVersion":"1.1.0","cniVersions":["0.3.1"]"#).unwrap(), "1.1.0");
    assert!(version(r#","cniVersion":"9.0.0""#).unwrap_err().contains(r#""9.0.0" is not a version"#));
    assert!(version(r#","cniVersions":"1.0.0""#).unwrap_err().contains("cniVersions"));
}

#[test]
fn booleans_of_a_list_may_be_texts() {
    let list = parse(r#"{"name":"n","plugins":[{"type":"x"}],"disableCheck":"TRUE","disableGC":true}"#).unwrap();
    assert!(list.disable_check && list.disable_gc && !list.load_only_inlined_plugins);
    let error = parse(r#"{"name":"n","plugins":[{"type":"x"}],"disableCheck":"yes"}"#).unwrap_err();
    assert_eq!(error, r#"error parsing configuration list: invalid value "yes" for disableCheck"#);
}

#[test]
fn lists_that_are_none() {
    let fail = |text: &str| parse(text).unwrap_err();
    assert_eq!(fail(""), "error parsing configuration list: unexpected end of JSON input");
    assert_eq!(fail("{}"), "error parsing configuration list: missing network name");
    assert!(fail(r#"{"name":"a/b"}"#).contains("invalid characters found in network name; a/b"));
    assert_eq!(fail(r#"{"name":"n","plugins":[]}"#), "error parsing configuration list: no plugins in list");
    assert_eq!(
        fail(r#"{"name":"n","loadOnlyInlinedPlugins":true}"#),
        "error parsing configuration list: no plugins in list"
    );
    assert_eq!(
        fail(r#"{"name":"n","plugins":[{"type":"x"},{}]}"#),
        "failed to parse plugin config 1: error parsing configuration: missing 'type'"
    );
    assert!(fail(r#"{"name":"n","plugins":[{"type":5}]}"#).starts_with("failed to parse plugin config 0: "));
}

fn names(dir: &Path) -> Vec<String> {
    let lists = NetworkList::load_dir(dir).unwrap();
    lists.into_iter().map(|list| list.map_or_else(|e| e.to_string(), |list| list.name)).collect()
}

#[test]
fn directories_load_in_order() {
    let world = World::new(&[]);
    world.write("20-b.conflist", r#"{"name":"b","plugins":[{"type":"x"}]}"#);
    world.write("30-a.conflist", r#"{"name":"a","cniVersion":"1.0.0"}"#);
    world.write("10-c.conf", r#"{"name":"c","cniVersion":"0.4.0","type":"x","mtu":5}"#);
    world.write("05-d.json", r#"{"name":"d"}"#);
    world.write("00-e.txt", "x");
    fs::create_dir(world.file("a")).unwrap();
    world.write("a/2.conf", r#"{"type":"second"}"#);
    world.write("a/1.conf", r#"{"type":"first"}"#);
    let dir = world.dir.path();
    let broken = format!(
        "{}: failed to parse plugin config 0: error parsing configuration: missing 'type'",
        world.file("05-d.json").display()
    );
    assert_eq!(names(dir), ["b", "a", &broken, "c"]);
    let a = NetworkList::find(dir, "a").unwrap();
    assert_eq!(a.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    let c = NetworkList::find(dir, "c").unwrap();
    assert_eq!(
        String::from_utf8(c.bytes).unwrap(),
        r#"{"cniVersion":"0.4.0","name":"c","plugins":[{"cniVersion":"0.4.0","mtu":5,"name":"c","type":"x"}]}"#
    );
    assert_eq!(NetworkList::find(dir, "z").unwrap_err().to_string(), broken);
    fs::remove_file(world.file("05-d.json")).unwrap();
    let error = NetworkList::find(dir, "z").unwrap_err().to_string();
    assert_eq!(error, format!("no net configuration with name \"z\" in {}", dir.display()));
    assert!(names(&world.file("nowhere")).is_empty());
    fs::remove_dir_all(world.file("a")).unwrap();
    assert!(NetworkList::find(dir, "a").unwrap_err().to_string().ends_with("no plugins in list"));
}
