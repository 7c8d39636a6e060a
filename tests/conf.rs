//! The program that reads each file of conf/ accepts it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cni::SUITE as NAMES;
use cni::runtime::{NetworkList, PluginConf, Runtime};
use cni::version::Version;
use flanneld::flags::{self, Command, Options};
use gojson::Json;
use kernel::types::{Family, Mtu};
use overlay::backend::Backend;
use overlay::backend::ipip::IpipConf;
use overlay::backend::udp::UdpConf;
use overlay::backend::vxlan::VxlanConf;
use overlay::backend::wireguard::WireguardConf;
use overlay::lease::Subnets;
use overlay::netconf::NetConf;
use overlay::status::{Status, path_beside};
use overlay::subnet_env::SubnetEnv;
use plugins::attach::Delegating;
use plugins::{SUITE, flannel};
use store::StoreOptions;

#[path = "conf/kubernetes.rs"]
mod kubernetes;

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(file)
}

fn read(file: &str) -> Vec<u8> {
    fs::read(path(file)).unwrap_or_else(|error| panic!("conf/{file}: {error}"))
}

/// A host that has a subnet, and a CNI_PATH to the plugins in this executable.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new(backend: &str, direct_routing: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A name that this executable does not serve would run this test again, recursively.
        for name in SUITE.iter().map(|plugin| plugin.name()) {
            symlink(std::env::current_exe().unwrap(), dir.path().join(name)).unwrap();
        }
        let env = SubnetEnv {
            networks: vec!["10.244.0.0/16".parse().unwrap()],
            subnets: Subnets { v4: Some("10.244.3.0/24".parse().unwrap()), v6: None },
            mtu: Mtu(1450),
            ipmasq: false,
        };
        let host = Self { dir };
        fs::write(host.subnet_file(), env.format()).unwrap();
        let status: Status = Status { backend: backend.into(), direct_routing, ..Status::default() };
        fs::write(path_beside(&host.subnet_file()), status.to_json()).unwrap();
        host
    }

    fn subnet_file(&self) -> PathBuf {
        self.dir.path().join("subnet.env")
    }

    /// STATUS of every plugin in the list succeeds: it has read its part completely, and could serve an ADD.
    fn status(&self, file: &str) -> Result<NetworkList, String> {
        let mut list = NetworkList::load(&path(file)).map_err(|error| error.to_string())?;
        let read = list.clone();
        // below 1.1.0 there is no STATUS
        list.version = Version::V110;
        list.plugins.iter_mut().for_each(|plugin| self.stay_here(plugin));
        let mut runtime = Runtime::new(self.dir.path().to_str().unwrap(), self.dir.path().join("cache"));
        runtime.suite = SUITE;
        runtime.status(&list).map_err(|error| error.to_string())?;
        Ok(read)
    }

    /// The same configuration with this host's files.
    fn stay_here(&self, plugin: &mut PluginConf) {
        let (data, subnet_file) = (self.dir.path().join("networks"), self.subnet_file());
        plugin.conf.set("subnetFile", subnet_file.to_str().unwrap().into());
        // flannel passes its delegate's settings on to IPAM.
        let mut ipam = plugin.conf.get("ipam").cloned().unwrap_or_else(|| Json::from_iter::<[(&str, Json); 0]>([]));
        ipam.set("dataDir", data.to_str().unwrap().into());
        plugin.conf.set("ipam", ipam);
    }
}

