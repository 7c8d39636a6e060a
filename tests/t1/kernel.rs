//! lib/kernel against the kernel.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints figures"
)]

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::diff::{LinkChange, Step, diff};
use kernel::removal::delete_link;
use kernel::state::{
    Adopt, Bridge, FdbKey, Link, LinkKind, Macvlan, MacvlanMode, NeighbourKey, Port, Route, RouteKey, RouteKind,
    RouteScope, Scope, State, TunTap, Veth, VethPeer, Vxlan, VxlanDf, VxlanTtl,
};
use kernel::types::{IfName, Mac, Mtu, RouteProtocol, Vni};
use kernel::{Kernel, Report};
use lab::netns::Room;
use tests::harness::Outcome;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn flannel_scope(links: &[&str]) -> Scope {
    let links: Vec<_> = links.iter().map(|l| name(l)).collect();
    Scope {
        links: links.clone(),
        addresses: links.clone(),
        neighbours: links.iter().filter(|l| l.as_str().starts_with("flannel")).cloned().collect(),
        routes: Some(RouteScope {
            protocol: Some(RouteProtocol::FLANNEL),
            adopt: Adopt { within: vec![net("10.5.0.0/16")], ..Adopt::default() },
            ..RouteScope::default()
        }),
        ..Scope::default()
    }
}

fn vxlan(learning: bool, port: Option<u16>, local: &str) -> LinkKind {
    LinkKind::Vxlan(Vxlan {
        lower: Some(name("br0")),
        local: Some(local.parse().unwrap()),
        port,
        learning,
        ..Vxlan::new(Vni::new(1).unwrap())
    })
}

fn bridge() -> Link {
    Link { mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..Link::up(LinkKind::Bridge(Bridge::default())) }
}

/// A host with a bridge as its underlay, a VXLAN device and `peers` behind it.
fn host(peers: u8) -> State {
    let mut state = State::default();
    state.links.insert(name("br0"), bridge());
    state.address(&name("br0"), net("192.0.2.1/24"), true);
    state.address(&name("br0"), net("2001:db8::1/64"), true);
    let dev = name("flannel.1");
    let mac = Some(Mac([2, 0, 0, 0, 0, 9]));
    let kind = vxlan(false, None, "192.0.2.1");
    state
        .links
        .insert(dev.clone(), Link { mtu: Some(Mtu(1450)), mac, alias: Some("flannel".into()), ..Link::up(kind) });
    state.address(&dev, net("10.5.1.0/32"), true);
    state.conf("ipv6", &dev, "accept_ra", "0");
    for i in 2..2 + peers {
        let mac = Mac([2, 0, 0, 0, 1, i]);
        let subnet = net(&format!("10.5.{i}.0/24"));
        state.neighbours.insert(NeighbourKey { dev: dev.clone(), addr: subnet.ip() }, mac);
        state.fdb.insert(FdbKey { dev: dev.clone(), mac }, IpAddr::from([192, 0, 2, i]).into());
        let via = Some(subnet.ip());
        state.routes.insert(RouteKey::main(subnet), Route { via, onlink: true, ..ours(&dev) });
    }
    state
}

fn ours(dev: &IfName) -> Route {
    Route { protocol: RouteProtocol::FLANNEL, ..Route::by(dev) }
}

/// Converges to `wanted`, and checks that no step remains.
fn make(kernel: &mut Kernel, wanted: &State, scope: &Scope) -> Vec<Step> {
    let mut scope = scope.clone();
    scope.sysctls = wanted.sysctls.keys().cloned().collect();
    let before = kernel.observe(&scope).unwrap();
    let plan = diff(wanted, &before, &scope);
    assert!(plan.conflicts.is_empty(), "{:?}", plan.conflicts);
    let report = kernel.apply(&plan.steps);
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let after = kernel.observe(&scope).unwrap();
    let rest = diff(wanted, &after, &scope);
    assert!(rest.is_empty(), "still to do: {:?}", rest.steps.iter().map(ToString::to_string).collect::<Vec<_>>());
    plan.steps
}

/// Links, addresses, neighbours, forwarding entries, routes with metrics, sysctls: written, read back, equal.
pub fn what_is_written_is_read_back() -> Outcome {
    let mut kernel = Kernel::open()?;
    let scope = flannel_scope(&["br0", "flannel.1"]);
    let mut wanted = host(20);
    let br0 = name("br0");
    let v6 = Route { via: Some("2001:db8::9".parse()?), mtu: Some(Mtu(1400)), advmss: Some(1300), ..ours(&br0) };
    wanted.routes.insert(RouteKey::main(net("fd05:0:0:65::/64")), v6);
    let direct = Route { via: Some([192, 0, 2, 200].into()), src: Some([192, 0, 2, 1].into()), ..ours(&br0) };
    wanted.routes.insert(RouteKey { metric: Some(50), ..RouteKey::main(net("10.5.200.0/24")) }, direct);
    let hole = Route { kind: RouteKind::Blackhole, dev: None, ..ours(&br0) };
    wanted.routes.insert(RouteKey::main(net("10.5.1.0/24")), hole);
    make(&mut kernel, &wanted, &scope);

    // All objects of peers are deleted again, and nothing else.
    let steps = make(&mut kernel, &host(0), &scope);
    assert!(steps.iter().all(Step::is_delete), "{steps:?}");
    assert_eq!(steps.len(), 20 * 3 + 3);
    Ok(())
}

