//! Counts what one attachment asks of the kernel, so that it cannot grow unnoticed. The benchmark measures times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flannelctl::install::install;
use kernel::diff::diff;
use kernel::state::{Link, LinkKind, Scope, State, Veth, VethPeer};
use kernel::types::IfName;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::{Outcome, executables, figure};
use tests::strace::{Counts, Traced};

/// A /16 has this many addresses for pods: neither its own, nor the gateway's, nor the broadcast address.
const PODS: u32 = 65_533;

struct Counter {
    files: tempfile::TempDir,
    bin: PathBuf,
}

impl Counter {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let bin = files.path().join("bin");
        install(&executables().unwrap().plugins, &bin).unwrap();
        Self { files, bin }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Calls `conf.type` under strace; it must succeed.
    fn count(&self, command: &str, room: &Room, conf: &Value) -> Counts {
        let (netns, path) = (room.path().display().to_string(), self.bin.display().to_string());
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", netns.rsplit('/').next().unwrap()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", &path),
        ];
        let program = self.bin.join(conf["type"].as_str().unwrap());
        let stdin = conf.to_string();
        let traced = Traced { program: &program, variables: &variables, stdin: stdin.as_bytes() };
        let (output, counts) = traced.run(self.files.path()).unwrap();
        assert!(output.status.success(), "{output:?}");
        figure(format_args!("{} {command}: {counts:?}", conf["type"]));
        counts
    }

    /// The same without strace, for what is not counted.
    fn call(&self, command: &str, room: &Room, conf: &Value) {
        let netns = room.path().display().to_string();
        let mut child = Command::new(self.bin.join(conf["type"].as_str().unwrap()))
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", netns.rsplit('/').next().unwrap())])
            .envs([("CNI_NETNS", netns.as_str()), ("CNI_IFNAME", "eth0")])
            .env("CNI_PATH", &self.bin)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn ipam(&self) -> Value {
        json!({ "type": "host-local", "dataDir": self.path("networks"), "ranges": [[{ "subnet": "10.9.1.0/24" }]] })
    }

    fn bridge(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
            "ipam": self.ipam(),
        })
    }

    /// host-local alone, for a network of its own.
    fn host_local(&self, network: &str, subnet: &str) -> Value {
        let data = self.path("networks");
        let ipam = json!({ "type": "host-local", "dataDir": data, "ranges": [[{ "subnet": subnet }]] });
        json!({ "cniVersion": "1.0.0", "name": network, "type": "host-local", "ipam": ipam })
    }
}

/// bridge → host-local is one program with few calls, on an existing bridge, and with some more on a new one.
pub fn bridge_and_host_local_are_few_calls_of_one_program() -> Outcome {
    let counter = Counter::new();
    let conf = counter.bridge();
    let (first, second) = (Room::create("first")?, Room::create("second")?);
    let new = counter.count("ADD", &first, &conf);
    let add = counter.count("ADD", &second, &conf);
    let del = counter.count("DEL", &second, &conf);
    assert_eq!((new.execs, add.execs, del.execs), (1, 1, 1));
    // the debug build, linked to glibc, whose start is some 40 calls; the released one makes 109
    assert!(add.calls <= 160, "{add:?}");
    // the first also makes the bridge, and asks for its number
    assert!(add.sends <= 8 && new.sends <= 10, "{add:?} {new:?}");
    Ok(())
}

/// A pair without a bridge, with static: one program, and no more than a bridge costs.
pub fn ptp_and_static_are_few_calls_of_one_program() -> Outcome {
    let counter = Counter::new();
    let room = Room::create("pod")?;
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "ptp",
        "ipam": {
            "type": "static", "addresses": [{ "address": "10.9.1.2/24", "gateway": "10.9.1.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    let (add, del) = (counter.count("ADD", &room, &conf), counter.count("DEL", &room, &conf));
    assert_eq!((add.execs, del.execs), (1, 1));
    assert!(add.sends <= 8 && add.calls <= 160, "{add:?}");
    Ok(())
}

/// portmap asks for the route to the pod, looks at the chains, and adds two elements per port and family.
pub fn portmap_is_three_messages_to_the_kernel() -> Outcome {
    let counter = Counter::new();
    let bridge = counter.bridge();
    let mut calls = Vec::new();
    for (name, port) in [("first", 8080), ("second", 8081)] {
        let room = Room::create(name)?;
        let container =
            std::collections::BTreeMap::from([("name", "eth0"), ("sandbox", room.path().to_str().unwrap())]);
        counter.call("ADD", &room, &bridge);
        let address = if port == 8080 { "10.9.1.2/24" } else { "10.9.1.3/24" };
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "portmap",
            "runtimeConfig": { "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }] },
            "prevResult": {
                "cniVersion": "1.0.0", "interfaces": [container], "ips": [{ "address": address, "interface": 0 }],
            },
        });
        calls.push((counter.count("ADD", &room, &conf), counter.count("DEL", &room, &conf)));
    }
    for (add, del) in calls {
        assert!(add.execs == 1 && add.sends <= 3, "{add:?}");
        // generation, elements, transaction, and the tracked connections of the port
        assert!(del.execs == 1 && del.sends <= 4, "{del:?}");
    }
    Ok(())
}

/// flannel → bridge → host-local is one program, too.
pub fn flannel_and_its_delegates_are_one_program() -> Outcome {
    let counter = Counter::new();
    let env = counter.path("subnet.env");
    let text = "FLANNEL_NETWORK=10.9.0.0/16\nFLANNEL_SUBNET=10.9.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write(&env, text)?;
    let data = counter.path("networks");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "flannel", "subnetFile": env, "dataDir": counter.path("flannel"),
        "ipam": { "type": "host-local", "dataDir": data }, "delegate": { "isDefaultGateway": true, "ipMasq": false },
    });
    let (first, second) = (Room::create("first")?, Room::create("second")?);
    counter.count("ADD", &first, &conf);
    let (add, del) = (counter.count("ADD", &second, &conf), counter.count("DEL", &second, &conf));
    assert_eq!((add.execs, del.execs), (1, 1));
    assert!(add.sends <= 8, "{add:?}");
    Ok(())
}

