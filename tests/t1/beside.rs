//! Routes and entries that another program made where ours belong: ours take effect, and the others stay.

use std::net::IpAddr;
use std::process::Command;

use ipnetwork::IpNetwork;
use kernel::diff::Conflict;
use kernel::state::{Fdb, FdbKey, Link, LinkKind, Route, RouteKey, RouteScope, Scope, State, Veth, Vxlan};
use kernel::types::{IfName, Mac, RouteProtocol, Vni};
use kernel::{Kernel, Outcome as Made};
use lab::netns::Room;
use tests::harness::Outcome;

type Failure = Box<dyn std::error::Error>;

const DST: &str = "10.5.2.0/24";
const DST_V6: &str = "fd05:0:0:2::/64";

/// A host with an underlay, and a route by it per family.
struct Host {
    room: Room,
    kernel: Kernel,
    wanted: State,
    scope: Scope,
}

fn name(text: &str) -> Result<IfName, Failure> {
    Ok(IfName::new(text)?)
}

impl Host {
    fn new() -> Result<Self, Failure> {
        let room = Room::create("beside")?;
        let eth0 = name("eth0")?;
        let mut wanted = State::default();
        wanted.links.insert(eth0.clone(), Link::up(LinkKind::Veth(Veth { peer: None })));
        wanted.address(&eth0, "192.0.2.1/24".parse()?, true);
        wanted.address(&eth0, "2001:db8::1/64".parse()?, true);
        for (dst, via) in [(DST, "192.0.2.2"), (DST_V6, "2001:db8::2")] {
            let route = Route { via: Some(via.parse()?), protocol: RouteProtocol::FLANNEL, ..Route::by(&eth0) };
            wanted.routes.insert(RouteKey::main(dst.parse()?), route);
        }
        let within: Vec<IpNetwork> = vec!["10.5.0.0/16".parse()?, "fd05::/56".parse()?];
        let routes = RouteScope { protocol: Some(RouteProtocol::FLANNEL), within, ..RouteScope::default() };
        let eth0 = vec![eth0];
        let scope = Scope { read_links: eth0.clone(), addresses: eth0, routes: Some(routes), ..Scope::default() };
        let mut host = Self { kernel: room.kernel()?, room, wanted, scope };
        host.run("ip link add eth0 type veth peer name wire")?;
        host.run("ip link set wire up")?;
        host.settle("the host")?;
        Ok(host)
    }

    fn run(&self, line: &str) -> Result<String, Failure> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        let output = self.room.enter(|| command.args(words).output())??;
        assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn converge(&mut self) -> Result<Made, Failure> {
        Ok(self.kernel.converge(&self.wanted, &self.scope, None)?)
    }

    /// Converges, and checks that a second convergence has no step.
    fn settle(&mut self, what: &str) -> Outcome {
        let made = self.converge()?;
        assert!(made.is_whole(), "{what}: {made:?}");
        let plan = self.kernel.plan(&self.wanted, &self.scope, None)?;
        assert!(plan.is_empty(), "{what}: {plan:?}");
        Ok(())
    }

    /// `ip route show DST`, first the route that packets take.
    fn routes(&self) -> Result<Vec<String>, Failure> {
        let text = self.run(&format!("ip route show {DST}"))?;
        Ok(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    }
}

const OURS: &str = "10.5.2.0/24 via 192.0.2.2 dev eth0 proto 70";

pub fn another_programs_route_stays_behind_ours() -> Outcome {
    let mut host = Host::new()?;
    for (line, theirs) in [
        ("ip route prepend 10.5.2.0/24 via 192.0.2.9", "10.5.2.0/24 via 192.0.2.9 dev eth0"),
        ("ip route replace 10.5.2.0/24 via 192.0.2.9", "10.5.2.0/24 via 192.0.2.9 dev eth0"),
        ("ip route replace unreachable 10.5.2.0/24", "unreachable 10.5.2.0/24"),
    ] {
        host.run(line)?;
        host.settle(line)?;
        assert_eq!(host.routes()?, [OURS, theirs], "{line}");
        host.run(&format!("ip route del {theirs}"))?;
    }
    let other = "10.5.2.0/24 tos 0x10 via 192.0.2.9 dev eth0";
    host.run(&format!("ip route add {other}"))?;
    host.settle(other)?;
    assert!(host.routes()?.contains(&other.to_owned()), "{:?}", host.routes()?);
    Ok(())
}

/// Whatever differs in a route of our protocol, it is replaced.
pub fn a_route_of_ours_with_more_to_it_is_replaced() -> Outcome {
    let mut host = Host::new()?;
    host.run("ip nexthop add id 5 via 192.0.2.9 dev eth0")?;
    for how in [
        "nhid 5",
        "via 192.0.2.2 dev eth0 mtu lock 1300",
        "via 192.0.2.2 dev eth0 hoplimit 1",
        "via 192.0.2.2 dev eth0 window 100",
        "via inet6 2001:db8::9 dev eth0",
        "nexthop via 192.0.2.2 dev eth0 nexthop via 192.0.2.9 dev eth0",
    ] {
        host.run(&format!("ip route replace {DST} proto 70 {how}"))?;
        assert_ne!(host.routes()?, [OURS], "{how}");
        host.settle(how)?;
        assert_eq!(host.routes()?, [OURS], "{how}");
    }
    Ok(())
}

/// Otherwise IPv6 would send every second packet by the other route.
pub fn another_programs_route_of_ipv6_is_named() -> Outcome {
    let mut host = Host::new()?;
    let theirs = format!("{DST_V6} via 2001:db8::9 dev eth0");
    host.run(&format!("ip -6 route replace {theirs}"))?;
    let made = host.converge()?;
    assert!(matches!(&made.conflicts[..], [Conflict::Route { key, .. }] if key.dst.to_string() == DST_V6), "{made:?}");
    let said = made.conflicts[0].to_string();
    assert!(said.contains("ip route del fd05:0:0:2::/64 via 2001:db8::9 dev eth0"), "{said}");
    assert_eq!(host.run(&format!("ip -6 route show {DST_V6}"))?.lines().count(), 1, "it is as it was");
    host.run(&format!("ip -6 route del {theirs}"))?;
    host.settle("the route is gone")
}

/// A next-hop group takes the place of the destination.
pub fn a_forwarding_entry_by_next_hops_is_replaced() -> Outcome {
    let mut host = Host::new()?;
    let (dev, mac) = (name("vx0")?, Mac([2, 0, 0, 0, 0, 9]));
    let kind = Vxlan { local: Some("192.0.2.1".parse()?), ..Vxlan::new(Vni::new(1)?) };
    host.wanted.links.insert(dev.clone(), Link::up(LinkKind::Vxlan(kind)));
    host.wanted.fdb.insert(FdbKey { dev: dev.clone(), mac }, Fdb::from(IpAddr::from([192, 0, 2, 2])));
    host.scope.links.push(dev.clone());
    host.scope.neighbours.push(dev);
    host.settle("an entry")?;
    let before = host.run("bridge fdb show dev vx0")?;
    for line in [
        "ip nexthop add id 5 via 192.0.2.9 fdb",
        "ip nexthop add id 50 group 5 fdb",
        "bridge fdb del 02:00:00:00:00:09 dev vx0 self",
        "bridge fdb add 02:00:00:00:00:09 dev vx0 nhid 50 self permanent",
    ] {
        host.run(line)?;
    }
    assert!(host.run("bridge fdb show dev vx0")?.contains("nhid 50"));
    host.settle("an entry by next hops")?;
    assert_eq!(host.run("bridge fdb show dev vx0")?, before);
    Ok(())
}