/// The pair is made in one message: the peer in the pod under its final name, the host's end on the bridge.
pub fn a_pair_is_born_in_two_namespaces() -> Outcome {
    let room = Room::create("pod")?;
    let mut kernel = Kernel::open()?;
    let peer = VethPeer {
        name: name("eth0"),
        mac: Some(Mac([2, 0, 0, 0, 7, 7])),
        mtu: Some(Mtu(1400)),
        netns: Some(room.netns().as_raw_fd()),
    };
    let mut wanted = State::default();
    wanted.links.insert(name("br0"), bridge());
    let veth = Link {
        mtu: Some(Mtu(1400)),
        mac: Some(Mac([2, 0, 0, 0, 7, 8])),
        master: Some(Some(name("br0"))),
        ..Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) }))
    };
    wanted.links.insert(name("vethpod"), veth);
    wanted.ports.insert(name("vethpod"), Port { hairpin: true, isolated: true, passing: None });
    make(&mut kernel, &wanted, &Scope { links: vec![name("br0"), name("vethpod")], ..Scope::default() });

    let mut pod = room.kernel()?;
    let born = pod.link(&name("eth0"))?.expect("eth0 in the pod");
    assert_eq!((born.link.up, born.link.mac, born.link.mtu), (false, Some(Mac([2, 0, 0, 0, 7, 7])), Some(Mtu(1400))));
    assert!(!kernel.link(&name("vethpod"))?.expect("the host's end").running);

    let eth0 = name("eth0");
    let mut inside = State::default();
    inside.links.insert(eth0.clone(), Link::up(LinkKind::Veth(Veth { peer: None })));
    inside.address(&eth0, net("10.1.0.2/24"), true);
    inside.address(&eth0, net("fd00::2/64"), true);
    inside.conf("ipv6", &eth0, "accept_dad", "0");
    let by = |via: &str| Route { via: Some(via.parse().unwrap()), ..Route::by(&eth0) };
    inside.routes.insert(RouteKey::main(net("0.0.0.0/0")), by("10.1.0.1"));
    inside.routes.insert(RouteKey::main(net("::/0")), by("fd00::1"));
    let scope = Scope {
        links: vec![eth0.clone()],
        addresses: vec![eth0.clone()],
        routes: Some(RouteScope { dev: Some(eth0.clone()), ..RouteScope::default() }),
        ..Scope::default()
    };
    make(&mut pod, &inside, &scope);
    assert!(pod.wait_addresses(&eth0, Duration::from_secs(1))?, "no address is tentative without detection");
    assert!(kernel.wait_running(&name("vethpod"), Duration::from_secs(2))?.is_some_and(|l| l.running));
    Ok(())
}

/// Settings of a VXLAN device that can change in place are changed; for the others it is recreated, with all its
/// objects.
pub fn a_vxlan_device_is_changed_in_place_where_that_is_possible() -> Outcome {
    let mut kernel = Kernel::open()?;
    let scope = flannel_scope(&["br0", "flannel.1"]);
    let mut wanted = host(2);
    make(&mut kernel, &wanted, &scope);
    let index = kernel.index(&name("flannel.1"))?;

    wanted.address(&name("br0"), net("192.0.2.77/24"), true);
    let device = |wanted: &mut State, kind| wanted.links.get_mut(&name("flannel.1")).unwrap().kind = kind;
    device(&mut wanted, vxlan(true, None, "192.0.2.77"));
    wanted.links.get_mut(&name("flannel.1")).unwrap().mtu = Some(Mtu(1380));
    make(&mut kernel, &wanted, &scope);
    assert_eq!(kernel.link(&name("flannel.1"))?.map(|l| l.index), Some(index), "the same device");

    device(&mut wanted, vxlan(true, Some(4789), "192.0.2.77"));
    let steps = make(&mut kernel, &wanted, &scope);
    assert_eq!(steps[0], Step::DeleteLink(name("flannel.1")));
    assert!(steps.iter().any(|s| matches!(s, Step::PutFdb(..))), "its entries come back: {steps:?}");
    Ok(())
}