/// A network in the configuration costs only the check whether the host is in order.
pub fn a_network_without_flanneld_is_a_few_dumps_more() -> Outcome {
    let counter = Counter::new();
    let host = Room::create("host")?;
    let mut kernel = host.kernel()?;
    let eth0 = IfName::new("eth0")?;
    let peer = VethPeer { name: IfName::new("wire")?, mac: None, mtu: None, netns: None };
    let mut state = State::default();
    state.links.insert(eth0.clone(), Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) })));
    state.address(&eth0, "192.0.2.1/24".parse()?, true);
    let scope = Scope { keep: true, ..Scope::default() };
    kernel.apply(&diff(&state, &State::default(), &scope).steps).ok()?;
    let peers: Vec<Value> =
        (2..52).map(|n| json!({ "subnet": format!("10.9.{n}.0/24"), "publicIP": format!("192.0.2.{n}") })).collect();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "vxlan", "dataDir": counter.path("flannel"), "iface": "eth0",
        "network": "10.9.0.0/16", "subnet": "10.9.1.0/24", "peers": peers,
        "ipam": { "type": "host-local", "dataDir": counter.path("networks") },
        "delegate": { "isDefaultGateway": true, "ipMasq": false },
    });
    let (first, second) = (Room::create("first")?, Room::create("second")?);
    host.enter(|| counter.count("ADD", &first, &conf))?;
    let (add, del) = host.enter(|| (counter.count("ADD", &second, &conf), counter.count("DEL", &second, &conf)))?;
    assert_eq!((add.execs, del.execs), (1, 1));
    // of the bridge's 8 and what flannel with subnet.env needs; the host's state is 13 questions
    assert!(add.sends <= 8 + 13 && add.calls <= 300, "{add:?}");
    // DEL does not look at the host's state
    assert!(del.sends <= 8, "{del:?}");
    Ok(())
}

/// The cost of an address does not depend on how many are taken, nor on where the free ones are.
pub fn a_nearly_full_range_costs_what_an_empty_one_does() -> Outcome {
    let counter = Counter::new();
    let taken = PODS / 10 * 9;
    let empty = counter.host_local("empty", "10.9.1.0/24");
    let cost = |conf: &Value| -> Result<usize, Box<dyn std::error::Error>> {
        let network = conf["name"].as_str().unwrap();
        let room = |name: &str| Room::create(&format!("{network}-{name}"));
        // the first reads what another program wrote, once
        counter.call("ADD", &room("one")?, conf);
        let (two, three) = (counter.count("ADD", &room("two")?, conf), counter.count("ADD", &room("three")?, conf));
        assert_eq!((two.execs, two.calls), (1, three.calls), "{network}");
        Ok(two.calls)
    };
    let expected = cost(&empty)?;
    for (network, last) in [("tail", taken), ("wrap", PODS - 1), ("middle", taken / 2)] {
        let conf = counter.host_local(network, "10.8.0.0/16");
        fill(&counter.path("networks").join(network), taken, last)?;
        let calls = cost(&conf)?;
        // a map of 65,536 addresses is read in a piece or two more than one of 256
        assert!(calls <= expected + 4, "{network}: {calls} system calls, {expected} in an empty /24");
    }
    Ok(())
}

/// Reservations of the first `taken` addresses of 10.8.0.0/16, in upstream's layout; `last` is the one given last.
fn fill(dir: &Path, taken: u32, last: u32) -> std::io::Result<()> {
    let address = |n: u32| std::net::Ipv4Addr::from(0x0a08_0002 + n).to_string();
    fs::create_dir_all(dir)?;
    for n in 0..taken {
        fs::write(dir.join(address(n)), format!("c{n}\r\neth0"))?;
    }
    fs::write(dir.join("last_reserved_ip.0"), address(last))
}
