//! The cluster that is vandalised: its variables, what its host 1 looks like, and whether its pods reach each other.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cni::runtime::{Attachment, NetworkList, Runtime};
use ipnetwork::IpNetwork;
use kernel::types::{Family, IfName};
use lab::cluster::{Cluster, PATIENCE, Spec, host_dir, subnet_file};
use lab::netns::Room;
use lab::ping::Pinger;
use lab::pods;
use lab::topology::Topology;
use lab::wait::eventually;
use overlay::status::{Status, path_beside};
use serde_json::json;

use super::{Object, Row, Table};
use crate::disturb::{cluster_with, get, start_first};
use crate::{Failure, Outcome};

/// How long an echo may take. One that is late is sent again.
fn patience() -> Duration {
    Duration::from_millis(if tests::vm::is_inside() { 1000 } else { 100 })
}
/// Bytes; with the headers of ICMP and IP more than a device with the minimum MTU of IPv6 carries.
const LARGE: usize = 1300;
/// Words that are only in lines of the vandal's own things.
const VANDALS: [&str; 3] = ["br9", "vx9", "thief"];

/// A part of what a host looks like, and the commands that show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section(&'static str);

const LINKS: Section = Section("ip -d -o link show");
const ADDRESSES: Section = Section("ip -o addr show");
const ROUTES: Section = Section("ip route show table all; ip -6 route show table all");
const NEIGHBOURS: Section = Section(
    "ip neigh show nud permanent; ip neigh show nud noarp | grep -v 'ff0[0-9]:\\|^224' || :; ip neigh show dev $DEV || :",
);
const FDB: Section =
    Section("bridge fdb show dev $DEV 2>&1; bridge fdb show dev $DEV6 2>&1; bridge fdb show br cni0 state static");
const PORTS: Section = Section("bridge -d -o link show");
const QUEUES: Section = Section("tc qdisc show");
const RULES: Section = Section("nft list ruleset");
const POLICY: Section = Section("ip rule show; ip -6 rule show");
const SETTINGS: Section =
    Section("grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_*; :");
const FILES: Section = Section(
    "stat -c '%n %F %a %h' $ENV $STATUS || :; timeout 1 cat $ENV || :; timeout 1 grep -s '\"pid\"\\|\"backend\"' $STATUS || :",
);

impl Object {
    /// Where its damage shows.
    pub fn sections(self) -> &'static [Section] {
        match self {
            Self::Device => &[LINKS, QUEUES, ADDRESSES, ROUTES, NEIGHBOURS, FDB],
            Self::Address => &[ADDRESSES, ROUTES],
            Self::Route => &[ROUTES],
            Self::Neighbour => &[NEIGHBOURS],
            Self::Fdb => &[FDB],
            Self::Setting => &[SETTINGS],
            Self::Bridge => &[LINKS, QUEUES, ADDRESSES, ROUTES, PORTS],
            Self::Port => &[LINKS, QUEUES, PORTS],
            Self::Rules => &[RULES],
            Self::File => &[FILES],
            Self::Policy => &[POLICY],
        }
    }
}

/// All sections.
pub const ALL: [Section; 11] =
    [LINKS, ADDRESSES, ROUTES, NEIGHBOURS, FDB, PORTS, QUEUES, RULES, POLICY, SETTINGS, FILES];

/// The lines of a section, in no order.
pub type Look = BTreeSet<String>;