#[test]
fn networks_of_flannel_follow_the_host() {
    let lists = [
        ("cni/10-flannel.conflist", "flannel", ("vxlan", false)),
        ("cni/10-vxlan.conflist", "vxlan", ("vxlan", false)),
        ("cni/10-direct-routing.conflist", "direct-routing", ("vxlan", true)),
        ("cni/10-host-gw.conflist", "host-gw", ("host-gw", false)),
    ];
    for (file, kind, (backend, direct)) in lists {
        let list = Host::new(backend, direct).status(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!((list.name.as_str(), list.plugins.len()), ("cbr0", 1), "{file}");
        assert_eq!(list.plugins[0].kind, kind, "{file}");
        // The plugin that requires no data path works on every host.
        let other = Host::new("alloc", false).status(file);
        assert_eq!(other.is_ok(), kind == "flannel", "{file}: {other:?}");
    }
}

#[test]
fn networks_of_one_host_are_read_by_their_plugin_and_host_local() {
    let files = [
        ("cni/20-bridge.conflist", 1),
        ("cni/20-bridge-bandwidth.conflist", 1),
        ("cni/20-bridge-dual-stack.conflist", 2),
        ("cni/20-bridge-firewall.conflist", 2),
        ("cni/20-ptp.conflist", 2),
    ];
    for (file, families) in files {
        let host = Host::new("", false);
        let list = host.status(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let ipam = list.plugins[0].conf.get("ipam").unwrap();
        let ranges = ipam.get("ranges").and_then(Json::as_array).map_or(1, <[Json]>::len);
        assert_eq!(ranges, families, "{file}");
    }
}

#[test]
fn a_network_with_fixed_addresses_is_read_by_static() {
    let list = Host::new("", false).status("cni/20-ptp-static.conflist").unwrap();
    let addresses = list.plugins[0].conf.get("ipam").and_then(|ipam| ipam.get("addresses"));
    assert_eq!(addresses.and_then(Json::as_array).map_or(0, <[Json]>::len), 2);
}

#[test]
fn a_network_with_host_ports_is_read_by_its_plugins() {
    let host = Host::new("", false);
    let list = host.status("cni/20-bridge-portmap.conflist").unwrap();
    let kinds: Vec<&str> = list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
    assert_eq!(kinds, ["bridge", "portmap"]);
    let capabilities = list.plugins[1].conf.get("capabilities").and_then(|all| all.get("portMappings"));
    assert_eq!(capabilities, Some(&Json::Bool(true)));
}

/// STATUS would inspect the machine's own links, so only the mistakes that do not depend on them are checked.
#[test]
fn networks_without_flanneld_carry_their_hosts() {
    let conf = |file: &str| {
        let list = NetworkList::load(&path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let plugin = &list.plugins[0];
        let one =
            [flannel::VXLAN, flannel::DIRECT_ROUTING, flannel::HOST_GW].into_iter().find(|p| p.name() == plugin.kind);
        assert_eq!(one.unwrap().mistakes(&plugin.conf), Some(vec![]), "{file}");
        assert_eq!(flannel::FLANNEL.mistakes(&plugin.conf), None);
        plugin.conf.clone()
    };
    let [one, two] = ["cni/30-vxlan-host1.conflist", "cni/30-vxlan-host2.conflist"].map(conf);
    assert_eq!((one.get("network"), one.get("peers")), (two.get("network"), two.get("peers")), "one list serves both");
    assert_ne!(one.get("subnet"), two.get("subnet"));
    conf("cni/30-host-gw-host1.conflist");
    conf("cni/30-direct-routing-dual-stack.conflist");
}

/// podman 4.3 and containerd 1.6 refuse a list of version 1.1.0 (libcni 1.1).
#[test]
fn every_list_is_taken_by_runtimes_of_cni_1_0() {
    let mut seen = 0;
    for entry in fs::read_dir(path("cni")).unwrap() {
        let file = entry.unwrap().path();
        let list = NetworkList::load(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(
            list.version <= Version::V100,
            "{}: cniVersion is {}: take 1.0.0",
            file.display(),
            list.version.as_str()
        );
        seen += 1;
    }
    assert!(seen > 0, "conf/cni has no sample");
}

#[test]
fn loopback_is_loaded() {
    let list = NetworkList::load(&path("cni/99-loopback.conf")).unwrap();
    assert_eq!((list.name.as_str(), list.plugins[0].kind.as_str()), ("lo", "loopback"));
    Host::new("", false).status("cni/99-loopback.conf").unwrap();
}

#[test]
fn every_plugin_is_installed_and_has_a_sample() {
    let suite: BTreeSet<&str> = SUITE.iter().map(|plugin| plugin.name()).collect();
    assert_eq!(suite, BTreeSet::from(NAMES));
}

fn net_conf(file: &str) -> NetConf {
    let parsed = NetConf::parse(&read(file)).unwrap_or_else(|error| panic!("conf/{file}: {error}"));
    assert!(parsed.warnings.is_empty(), "conf/{file}: {:?}", parsed.warnings);
    parsed.conf
}

#[test]
fn net_confs_say_what_their_names_say() {
    let vxlan = VxlanConf::default();
    assert_eq!(net_conf("net-conf/vxlan.json").backend, Backend::Vxlan(vxlan));
    let direct = Backend::Vxlan(VxlanConf { direct_routing: true, ..vxlan });
    assert_eq!(net_conf("net-conf/vxlan-direct-routing.json").backend, direct);
    assert_eq!(net_conf("net-conf/host-gw.json").backend, Backend::HostGw);
    assert_eq!(net_conf("net-conf/alloc.json").backend, Backend::Alloc);
    assert_eq!(net_conf("net-conf/udp.json").backend, Backend::Udp(UdpConf { port: 8285 }));
    assert_eq!(net_conf("net-conf/ipip.json").backend, Backend::Ipip(IpipConf { direct_routing: true }));
    let wireguard = Backend::Wireguard(WireguardConf { keepalive: 25, ..WireguardConf::default() });
    assert_eq!(net_conf("net-conf/wireguard.json").backend, wireguard);
    let Backend::Extension(extension) = net_conf("net-conf/extension.json").backend else { panic!("no extension") };
    assert!(extension.subnet_add.is_some_and(|command| command.words.len() == 6));
    let dual = net_conf("net-conf/dual-stack.json");
    assert_eq!(dual.families().map(|(family, _)| family).collect::<Vec<_>>(), Family::ALL);

    let tuned = net_conf("net-conf/vxlan-tuned.json");
    let allocation = tuned.v4.unwrap().allocation;
    assert_eq!((allocation.len, allocation.min.to_string()), (20, "10.10.0.0".to_owned()));
    let Backend::Vxlan(conf) = tuned.backend else { panic!("{:?}", tuned.backend) };
    assert_eq!((conf.vni.to_string(), conf.port, conf.mtu), ("42".to_owned(), Some(4789), Some(Mtu(9000))));
}

/// The settings of a unit, and the options that it starts the daemon with under `env`.
fn unit(path: &str, env: &BTreeMap<String, String>) -> (BTreeMap<String, String>, Options) {
    let unit = String::from_utf8(read(path)).unwrap();
    let settings: BTreeMap<String, String> = unit
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    assert_eq!((settings["Type"].as_str(), settings["Restart"].as_str()), ("notify", "always"));
    assert!(!settings.keys().any(|key| key.starts_with("ExecStop")), "a stopped daemon leaves the network as it is");
    // what waits for flanneld would not start while flanneld waits; what an extension's command started goes on
    for (key, value) in [
        ("Before", None),
        ("RequiredBy", None),
        ("WantedBy", Some("multi-user.target")),
        ("StartLimitIntervalSec", Some("0")),
        ("RestartPreventExitStatus", Some("64")),
        ("KillMode", Some("process")),
    ] {
        assert_eq!(settings.get(key).map(String::as_str), value, "{path}: {key}");
    }
    let limit = settings["TimeoutStartSec"].strip_suffix('s').and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(limit.is_some_and(|seconds| seconds <= 90), "{path}: a boot waits for {}", settings["TimeoutStartSec"]);
    let mut words = settings["ExecStart"].split(' ').map(str::to_owned);
    assert!(words.next().unwrap().ends_with("/flanneld"));
    let Ok(Command::Run(options)) = flags::parse(&words.collect::<Vec<_>>(), env) else {
        panic!("{}", settings["ExecStart"])
    };
    assert_eq!(options.warnings, Vec::<String>::new());
    assert!(options.rules.masquerade.is_some(), "pods keep their address between hosts, and only there");
    // the directory that systemd makes
    assert_eq!(options.subnet_file.parent().unwrap(), Path::new("/run").join(&settings["RuntimeDirectory"]));
    (settings, *options)
}

#[test]
fn the_units_start_the_daemon_and_stop_nothing() {
    let (settings, options) = unit("systemd/flanneld.service", &BTreeMap::new());
    assert_eq!(options.store, StoreOptions::Embedded(Path::new("/var/lib").join(&settings["StateDirectory"])));

    // what the unit's own words say of its environment
    let text = String::from_utf8(read("systemd/flanneld-etcd.service")).unwrap();
    let variables = text.lines().filter_map(|line| line.strip_prefix("#   ")?.split_once('='));
    let env: BTreeMap<String, String> = variables.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let (_, options) = unit("systemd/flanneld-etcd.service", &env);
    let StoreOptions::Etcd(etcd) = options.store else { panic!("{:?}", options.store) };
    assert_eq!(etcd.endpoints.len(), 2);
    assert_eq!(options.health, "127.0.0.1:8471".parse().ok());
    assert!(text.lines().any(|line| line.starts_with("After=") && line.ends_with(" etcd.service")), "{text}");
}

/// Links of flanneld's backends, of the bridge and of pods' ports, and some of a host's own.
const OURS: [&str; 10] = [
    "flannel.1",
    "flannel-v6.1",
    "fl8472.1",
    "fl6-8472.1",
    "flannel0",
    "flannel.ipip",
    "flannel-wg",
    "flannel-wg-v6",
    "cni0",
    "veth1a2b3c4d",
];
const THEIRS: [&str; 6] = ["eth0", "enp1s0", "wlan0", "bond0", "docker0", "flash0"];

/// fnmatch(3), as far as these files use it.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix("[0-9]"), pattern.chars().next(), name.chars().next()) {
        (Some(rest), _, Some(digit)) => digit.is_ascii_digit() && fits(rest, &name[1..]),
        (None, Some('*'), _) => true,
        (None, Some(one), Some(other)) if one == other => fits(&pattern[1..], &name[1..]),
        (_, pattern, name) => pattern.is_none() && name.is_none(),
    }
}

fn ini(file: &str) -> BTreeMap<String, String> {
    let (mut section, mut all) = (String::new(), BTreeMap::new());
    for line in String::from_utf8(read(file)).unwrap().lines().filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        match line.split_once('=') {
            Some((key, value)) => drop(all.insert(format!("{section}{key}"), value.to_owned())),
            None => line.clone_into(&mut section),
        }
    }
    all
}

#[test]
fn link_managers_leave_our_links_alone_and_no_others() {
    let network = ini("networkd/10-flannel.network");
    let link = ini("networkd/10-flannel.link");
    let manager = ini("networkmanager/90-flannel.conf");
    assert_eq!(network["[Link]Unmanaged"], "yes");
    assert_eq!(link["[Link]MACAddressPolicy"], "none");
    let unmanaged = manager["[keyfile]unmanaged-devices"].replace("interface-name:", "").replace(';', " ");
    for patterns in [&network["[Match]Name"], &link["[Match]OriginalName"], &unmanaged] {
        let is_matched = |name: &&str| patterns.split(' ').any(|pattern| fits(pattern, name));
        assert!(OURS.iter().all(is_matched), "{patterns}");
        assert!(!THEIRS.iter().any(is_matched), "{patterns}");
    }
    let networkd = ini("networkd/10-flannel.conf");
    assert_eq!(networkd["[Network]ManageForeignRoutes"], "no");
    assert_eq!(networkd["[Network]ManageForeignRoutingPolicyRules"], "no");
}
