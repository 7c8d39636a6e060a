//! A step prints the command that does the same.

use std::process::Command;

use kernel::Kernel;
use kernel::diff::{LinkChange, Step, diff};
use kernel::state::{
    Birth, Bridge, Link, LinkKind, Macvlan, MacvlanMode, Scope, State, TunTap, Veth, VethPeer, Vxlan, VxlanDf, VxlanTtl,
};
use kernel::types::{IfName, Mac, Mtu, Vni};
use lab::netns::Room;
use tests::harness::Outcome;

use crate::births::{make_pair, name};

/// What became of `wanted`, one after the other, in a namespace with `eth0`: by steps, and by the commands that they
/// print.
struct Twins {
    by_steps: Room,
    by_commands: Room,
}

impl Twins {
    fn new(suffix: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let rooms = [Room::create(&format!("steps{suffix}"))?, Room::create(&format!("commands{suffix}"))?];
        for room in &rooms {
            let mut kernel = room.kernel()?;
            make_pair(&mut kernel, "eth0", "wire");
            // an ipvlan has it, too
            let mac = LinkChange { mac: Some(Mac([2, 0, 0, 0, 7, 9])), ..LinkChange::default() };
            kernel.apply(&[Step::ChangeLink(name("eth0"), mac)]).ok()?;
        }
        let [by_steps, by_commands] = rooms;
        Ok(Self { by_steps, by_commands })
    }

    fn become_alike(&self, wanted: &Link) -> Outcome {
        let mut state = State::default();
        state.links.insert(subject(), wanted.clone());
        state.conf("ipv6", &subject(), "accept_ra", "0");
        let links = Scope { links: vec![subject()], read_links: vec![name("peer")], ..Scope::default() };
        let scope = Scope { sysctls: state.sysctls.keys().cloned().collect(), ..links };
        let mut kernel = self.by_steps.kernel()?;
        let plan = diff(&state, &kernel.observe(&scope)?, &scope);
        kernel.apply(&plan.steps).ok()?;
        for step in &plan.steps {
            run(&self.by_commands, &step.to_string())?;
        }
        let made = |room: &Room| -> Result<State, Box<dyn std::error::Error>> { Ok(room.kernel()?.observe(&scope)?) };
        let (one, other) = (made(&self.by_steps)?, made(&self.by_commands)?);
        let text: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        assert!(!one.links.is_empty(), "{text:#?}");
        assert_eq!((other.links, other.sysctls), (one.links, one.sysctls), "{text:#?}");
        Ok(())
    }
}

/// A name with a dot, as a flannel device has.
fn subject() -> IfName {
    name("subject.1")
}

/// `$NETNS` is the namespace that a link goes to.
fn run(room: &Room, command: &str) -> Outcome {
    let mut sh = Command::new("sh");
    sh.args(["-ec", command]);
    let output = room.enter(|| sh.output())??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command}: {}: {said}", output.status).into()) }
}

/// Each of these, made from nothing or from the one before.
pub fn do_the_same(series: &[Vec<LinkKind>]) -> Outcome {
    for (number, kinds) in series.iter().enumerate() {
        let twins = Twins::new(&number.to_string())?;
        for kind in kinds {
            let base = Link { mac: Some(Mac([2, 0, 0, 0, 7, 7])), mtu: Some(Mtu(1400)), ..Link::up(kind.clone()) };
            // these have no MAC of their own
            let mac = base.mac.filter(|_| !["ipip", "wireguard", "ipvlan"].contains(&kind.word()));
            let link = Link { mac, alias: Some("two words".into()), ..base };
            twins.become_alike(&link)?;
            let loud = Link { promisc: Some(true), allmulti: Some(true), queue_len: Some(77), ..link };
            twins.become_alike(&Link { multicast: Some(false), ..loud })?;
        }
    }
    Ok(())
}

pub fn printed_commands_do_the_same() -> Outcome {
    let base = Vxlan { lower: Some(name("eth0")), local: "192.0.2.1".parse().ok(), ..Vxlan::new(Vni::new(1)?) };
    let loud = Vxlan { ttl: VxlanTtl::Hops(3), df: VxlanDf::Set, learning: true, ..base.clone() };
    let other = Vxlan { gbp: true, port: Some(4789), ttl: VxlanTtl::Inherit, ..base.clone() };
    let v6 = Vxlan { local: "2001:db8::1".parse().ok(), df: VxlanDf::Inherit, ..base.clone() };
    let macvlan = |mode| LinkKind::Macvlan(Macvlan { bc_queue_len: Some(9), ..Macvlan::on(name("eth0"), mode) });
    let peer = VethPeer { name: name("peer"), mac: Some(Mac([2, 0, 0, 0, 7, 8])), mtu: Some(Mtu(1300)), netns: None };
    do_the_same(&[
        [base.clone(), loud, base, v6, other].map(LinkKind::Vxlan).into(),
        vec![LinkKind::Bridge(Bridge::default())],
        vec![LinkKind::Veth(Veth { peer: Some(Box::new(peer)) })],
        [MacvlanMode::Bridge, MacvlanMode::Source, MacvlanMode::Vepa, MacvlanMode::Private].map(macvlan).into(),
    ])
}

pub fn a_printed_tuntap_command_does_the_same() -> Outcome {
    let twins = Twins::new("tun")?;
    let tap = TunTap { tap: true, owner: Some(0), group: Some(0), ..TunTap::default() };
    let link = Link { mac: Some(Mac([2, 0, 0, 0, 7, 7])), mtu: Some(Mtu(1400)), ..Link::up(LinkKind::TunTap(tap)) };
    twins.become_alike(&link)?;
    let tun = LinkKind::TunTap(TunTap { multi_queue: true, ..TunTap::default() });
    Twins::new("tap")?.become_alike(&Link { mtu: Some(Mtu(1400)), ..Link::up(tun) })
}

/// The command for a link that comes from another namespace needs to be told where it goes.
pub fn a_birth_elsewhere_prints_what_does_the_same() -> Outcome {
    let macvlan = LinkKind::Macvlan(Macvlan::on(name("eth0"), MacvlanMode::Bridge));
    let moved = LinkKind::Veth(Veth::default());
    for (kind, birth) in [(macvlan, Birth::Parent), (moved, Birth::Moved(name("eth0")))] {
        let twins = [Twins::new("-host")?, Twins::new("-pod")?];
        let mac = Some(Mac([2, 0, 0, 0, 7, 7]));
        let link = Link { birth: birth.clone(), mac, ..Link::up(kind) };
        let mut state = State::default();
        state.links.insert(name("net1"), link);
        let scope = Scope { links: vec![name("net1")], ..Scope::default() };
        let plan = diff(&state, &State::default(), &scope);
        let [host, pod] = &twins;
        let observe = |mut pod: Kernel| pod.observe(&scope);
        pod.by_steps.kernel()?.apply_from(&mut host.by_steps.kernel()?, &plan.steps).ok()?;
        run(&host.by_commands, &format!("NETNS={}; {}", pod.by_commands.path().display(), plan.steps[0]))?;
        for step in &plan.steps[1..] {
            run(&pod.by_commands, &step.to_string())?;
        }
        let (one, other) = (observe(pod.by_steps.kernel()?)?, observe(pod.by_commands.kernel()?)?);
        assert_eq!((one.links.len(), &other.links), (1, &one.links), "{birth:?}");
        for twin in twins {
            twin.by_steps.remove()?;
            twin.by_commands.remove()?;
        }
    }
    Ok(())
}
