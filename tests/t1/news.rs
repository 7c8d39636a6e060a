//! What the kernel announces, and how it is read.

use std::process::Command;
use std::time::Duration;

use kernel::news::{Listener, News, Reader};
use lab::netns::Room;
use lab::wait::eventually;
use tests::harness::Outcome;

type Failure = Box<dyn std::error::Error>;

/// A namespace, with the reader of its announcements.
struct Announced {
    room: Room,
    listener: Listener,
    reader: Reader,
}

/// For an announcement that comes after what is announced later.
const PATIENCE: Duration = Duration::from_secs(10);

/// These run after a command: the announcement of the second shows that all earlier ones have been read.
const LAST: [&str; 2] = ["ip address add 127.9.9.9/32 dev lo", "ip address del 127.9.9.9/32 dev lo"];

impl Announced {
    fn open() -> Result<Self, Failure> {
        let room = Room::create("news")?;
        let listener = room.enter(Listener::open)??;
        let mut reader = Reader::default();
        reader.survey_ends(&room.kernel()?.links()?);
        Ok(Self { room, listener, reader })
    }

    fn run(&self, line: &str) -> Outcome {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        let output = self.room.enter(|| command.output())??;
        assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The news of one command, as text.
    fn news(&mut self, line: &str) -> Result<Vec<String>, Failure> {
        self.run(line)?;
        LAST.iter().try_for_each(|line| self.run(line))?;
        let mut all = Vec::new();
        loop {
            for announcement in self.listener.receive()? {
                for news in self.reader.read(announcement) {
                    match &news {
                        News::Address(key, None) if key.net.to_string() == "127.9.9.9/32" => return Ok(all),
                        News::Unreadable(why) => return Err(format!("`{line}`: cannot be read: {why}").into()),
                        _ => all.push(format!("{news:?}")),
                    }
                }
            }
        }
    }

    /// One piece of news of the command has all these parts.
    fn tells(&mut self, line: &str, parts: &[&str]) -> Outcome {
        let mut all = self.news(line)?;
        let told = |all: &[String]| all.iter().any(|news| parts.iter().all(|part| news.contains(part)));
        // an IPv6 address is announced by a work queue, maybe after what came later (addrconf_dad_work, net/ipv6/addrconf.c)
        Ok(eventually(format_args!("`{line}` tells of {parts:?}"), PATIENCE, || {
            if told(&all) {
                return Ok(());
            }
            all.extend(self.news("ip link show lo").map_err(|error| error.to_string())?);
            Err(format!("{all:#?}"))
        })?)
    }
}

pub fn every_change_is_announced_as_what_it_is() -> Outcome {
    let mut announced = Announced::open()?;
    let mac = "02:00:00:00:00:01";
    for (line, parts) in [
        (
            "ip link add vx0 type vxlan id 5 dstport 4789 local 127.0.0.1",
            vec!["Link(vx0, Some", "vni: Vni(5)", "up: false"],
        ),
        ("ip link set vx0 up", vec!["Link(vx0, Some", "up: true"]),
        ("ip link set vx0 mtu 1300", vec!["Link(vx0, Some", "mtu: Some(Mtu(1300))"]),
        ("ip link set vx0 alias mine", vec!["Link(vx0, Some", "alias: Some(\"mine\")"]),
        ("ip address add 10.5.1.0/32 dev vx0", vec!["Address(", "10.5.1.0", "Some(SeenAddress"]),
        ("ip address del 10.5.1.0/32 dev vx0", vec!["Address(", "10.5.1.0", "None)"]),
        ("ip address add fd05::1/64 dev vx0 nodad", vec!["Address(", "fd05::1", "Some(SeenAddress"]),
        ("bridge fdb replace MAC dev vx0 dst 192.0.2.1 self permanent", vec!["Fdb(", "dst: 192.0.2.1, port: None"]),
        ("bridge fdb replace MAC dev vx0 dst 192.0.2.1 port 9999 self permanent", vec!["Fdb(", "port: Some(9999)"]),
        ("bridge fdb replace MAC dev vx0 dst 192.0.2.1 self dynamic", vec!["Fdb(", mac, "None)"]),
        ("bridge fdb del MAC dev vx0 self", vec!["Fdb(", mac, "None)"]),
        ("ip neigh add 10.5.2.0 lladdr MAC dev vx0 nud permanent", vec!["Neighbour(", "10.5.2.0", "Some(02:"]),
        ("ip neigh replace 10.5.2.0 lladdr MAC dev vx0 nud reachable", vec!["Neighbour(", "10.5.2.0", "None)"]),
        ("ip neigh del 10.5.2.0 dev vx0", vec!["Neighbour(", "10.5.2.0", "None)"]),
        (
            "ip route add 10.5.2.0/24 via 10.5.2.0 dev vx0 onlink proto 70",
            vec!["Route(", "10.5.2.0", "RouteProtocol(70)"],
        ),
        ("ip route append 10.5.2.0/24 via 10.5.3.0 dev vx0 onlink", vec!["Route(", "ordinal: 1", "Some(10.5.3.0)"]),
        ("ip route replace unreachable 10.5.2.0/24", vec!["Route(", "10.5.2.0", "kind: Other(7)"]),
        ("ip -6 route add fd06::/64 dev vx0 metric 7", vec!["Route(", "fd06::", "metric: Some(7)"]),
        ("ip -6 route del fd06::/64 dev vx0 metric 7", vec!["Route(", "fd06::", "None)"]),
        ("ip link set vx0 down", vec!["Link(vx0, Some", "up: false"]),
        ("ip link set vx0 name vx1", vec!["Link(vx0, None)"]),
        ("ip link del vx1", vec!["Link(vx1, None)"]),
    ] {
        announced.tells(&line.replace("MAC", mac), &parts)?;
    }
    Ok(())
}

pub fn a_bridge_port_is_announced_with_its_flags() -> Outcome {
    let mut announced = Announced::open()?;
    for (line, parts) in [
        ("ip link add br0 type bridge", vec!["Link(br0, Some"]),
        ("ip link add veth0 type veth peer name veth1", vec!["Link(veth1, Some"]),
        ("ip link set veth0 master br0", vec!["Link(veth0, Some", "master: Some(Some(br0))"]),
        ("bridge link set dev veth0 hairpin on", vec!["Port(veth0, Some", "hairpin: true"]),
        ("bridge link set dev veth0 isolated on", vec!["Port(veth0, Some", "hairpin: true", "isolated: true"]),
        ("bridge link set dev veth0 hairpin off", vec!["Port(veth0, Some", "hairpin: false", "isolated: true"]),
        ("ip link set veth0 nomaster", vec!["Port(veth0, None)"]),
        ("ip link del veth0", vec!["Link(veth1, None)"]),
    ] {
        announced.tells(line, &parts)?;
    }
    Ok(())
}

pub fn forwarding_is_announced_as_a_sysctl() -> Outcome {
    let mut announced = Announced::open()?;
    announced.run("ip link add veth0 type veth peer name veth1")?;
    for (line, told) in [
        ("sysctl -qw net.ipv4.ip_forward=1", r#"Sysctl("net/ipv4/ip_forward", "1")"#),
        ("sysctl -qw net.ipv4.ip_forward=0", r#"Sysctl("net/ipv4/conf/all/forwarding", "0")"#),
        ("sysctl -qw net.ipv4.conf.veth0.forwarding=1", r#"Sysctl("net/ipv4/conf/veth0/forwarding", "1")"#),
        ("sysctl -qw net.ipv4.conf.all.rp_filter=2", r#"Sysctl("net/ipv4/conf/all/rp_filter", "2")"#),
        ("sysctl -qw net.ipv6.conf.all.forwarding=1", r#"Sysctl("net/ipv6/conf/all/forwarding", "1")"#),
        ("sysctl -qw net.ipv6.conf.veth0.forwarding=0", r#"Sysctl("net/ipv6/conf/veth0/forwarding", "0")"#),
    ] {
        announced.tells(line, &[told])?;
    }
    Ok(())
}
