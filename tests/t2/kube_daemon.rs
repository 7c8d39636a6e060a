//! Real daemons on the Nodes of a double of the API server.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};

use kernel::types::{Family, TableId};
use lab::cluster::{Cluster, PATIENCE, host_dir, log_file, subnet_file};
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use overlay::status::Status;
use tests::apiserver::{Apiserver, Objects, node};
use tests::harness;

use crate::disturb::{PORT as HEALTH, set_sysctl, sysctl};
use crate::health::get;
use crate::{Failure, Outcome};

pub const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
pub const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;
const PORT: u16 = 6443;

/// Hosts that are Nodes `n1` …, and the API server on one more.
pub struct Fleet {
    pub world: World,
    api: Option<Apiserver>,
    daemons: BTreeMap<usize, Daemon>,
    hosts: usize,
}

impl Fleet {
    /// Nodes with the podCIDRs 10.244.N.0/24, and no daemon yet.
    pub fn new(hosts: usize, conf: &str) -> Result<Self, Failure> {
        let world = World::build(Topology::flat(hosts + 1))?;
        let mut objects = Objects::default();
        (1..=hosts).for_each(|n| objects.put(node(&format!("n{n}"), &[&format!("10.244.{n}.0/24")])));
        let mut fleet = Self { world, api: None, daemons: BTreeMap::new(), hosts };
        fleet.serve(objects)?;
        (1..=hosts).try_for_each(|host| fleet.configure(host, conf))?;
        Ok(fleet)
    }

    /// Stops the server, and returns what it has.
    pub fn stop_server(&mut self) -> Result<Objects, Failure> {
        Ok(self.api.take().ok_or("no server")?.stop())
    }

    pub fn serve(&mut self, objects: Objects) -> Outcome {
        let at = SocketAddr::new(self.server()?, PORT);
        let listener = self.world.host(self.hosts + 1)?.enter(|| TcpListener::bind(at))??;
        self.api = Some(Apiserver::start(listener, objects)?);
        Ok(())
    }

    pub fn server(&self) -> Result<IpAddr, Failure> {
        Ok(self.world.topology.underlay(self.hosts + 1, Family::V4).ok_or("no such host")?)
    }

    pub fn api(&self) -> Result<&Apiserver, Failure> {
        Ok(self.api.as_ref().ok_or("the server is stopped")?)
    }

    pub fn configure(&self, host: usize, conf: &str) -> Outcome {
        fs::create_dir_all(host_dir(host))?;
        Ok(fs::write(host_dir(host).join("net-conf.json"), conf)?)
    }

    pub fn start(&mut self, host: usize) -> Outcome {
        self.start_with(host, &[&format!("--kube-api-url=http://{}:{PORT}", self.server()?)])
    }

    /// Starts a host's daemon with flags that name the API server.
    pub fn start_with(&mut self, host: usize, flags: &[&str]) -> Outcome {
        let args = [
            "--kube-subnet-mgr".into(),
            format!("--net-config-path={}", host_dir(host).join("net-conf.json").display()),
            "--iface=eth0".into(),
            format!("--subnet-file={}", subnet_file(host).display()),
            format!("--healthz-port={HEALTH}"),
        ];
        let launch = Launch {
            program: harness::executables()?.flanneld,
            args: args.map(Into::into).into_iter().chain(flags.iter().map(Into::into)).collect(),
            env: vec![("NODE_NAME".into(), format!("n{host}").into())],
            netns: self.world.host(host)?.path().to_owned(),
            log: log_file(host),
            outlive: false,
        };
        self.daemons.insert(host, launch.start()?);
        Ok(())
    }

    pub fn up(hosts: usize, conf: &str) -> Result<Self, Failure> {
        let mut fleet = Self::new(hosts, conf)?;
        (1..=hosts).try_for_each(|host| fleet.start(host))?;
        (1..=hosts).try_for_each(|host| fleet.sees(host, hosts - 1))?;
        Ok(fleet)
    }

    /// Waits until a host has this many peers, and a route to each.
    pub fn sees(&self, host: usize, peers: usize) -> Outcome {
        self.wait(host, "its peers", |status| status.peers.len() == peers && status.last_error.is_none())?;
        eventually(format_args!("host{host} has {peers} routes"), PATIENCE, || {
            let routes = self.routes(host).map_err(|error| error.to_string())?;
            if routes.len() == peers { Ok(()) } else { Err(format!("{routes:?} {}", last_lines(&log_file(host)))) }
        })?;
        Ok(())
    }

    pub fn wait(&self, host: usize, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
        let pid = self.daemons.get(&host).map(Daemon::pid);
        Ok(eventually(format_args!("host{host}: {what}"), PATIENCE, || match Cluster::status(host) {
            Some(status) if Some(status.pid) == pid && wanted(&status) => Ok(status),
            other => Err(format!("{other:?} {}", last_lines(&log_file(host)))),
        })?)
    }

    /// The routes of a host to other hosts' subnets.
    pub fn routes(&self, host: usize) -> Result<Vec<String>, Failure> {
        let routes = self.world.host(host)?.kernel()?.routes(TableId::MAIN)?;
        let own = format!("10.244.{host}.");
        let all = routes.iter().map(|(key, _)| key.dst.to_string());
        Ok(all.filter(|text| text.starts_with("10.244.") && !text.starts_with(&own)).collect())
    }

    pub fn kill(&mut self, host: usize) -> Outcome {
        Ok(self.daemons.remove(&host).ok_or("no daemon")?.kill()?)
    }
}

