//! Networks without a flanneld: each host's conflist lists the others, and the plugins set up the host.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use cni::runtime::{Attachment, NetworkList, Runtime};
use ipnetwork::IpNetwork;
use kernel::diff::{LinkChange, Step};
use kernel::state::{Route, RouteKey};
use kernel::types::{Family, IfName, RouteProtocol, TableId};
use lab::cluster::subnet_file;
use lab::mode::{Mode, Path};
use lab::netns::Room;
use lab::ping::Pinger;
use lab::pods::place_plugins;
use lab::topology::Topology;
use lab::world::World;
use serde_json::{Value, json};
use tests::harness;

use crate::{Failure, Outcome, up};

const SECOND: Duration = Duration::from_secs(1);
const FILES: &str = "/run/daemonless";

/// Hosts, and the plugins.
struct Lab {
    world: World,
    bin: PathBuf,
    dual_stack: bool,
}

struct Pod {
    room: Room,
    host: usize,
    addresses: Vec<IpAddr>,
}

fn subnets(host: usize) -> [String; 2] {
    [format!("10.244.{host}.0/24"), format!("fd10:244:0:{host}::/64")]
}

fn files(host: usize) -> PathBuf {
    PathBuf::from(FILES).join(format!("host{host}"))
}

fn bin() -> Result<PathBuf, Failure> {
    let bin = PathBuf::from(FILES).join("bin");
    place_plugins(&harness::executables()?.plugins, &bin)?;
    Ok(bin)
}

impl Lab {
    fn new(topology: Topology, dual_stack: bool) -> Result<Self, Failure> {
        Ok(Self { world: World::build(topology)?, bin: bin()?, dual_stack })
    }

    fn underlay(&self, host: usize, family: Family) -> String {
        self.world.topology.underlay(host, family).map(|addr| addr.to_string()).unwrap_or_default()
    }

    /// The configuration of `host` for a network of `hosts`: the same list of peers on all of them.
    fn conf(&self, kind: &str, host: usize, hosts: &[usize]) -> Value {
        let peer = |host: &usize| {
            let [subnet, ipv6] = subnets(*host);
            let mut peer = json!({ "subnet": subnet, "publicIP": self.underlay(*host, Family::V4) });
            if self.dual_stack {
                peer["ipv6Subnet"] = ipv6.into();
                peer["publicIPv6"] = self.underlay(*host, Family::V6).into();
            }
            peer
        };
        let [subnet, ipv6] = subnets(host);
        let mut conf = json!({
            "type": kind, "network": "10.244.0.0/16", "subnet": subnet,
            "peers": hosts.iter().map(peer).collect::<Vec<_>>(),
            "subnetFile": files(host).join("subnet.env"),
            "dataDir": files(host).join("flannel"),
            "ipam": { "type": "host-local", "dataDir": files(host).join("networks") },
            "delegate": { "hairpinMode": true, "isDefaultGateway": true, "ipMasq": false },
        });
        if self.dual_stack {
            conf["ipv6Network"] = "fd10:244::/48".into();
            conf["ipv6Subnet"] = ipv6.into();
        }
        if self.world.topology.segments.len() == 1 {
            // a flat world has no default route to find it by
            conf["iface"] = "eth0".into();
        }
        conf
    }

    fn attach(&self, name: &str, host: usize, conf: &Value) -> Result<Pod, Failure> {
        self.add(Pod { room: Room::create(name)?, host, addresses: Vec::new() }, conf)
    }

    fn add(&self, mut pod: Pod, conf: &Value) -> Result<Pod, Failure> {
        let host = pod.host;
        let result = call(self.world.host(host)?, &self.bin, &pod, conf, |runtime, list, attachment| {
            runtime.add_or_undo(list, attachment).map_err(|error| error.to_string())
        })?;
        pod.addresses = result.ips.iter().map(|ip| ip.address.ip()).collect();
        Ok(pod)
    }

    fn check(&self, pod: &Pod, conf: &Value) -> Result<(), Failure> {
        call(self.world.host(pod.host)?, &self.bin, pod, conf, |runtime, list, attachment| {
            runtime.check(list, attachment).map_err(|error| error.to_string())
        })
    }

    fn detach(&self, pod: &Pod, conf: &Value) -> Result<(), Failure> {
        call(self.world.host(pod.host)?, &self.bin, pod, conf, |runtime, list, attachment| {
            runtime.del(list, attachment).map_err(|error| error.to_string())
        })
    }

