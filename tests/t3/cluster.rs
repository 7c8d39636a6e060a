//! A real cluster: a control plane, and nodes with pods of real kubelets.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use lab::flow::{self, Counts, Flow};
use lab::netns::{Room, enter_path};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use serde_json::{Value, json};
use tests::harness;

use crate::control::Control;
use crate::host::{fetch, fetch_in, serve};
use crate::node::{self, Node};
use crate::{Failure, Outcome, image};

const PATIENCE: Duration = Duration::from_secs(60);
const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Datagrams per second of each stream.
const RATE: u64 = 1_000;

pub const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
pub const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// A pod of a real kubelet.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub address: IpAddr,
    /// Its network namespace.
    pub netns: PathBuf,
}

/// The cluster. The control plane is on the last host.
pub struct Cluster {
    pub world: World,
    pub control: Control,
    pub nodes: Vec<Node>,
    token: String,
}

impl Cluster {
    /// Starts all of it, and waits until each node has its network.
    pub fn up(nodes: usize, conf: &str) -> Result<Self, Failure> {
        node::prepare_machine()?;
        let world = World::build(Topology::flat(nodes + 1))?;
        let users: Vec<_> = (1..=nodes).map(node::kubelet).chain([node::proxy()]).collect();
        let mut control = Control::start(&world, nodes + 1, &users)?;
        control.start_manager(&world, "10.244.0.0/16")?;
        let token = account(&world, &control)?;
        let mut cluster = Self { world, control, nodes: Vec::new(), token };
        for number in 1..=nodes {
            let node = cluster.node(number, conf)?;
            cluster.nodes.push(node);
        }
        (1..=nodes).try_for_each(|number| cluster.wait_ready(number))?;
        Ok(cluster)
    }

    fn node(&self, number: usize, conf: &str) -> Result<Node, Failure> {
        let mut node = Node::new(&self.world, number)?;
        // towards services
        let route = format!("route add default via {} dev eth0", self.address());
        node.run("ip", &route.split(' ').collect::<Vec<_>>())?;
        node.install(&network())?;
        node.configure(conf)?;
        node.account(&self.control, &self.token)?;
        node.start_containerd()?;
        node.start_proxy(&self.control)?;
        node.start_kubelet(&self.control)?;
        node.start_flanneld()?;
        Ok(node)
    }

    /// The address of the host of the control plane, which is also the outside.
    pub fn address(&self) -> String {
        format!("192.168.1.{}", 10 + self.topology_hosts())
    }

    fn topology_hosts(&self) -> usize {
        self.world.topology.hosts().len()
    }

    /// The host of the control plane.
    pub fn outside(&self) -> Result<&Room, Failure> {
        Ok(self.world.host(self.topology_hosts())?)
    }

    pub fn call(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), Failure> {
        self.control.call(&self.world, method, path, body)
    }

    pub fn done(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        self.control.done(&self.world, method, path, body)
    }

    pub fn of(&self, number: usize) -> Result<&Node, Failure> {
        Ok(self.nodes.get(number - 1).ok_or("no such node")?)
    }

    pub fn of_mut(&mut self, number: usize) -> Result<&mut Node, Failure> {
        Ok(self.nodes.get_mut(number - 1).ok_or("no such node")?)
    }

    /// Waits until a node is ready for pods: the kubelet says so, and flannel has written its condition.
    pub fn wait_ready(&self, number: usize) -> Outcome {
        let node = self.of(number)?;
        let path = format!("{NODES}/{}", node.name());
        eventually(format!("{} is ready", node.name()), PATIENCE, || {
            let object = match self.call("GET", &path, &Value::Null) {
                Ok((200, object)) => object,
                other => return Err(format!("{other:?}\nkubelet: {}", node.words("kubelet"))),
            };
            let status = |kind: &str| {
                let all = object["status"]["conditions"].as_array().into_iter().flatten();
                all.filter(|one| one["type"] == kind).map(|one| one["status"].clone()).next().unwrap_or_default()
            };
            match (status("Ready") == "True", status("NetworkUnavailable") == "False") {
                (true, true) => Ok(()),
                _ => Err(format!(
                    "{}\nkubelet: {}\nflanneld: {}\ncontainerd: {}",
                    object["status"]["conditions"],
                    node.words("kubelet"),
                    node.words("flanneld"),
                    node.words("containerd")
                )),
            }
        })?;
        Ok(())
    }

