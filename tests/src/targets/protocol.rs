//! Targets: input from a container runtime and from a delegate.

use cni::args::Args;
use cni::conf::Conf;
use cni::result::AddResult;
use cni::runtime::NetworkList;
use cni::version::Version;
use gojson::Json;
use plugins::flannel;

use super::owned;

/// A document that is read and printed can be read again. Its name is safe in a path.
pub fn conf(bytes: &[u8]) {
    if let Ok(tree) = Json::parse(bytes) {
        // numbers keep their value, but not always their text
        let text = tree.compact();
        let again = Json::parse(text.as_bytes());
        assert_eq!(again.map(|again| again.compact()), Ok(text));
        assert_eq!(tree.sorted().sorted(), tree.sorted());
    }
    let Ok(conf) = Conf::parse(bytes) else { return };
    assert!(!conf.name.is_empty() && !conf.name.contains('/') && !conf.name.starts_with('.'), "{:?}", conf.name);
    assert_eq!(conf.bytes, bytes);
    if let Some(prev) = &conf.prev_result {
        encoded(prev);
    }
}

pub fn conf_seeds() -> Vec<Vec<u8>> {
    owned(&[
        r#"{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"cni0","isDefaultGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.22.0.0/16"}]]},
            "prevResult":{"interfaces":[{"name":"eth0","mac":"0e:00:00:00:00:01","sandbox":"/n"}],"ips":[{"interface":0,"address":"10.22.0.2/16","gateway":"10.22.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.1"]}}}"#,
        r#"{"CNIVERSION":"0.2.0","Name":"n","prevResult":{"ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"::/0"}]}},"cni.dev/valid-attachments":[{"containerID":"c","ifname":"e"}]}"#,
    ])
}

/// Each plugin of an accepted list has a type. A list has no plugins if they are in files beside it.
pub fn list(bytes: &[u8]) {
    let (list, single) = (NetworkList::parse(bytes), NetworkList::parse_single(bytes));
    assert!(single.as_ref().map_or(true, |list| list.plugins.len() == 1));
    for list in [list, single].into_iter().flatten() {
        assert!(!list.name.is_empty() && (!list.plugins.is_empty() || !list.load_only_inlined_plugins));
        assert!(list.plugins.iter().all(|plugin| !plugin.kind.is_empty()));
    }
}

pub fn list_seeds() -> Vec<Vec<u8>> {
    let mut seeds = owned(&[
        r#"{"cniVersion":"1.1.0","cniVersions":["1.0.0","1.1.0"],"name":"l","disableCheck":true,"disableGC":false,"plugins":[{"type":"bridge","capabilities":{"mac":true}},{"type":"portmap"}]}"#,
    ]);
    seeds.extend(conf_seeds());
    seeds
}

/// A network inside a plugin's configuration. Mistakes are reported as text.
pub fn network(bytes: &[u8]) {
    let Ok(tree) = Json::parse(bytes) else { return };
    assert_eq!(flannel::FLANNEL.mistakes(&tree), None);
    for plugin in [flannel::VXLAN, flannel::DIRECT_ROUTING, flannel::HOST_GW] {
        let mistakes = plugin.mistakes(&tree).unwrap_or_default();
        assert!(mistakes.iter().all(|mistake| !mistake.is_empty()));
    }
}

pub fn network_seeds() -> Vec<Vec<u8>> {
    owned(&[
        r#"{"network":"10.244.0.0/16","subnet":"10.244.1.0/24","peers":[{"subnet":"10.244.2.0/24","publicIP":"192.0.2.2","vtepMAC":"0e:00:00:00:00:02"}],"vni":7,"port":4789,"mtu":1400,"gbp":true,"learning":true,"iface":"eth0","vtepMAC":"0e:00:00:00:00:01","publicIP":"192.0.2.1"}"#,
        r#"{"ipv6Network":"fd10::/48","ipv6Subnet":"fd10:0:0:1::/64","peers":[{"ipv6Subnet":"fd10:0:0:2::/64","publicIPv6":"2001:db8::2","vtepMACv6":"0e:00:00:00:00:02"},{"ipv6Subnet":"fd10:0:0:1::/64","publicIPv6":"2001:db8::1"}],"publicIPv6":"2001:db8::1"}"#,
    ])
}

/// CNI_ARGS: a value that is read is part of the text.
pub fn args(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(args) = Args::parse(text, &["IP", "MAC", "K8S_POD_NAME"]) else { return };
    for key in ["IP", "MAC", "K8S_POD_NAME"] {
        assert!(args.get(key).is_none_or(|value| text.contains(&format!("{key}={value}"))));
    }
}

pub fn args_seeds() -> Vec<Vec<u8>> {
    owned(&["IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.0.0.9", "MAC=0e:00:00:00:00:01;IgnoreUnknown=true;X=y"])
}

/// A delegate's result is encoded for every version that can express it, and read the same again.
pub fn result(bytes: &[u8]) {
    for version in Version::ALL {
        if let Ok(result) = AddResult::parse(bytes, *version) {
            encoded(&result);
        }
    }
}

pub(super) fn encoded(result: &AddResult) {
    for version in Version::ALL {
        let Ok(text) = result.encode(*version) else { continue };
        let again = AddResult::parse(text.as_bytes(), *version);
        assert!(again.is_ok(), "{again:?}: {text}");
        // older versions cannot express all of it
        if *version == Version::NEWEST {
            assert_eq!(again.as_ref(), Ok(result), "{text}");
        }
    }
}

pub fn result_seeds() -> Vec<Vec<u8>> {
    owned(&[
        r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"0e:00:00:00:00:01","mtu":1450,"sandbox":"/n","pciID":"x","socketPath":"/s"}],"ips":[{"interface":0,"address":"10.22.0.2/16","gateway":"10.22.0.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.22.0.1","mtu":1300,"advmss":1260,"priority":9,"table":100,"scope":0}],"dns":{"nameservers":["10.0.0.1"],"domain":"d","search":["s"],"options":["o"]}}"#,
        r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.22.0.2/16"},{"version":"6","address":"fd00::2/64"}]}"#,
        r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/64"}}"#,
    ])
}