    /// A pod on every host, of a network of all of them.
    fn pods(&self, kind: &str) -> Result<Vec<Pod>, Failure> {
        let hosts = self.world.topology.hosts();
        hosts.iter().map(|host| self.attach(&format!("pod{host}"), *host, &self.conf(kind, *host, &hosts))).collect()
    }

    /// The routes of a host that carry the mark, as destination and device.
    fn routes(&self, host: usize) -> Result<Vec<String>, Failure> {
        let all = self.world.host(host)?.kernel()?.routes(TableId::MAIN)?;
        let marked = all.iter().filter(|(_, route)| route.protocol == RouteProtocol::FLANNEL_CNI);
        let text = |(key, route): &(RouteKey, Route)| {
            format!("{} {}", key.dst, route.dev.as_ref().map(ToString::to_string).unwrap_or_default())
        };
        Ok(marked.map(text).collect())
    }

    fn has_link(&self, host: usize, name: &str) -> Result<bool, Failure> {
        Ok(self.world.host(host)?.kernel()?.link(&IfName::new(name)?)?.is_some())
    }

    fn apply(&self, host: usize, step: Step) -> Outcome {
        Ok(self.world.host(host)?.kernel()?.apply(&[step]).ok()?)
    }
}

/// Does what a runtime on `host` would do.
fn call<T>(
    host: &Room,
    bin: &std::path::Path,
    pod: &Pod,
    conf: &Value,
    work: impl FnOnce(&Runtime<'_>, &NetworkList, &Attachment) -> Result<T, String>,
) -> Result<T, Failure> {
    let list = json!({ "cniVersion": "1.1.0", "name": "lab", "plugins": [conf] });
    let list = NetworkList::parse(list.to_string().as_bytes())?;
    let id = pod.room.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let netns = pod.room.path().to_string_lossy().into_owned();
    let attachment = Attachment { container_id: id, netns, ifname: "eth0".into(), ..Attachment::default() };
    let runtime = Runtime::new(bin.to_string_lossy(), files(pod.host).join("cache"));
    Ok(host.enter(|| work(&runtime, &list, &attachment))??)
}

fn ping(from: &Pod, to: IpAddr) -> Result<Duration, Failure> {
    let mut pinger = from.room.enter(|| Pinger::open(to, 77))??;
    pinger.echo(2 * SECOND).map_err(|error| format!("{} to {to}: {error}", from.room.path().display()).into())
}

fn wrong(what: &str, outcome: Result<Pod, Failure>) -> Result<String, Failure> {
    match outcome {
        Ok(_) => Err(format!("{what} was served").into()),
        Err(error) => Ok(error.to_string()),
    }
}

/// Every pod reaches every other by the path of the plugin's type, and CHECK finds no difference.
fn all_pairs(kind: &str, mode: Mode, topology: Topology, dual_stack: bool) -> Outcome {
    let lab = Lab::new(topology, dual_stack)?;
    let pods = lab.pods(kind)?;
    let hosts = lab.world.topology.hosts();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        let want = mode.path(lab.world.topology.on_one_segment(from.host, to.host));
        if from.host == to.host || want == Path::None {
            continue;
        }
        assert_eq!(to.addresses.len(), if dual_stack { 2 } else { 1 });
        for addr in &to.addresses {
            let route = lab.world.host(from.host)?.kernel()?.route_to(*addr)?.ok_or("no route")?;
            let by_device = route.dev.as_ref().is_some_and(|dev| dev.as_str().starts_with("flannel"));
            assert_eq!(by_device, want == Path::Vxlan, "host{} to {addr}: {route:?}", from.host);
            ping(from, *addr)?;
        }
    }
    for pod in &pods {
        lab.check(pod, &lab.conf(kind, pod.host, &hosts))?;
    }
    Ok(())
}

pub fn vxlan() -> Outcome {
    all_pairs("vxlan", Mode::Vxlan, Topology::every_third_routed(3), false)
}

pub fn direct_routing() -> Outcome {
    all_pairs("direct-routing", Mode::DirectRouting, Topology::every_third_routed(3), false)
}

pub fn host_gw() -> Outcome {
    all_pairs("host-gw", Mode::HostGw, Topology::flat(2), false)
}

pub fn vxlan_dual_stack() -> Outcome {
    all_pairs("vxlan", Mode::Vxlan, Topology::flat(2), true)
}

pub fn direct_routing_dual_stack() -> Outcome {
    all_pairs("direct-routing", Mode::DirectRouting, Topology::every_third_routed(3), true)
}

pub fn host_gw_dual_stack() -> Outcome {
    all_pairs("host-gw", Mode::HostGw, Topology::flat(3), true)
}