    /// The podCIDR of a node.
    pub fn pod_cidr(&self, number: usize) -> Result<String, Failure> {
        let object = self.done("GET", &format!("{NODES}/{}", self.of(number)?.name()), &Value::Null)?;
        Ok(object["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned())
    }

    /// Starts a pod on a node, and waits until it runs. `port` of the node leads to its port 80.
    pub fn pod(&self, name: &str, number: usize, port: Option<u16>) -> Result<Pod, Failure> {
        let mut container = json!({ "name": "c", "image": image::NAME, "imagePullPolicy": "Never" });
        if let Some(port) = port {
            container["ports"] = json!([{ "containerPort": 80, "hostPort": port }]);
        }
        let pod = json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "nodeName": self.of(number)?.name(), "automountServiceAccountToken": false, "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 1, "tolerations": [{ "operator": "Exists" }], "containers": [container],
            },
        });
        self.done("POST", PODS, &pod)?;
        let node = self.of(number)?;
        let path = format!("{PODS}/{name}");
        Ok(eventually(format!("the pod {name} runs"), PATIENCE, || {
            let object = self.done("GET", &path, &Value::Null).map_err(|error| error.to_string())?;
            let state = || {
                let logs = [node.words("kubelet"), node.words("containerd")].join("\n");
                format!("{}\n{logs}", object["status"])
            };
            let running = object["status"]["phase"] == "Running";
            let address = object["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).filter(|_| running);
            let id = object["status"]["containerStatuses"][0]["containerID"].as_str();
            let id = id.and_then(|id| id.strip_prefix("containerd://"));
            let netns = id.and_then(namespace_of);
            match (address, netns) {
                (Some(address), Some(netns)) => Ok(Pod { name: name.to_owned(), address, netns }),
                _ => Err(state()),
            }
        })?)
    }

