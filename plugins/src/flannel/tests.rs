use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cni::plugin::Plugin;
use gojson::Json;

use super::*;
use crate::SUITE;
use crate::attach::Delegation;

const DUAL: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_IPV6_NETWORK=fd05::/56\n\
                    FLANNEL_IPV6_SUBNET=fd05:0:0:4d::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

/// Records every call and its document, and fails if the file `broken` exists.
const FAKE: &str = r#"#!/bin/sh
echo "$(basename $0) $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >>$(dirname $0)/calls
cat >$(dirname $0)/document
if [ -e $(dirname $0)/broken ]; then echo '{"code":100,"msg":"broken delegate"}'; exit 1; fi
if [ $CNI_COMMAND = ADD ]; then echo '{"cniVersion":"1.0.0","ips":[{"address":"10.5.97.2/24"}]}'; fi
"#;

/// A host with flanneld's files and a delegate that records its calls.
struct World {
    dir: tempfile::TempDir,
    plugin: &'static Delegation<Flannel>,
    rest: String,
    ifname: &'static str,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        for kind in ["bridge", "ptp"] {
            let fake = dir.path().join("bin").join(kind);
            fs::write(&fake, FAKE).unwrap();
            fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let world = Self { dir, plugin: &Delegation(FLANNEL), rest: String::new(), ifname: "eth0" };
        fs::create_dir(world.path("run")).unwrap();
        world.subnet_env(DUAL);
        world
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn subnet_env(&self, text: &str) {
        fs::write(self.path("run/subnet.env"), text).unwrap();
    }

    fn status_json(&self, text: &str) {
        fs::write(self.path("run/status.json"), text).unwrap();
    }

    fn run(&self, command: &str, id: &str) -> Result<String, Error> {
        let document = format!(
            r#"{{"cniVersion":"1.1.0","name":"cbr0","type":"flannel","subnetFile":"{}","dataDir":"{}"{}}}"#,
            self.path("run/subnet.env").display(),
            self.path("data").display(),
            self.rest
        );
        let bin = self.path("bin").display().to_string();
        let vars = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => id,
                "CNI_NETNS" => "/no/such/netns",
                "CNI_IFNAME" => self.ifname,
                "CNI_PATH" => &bin,
                _ => return None,
            };
            Some(value.to_owned())
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = cni::plugin::serve(self.plugin, SUITE, &vars, &mut document.as_bytes(), &mut out, &mut err);
        let out = String::from_utf8(out).unwrap();
        if status == 0 { Ok(out) } else { Err(gojson::decode(out.as_bytes()).unwrap()) }
    }

    /// The calls since the last time.
    fn calls(&self) -> String {
        let calls = fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("bin/calls"));
        calls.lines().collect::<Vec<_>>().join(", ")
    }

    fn document(&self) -> String {
        fs::read_to_string(self.path("bin/document")).unwrap()
    }

    fn states(&self) -> String {
        let Ok(entries) = fs::read_dir(self.path("data")) else { return String::new() };
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    }

    fn state(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path("data")).unwrap();
        fs::write(self.path("data").join(name), content).unwrap();
    }
}