/// The next ADD follows the file: peers that are gone lose their entries, and everything else stays.
pub fn peers_come_and_go() -> Outcome {
    let lab = Lab::new(Topology::flat(3), false)?;
    let pods = lab.pods("vxlan")?;
    assert_eq!(lab.routes(1)?, ["10.244.2.0/24 flannel.1", "10.244.3.0/24 flannel.1"]);
    // somebody else's, and another such network's
    for (dst, protocol) in [("10.244.77.0/24", RouteProtocol::BOOT), ("10.9.9.0/24", RouteProtocol::FLANNEL_CNI)] {
        let route = Route { protocol, ..Route::by(&IfName::new("eth0")?) };
        lab.apply(1, Step::PutRoute(RouteKey::main(dst.parse()?), route))?;
    }
    lab.attach("second", 1, &lab.conf("vxlan", 1, &[1, 2]))?;
    assert_eq!(lab.routes(1)?, ["10.9.9.0/24 eth0", "10.244.2.0/24 flannel.1"]);
    let all = lab.world.host(1)?.kernel()?.routes(TableId::MAIN)?;
    assert!(all.iter().any(|(key, _)| key.dst.to_string() == "10.244.77.0/24"), "{all:?}");
    ping(&pods[0], pods[1].addresses[0])?;

    // another data path and another subnet of the third
    let mut changed = lab.conf("host-gw", 1, &[1, 2, 3]);
    changed["peers"][2]["subnet"] = "10.244.33.0/24".into();
    lab.attach("third", 1, &changed)?;
    assert_eq!(lab.routes(1)?, ["10.9.9.0/24 eth0", "10.244.2.0/24 eth0", "10.244.33.0/24 eth0"]);
    assert!(!lab.has_link(1, "flannel.1")?, "host-gw needs none");

    // and another network: the routes of the one before go
    let mut other = lab.conf("host-gw", 1, &[1]);
    (other["network"], other["subnet"]) = ("10.245.0.0/16".into(), "10.245.1.0/24".into());
    other["peers"] = json!([{ "subnet": "10.245.2.0/24", "publicIP": lab.underlay(2, Family::V4) }]);
    other["delegate"]["bridge"] = "cni1".into();
    lab.attach("fourth", 1, &other)?;
    assert_eq!(lab.routes(1)?, ["10.9.9.0/24 eth0", "10.245.2.0/24 eth0"]);
    Ok(())
}

/// CHECK reports what is missing, and the next ADD restores it.
pub fn check_names_what_is_missing() -> Outcome {
    let lab = Lab::new(Topology::flat(2), true)?;
    let pods = lab.pods("vxlan")?;
    let conf = lab.conf("vxlan", 1, &[1, 2]);
    let dst: IpNetwork = "10.244.2.0/24".parse()?;
    let (key, route) = {
        let all = lab.world.host(1)?.kernel()?.routes(TableId::MAIN)?;
        all.into_iter().find(|(key, _)| key.dst == dst).ok_or("no route")?
    };
    lab.apply(1, Step::DeleteRoute(key, route))?;
    lab.apply(1, Step::DeleteLink(IfName::new("flannel-v6.1")?))?;
    let said = lab.check(&pods[0], &conf).err().ok_or("CHECK found nothing")?.to_string();
    for part in ["ip route prepend 10.244.2.0/24 via 10.244.2.0 dev flannel.1", "ip link add flannel-v6.1 mtu 1430 "] {
        assert!(said.contains(part), "{said}");
    }
    lab.attach("second", 1, &conf)?;
    lab.check(&pods[0], &conf)?;
    pods[1].addresses.iter().try_for_each(|addr| ping(&pods[0], *addr).map(drop))
}

/// Pods that start at the same time, on a host that is not set up yet.
pub fn pods_that_come_at_once_are_all_served() -> Outcome {
    let lab = Lab::new(Topology::flat(2), true)?;
    let conf = lab.conf("vxlan", 1, &[1, 2]);
    let rooms: Vec<Room> = (0..12).map(|n| Room::create(&format!("at-once{n}"))).collect::<Result<_, _>>()?;
    let start = Barrier::new(rooms.len());
    let added: Vec<Result<Pod, String>> = thread::scope(|scope| {
        let add = |room: Room| {
            let (lab, conf, start) = (&lab, &conf, &start);
            scope.spawn(move || {
                start.wait();
                lab.add(Pod { room, host: 1, addresses: Vec::new() }, conf).map_err(|error| error.to_string())
            })
        };
        let all: Vec<_> = rooms.into_iter().map(add).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
    });
    let pods = added.into_iter().collect::<Result<Vec<_>, _>>()?;
    let other = lab.attach("other", 2, &lab.conf("vxlan", 2, &[1, 2]))?;
    for pod in &pods {
        lab.check(pod, &conf)?;
        pod.addresses.iter().try_for_each(|addr| ping(&other, *addr).map(drop))?;
    }
    Ok(())
}

