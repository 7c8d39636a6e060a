//! The default list of each runtime and distribution, as it is installed: ADD, traffic, CHECK, DEL, and nothing is left.

use std::collections::BTreeMap;
use std::fs;

use cni::result::AddResult;
use cni::runtime::{Attachment, NetworkList, Runtime, RuntimeError};
use cni::version::Version;
use gojson::Json;
use lab::netns::Room;

use crate::host::{Host, Whose, nothing_left, run, serve};
use crate::{Failure, Outcome};

/// flannel's manifest.
const KUBE_FLANNEL: &str = r#"{
  "name": "cbr0", "cniVersion": "0.3.1",
  "plugins": [
    { "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}"#;

const K3S: &str = r#"{
  "name": "cbr0", "cniVersion": "1.0.0",
  "plugins": [
    { "type": "flannel", "delegate": { "hairpinMode": true, "forceAddress": true, "isDefaultGateway": true } },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "bandwidth", "capabilities": { "bandwidth": true } }
  ]
}"#;

/// 87-podman-bridge.conflist of podman 4.
const PODMAN: &str = r#"{
  "cniVersion": "0.4.0", "name": "podman",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }]]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "firewall" },
    { "type": "tuning" }
  ]
}"#;

const NERDCTL: &str = r#"{
  "cniVersion": "1.0.0", "name": "bridge",
  "nerdctlID": "17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121",
  "nerdctlLabels": { "nerdctl/default-network": "true" },
  "plugins": [
    {
      "type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "ranges": [[{ "gateway": "10.4.0.1", "subnet": "10.4.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }],
        "type": "host-local"
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "firewall", "ingressPolicy": "same-bridge" },
    { "type": "tuning" }
  ]
}"#;

/// Of containerd's documentation of CRI.
const CONTAINERD: &str = r#"{
  "cniVersion": "1.0.0", "name": "containerd-net",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
      "ipam": {
        "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "2001:db8:4860::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}"#;

const CRIO: &str = r#"{
  "cniVersion": "1.0.0", "name": "crio",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        "ranges": [[{ "subnet": "10.85.0.0/16" }], [{ "subnet": "1100:200::/24" }]]
      }
    }
  ]
}"#;

/// Nomad's bridge network.
const NOMAD: &str = r#"{
  "cniVersion": "0.4.0", "name": "nomad",
  "plugins": [
    { "type": "loopback" },
    {
      "type": "bridge", "bridge": "nomad", "ipMasq": true, "isGateway": true, "forceAddress": true, "hairpinMode": false,
      "ipam": {
        "type": "host-local", "ranges": [[{ "subnet": "172.26.64.0/20" }]], "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN" },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }
  ]
}"#;

const BUILDKIT: &str = r#"{
  "cniVersion": "1.0.0", "name": "buildkit",
  "plugins": [
    { "type": "loopback" },
    {
      "type": "bridge", "bridge": "buildkit0", "isDefaultGateway": true, "ipMasq": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.10.0.0/16" }]] }
    },
    { "type": "firewall", "ingressPolicy": "same-bridge" }
  ]
}"#;

/// kind's.
const KINDNET: &str = r#"{
  "cniVersion": "0.3.1", "name": "kindnet",
  "plugins": [
    {
      "type": "ptp", "ipMasq": false,
      "ipam": {
        "type": "host-local", "dataDir": "/run/cni-ipam-state", "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": "10.244.0.0/24" }]]
      },
      "mtu": 1500
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}"#;

/// What flanneld writes.
const SUBNET_ENV: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

const WHOSE: [Whose; 3] = [Whose::Ours, Whose::OursThenTheirs, Whose::TheirsThenOurs];