/// Settings of our device that would stop its traffic are restored, and the device stays.
pub fn what_is_done_to_a_device_is_undone() -> Outcome {
    let mut kernel = Kernel::open()?;
    let scope = flannel_scope(&["br0", "flannel.1"]);
    let mut wanted = host(1);
    let dev = name("flannel.1");
    let ours = wanted.links.get_mut(&dev).unwrap();
    (ours.master, ours.arp, ours.multicast, ours.protodown) = (Some(None), Some(true), Some(true), Some(false));
    make(&mut kernel, &wanted, &scope);
    kernel.apply(&[Step::CreateLink(name("br9"), bridge())]).ok()?;
    let index = kernel.index(&dev)?;
    let LinkKind::Vxlan(vxlan) = vxlan(false, None, "192.0.2.1") else { unreachable!() };
    let kind = |vxlan| LinkChange { kind: Some(LinkKind::Vxlan(vxlan)), ..LinkChange::default() };
    for change in [
        kind(Vxlan { ttl: VxlanTtl::Hops(1), ..vxlan.clone() }),
        kind(Vxlan { df: VxlanDf::Set, ..vxlan.clone() }),
        LinkChange { arp: Some(false), ..LinkChange::default() },
        LinkChange { multicast: Some(false), ..LinkChange::default() },
        LinkChange { protodown: Some(true), ..LinkChange::default() },
        LinkChange { master: Some(Some(name("br9"))), ..LinkChange::default() },
        LinkChange { mtu: Some(Mtu(1300)), ..LinkChange::default() },
        LinkChange { up: Some(false), ..LinkChange::default() },
    ] {
        Kernel::open()?.apply(&[Step::ChangeLink(dev.clone(), change.clone())]).ok()?;
        let steps = make(&mut kernel, &wanted, &scope);
        assert!(matches!(&steps[0], Step::ChangeLink(of, _) if *of == dev), "{change:?}: {steps:?}");
        assert_eq!(kernel.link(&dev)?.map(|l| l.index), Some(index), "{change:?}: the same device");
    }
    Ok(())
}

/// macvlan, and TUN where the kernel lets us.
pub fn other_links_are_made() -> Outcome {
    let mut kernel = Kernel::open()?;
    let mut wanted = State::default();
    wanted.links.insert(name("br0"), bridge());
    let kind = LinkKind::Macvlan(Macvlan::on(name("br0"), MacvlanMode::Private));
    wanted.links.insert(name("mac0"), Link::up(kind));
    make(&mut kernel, &wanted, &Scope { links: vec![name("br0"), name("mac0")], ..Scope::default() });
    Ok(())
}

/// TAP and TUN devices, which are made by ioctl.
pub fn a_tap_device_is_made() -> Outcome {
    let mut kernel = Kernel::open()?;
    let tap = Link::up(LinkKind::TunTap(TunTap { tap: true, owner: Some(0), ..TunTap::default() }));
    let tun = Link::up(LinkKind::TunTap(TunTap { multi_queue: true, ..TunTap::default() }));
    for (device, wanted) in [("tap0", tap), ("tun0", tun)] {
        kernel.apply(&[Step::CreateLink(name(device), wanted.clone())]).ok()?;
        let seen = kernel.link(&name(device))?.expect("the device");
        assert_eq!(seen.link.kind, wanted.kind);
    }
    Ok(())
}

/// The error contains the kernel's own text.
pub fn a_refusal_is_in_the_kernels_words() -> Outcome {
    let mut kernel = Kernel::open()?;
    make(&mut kernel, &host(0), &flannel_scope(&["br0", "flannel.1"]));
    let route = Route { via: Some([198, 51, 100, 1].into()), ..ours(&name("br0")) };
    let report = kernel.apply(&[Step::PutRoute(RouteKey::main(net("10.5.3.0/24")), route)]);
    let text = report.failed[0].1.to_string();
    assert_eq!(
        text,
        "ip route replace 10.5.3.0/24 via 198.51.100.1 dev br0 proto 70: ENETUNREACH: Network is unreachable \
         (Nexthop has invalid gateway)"
    );
    let lost = kernel.apply(&[Step::PutRoute(RouteKey::main(net("10.5.3.0/24")), ours(&name("nosuch")))]);
    assert!(lost.failed[0].1.to_string().contains("ENODEV"), "{}", lost.failed[0].1);
    Ok(())
}