#[test]
fn the_delegates_configuration_is_upstreams_byte_for_byte() {
    let mut world = World::new();
    world.rest = r#","ipam":{"dataDir":"/d","routes":[{"dst":"192.0.2.0/24","junk":1}],"ranges":"mine"},
        "delegate":{"isDefaultGateway":true,"hairpinMode":true,"runtimeConfig":1,"cniVersion":"0.1.0"},
        "runtimeConfig":{"portMappings":[{"hostPort":80}]},"prevResult":{"ips":[]}"#
        .to_owned();
    let result = world.run("ADD", "c1").unwrap();
    assert!(result.contains("10.5.97.2/24") && result.contains("1.1.0"), "{result}");
    let want = r#"{"cniVersion":"1.1.0","hairpinMode":true,"ipMasq":false,"ipam":{"dataDir":"/d","ranges":[[{"subnet":"10.5.97.0/24"}],[{"subnet":"fd05:0:0:4d::/64"}]],"routes":[{"dst":"192.0.2.0/24"},{"dst":"10.5.0.0/16"},{"dst":"fd05::/56"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","runtimeConfig":{"portMappings":[{"hostPort":80}]},"type":"bridge"}"#;
    assert_eq!(world.document(), want);
    assert_eq!(world.calls(), "bridge ADD c1 eth0");
    for name in ["c1", "c1@eth0"] {
        let path = world.path("data").join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), want);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(world.path("data")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_the_user_sets_is_kept() {
    let mut world = World::new();
    world.subnet_env("FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\nFLANNEL_SUBNET=10.5.97.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n");
    world.rest = r#","delegate":{"type":"ptp","MTU":1400,"ipMasq":false},"ipam":{"type":"other",
        "routes":[{"dst":"10.9.0.0/16","gw":"10.5.97.9","mtu":1300,"advmss":1260,"priority":9,"table":100,"scope":0}]}"#
        .to_owned();
    world.run("ADD", "c1").unwrap();
    assert_eq!(
        world.document(),
        r#"{"MTU":1400,"cniVersion":"1.1.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.97.0/24"}]],"routes":[{"dst":"10.9.0.0/16","gw":"10.5.97.9","mtu":1300,"advmss":1260,"priority":9,"table":100,"scope":0},{"dst":"10.5.0.0/16"},{"dst":"10.6.0.0/16"}],"type":"other"},"name":"cbr0","type":"ptp"}"#
    );
    world.rest.clear();
    world.run("ADD", "c2").unwrap();
    let document = world.document();
    assert!(document.contains(r#""ipMasq":true,"#), "flanneld does not, so the bridge must: {document}");
    let networks = r#""ipMasqExclude":["10.5.0.0/16","10.6.0.0/16"],"#;
    assert!(document.contains(networks), "pods of other hosts see a pod's own address: {document}");
}

#[test]
fn mistakes_are_reported_at_once() {
    let mut world = World::new();
    world.rest = r#","delegate":{"name":"x","IPAM":{},"type":7},"ipam":{"type":"","routes":[{}]}"#.to_owned();
    fs::remove_file(world.path("run/subnet.env")).unwrap();
    let error = world.run("ADD", "c1").unwrap_err();
    assert_eq!(error.code, 7);
    assert_eq!(
        error.msg,
        "'delegate' dictionary must not have 'name' field, it'll be set by flannel; 'delegate' dictionary must not have \
         'ipam' field, it'll be set by flannel; 'delegate' dictionary, if present, must have (string) 'type' field; \
         ipam.routes[0] has no address; 'ipam' dictionary, if present, must have (string) 'type' field"
    );
    world.rest = r#","delegate":[],"ipam":"x""#.to_owned();
    assert_eq!(world.run("STATUS", "").unwrap_err().msg, "'delegate' must be an object; 'ipam' must be an object");
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.calls(), "bridge DEL c1 eth0", "DEL has no use for a refusal");
    assert_eq!(world.states(), "");
}

#[test]
fn without_subnet_env_flanneld_is_asked_why() {
    let world = World::new();
    fs::remove_file(world.path("run/subnet.env")).unwrap();
    let error = world.run("ADD", "c1").unwrap_err();
    let sentence = format!(
        "failed to load flannel 'subnet.env' file: open {}: no such file or directory. Check the flannel pod log for this node.",
        world.path("run/subnet.env").display()
    );
    assert_eq!((error.code, error.msg.as_str()), (11, sentence.as_str()));
    assert_eq!(error.details, "flanneld has not finished starting on this host, or does not run");
    world.status_json(r#"{"backend":"","directRouting":false,"lastError":"store: no \"config\"","peers":[]}"#);
    let error = world.run("ADD", "c1").unwrap_err();
    assert!(error.details.ends_with(r#"its last error was "store: no \"config\"""#), "{}", error.details);
    let status = world.run("STATUS", "").unwrap_err();
    assert_eq!((status.code, status.msg, status.details), (50, error.msg, error.details));
    world.subnet_env("FLANNEL_MTU=1450\n");
    let error = world.run("ADD", "c1").unwrap_err();
    assert!(error.msg.contains("is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"), "{error}");
    assert_eq!(world.run("STATUS", "").unwrap_err().code, 50);
    assert_eq!((world.calls(), world.states()), (String::new(), String::new()));
}

#[test]
fn a_network_may_insist_on_a_data_path() {
    let mut world = World::new();
    let paths = [
        (&Delegation(VXLAN), r#"{"backend":"vxlan","directRouting":false}"#),
        (&Delegation(DIRECT_ROUTING), r#"{"backend":"vxlan","directRouting":true}"#),
        (&Delegation(HOST_GW), r#"{"backend":"host-gw","directRouting":false}"#),
    ];
    for (runs, status) in paths {
        world.status_json(status);
        for (plugin, _) in paths {
            world.plugin = plugin;
            if plugin.name() == runs.name() {
                world.run("ADD", "c1").unwrap();
                world.run("STATUS", "").unwrap();
                continue;
            }
            let error = world.run("ADD", "c2").unwrap_err();
            let (wanted, runs) = (plugin.name(), runs.name());
            let sentence = format!("{wanted}: the network asks for {wanted}, but flanneld on this host runs {runs}: ");
            assert!(error.code == 11 && error.msg.starts_with(&sentence), "{error}");
            assert_eq!(world.run("STATUS", "").unwrap_err().code, 50);
            world.run("DEL", "c1").unwrap();
        }
        world.plugin = &Delegation(FLANNEL);
        world.run("ADD", "c1").unwrap();
    }
    world.plugin = &Delegation(HOST_GW);
    for unknown in ["garbage", "{}", r#"{"backend":7}"#] {
        world.status_json(unknown);
        world.run("ADD", "c1").unwrap();
    }
    fs::remove_file(world.path("run/status.json")).unwrap();
    world.run("ADD", "c1").unwrap();
}

#[test]
fn del_keeps_the_state_until_the_delegate_succeeded() {
    let mut world = World::new();
    world.run("ADD", "c1").unwrap();
    let added = world.document();
    world.calls();
    fs::write(world.path("bin/broken"), "").unwrap();
    fs::remove_file(world.path("run/subnet.env")).unwrap();
    for _ in 0..2 {
        assert_eq!(world.run("DEL", "c1").unwrap_err(), Error::new(100, "broken delegate"));
        assert_eq!(world.states(), "c1 c1@eth0");
    }
    fs::remove_file(world.path("bin/broken")).unwrap();
    world.rest = r#","prevResult":{"cniVersion":"1.1.0","ips":[]},"delegate":{"type":"ptp"}"#.to_owned();
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.calls(), ["bridge DEL c1 eth0"; 3].join(", "), "as added, not as configured now");
    let with_previous =
        added.strip_suffix('}').unwrap().to_owned() + r#","prevResult":{"cniVersion":"1.1.0","ips":[]}}"#;
    assert_eq!(world.document(), with_previous);
    assert_eq!(world.states(), "");
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.calls(), "ptp DEL c1 eth0", "without state the configuration says what to reach");
}

#[test]
fn interfaces_of_a_container_have_their_own_state() {
    let mut world = World::new();
    world.run("ADD", "c1").unwrap();
    world.ifname = "net1";
    world.rest = r#","delegate":{"type":"ptp"}"#.to_owned();
    world.run("ADD", "c1").unwrap();
    assert_eq!(world.states(), "c1 c1@eth0 c1@net1");
    world.ifname = "eth0";
    world.calls();
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.calls(), "bridge DEL c1 eth0");
    assert_eq!(world.states(), "c1 c1@net1");
    world.ifname = "net1";
    world.run("DEL", "c1").unwrap();
    assert_eq!((world.calls().as_str(), world.states().as_str()), ("ptp DEL c1 net1", ""));
}

#[test]
fn del_without_a_state_takes_none_of_another_interface() {
    let mut world = World::new();
    world.run("ADD", "c1").unwrap();
    world.ifname = "net1";
    world.rest = r#","delegate":{"type":"ptp"}"#.to_owned();
    world.calls();
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.calls(), "ptp DEL c1 net1", "not what eth0's state says");
    assert_eq!(world.states(), "c1 c1@eth0");
}

#[test]
fn what_go_left_is_read_and_removed() {
    let world = World::new();
    world.state("c1", r#"{"name":"cbr0","type":"ptp","cniVersion":"0.3.1"}"#);
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.document(), r#"{"name":"cbr0","type":"ptp","cniVersion":"0.3.1"}"#);
    assert_eq!((world.calls().as_str(), world.states().as_str()), ("ptp DEL c1 eth0", ""));
}

#[test]
fn a_damaged_state_does_not_keep_del_from_the_delegate() {
    let world = World::new();
    for (name, damage) in [("c1", ""), ("c1@eth0", "{\"type\":"), ("c1", "[]"), ("c1@eth0", "{}"), ("c1", "\u{0}\u{0}")]
    {
        for with_subnet_env in [true, false] {
            world.state(name, damage);
            if !with_subnet_env {
                fs::remove_file(world.path("run/subnet.env")).unwrap();
            }
            world.run("DEL", "c1").unwrap();
            assert_eq!(world.calls(), "bridge DEL c1 eth0");
            assert_eq!(world.document().contains("10.5.97.0/24"), with_subnet_env);
            assert_eq!(world.states(), "");
            world.subnet_env(DUAL);
        }
    }
    fs::remove_file(world.path("run/subnet.env")).unwrap();
    world.run("DEL", "c1").unwrap();
    assert_eq!(
        world.document(),
        r#"{"cniVersion":"1.1.0","ipam":{"type":"host-local"},"isGateway":true,"name":"cbr0","type":"bridge"}"#
    );
}

#[test]
fn check_reaches_the_delegate_with_the_result_of_add() {
    let mut world = World::new();
    world.run("ADD", "c1").unwrap();
    world.rest = r#","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.5.97.2/24"}]}"#.to_owned();
    world.calls();
    world.run("CHECK", "c1").unwrap();
    let document = Json::parse(world.document().as_bytes()).unwrap();
    assert_eq!(world.calls(), "bridge CHECK c1 eth0");
    assert!(document.get("prevResult").is_some() && document.get("ipam").is_some());
    fs::write(world.path("bin/broken"), "").unwrap();
    assert_eq!(world.run("CHECK", "c1").unwrap_err().code, 100);
}

#[test]
fn gc_reaches_the_delegate_and_drops_this_networks_stale_states() {
    let mut world = World::new();
    for id in ["a", "b"] {
        world.run("ADD", id).unwrap();
    }
    world.state("go", r#"{"name":"cbr0","type":"bridge"}"#);
    world.state("else@eth0", r#"{"name":"other","type":"bridge"}"#);
    world.state("unknown", "");
    world.rest = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#.to_owned();
    world.calls();
    fs::write(world.path("bin/broken"), "").unwrap();
    assert_eq!(world.run("GC", "").unwrap_err().code, 100);
    assert!(world.states().contains("b@eth0"), "kept until the delegate succeeded");
    fs::remove_file(world.path("bin/broken")).unwrap();
    world.run("GC", "").unwrap();
    assert_eq!(world.calls(), "bridge GC  eth0, bridge GC  eth0");
    let document = world.document();
    assert!(document.contains(r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#), "{document}");
    assert_eq!(world.states(), "a a@eth0 else@eth0");
    world.rest = r#","cni.dev/valid-attachments":[]"#.to_owned();
    world.run("GC", "").unwrap();
    assert_eq!(world.states(), "else@eth0");
}

#[test]
fn a_state_that_cannot_be_written_stops_add_before_the_delegate() {
    let mut world = World::new();
    fs::write(world.path("data"), "a file").unwrap();
    let error = world.run("ADD", "c1").unwrap_err();
    assert!(error.code == 5 && error.msg.starts_with("flannel: cannot write "), "{error}");
    assert_eq!(world.calls(), "");
    world.run("DEL", "c1").unwrap();
    assert_eq!(world.calls(), "bridge DEL c1 eth0", "DEL reaches the delegate all the same");
    world.rest = r#","cni.dev/valid-attachments":[]"#.to_owned();
    world.run("GC", "").unwrap();
    assert_eq!(world.calls(), "bridge GC  eth0", "where no state can be there is none");
}