/// A pod of this list on each mixture of plugins. `words` begin its addresses.
fn lives_and_goes(list: &str, words: &[&str]) -> Outcome {
    let host = Host::new(Whose::Ours)?;
    fs::create_dir_all("/run/flannel")?;
    fs::write("/run/flannel/subnet.env", SUBNET_ENV)?;
    let list = NetworkList::parse(list.as_bytes())?;
    for whose in WHOSE {
        host.install(whose)?;
        // a bridge of the others has no mark of ours
        for plugin in &list.plugins {
            let bridge = plugin.conf.get("bridge").and_then(Json::as_str).unwrap_or("cni0");
            let _ = run("ip", &["link", "del", bridge]);
        }
        pod(&host, &list, whose, words).map_err(|error| format!("{whose:?}: {error}"))?;
    }
    Ok(())
}

fn pod(host: &Host, list: &NetworkList, whose: Whose, words: &[&str]) -> Outcome {
    let runtime = Runtime::new(host.bin.to_string_lossy(), "/var/lib/cni");
    let room = Room::create("pod")?;
    let attachment = Attachment {
        container_id: "a-container".into(),
        netns: room.path().to_string_lossy().into_owned(),
        ifname: "eth0".into(),
        args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())],
        capability_args: capabilities()?,
    };
    let result = runtime.add(list, &attachment)?;
    is_published(host, list, &room, &result)?;
    match runtime.check(list, &attachment) {
        Err(RuntimeError::NoCheck(_)) => assert!(list.version < Version::V040),
        // it looks for a route without a gateway as it is written
        Err(error) if whose == Whose::TheirsThenOurs => {
            let known = ["not found in routing table", "could not check ipv6 dnat"];
            assert!(known.iter().any(|text| error.to_string().contains(text)), "{error}");
        }
        // Debian's portmap looks for rules of IPv6 that it does not make
        Err(error) if host.bin.join("portmap").is_symlink() => {
            assert!(error.to_string().contains("could not check ipv6 dnat"), "{error}");
        }
        checked => checked?,
    }
    runtime.del(list, &attachment)?;
    nothing_left(words)?;
    runtime.del(list, &attachment)?;
    room.remove()?;
    Ok(())
}

/// Whether the pod is reached from outside, where the list publishes ports.
fn is_published(host: &Host, list: &NetworkList, room: &Room, result: &AddResult) -> Outcome {
    assert!(!result.ips.is_empty(), "{result:?}");
    if !list.plugins.iter().any(|plugin| plugin.kind == "portmap") {
        return Ok(());
    }
    let server = serve(room.path(), 80, b"published".to_vec())?;
    assert_eq!(host.fetch(8080)?, "published");
    server.done()
}

/// What a runtime has for the capabilities of lists.
fn capabilities() -> Result<BTreeMap<String, Json>, Failure> {
    let ports = r#"[{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]"#;
    let bandwidth =
        r#"{ "ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000 }"#;
    let parse = |(key, text): (&str, &str)| Ok((key.to_owned(), Json::parse(text.as_bytes())?));
    [("portMappings", ports), ("bandwidth", bandwidth)].into_iter().map(parse).collect()
}

pub fn kube_flannel() -> Outcome {
    lives_and_goes(KUBE_FLANNEL, &["10.244.3."])
}

pub fn k3s() -> Outcome {
    lives_and_goes(K3S, &["10.244.3."])
}

pub fn podman() -> Outcome {
    lives_and_goes(PODMAN, &["10.88.0."])
}

pub fn nerdctl() -> Outcome {
    lives_and_goes(NERDCTL, &["10.4.0."])
}

pub fn containerd() -> Outcome {
    lives_and_goes(CONTAINERD, &["10.88.0.", "2001:db8:4860::"])
}

pub fn crio() -> Outcome {
    lives_and_goes(CRIO, &["10.85.0.", "1100:200::"])
}

pub fn nomad() -> Outcome {
    lives_and_goes(NOMAD, &["172.26.64."])
}

pub fn buildkit() -> Outcome {
    lives_and_goes(BUILDKIT, &["10.10.0."])
}

pub fn kindnet() -> Outcome {
    lives_and_goes(KINDNET, &["10.244.0."])
}