/// Another program has the port of a VXLAN device: the error says which port that is.
pub fn a_port_in_use_is_named() -> Outcome {
    let mut kernel = Kernel::open()?;
    make(&mut kernel, &host(0), &flannel_scope(&["br0", "flannel.1"]));
    let dev = name("flannel.1");
    let down = LinkChange { up: Some(false), ..LinkChange::default() };
    kernel.apply(&[Step::ChangeLink(dev.clone(), down)]).ok()?;
    let taken = std::net::UdpSocket::bind("0.0.0.0:8472")?;
    let up = Step::ChangeLink(dev, LinkChange::up());
    let text = kernel.apply(std::slice::from_ref(&up)).failed[0].1.to_string();
    assert!(text.contains("EADDRINUSE") && text.contains("something else has UDP port 8472"), "{text}");
    drop(taken);
    assert_eq!(kernel.apply(&[up]).failed, []);
    Ok(())
}

/// A thousand requests that are all refused: each is reported, and none is waited for in vain.
pub fn a_page_of_refusals_overruns_nothing() -> Outcome {
    let mut kernel = Kernel::open()?;
    make(&mut kernel, &host(0), &flannel_scope(&["br0", "flannel.1"]));
    let bad = Route { via: Some([198, 51, 100, 1].into()), ..ours(&name("br0")) };
    let good = Route { via: Some([192, 0, 2, 9].into()), ..ours(&name("br0")) };
    let route = |i: u32| {
        let dst = net(&format!("10.5.{}.{}/32", i / 250, i % 250));
        Step::PutRoute(RouteKey::main(dst), if i % 10 == 3 { good.clone() } else { bad.clone() })
    };
    let steps: Vec<_> = (0..1000).map(route).collect();
    let Report { done, failed, .. } = kernel.apply(&steps);
    assert_eq!((done, failed.len()), (100, 900));
    assert!(failed.iter().all(|(_, e)| e.errno.0 == 101), "ENETUNREACH for each");
    Ok(())
}

/// A refused dump is an error: an empty answer would lead to the deletion of everything.
pub fn a_refused_dump_is_not_an_empty_one() -> Outcome {
    let mut kernel = Kernel::open()?;
    let refused = kernel.addresses_of(kernel::types::IfIndex(4_000_000));
    assert!(refused.as_ref().is_err_and(|e| e.is_absent()), "{refused:?}");
    Ok(())
}

/// The link is gone for everyone when the call returns; a link that did not exist is no error.
pub fn a_deleted_link_is_gone_when_the_call_returns() -> Outcome {
    let room = Room::create("pod")?;
    let mut kernel = Kernel::open()?;
    let mut pod = room.kernel()?;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let netns = Some(room.netns().as_raw_fd());
        let peer = Some(Box::new(VethPeer { name: name("eth0"), mac: None, mtu: None, netns }));
        kernel.apply(&[Step::CreateLink(name("vethpod"), Link::up(LinkKind::Veth(Veth { peer })))]).ok()?;
        let start = Instant::now();
        assert!(delete_link(&mut pod, &name("eth0"))?);
        slowest = slowest.max(start.elapsed());
        assert!(kernel.link(&name("vethpod"))?.is_none(), "the host's end is gone");
        assert!(pod.link(&name("eth0"))?.is_none());
    }
    println!("figure: slowest of 20 announced deletions: {slowest:?}");
    assert!(!delete_link(&mut pod, &name("eth0"))?, "nothing to delete");
    Ok(())
}

/// Names change and links come and go: an index is never taken for another's.
pub fn a_link_made_again_is_found_under_its_new_index() -> Outcome {
    let mut kernel = Kernel::open()?;
    for _ in 0..3 {
        make(&mut kernel, &host(1), &flannel_scope(&["br0", "flannel.1"]));
        // somebody else deletes it
        Kernel::open()?.apply(&[Step::DeleteLink(name("flannel.1"))]).ok()?;
    }
    make(&mut kernel, &host(1), &flannel_scope(&["br0", "flannel.1"]));
    Ok(())
}

/// A convergence slice by slice has the same result as one at once, including the deletions.
pub fn slices_make_the_same() -> Outcome {
    let mut kernel = Kernel::open()?;
    let (mut scope, peers) = (flannel_scope(&["br0", "flannel.1"]), host(20));
    scope.sysctls = peers.sysctls.keys().cloned().collect();
    for (desired, most) in [(&peers, 7), (&host(0), 1)] {
        let whole = kernel.plan(desired, &scope, None)?.steps;
        let mut convergence = kernel.begin(desired, &scope, None)?;
        let mut slices = 1;
        while !convergence.advance(&mut kernel, most) {
            slices += 1;
        }
        let outcome = convergence.finish();
        assert!(outcome.is_whole(), "{:?}", outcome.failed);
        assert_eq!(outcome.done, whole);
        assert_eq!(slices, whole.len().div_ceil(most));
        assert!(kernel.plan(desired, &scope, None)?.is_empty());
    }
    // what is as it is desired needs no step
    let mut rest = kernel.begin(&host(0), &scope, None)?;
    assert!(rest.advance(&mut kernel, 1));
    assert!(rest.finish().done.is_empty());
    Ok(())
}