/// DEL removes only the attachment; GC without valid attachments clears the host.
pub fn the_host_is_cleared_when_nobody_is_left() -> Outcome {
    let lab = Lab::new(Topology::flat(2), true)?;
    let pods = lab.pods("direct-routing")?;
    let conf = lab.conf("direct-routing", 1, &[1, 2]);
    let host = lab.world.host(1)?;
    let gc = |valid: &[cni::conf::Attachment]| {
        call(host, &lab.bin, &pods[0], &conf, |runtime, list, _| {
            runtime.gc(list, Some(valid)).map_err(|error| error.to_string())
        })
    };
    let one = cni::conf::Attachment { container_id: "pod1".into(), ifname: "eth0".into() };
    gc(&[one])?;
    lab.check(&pods[0], &conf)?;
    lab.detach(&pods[0], &conf)?;
    assert!(lab.has_link(1, "flannel.1")? && lab.has_link(1, "flannel-v6.1")? && lab.routes(1)?.len() == 2);
    gc(&[])?;
    assert!(!lab.has_link(1, "flannel.1")? && !lab.has_link(1, "flannel-v6.1")?);
    assert_eq!(lab.routes(1)?, Vec::<String>::new());
    // what is cleared can be had again
    let pod = lab.attach("again", 1, &conf)?;
    ping(&pod, pods[1].addresses[0])?;
    Ok(())
}

pub fn a_vxlan_flanneld_is_not_fought_with() -> Outcome {
    beside_a_flanneld(Mode::Vxlan, "flannel.1 is a flanneld's device")
}

pub fn a_host_gw_flanneld_is_not_fought_with() -> Outcome {
    beside_a_flanneld(Mode::HostGw, "the route to 10.244.")
}

/// A host with a flanneld is left to it, whether its files or only its `marks` are visible.
fn beside_a_flanneld(mode: Mode, marks: &str) -> Outcome {
    let cluster = up(Topology::flat(2), mode, false)?;
    let lab = Lab { world: cluster.world, bin: bin()?, dual_stack: false };
    let mut conf = lab.conf("vxlan", 1, &[1]);
    let hidden = wrong("a flanneld's host", lab.attach("hidden", 1, &conf))?;
    assert!(hidden.contains(marks) && !hidden.contains("runs on this host"), "{hidden}");
    conf["subnetFile"] = json!(subnet_file(1));
    let seen = wrong("a flanneld's host", lab.attach("seen", 1, &conf))?;
    assert!(seen.contains("flanneld runs on this host (process "), "{seen}");
    assert_eq!((lab.routes(1)?, lab.has_link(1, "flannel.1")?), (Vec::new(), mode == Mode::Vxlan));
    // a network that has nothing in common with it lives beside it
    (conf["network"], conf["subnet"], conf["vni"]) = ("10.99.0.0/16".into(), "10.99.1.0/24".into(), 99.into());
    (conf["peers"], conf["delegate"]["bridge"]) = (json!([]), "cni9".into());
    lab.attach("beside", 1, &conf)?;
    assert!(lab.has_link(1, "flannel.99")?);
    Ok(())
}

/// STATUS names problems of the underlay: nothing works, or not everything does.
pub fn status_looks_at_the_underlay() -> Outcome {
    let lab = Lab::new(Topology::every_third_routed(3), false)?;
    let nobody = Pod { room: Room::create("nobody")?, host: 1, addresses: Vec::new() };
    let status = |kind: &str| {
        call(lab.world.host(1)?, &lab.bin, &nobody, &lab.conf(kind, 1, &[1, 2, 3]), |runtime, list, _| {
            runtime.status(list).map_err(|error| error.to_string())
        })
    };
    status("vxlan")?;
    let said = |kind: &str| Ok::<_, Failure>(status(kind).err().ok_or("STATUS is content")?.to_string());
    let limited = said("host-gw")?;
    assert!(
        limited.contains("the peer 10.244.3.0-24 cannot be reached") && !limited.contains("10.244.2.0"),
        "{limited}"
    );
    let down = LinkChange { up: Some(false), ..LinkChange::default() };
    lab.apply(1, Step::ChangeLink(IfName::new("eth0")?, down))?;
    let off = said("vxlan")?;
    assert!(off.contains("no default route"), "{off}");
    Ok(())
}
