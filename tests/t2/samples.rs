//! The conflists of conf/cni as they are shipped, on two hosts: a pod sees the other pod's own address.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use cni::runtime::{Attachment, NetworkList, Runtime};
use kernel::types::Family;
use lab::cluster::{Cluster, Spec, subnet_file};
use lab::mode::Mode;
use lab::netns::Room;
use lab::pods::place_plugins;
use lab::topology::Topology;
use lab::world::World;
use serde_json::{Value, json};
use tests::harness;

use crate::sources::seen;
use crate::{Failure, Outcome};

const FILES: &str = "/run/samples";

/// conf/systemd's daemons masquerade.
const AS_THE_UNITS: [&str; 1] = ["--ip-masq"];

struct Pod {
    room: Room,
    address: IpAddr,
}

fn sample(file: &str) -> Result<Value, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/cni").join(file);
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The plugin's part of a sample, with the files of this one of the lab's hosts, which share a disk.
fn here(list: &mut Value, host: usize, subnet_file: &Path) -> Result<(), Failure> {
    let files = files(host);
    let plugin = list["plugins"].get_mut(0).ok_or("a sample without a plugin")?;
    plugin["subnetFile"] = json!(subnet_file);
    plugin["dataDir"] = json!(files.join("flannel"));
    plugin["ipam"] = json!({ "dataDir": files.join("networks") });
    Ok(())
}

fn files(host: usize) -> PathBuf {
    PathBuf::from(FILES).join(format!("host{host}"))
}

/// Attaches a pod to `host` as a runtime does.
fn attach(host: &Room, number: usize, list: &Value) -> Result<Pod, Failure> {
    let bin = PathBuf::from(FILES).join("bin");
    place_plugins(&harness::executables()?.plugins, &bin)?;
    let name = format!("sample{number}");
    let room = Room::create(&name)?;
    let list = NetworkList::parse(list.to_string().as_bytes())?;
    let attachment = Attachment {
        container_id: name,
        netns: room.path().to_string_lossy().into_owned(),
        ifname: "eth0".into(),
        ..Attachment::default()
    };
    let runtime = Runtime::new(bin.to_string_lossy(), files(number).join("cache"));
    let result = host.enter(|| runtime.add_or_undo(&list, &attachment))??;
    let address = result.ips.first().ok_or("no address")?.address.ip();
    Ok(Pod { room, address })
}

fn sources_stay(pods: &[Pod; 2]) -> Outcome {
    let [one, two] = pods;
    for (from, to) in [(one, two), (two, one)] {
        let seen = seen(&from.room, &to.room, to.address)?;
        assert_eq!(seen, from.address, "a pod's packet comes to another host's pod with another source");
    }
    Ok(())
}

/// Beside a flanneld with `flags`.
fn beside_flanneld(mode: Mode, file: &str, flags: &[&str]) -> Outcome {
    let spec = Spec { topology: Topology::flat(2), mode, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    for host in cluster.spec.topology.hosts() {
        cluster.start_daemon_with(host, flags)?;
    }
    cluster.wait_ready()?;
    let attach = |host: usize| {
        let mut list = sample(file)?;
        here(&mut list, host, &subnet_file(host))?;
        attach(cluster.world.host(host)?, host, &list)
    };
    sources_stay(&[attach(1)?, attach(2)?])
}

pub fn flannel() -> Outcome {
    beside_flanneld(Mode::Vxlan, "10-flannel.conflist", &AS_THE_UNITS)
}

/// The plugin masquerades, and leaves out the network.
pub fn flannel_without_ip_masq() -> Outcome {
    beside_flanneld(Mode::Vxlan, "10-flannel.conflist", &[])
}

pub fn vxlan() -> Outcome {
    beside_flanneld(Mode::Vxlan, "10-vxlan.conflist", &AS_THE_UNITS)
}

pub fn host_gw() -> Outcome {
    beside_flanneld(Mode::HostGw, "10-host-gw.conflist", &AS_THE_UNITS)
}

pub fn direct_routing() -> Outcome {
    beside_flanneld(Mode::DirectRouting, "10-direct-routing.conflist", &AS_THE_UNITS)
}

/// Without a flanneld, by the samples for two hosts.
fn alone(samples: [&str; 2]) -> Outcome {
    let world = World::build(Topology::flat(2))?;
    let attach = |host: usize| {
        let mut list = sample(samples[host - 1])?;
        here(&mut list, host, &files(host).join("subnet.env"))?;
        of_host(&mut list["plugins"][0], &world, host)?;
        attach(world.host(host)?, host, &list)
    };
    sources_stay(&[attach(1)?, attach(2)?])
}

/// The addresses of the lab's hosts in place of the sample's, and the host's own subnet.
fn of_host(plugin: &mut Value, world: &World, host: usize) -> Outcome {
    // a flat world has no default route to find it by
    plugin["iface"] = json!("eth0");
    plugin["subnet"] = json!(format!("10.244.{host}.0/24"));
    for (peer, number) in plugin["peers"].as_array_mut().ok_or("a sample without peers")?.iter_mut().zip(1..) {
        assert_eq!(peer["subnet"], format!("10.244.{number}.0/24"), "the sample's hosts are in order");
        peer["publicIP"] = json!(world.topology.underlay(number, Family::V4));
    }
    Ok(())
}

pub fn vxlan_without_flanneld() -> Outcome {
    alone(["30-vxlan-host1.conflist", "30-vxlan-host2.conflist"])
}

/// Its second host's file is the first one's with another subnet.
pub fn host_gw_without_flanneld() -> Outcome {
    alone(["30-host-gw-host1.conflist"; 2])
}

/// systemd has nothing to say about the units. It ends with success whatever it has said.
pub fn systemd_accepts_the_units() -> Outcome {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd");
    fs::create_dir_all(FILES)?;
    let mut seen = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let unit = Path::new(FILES).join(entry.file_name());
        let text = fs::read_to_string(entry.path())?;
        // it looks for the executable
        fs::write(&unit, text.replace("/usr/local/bin/flanneld", "/bin/sh"))?;
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_it: Vec<&str> = said.lines().filter(|line| line.contains("flanneld")).collect();
        assert!(output.status.success() && about_it.is_empty(), "{}: {said}", entry.path().display());
        seen += 1;
    }
    assert!(seen > 0, "conf/systemd has no unit");
    Ok(())
}