/// A cluster under attack.
pub struct Scene {
    /// It.
    pub cluster: Cluster,
    dual_stack: bool,
    flags: &'static [&'static str],
    vars: Vec<(&'static str, String)>,
    _mate: Mate,
    pingers: Vec<(&'static str, Pinger)>,
    before: Vec<(Section, Look)>,
    /// Repairs by the daemon that runs, of what it repairs five times a minute only.
    limited: usize,
}

/// A second pod on host 1, with packet rules.
struct Mate {
    room: Room,
    veth: String,
    address: std::net::IpAddr,
}

impl Scene {
    /// A cluster of two hosts that works, and how its host 1 looks.
    pub fn build(table: &Table) -> Result<Self, Failure> {
        let Table { mode, dual_stack, flags, .. } = *table;
        let cluster = cluster_with(Spec { topology: Topology::flat(2), mode, dual_stack, outlive: false }, flags)?;
        let mate = attach_mate(&cluster)?;
        let mut scene = Self {
            pingers: pingers(&cluster, &mate)?,
            vars: variables(&cluster, &mate)?,
            cluster,
            dual_stack,
            flags,
            _mate: mate,
            before: Vec::new(),
            limited: 0,
        };
        scene.wait_quiet()?;
        scene.before = scene.settled()?;
        Ok(scene)
    }

    /// Runs a script in host 1's namespace and gives what it prints.
    pub fn sh(&self, script: &str) -> Result<String, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).envs(self.vars.iter().map(|(name, value)| (name, value.as_str())));
        command.envs(self.pid().map(|pid| ("PID", pid.to_string())));
        let output = self.cluster.world.host(1)?.enter(|| command.output())??;
        if !output.status.success() {
            return Err(format!("`{script}`: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn look(&self, section: Section) -> Result<Look, Failure> {
        let text = self.sh(section.0)?;
        if section == RULES {
            return Ok(text.split("table ").map(str::to_owned).collect());
        }
        Ok(text.lines().filter_map(normal).collect())
    }

    /// What of a section is not as before, the vandal's own things apart.
    pub fn difference(&self, section: Section) -> Result<Vec<String>, Failure> {
        let now = self.look(section)?;
        let before = self.before.iter().find(|(known, _)| *known == section).map(|(_, look)| look);
        let before = before.ok_or("no such section")?;
        let is_vandals = |line: &&String| VANDALS.iter().any(|word| line.contains(word));
        let lost = before.difference(&now).map(|line| format!("- {line}"));
        let new = now.difference(before).filter(|line| !is_vandals(line)).map(|line| format!("+ {line}"));
        Ok(lost.chain(new).collect())
    }

    /// What of the host is not as before.
    pub fn differences(&self) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        for section in ALL {
            all.extend(self.difference(section)?);
        }
        Ok(all)
    }

    fn settled(&self) -> Result<Vec<(Section, Look)>, Failure> {
        let look =
            || ALL.into_iter().map(|section| Ok((section, self.look(section)?))).collect::<Result<Vec<_>, Failure>>();
        let mut last = look()?;
        Ok(eventually("the host's look settles", PATIENCE, || {
            let now = look().map_err(|error| error.to_string())?;
            let same = now == last;
            last = now;
            if same { Ok(last.clone()) } else { Err("it changes".to_owned()) }
        })?)
    }

    /// Whether every pod reaches every other, its host and its neighbour, with what was learned forgotten. Why not.
    pub fn traffic(&mut self) -> Result<(), String> {
        let forget = "for pod in pod1 pod2 mate; do ip -n $pod neigh flush all; done; ip neigh flush dev cni0; :";
        self.sh(forget).map_err(|error| error.to_string())?;
        for (what, pinger) in &mut self.pingers {
            let sent = pinger.echo(patience()).or_else(|_| pinger.echo(patience()));
            sent.map_err(|error| format!("{what}: {error}"))?;
        }
        Ok(())
    }

    /// Puts an object back in place of the daemon, which has not.
    pub fn force(&self, object: Object) -> Outcome {
        let script = match object {
            Object::Device | Object::Address | Object::Route | Object::Neighbour | Object::Fdb => {
                "ip route flush root $PEER_NET; ip route flush exact $ROUTE; tc qdisc del dev $DEV root; ip neigh flush dev cni0 nud all; ip link del $DEV; :"
            }
            Object::Bridge => "tc qdisc del dev cni0 root; ip link del cni0; :",
            Object::Port => {
                "tc qdisc del dev $VETH root; ip link set $VETH protodown off; bridge link set dev $VETH learning on flood on \
                 mcast_flood on bcast_flood on neigh_suppress off locked off state 3; :"
            }
            Object::Setting => return self.write_settings(),
            Object::Rules | Object::File | Object::Policy => ":",
        };
        self.sh(script).map(drop)
    }

    fn write_settings(&self) -> Outcome {
        for line in self.difference(SETTINGS)? {
            if let Some((path, value)) = line.strip_prefix("- ").and_then(|line| line.split_once(':')) {
                self.sh(&format!("echo '{value}' > {path}"))?;
            }
        }
        Ok(())
    }

    /// The status as text; empty without one.
    pub fn status(&self) -> String {
        let Some(mut status) = Cluster::status(1) else { return String::new() };
        let attachments = status.attachments.take().unwrap_or_default().reported;
        let Status { last_error, foreign_routes, rejected, warnings, dropping, .. } = status;
        format!("{last_error:?} {foreign_routes:?} {attachments:?} {rejected:?} {warnings:?} {dropping:?}")
    }

    /// The answer of `/readyz`; 0 for none.
    pub fn ready(&self) -> (u16, String) {
        let asked = self.cluster.world.host(1).map_err(Into::into).and_then(|room| get(room, "/readyz"));
        asked.unwrap_or_else(|error| (0, error.to_string()))
    }

    /// Waits until the daemon reports nothing and looks after both pods.
    pub fn wait_quiet(&self) -> Outcome {
        let pid = self.pid();
        Ok(eventually("the daemon has nothing to report", PATIENCE, || {
            let status = Cluster::status(1).ok_or("no status")?;
            let attachments = status.attachments.clone().unwrap_or_default();
            let quiet =
                status.last_error.is_none() && status.foreign_routes.is_empty() && attachments.reported.is_empty();
            let whole = Some(status.pid) == pid && status.peers.len() == self.pingers.len().min(1) * self.families();
            if quiet && whole && attachments.count == 2 && self.ready().0 == 200 {
                Ok(())
            } else {
                Err(format!(
                    "{} {:?} {} peers, {} attachments",
                    self.status(),
                    self.ready(),
                    status.peers.len(),
                    attachments.count
                ))
            }
        })?)
    }

    /// Host 1's daemon.
    fn pid(&self) -> Option<u32> {
        self.cluster.pids().find(|(host, _)| *host == 1).map(|(_, pid)| pid)
    }

    fn families(&self) -> usize {
        if self.dual_stack { 2 } else { 1 }
    }

    /// A row comes: a daemon that may still repair what it damages.
    pub fn prepare(&mut self, row: &Row) -> Outcome {
        let limited = matches!(row.object, Object::Bridge | Object::Port | Object::Rules | Object::File);
        if !limited && !row.damage.contains("cni0") {
            return Ok(());
        }
        self.limited += 1;
        if self.limited <= 3 {
            return Ok(());
        }
        self.renew()
    }

    /// A new daemon on host 1, which repairs again what was repaired too often.
    pub fn renew(&mut self) -> Outcome {
        self.limited = 1;
        assert!(self.cluster.take_daemon(1)?.stop(PATIENCE)?.success(), "host1's daemon ends");
        start_first(&mut self.cluster, self.flags)?;
        self.wait_quiet()?;
        let file = path_beside(&subnet_file(1));
        let text = std::fs::read_to_string(&file)?;
        for (_, look) in self.before.iter_mut().filter(|(section, _)| *section == FILES) {
            look.retain(|line| !line.contains("\"pid\""));
            look.extend(text.lines().filter(|line| line.contains("\"pid\"")).filter_map(normal));
        }
        Ok(())
    }
}

/// A line without what comes and goes: numbers of links, and what counts.
fn normal(line: &str) -> Option<String> {
    // the kernel's own: link-local addresses, and what it has for a device without addresses of links
    let bare = ["flannel0", "flannel.ipip", "flannel-wg"].iter().any(|dev| line.contains(&format!("dev {dev} lladdr")));
    if line.contains("fe80:") || line.contains("stable_secret") || bare {
        return None;
    }
    let mut words: Vec<String> = Vec::new();
    let mut skip = false;
    for (at, word) in line.split_whitespace().enumerate() {
        if std::mem::take(&mut skip) {
            continue;
        }
        match word {
            _ if at == 0 && word.trim_end_matches(':').parse::<u32>().is_ok() => {}
            "port_id"
            | "port_no"
            | "designated_port"
            | "tcn_timer"
            | "hello_timer"
            | "topology_change_timer"
            | "gc_timer"
            | "hold_timer"
            | "message_age_timer"
            | "forward_delay_timer"
            | "used"
            | "probes"
            | "expires" => skip = true,
            // what a device without a carrier of its own says differs with its history
            "UNKNOWN" | "UP" if words.last().is_some_and(|last| last == "state") => drop(words.pop()),
            word => words.push(word.split("@if").next().unwrap_or(word).to_owned()),
        }
    }
    Some(words.join(" ")).filter(|line| !line.is_empty())
}

fn attach_mate(cluster: &Cluster) -> Result<Mate, Failure> {
    let (room, files) = (Room::create("mate")?, host_dir(1).join("cni"));
    let list = json!({
        "cniVersion": "1.0.0",
        "name": pods::NETWORK,
        "plugins": [{
            "type": "flannel",
            "subnetFile": subnet_file(1),
            "dataDir": files.join("flannel"),
            "ipam": { "type": "host-local", "dataDir": files.join("networks") },
            "delegate": { "hairpinMode": true, "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true },
        }],
    });
    let list = NetworkList::parse(list.to_string().as_bytes())?;
    let attachment = Attachment {
        container_id: "mate".into(),
        netns: room.path().to_string_lossy().into_owned(),
        ifname: "eth0".into(),
        ..Attachment::default()
    };
    let runtime = Runtime::new(Path::new("/run/lab/bin").to_string_lossy(), files);
    let result = cluster.world.host(1)?.enter(|| runtime.add(&list, &attachment))??;
    let ours = |name: &&str| name.starts_with("veth");
    let veth =
        result.interfaces.iter().filter(|link| link.sandbox.is_empty()).map(|link| link.name.as_str()).find(ours);
    let address = result.ips.iter().map(|ip| ip.address.ip()).find(|ip| ip.is_ipv4());
    Ok(Mate { room, veth: veth.ok_or("no veth")?.to_owned(), address: address.ok_or("no address")? })
}

fn pingers(cluster: &Cluster, mate: &Mate) -> Result<Vec<(&'static str, Pinger)>, Failure> {
    let mut all = Vec::new();
    for family in cluster.families() {
        all.push(("pod1 to pod2", cluster.pinger(1, 2, *family)?));
        all.push(("pod2 to pod1", cluster.pinger(2, 1, *family)?));
        all.push(("pod1 to pod2, large", cluster.pinger(1, 2, *family)?.with_payload(LARGE)));
        all.push(("pod2 to pod1, large", cluster.pinger(2, 1, *family)?.with_payload(LARGE)));
        let pod = cluster.address(1, *family)?;
        all.push(("host1 to pod1", cluster.world.host(1)?.enter(|| Pinger::open(pod, 900))??));
    }
    let (pod, neighbour) = (cluster.address(1, Family::V4)?, mate.address);
    all.push(("mate to pod1", mate.room.enter(|| Pinger::open(pod, 901))??));
    all.push(("pod1 to mate", cluster.pod(1)?.room.enter(|| Pinger::open(neighbour, 902))??));
    Ok(all)
}

/// What the rows' scripts name.
fn variables(cluster: &Cluster, mate: &Mate) -> Result<Vec<(&'static str, String)>, Failure> {
    let own = Cluster::status(1).ok_or("no status")?;
    let peer = Cluster::status(2).ok_or("no status")?;
    let mut vars = vec![
        ("VETH", cluster.pod(1)?.veth.clone()),
        ("MATE", mate.veth.clone()),
        ("ENV", subnet_file(1).display().to_string()),
        ("STATUS", path_beside(&subnet_file(1)).display().to_string()),
        ("QUEUE", if cluster.spec.mode == lab::mode::Mode::Udp { "500" } else { "1000" }.to_owned()),
    ];
    let mut kernel = cluster.world.host(1)?.kernel()?;
    // addresses are read of links that were seen
    kernel.links()?;
    let cni0 = kernel.link(&IfName::new("cni0")?)?.and_then(|link| link.link.mac).ok_or("cni0 has no MAC")?;
    vars.push(("GATEWAY_MAC", cni0.to_string()));
    let pod_mac = cluster.pod(1)?.room.kernel()?.link(&IfName::new("eth0")?)?.and_then(|link| link.link.mac);
    vars.push(("POD_MAC", pod_mac.ok_or("the pod has no MAC")?.to_string()));
    for family in cluster.families() {
        let name = |v4, v6| if *family == Family::V4 { v4 } else { v6 };
        let of = |nets: &[IpNetwork]| nets.iter().copied().find(|net| Family::from(*net) == *family);
        let (net, theirs) = (of(&own.subnets).ok_or("no subnet")?, of(&peer.subnets).ok_or("no subnet")?);
        let dev = match (cluster.spec.mode, family) {
            (lab::mode::Mode::Udp, _) => "flannel0",
            (lab::mode::Mode::Ipip, _) => "flannel.ipip",
            (lab::mode::Mode::Wireguard, Family::V4) => "flannel-wg",
            (lab::mode::Mode::Wireguard, Family::V6) => "flannel-wg-v6",
            (_, Family::V4) => "flannel.1",
            (_, Family::V6) => "flannel-v6.1",
        };
        let seen = own.peers.iter().find(|seen| seen.subnet == theirs).ok_or("no peer")?;
        let gateway = net.iter().nth(1).ok_or("no gateway")?;
        let addr = kernel.addresses()?.into_iter().find(|seen| {
            let net = seen.key.net;
            seen.key.dev.as_str() == dev && Family::from(net) == *family && !kernel::survey::is_link_local(net.ip())
        });
        vars.extend([
            (name("DEV", "DEV6"), dev.to_owned()),
            (name("PEER_NET", "PEER_NET6"), theirs.to_string()),
            (name("ROUTE", "ROUTE6"), route_to(cluster.spec.mode, theirs, *family)),
            (name("PEER_ADDR", "PEER_ADDR6"), theirs.network().to_string()),
            (name("PEER_MAC", "PEER_MAC6"), seen.vtep_mac.clone().unwrap_or_default()),
            (name("PEER_IP", "PEER_IP6"), seen.public_ip.to_string()),
            (name("OWN_NET", "OWN_NET6"), net.to_string()),
            (name("GATEWAY", "GATEWAY6"), gateway.to_string()),
            (name("POD", "POD6"), cluster.address(1, *family)?.to_string()),
            (name("PEER_POD", "PEER_POD6"), cluster.address(2, *family)?.to_string()),
            (name("PUBLIC", "PUBLIC6"), cluster.spec.topology.underlay(1, *family).ok_or("no underlay")?.to_string()),
            (name("ADDR", "ADDR6"), addr.map(|seen| seen.key.net.to_string()).unwrap_or_default()),
        ]);
        let by = match cluster.spec.mode {
            lab::mode::Mode::HostGw => format!("via {} dev eth0", seen.public_ip),
            lab::mode::Mode::Ipip => format!("via {} dev {dev} onlink", seen.public_ip),
            lab::mode::Mode::Wireguard => format!("dev {dev}"),
            _ => format!("via {} dev {dev} onlink", theirs.network()),
        };
        vars.push((name("BY", "BY6"), by));
    }
    if !cluster.spec.dual_stack {
        vars.push(("DEV6", "none".to_owned()));
    }
    Ok(vars)
}

/// The destination of the route that leads to a peer's subnet.
fn route_to(mode: lab::mode::Mode, subnet: IpNetwork, family: Family) -> String {
    let one = matches!(mode, lab::mode::Mode::Udp | lab::mode::Mode::Wireguard);
    match family {
        _ if !one => subnet.to_string(),
        Family::V4 => lab::mode::NETWORK.to_owned(),
        Family::V6 => lab::mode::NETWORK_V6.to_owned(),
    }
}
