//! Kinds of links that the kernels of most test machines do not have.

use std::collections::BTreeMap;

use kernel::diff::{LinkChange, Step, diff};
use kernel::news::{Listener, News, Reader};
use kernel::state::{
    Bridge, Ipip, Ipvlan, IpvlanIsolation, IpvlanMode, Link, LinkKind, Macvlan, MacvlanMode, PublicKey, Scope, Secret,
    State, VethPeer, Vlan, VlanDevice, VlanKey, VlanProtocol, WireguardDevice, WireguardPeer,
};
use kernel::types::{IfName, Mtu, VlanId};
use kernel::{Kernel, KernelError};
use tests::harness::Outcome;

use crate::births;

/// Makes it so, and sees that nothing is left to do.
fn establish(kernel: &mut Kernel, desired: &State, scope: &Scope) -> Result<usize, KernelError> {
    let plan = diff(desired, &kernel.observe(scope)?, scope);
    kernel.apply(&plan.steps).ok()?;
    let again = diff(desired, &kernel.observe(scope)?, scope);
    assert!(again.is_empty(), "{again:#?}");
    Ok(plan.steps.len())
}

/// t1's test, where it cannot end with a refusal.
pub fn vlans_of_a_bridge_work() -> Outcome {
    let probe = IfName::new("probe")?;
    let filtering = Link::up(LinkKind::Bridge(Bridge { vlan_filtering: true, ..Bridge::default() }));
    Kernel::open()?.apply(&[Step::CreateLink(probe.clone(), filtering), Step::DeleteLink(probe)]).ok()?;
    crate::bridge::vlans_work_or_are_refused_cleanly()
}

/// A port's VLANs are announced together, neighbouring ones as a range.
pub fn vlans_of_a_port_are_announced() -> Outcome {
    let (bridge, port) = (IfName::new("vlans")?, IfName::new("port")?);
    let peer = VethPeer { name: IfName::new("peer")?, mac: None, mtu: None, netns: None };
    let mut listener = Listener::open()?;
    let mut kernel = Kernel::open()?;
    let id = |id| VlanKey { dev: port.clone(), id };
    let mut steps = vec![
        Step::CreateLink(
            bridge.clone(),
            Link::up(LinkKind::Bridge(kernel::state::Bridge {
                vlan_filtering: true,
                ..kernel::state::Bridge::default()
            })),
        ),
        Step::CreateLink(port.clone(), Link::up(LinkKind::Veth(kernel::state::Veth { peer: Some(Box::new(peer)) }))),
        Step::ChangeLink(port.clone(), LinkChange { master: Some(Some(bridge.clone())), ..LinkChange::default() }),
    ];
    for number in [1, 100, 101, 102] {
        steps.push(Step::AddVlan(id(VlanId::new(number)?), Vlan { pvid: number == 1, untagged: number == 1 }));
    }
    steps.extend([Step::DeleteLink(port.clone()), Step::DeleteLink(bridge)]);
    kernel.apply(&steps).ok()?;
    let told = vlans_told(&mut listener, &port)?;
    let plain = Vlan::default();
    let native = Vlan { pvid: true, untagged: true };
    let all: Vec<(VlanId, Vlan)> = [(1, native), (100, plain), (101, plain), (102, plain)]
        .into_iter()
        .map(|(number, vlan)| Ok((VlanId::new(number)?, vlan)))
        .collect::<Result<_, kernel::types::InvalidValue>>()?;
    assert!(told.iter().any(|vlans| vlans.clone().into_iter().eq(all.clone())), "{told:#?}");
    assert!(told.last().is_some_and(BTreeMap::is_empty), "the port leaves its bridge: {told:#?}");
    Ok(())
}

/// All that is told of the port's VLANs until its link is gone.
fn vlans_told(
    listener: &mut Listener,
    port: &IfName,
) -> Result<Vec<BTreeMap<VlanId, Vlan>>, Box<dyn std::error::Error>> {
    let (mut reader, mut told) = (Reader::default(), Vec::new());
    loop {
        for news in listener.receive()?.into_iter().flat_map(|announcement| reader.read(announcement)) {
            match news {
                News::Link(name, None) if name == *port => return Ok(told),
                News::Unreadable(why) => return Err(why.into()),
                News::Vlans(name, vlans) if name == *port => told.push(vlans),
                _ => {}
            }
        }
    }
}

pub fn an_ipip_device_is_made_and_moved() -> Outcome {
    let mut kernel = Kernel::open()?;
    let name = IfName::new("flannel.ipip")?;
    let scope = Scope { links: vec![name.clone()], ..Scope::default() };
    let mut with = |local: &str| -> Result<(usize, u32), Box<dyn std::error::Error>> {
        let kind = LinkKind::Ipip(Ipip { local: Some(local.parse()?), ..Ipip::default() });
        let link = Link { mtu: Some(Mtu(1480)), alias: Some("flannel".into()), ..Link::up(kind) };
        let mut desired = State::default();
        desired.links.insert(name.clone(), link);
        let steps = establish(&mut kernel, &desired, &scope)?;
        Ok((steps, kernel.index(&name)?.0))
    };
    let (steps, index) = with("192.0.2.1")?;
    assert_eq!(steps, 3, "create, alias, up");
    assert_eq!(with("192.0.2.2")?, (1, index), "the same device moves");
    assert_eq!(with("192.0.2.2")?, (0, index));
    Ok(())
}