pub fn nodes_are_hosts() -> Outcome {
    let fleet = Fleet::up(3, VXLAN)?;
    let status = fleet.wait(1, "its peers", |status| status.peers.len() == 2)?;
    assert_eq!(status.store, format!("kubernetes http://{}:{PORT}", fleet.server()?));
    let mac = fleet.wait(2, "its peers", |status| status.peers.len() == 2)?;
    let mac =
        mac.peers.iter().find(|peer| peer.subnet.to_string() == "10.244.1.0/24").and_then(|peer| peer.vtep_mac.clone());
    let expected = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, mac.ok_or("no VTEP")?);
    let api = fleet.api()?;
    assert_eq!(api.objects(|all| all.annotation("n1", "backend-data")), Some(expected));
    assert_eq!(api.objects(|all| all.annotation("n1", "backend-type")).as_deref(), Some("vxlan"));
    let env = fs::read_to_string(subnet_file(1))?;
    assert!(env.contains("FLANNEL_SUBNET=10.244.1.1/24") && env.contains("FLANNEL_NETWORK=10.244.0.0/16"), "{env}");
    eventually("the condition of n1", PATIENCE, || {
        let condition = api.objects(|all| all.condition("n1", "NetworkUnavailable"));
        condition.filter(|condition| condition["status"] == "False").ok_or("none")
    })?;

    // a Node that goes, and comes back with another podCIDR
    api.objects(|all| all.delete("n3"));
    fleet.sees(1, 1)?;
    api.objects(|all| all.put(node("n3", &["10.244.30.0/24"])));
    fleet.sees(1, 2)?;
    assert!(fleet.routes(1)?.contains(&"10.244.30.0/24".to_owned()), "{:?}", fleet.routes(1)?);
    Ok(())
}

pub fn a_missing_pod_cidr_is_waited_for() -> Outcome {
    let mut fleet = Fleet::new(2, HOST_GW)?;
    fleet.api()?.objects(|all| all.change("n1", |node| node["spec"] = serde_json::json!({})));
    fleet.start(1)?;
    fleet.wait(1, "it says what it waits for", |status| {
        status.last_error.as_deref().is_some_and(|error| error.contains(r#"node "n1" pod cidr not assigned"#))
    })?;
    assert!(!subnet_file(1).exists(), "pods cannot be attached yet");
    fleet.api()?.objects(|all| all.change("n1", |node| node["spec"]["podCIDR"] = "10.244.1.0/24".into()));
    fleet.wait(1, "its lease", |status| !status.subnets.is_empty() && status.last_error.is_none())?;
    Ok(())
}

pub fn a_host_starts_without_the_server() -> Outcome {
    let mut fleet = Fleet::up(2, VXLAN)?;
    let saved = host_dir(1).join("nodes.json");
    eventually("the last known leases", PATIENCE, || match fs::read_to_string(&saved) {
        Ok(text) if text.contains("10.244.2.0-24") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let objects = fleet.stop_server()?;
    fleet.kill(1)?;
    // a host that starts, not only a daemon
    fs::remove_file(subnet_file(1))?;
    fleet.start(1)?;
    let status = fleet.wait(1, "its network", |status| status.peers.len() == 1 && !status.subnets.is_empty())?;
    assert!(status.store_stale_since.is_some() && status.store_error.is_some(), "{status:?}");
    eventually(
        "subnet.env",
        PATIENCE,
        || if subnet_file(1).exists() { Ok(()) } else { Err(last_lines(&log_file(1))) },
    )?;
    assert_eq!(fleet.routes(1)?, ["10.244.2.0/24"]);
    eventually("the host is ready, and says how old its leases are", PATIENCE, || {
        match get(&fleet.world, "/readyz") {
            Ok((200, text)) if text.contains("the store cannot be read for ") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    fleet.serve(objects)?;
    fleet.wait(1, "the server again", |status| status.store_error.is_none() && status.store_stale_since.is_none())?;
    Ok(())
}

/// kube-proxy needs it; a kernel without the module, or one where somebody has switched it off for this host.
pub fn a_bridge_that_hides_packets_is_named() -> Outcome {
    const FILTER: &str = "net/bridge/bridge-nf-call-iptables";
    let mut fleet = Fleet::new(1, VXLAN)?;
    let said = match sysctl(fleet.world.host(1)?, FILTER) {
        Ok(_) => {
            set_sysctl(fleet.world.host(1)?, FILTER, "0")?;
            "net.bridge.bridge-nf-call-iptables is off: "
        }
        Err(_) => "the module br_netfilter is not loaded: ",
    };
    fleet.start(1)?;
    fleet.wait(1, "the warning", |status| status.warnings.iter().any(|line| line.starts_with(said)))?;
    Ok(())
}

pub fn a_pod_cidr_outside_the_network_is_refused() -> Outcome {
    let mut fleet = Fleet::new(1, HOST_GW)?;
    fleet.api()?.objects(|all| all.change("n1", |node| node["spec"]["podCIDRs"] = serde_json::json!(["10.1.0.0/24"])));
    fleet.start(1)?;
    let words = r#"subnet "10.244.0.0/16" specified in the flannel net config doesn't contain "10.1.0.0/24" PodCIDR of the "n1" node"#;
    fleet.wait(1, "upstream's words", |status| {
        status.last_error.as_deref().is_some_and(|error| error.contains(words))
    })?;
    Ok(())
}