    /// Deletes a pod, and waits until it is gone.
    pub fn delete_pod(&self, name: &str) -> Outcome {
        let path = format!("{PODS}/{name}");
        self.done("DELETE", &path, &Value::Null)?;
        eventually(format!("the pod {name} is gone"), PATIENCE, || match self.call("GET", &path, &Value::Null) {
            Ok((404, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(())
    }

    /// Deletes a pod whose node is gone, so that nobody confirms it.
    pub fn delete_pod_of_nobody(&self, name: &str) -> Outcome {
        let now = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0 });
        self.done("DELETE", &format!("{PODS}/{name}"), &now)?;
        Ok(())
    }

    /// Waits until the status of a node's flanneld is as wanted.
    pub fn wait_status(&self, number: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Outcome {
        let node = self.of(number)?;
        let pid = node.flanneld_pid();
        eventually(format!("{}: {what}", node.name()), PATIENCE, || match node.status() {
            Ok(status) if status["pid"].as_u64() == pid && wanted(&status) => Ok(()),
            other => Err(format!(
                "{other:?}
{}",
                node.words("flanneld")
            )),
        })?;
        Ok(())
    }

    /// Waits until a node's routes to the pods of the other nodes are those of a backend.
    pub fn has_routes(&self, number: usize, pods: &[&Pod], backend: &str) -> Outcome {
        let dev = if backend == "vxlan" { "dev flannel.1" } else { "dev eth0" };
        let node = self.of(number)?;
        for (at, pod) in pods.iter().enumerate().filter(|(at, _)| at + 1 != number) {
            let address = pod.address.to_string();
            eventually(format!("{} reaches n{} by {dev}", node.name(), at + 1), PATIENCE, || {
                match node.run("ip", &["route", "get", &address]) {
                    Ok(route) if route.contains(dev) => Ok(()),
                    other => Err(format!(
                        "{other:?}
{}",
                        node.words("flanneld")
                    )),
                }
            })?;
        }
        Ok(())
    }

    /// The address of a new service for the pods with this label.
    pub fn service(&self, app: &str) -> Result<IpAddr, Failure> {
        let service = json!({
            "kind": "Service", "apiVersion": "v1", "metadata": { "name": app },
            "spec": { "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": 80 }] },
        });
        let made = self.done("POST", SERVICES, &service)?;
        Ok(made["spec"]["clusterIP"].as_str().unwrap_or_default().parse()?)
    }

    /// Each pod reaches each other one, and is seen with its own address.
    pub fn all_talk(&self, pods: &[&Pod]) -> Outcome {
        for (from, to) in pairs(pods) {
            let server = enter_path(&to.netns, || TcpListener::bind((to.address, 0)))??;
            let at = server.local_addr()?;
            let seen = std::thread::spawn(move || server.accept().map(|(_, peer)| peer.ip()));
            enter_path(&from.netns, || connect(at))??;
            let seen = seen.join().map_err(|_| "the server panicked")??;
            assert_eq!(seen, from.address, "{} to {}", from.name, to.name);
        }
        Ok(())
    }

    /// The address that the outside sees of a pod.
    pub fn seen_outside(&self, pod: &Pod) -> Result<IpAddr, Failure> {
        let at = SocketAddr::new(self.address().parse()?, 0);
        let server = self.outside()?.enter(|| TcpListener::bind(at))??;
        let at = server.local_addr()?;
        let seen = std::thread::spawn(move || server.accept().map(|(_, peer)| peer.ip()));
        enter_path(&pod.netns, || connect(at))??;
        Ok(seen.join().map_err(|_| "the server panicked")??)
    }
}

/// The list of the manifest.
fn network() -> Value {
    json!({
        "name": "cbr0", "cniVersion": "0.3.1",
        "plugins": [
            { "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// flannel's service account with the rights of the manifest, and a token of it.
fn account(world: &World, control: &Control) -> Result<String, Failure> {
    let (flannel, namespace) = (json!({ "name": "flannel" }), json!({ "name": "kube-flannel" }));
    let post = |path: &str, body: &Value| control.done(world, "POST", path, body);
    post("/api/v1/namespaces", &json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": namespace }))?;
    let accounts = "/api/v1/namespaces/kube-flannel/serviceaccounts";
    post(accounts, &json!({ "kind": "ServiceAccount", "apiVersion": "v1", "metadata": flannel }))?;
    let rules = json!([
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
    ]);
    let subject = json!({ "kind": "ServiceAccount", "name": "flannel", "namespace": "kube-flannel" });
    control.allow(world, "flannel", &subject, &rules)?;
    let request = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": { "expirationSeconds": 3600 },
    });
    let answer = post(&format!("{accounts}/flannel/token"), &request)?;
    Ok(answer["status"]["token"].as_str().ok_or("no token")?.to_owned())
}

/// The network namespace of a container: of a process in a control group with its ID.
fn namespace_of(id: &str) -> Option<PathBuf> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut of_id = processes.filter(|path| {
        fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.lines().any(|line| line.ends_with(id)))
    });
    of_id.next().map(|path| path.join("ns/net"))
}

fn connect(at: SocketAddr) -> Outcome {
    let connect = || {
        let made = std::net::TcpStream::connect_timeout(&at, Duration::from_secs(2));
        made.map(drop).map_err(|error| error.to_string())
    };
    Ok(eventually(format!("a connection to {at}"), PATIENCE, connect)?)
}

fn pairs<'a>(pods: &'a [&'a Pod]) -> impl Iterator<Item = (&'a Pod, &'a Pod)> {
    let others = |from: usize| (0..pods.len()).filter(move |to| *to != from);
    (0..pods.len()).flat_map(move |from| others(from).map(move |to| (pods[from], pods[to])))
}

/// A stream between each ordered pair of pods.
pub struct Traffic(Vec<(String, Flow)>);

impl Traffic {
    pub fn start(pods: &[&Pod]) -> Result<Self, Failure> {
        let mut flows = Vec::new();
        for (from, to) in pairs(pods) {
            let socket = |pod: &Pod| enter_path(&pod.netns, || flow::socket(pod.address));
            let flow = flow::start(socket(from)??, socket(to)??, RATE)?;
            flows.push((format!("{} to {}", from.name, to.name), flow));
        }
        Ok(Self(flows))
    }

    /// Waits until all streams go on.
    pub fn flows_on(&self) -> Outcome {
        self.flows_for(1)
    }

    /// Waits until each stream has sent what it sends in so many seconds.
    pub fn flows_for(&self, seconds: u64) -> Outcome {
        let ends: Vec<u64> = self.0.iter().map(|(_, flow)| flow.sent() + seconds * RATE).collect();
        let limit = PATIENCE + Duration::from_secs(seconds);
        eventually(format!("{seconds} s of traffic"), limit, || {
            let behind = self.0.iter().zip(&ends).filter(|((_, flow), end)| flow.sent() < **end).count();
            if behind == 0 { Ok(()) } else { Err(format!("{behind} streams are behind")) }
        })?;
        Ok(())
    }

    /// Stops the streams, none of which may have lost a datagram.
    pub fn nothing_lost(self) -> Result<Counts, Failure> {
        self.0.iter().for_each(|(_, flow)| flow.end());
        let (mut all, mut wrong) = (Counts::default(), Vec::new());
        for (name, flow) in self.0 {
            let counts = flow.stop()?;
            if counts.lost > 0 {
                wrong.push(format!("{name}: {counts:?}"));
            }
            all = all.and(&counts);
        }
        if wrong.is_empty() { Ok(all) } else { Err(wrong.join("\n").into()) }
    }
}

/// Pods on three nodes reach each other, a service, a host port and the outside.
pub fn pods_reach_each_other_services_and_the_outside() -> Outcome {
    let cluster = Cluster::up(3, VXLAN)?;
    let one = cluster.pod("one", 1, Some(8080))?;
    let (two, three) = (cluster.pod("two", 2, None)?, cluster.pod("three", 3, None)?);
    cluster.all_talk(&[&one, &two, &three])?;

    let service = cluster.service("one")?;
    for pod in [&two, &three] {
        let server = serve(&one.netns, 80, b"of the service".to_vec())?;
        assert_eq!(fetch_in(&pod.netns, SocketAddr::new(service, 80))?, "of the service");
        server.done()?;
    }
    let server = serve(&one.netns, 80, b"of the port".to_vec())?;
    let at = SocketAddr::new(cluster.of(1)?.address, 8080);
    assert_eq!(cluster.outside()?.enter(|| fetch(at))??, "of the port");
    server.done()?;
    for (pod, number) in [(&one, 1), (&two, 2), (&three, 3)] {
        assert_eq!(cluster.seen_outside(pod)?, cluster.of(number)?.address, "pods leave as their node");
    }
    cluster.delete_pod("one")?;
    let left = cluster.of(1)?.run("nft", &["list", "ruleset"])?;
    assert!(!left.contains(&format!("{} ", one.address)) && !left.contains("8080"), "{left}");
    Ok(())
}

/// Three nodes with a pod on each.
fn three(conf: &str) -> Result<(Cluster, [Pod; 3]), Failure> {
    let cluster = Cluster::up(3, conf)?;
    let pods = [cluster.pod("one", 1, None)?, cluster.pod("two", 2, None)?, cluster.pod("three", 3, None)?];
    cluster.all_talk(&[&pods[0], &pods[1], &pods[2]])?;
    Ok((cluster, pods))
}

/// flanneld is upgraded, which is a kill and a start, and the backend is changed: nothing is lost.
pub fn nothing_is_lost_as_flanneld_and_its_backend_change() -> Outcome {
    let (mut cluster, [one, two, three]) = three(VXLAN)?;
    let traffic = Traffic::start(&[&one, &two, &three])?;
    traffic.flows_on()?;
    for number in 1..=3 {
        cluster.of_mut(number)?.kill_flanneld()?;
        traffic.flows_on()?;
        cluster.of_mut(number)?.start_flanneld()?;
        cluster
            .wait_status(number, "its peers", |status| status["peers"].as_array().is_some_and(|all| all.len() == 2))?;
    }
    for (conf, backend) in [(HOST_GW, "host-gw"), (VXLAN, "vxlan")] {
        for number in 1..=3 {
            cluster.of_mut(number)?.configure(conf)?;
        }
        for number in 1..=3 {
            cluster.has_routes(number, &[&one, &two, &three], backend)?;
        }
        traffic.flows_on()?;
    }
    harness::figure(format_args!("upgrade and change of backend: {:?}", traffic.nothing_lost()?));
    Ok(())
}

/// The API server is away for a minute, and flanneld starts meanwhile: nothing is lost, and new pods have their network.
pub fn nothing_is_lost_while_the_api_server_is_away() -> Outcome {
    let (mut cluster, [one, two, three]) = three(VXLAN)?;
    let traffic = Traffic::start(&[&one, &two, &three])?;
    cluster.control.kill_api()?;
    traffic.flows_on()?;
    cluster.of_mut(1)?.kill_flanneld()?;
    cluster.of_mut(1)?.start_flanneld()?;
    cluster.wait_status(1, "that the store is away", |status| {
        status["peers"].as_array().is_some_and(|all| all.len() == 2) && status["storeError"].is_string()
    })?;
    traffic.flows_for(60)?;
    let Cluster { world, control, .. } = &mut cluster;
    control.start_api(world)?;
    for number in 1..=3 {
        cluster.wait_status(number, "the store again", |status| !status["storeError"].is_string())?;
        cluster.wait_ready(number)?;
    }
    let four = cluster.pod("four", 1, None)?;
    cluster.all_talk(&[&two, &four])?;
    harness::figure(format_args!("a minute without the API server: {:?}", traffic.nothing_lost()?));
    Ok(())
}

/// A Node that is deleted and registered again gets another subnet: its pods have it, and the others lose nothing.
pub fn a_node_comes_back_with_another_subnet() -> Outcome {
    let (mut cluster, [one, two, three]) = three(VXLAN)?;
    let before = cluster.pod_cidr(3)?;
    let traffic = Traffic::start(&[&one, &two])?;
    cluster.of_mut(3)?.kill_kubelet()?;
    cluster.done("DELETE", &format!("{NODES}/n3"), &Value::Null)?;
    for number in 1..=2 {
        cluster
            .wait_status(number, "one peer", |status| status["peers"].as_array().is_some_and(|all| all.len() == 1))?;
    }
    cluster.delete_pod_of_nobody(&three.name)?;
    let Cluster { control, nodes, .. } = &mut cluster;
    nodes[2].start_kubelet(control)?;
    cluster.wait_ready(3)?;
    let after = cluster.pod_cidr(3)?;
    assert_ne!(after, before, "the controller gives the next subnet");
    for number in 1..=2 {
        cluster.wait_status(number, "two peers", |status| status["peers"].to_string().contains(&after))?;
    }
    let again = cluster.pod("again", 3, None)?;
    assert!(
        after.split("0/24").next().is_some_and(|start| again.address.to_string().starts_with(start)),
        "{again:?} {after}"
    );
    cluster.all_talk(&[&one, &two, &again])?;
    harness::figure(format_args!("a node comes back: {:?}", traffic.nothing_lost()?));
    Ok(())
}