/// macvlan, vlan, dummy and the modes of ipvlan, on a kernel that looks for their names in the host's namespace.
fn kinds() -> Result<Vec<LinkKind>, Box<dyn std::error::Error>> {
    let eth0 = || IfName::new("eth0");
    let ipvlan = |mode, isolation| -> Result<_, Box<dyn std::error::Error>> {
        Ok(LinkKind::Ipvlan(Ipvlan { isolation, ..Ipvlan::on(eth0()?, mode) }))
    };
    Ok(vec![
        LinkKind::Macvlan(Macvlan::on(eth0()?, MacvlanMode::Bridge)),
        LinkKind::Macvlan(Macvlan::on(eth0()?, MacvlanMode::Source)),
        LinkKind::Vlan(VlanDevice::on(eth0()?, VlanId::new(100)?)),
        LinkKind::Vlan(VlanDevice { lower: Some(eth0()?), id: None, protocol: VlanProtocol::Dot1ad }),
        LinkKind::Dummy,
        ipvlan(IpvlanMode::L2, IpvlanIsolation::Bridge)?,
        ipvlan(IpvlanMode::L3, IpvlanIsolation::Private)?,
        ipvlan(IpvlanMode::L3s, IpvlanIsolation::Vepa)?,
    ])
}

pub fn every_kind_is_born_in_the_pod() -> Outcome {
    kinds()?.iter().try_for_each(births::is_born_in_the_pod)
}

pub fn a_taken_name_is_refused() -> Outcome {
    kinds()?.iter().try_for_each(births::a_taken_name_is_refused)
}

pub fn a_dummy_moves_in_and_back() -> Outcome {
    births::a_device_moves_in_and_back(&LinkKind::Dummy)?;
    births::a_device_that_cannot_move_stays(&LinkKind::Dummy)
}

pub fn printed_commands_do_the_same() -> Outcome {
    let ipip = Ipip { local: Some("192.0.2.1".parse()?), ..Ipip::default() };
    let strict = Ipip { ttl: 9, pmtudisc: true, ..ipip };
    let mut series: Vec<Vec<LinkKind>> = kinds()?.into_iter().map(|kind| vec![kind]).collect();
    series.extend([[ipip, strict, ipip].map(LinkKind::Ipip).to_vec(), vec![LinkKind::Wireguard]]);
    crate::commands::do_the_same(&series)
}

fn wireguard(peers: BTreeMap<PublicKey, WireguardPeer>) -> (State, Scope) {
    let name = IfName::new("flannel-wg").unwrap_or_else(|_| unreachable!("a constant"));
    let mut desired = State::default();
    // clamped, as the kernel keeps it
    let private_key = Some(Secret([64; 32]));
    desired.links.insert(name.clone(), Link { mtu: Some(Mtu(1420)), ..Link::up(LinkKind::Wireguard) });
    desired.wireguard.insert(name.clone(), WireguardDevice { private_key, listen_port: Some(51820), peers });
    (desired, Scope { links: vec![name.clone()], wireguard: vec![name], ..Scope::default() })
}

pub fn what_a_wireguard_device_holds_is_read_back() -> Outcome {
    let mut kernel = Kernel::open()?;
    let rich = WireguardPeer {
        endpoint: Some("192.0.2.1:4000".parse()?),
        preshared_key: Some(Secret([7; 32])),
        keepalive: 25,
        allowed_ips: ["10.5.2.0/24".parse()?, "fd05:0:0:2::/64".parse()?].into(),
        ..WireguardPeer::default()
    };
    let plain = WireguardPeer {
        endpoint: Some("[2001:db8::1]:4001".parse()?),
        allowed_ips: ["10.5.3.0/24".parse()?].into(),
        ..WireguardPeer::default()
    };
    let (one, two, three) = (PublicKey([1; 32]), PublicKey([2; 32]), PublicKey([3; 32]));
    let (desired, scope) = wireguard([(one, rich.clone()), (two, plain.clone())].into());
    establish(&mut kernel, &desired, &scope)?;
    assert_eq!(kernel.observe(&scope)?.wireguard, desired.wireguard);
    let index = kernel.index(&scope.links[0])?;
    // one loses its second key and a subnet; two comes again with a new key
    let poor = WireguardPeer { preshared_key: None, allowed_ips: ["10.5.2.0/24".parse()?].into(), ..rich };
    let (desired, scope) = wireguard([(one, poor), (three, plain)].into());
    assert_eq!(establish(&mut kernel, &desired, &scope)?, 3, "two peers put, one deleted");
    assert_eq!(kernel.observe(&scope)?.wireguard, desired.wireguard);
    assert_eq!(kernel.index(&scope.links[0])?, index, "the device stays");
    Ok(())
}

/// More than one page of requests, and a device that is told of in several messages.
pub fn a_thousand_peers_come_and_go() -> Outcome {
    let mut kernel = Kernel::open()?;
    let peer = |n: u16| -> Result<(PublicKey, WireguardPeer), Box<dyn std::error::Error>> {
        let [high, low] = n.to_be_bytes();
        let mut key = [9; 32];
        [key[0], key[1]] = [high, low];
        let peer = WireguardPeer {
            endpoint: Some(format!("192.0.{high}.{low}:51820").parse()?),
            allowed_ips: [format!("10.{high}.{low}.0/24").parse()?].into(),
            ..WireguardPeer::default()
        };
        Ok((PublicKey(key), peer))
    };
    let (desired, scope) = wireguard((0..1000).map(peer).collect::<Result<_, _>>()?);
    establish(&mut kernel, &desired, &scope)?;
    assert_eq!(kernel.observe(&scope)?.wireguard, desired.wireguard);
    let (desired, scope) = wireguard((990..1000).map(peer).collect::<Result<_, _>>()?);
    assert_eq!(establish(&mut kernel, &desired, &scope)?, 990);
    Ok(())
}
