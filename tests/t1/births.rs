//! Links that a pod gets from its host: created in the pod's namespace, or moved there. Both the host and the pod
//! have an `eth0`, as usual; a kernel before 6.13 looks up the name in the wrong namespace.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use kernel::Kernel;
use kernel::diff::{Step, diff};
use kernel::message::link::SeenLink;
use kernel::removal::delete_and_wait;
use kernel::state::{Birth, Link, LinkKind, Macvlan, MacvlanMode, Scope, State, TunTap, Veth, VethPeer};
use kernel::types::{IfIndex, IfName, Mac, Mtu};
use lab::netns::Room;
use tests::harness::Outcome;

const MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);

pub fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// A host with `eth0`, which is up, and a pod with nothing.
pub struct Pair {
    pub host: Kernel,
    pub pod: Kernel,
    rooms: [Room; 2],
}

impl Pair {
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let rooms = [Room::create("host")?, Room::create("pod")?];
        let (mut host, pod) = (rooms[0].kernel()?, rooms[1].kernel()?);
        make_pair(&mut host, "eth0", "wire");
        Ok(Self { host, pod, rooms })
    }

    /// Creates the pod's link, and checks that no step remains.
    pub fn establish(&mut self, link: &str, wanted: &Link) {
        let mut state = State::default();
        state.links.insert(name(link), wanted.clone());
        let scope = Scope { links: vec![name(link)], ..Scope::default() };
        let plan = diff(&state, &self.pod.observe(&scope).unwrap(), &scope);
        assert!(plan.conflicts.is_empty(), "{plan:?}");
        let report = self.pod.apply_from(&mut self.host, &plan.steps);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let again = diff(&state, &self.pod.observe(&scope).unwrap(), &scope);
        assert!(again.is_empty(), "still to do: {again:#?}");
    }

    /// The links of both namespaces, read by new sockets.
    fn all(&self) -> [Vec<Found>; 2] {
        let found = |seen: SeenLink| Found { index: seen.index, name: seen.name, link: seen.link };
        self.rooms.each_ref().map(|room| room.kernel().unwrap().links().unwrap().into_iter().map(found).collect())
    }

    fn remove(self) -> Outcome {
        for room in self.rooms {
            room.remove()?;
        }
        Ok(())
    }
}

/// A link without its operational state, which changes by itself.
#[derive(Debug, PartialEq)]
struct Found {
    index: IfIndex,
    name: IfName,
    link: Link,
}

/// Both ends of a veth pair in one namespace, up.
pub fn make_pair(kernel: &mut Kernel, one: &str, other: &str) {
    let peer = VethPeer { name: name(other), mac: None, mtu: None, netns: None };
    let mut state = State::default();
    state.links.insert(name(one), Link::up(LinkKind::Veth(Veth { peer: Some(Box::new(peer)) })));
    kernel.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok().unwrap();
    let up = Step::ChangeLink(name(other), kernel::diff::LinkChange::up());
    kernel.apply(&[up]).ok().unwrap();
}

fn macvlan() -> LinkKind {
    LinkKind::Macvlan(Macvlan::on(name("eth0"), MacvlanMode::Bridge))
}

fn born(kind: LinkKind) -> Link {
    Link { birth: Birth::Parent, alias: Some("pod".into()), ..Link::up(kind) }
}

/// The link gets each of these names in the pod, the host's own `eth0` stays unchanged, and nothing is left behind.
pub fn is_born_in_the_pod(kind: &LinkKind) -> Outcome {
    let mut pair = Pair::new()?;
    for link in ["eth0", "net1", "wire", "plain"] {
        let before = pair.all();
        // A link that shares its lower link's MAC address accepts none.
        let mac = Some(MAC).filter(|_| kind.word() != "ipvlan");
        pair.establish(link, &Link { mac, mtu: Some(Mtu(1400)), ..born(kind.clone()) });
        let seen = pair.pod.link(&name(link))?.expect("the pod's link");
        assert_eq!((seen.link.kind.word(), seen.link.mtu), (kind.word(), Some(Mtu(1400))), "{link}");
        assert_eq!(pair.all()[0], before[0], "{link}: the host is as it was");
        pair.pod.apply(&[Step::DeleteLink(name(link))]).ok()?;
        assert_eq!(pair.all()[1], before[1], "{link}: the pod is as it was");
    }
    pair.remove()
}

/// EEXIST means that the name is taken; both namespaces stay unchanged.
pub fn a_taken_name_is_refused(kind: &LinkKind) -> Outcome {
    let mut pair = Pair::new()?;
    make_pair(&mut pair.pod, "eth0", "other");
    let before = pair.all();
    for link in ["eth0", "other"] {
        let report = pair.pod.apply_from(&mut pair.host, &[Step::CreateLink(name(link), born(kind.clone()))]);
        let (_, error) = report.failed.first().ok_or("it was made")?;
        assert!(error.is_already(), "{error}");
        assert!(error.to_string().ends_with(&format!("({link} is taken there)")), "{error}");
    }
    assert_eq!(pair.all(), before);
    pair.remove()
}

pub fn a_macvlan_is_born_in_the_pod() -> Outcome {
    is_born_in_the_pod(&macvlan())?;
    a_taken_name_is_refused(&macvlan())
}

/// An index of an earlier link is never taken for the new link's, whoever deleted the earlier one.
pub fn what_is_born_under_a_known_name_is_another_link() -> Outcome {
    let mut pair = Pair::new()?;
    let wanted = born(macvlan());
    for by_us in [true, false] {
        pair.establish("eth0", &wanted);
        let seen = pair.pod.link(&name("eth0"))?.expect("the pod's link");
        if by_us {
            assert!(delete_and_wait(&mut pair.pod, &seen)?);
        } else {
            assert!(delete_and_wait(&mut pair.rooms[1].kernel()?, &seen)?);
        }
        let mut state = State::default();
        state.address(&name("eth0"), "10.9.1.2/24".parse()?, true);
        let mut steps = vec![Step::CreateLink(name("eth0"), wanted.clone())];
        steps.extend(diff(&state, &State::default(), &Scope::default()).steps);
        let report = pair.pod.apply_from(&mut pair.host, &steps);
        assert!(report.failed.is_empty(), "deleted by us: {by_us}: {:?}", report.failed);
        pair.pod.apply(&[Step::DeleteLink(name("eth0"))]).ok()?;
    }
    pair.remove()
}

/// The lower link is named with the whole command, and so is a parent that was not given.
pub fn a_birth_that_fails_says_what_is_missing() -> Outcome {
    let mut pair = Pair::new()?;
    let before = pair.all();
    let on_nothing = LinkKind::Macvlan(Macvlan::on(name("nosuch"), MacvlanMode::Bridge));
    let absent = Link { birth: Birth::Moved(name("nosuch")), ..Link::up(LinkKind::Other(String::new())) };
    for (link, command) in [
        (born(on_nothing), "ip link add link nosuch name eth0 netns /proc/"),
        (absent, "ip link set dev nosuch netns /proc/"),
    ] {
        let step = [Step::CreateLink(name("eth0"), link)];
        let report = pair.pod.apply_from(&mut pair.host, &step);
        let text = report.failed[0].1.to_string();
        assert!(text.starts_with(command), "{text}");
        assert!(text.ends_with("ENODEV: No such device (ip link show nosuch)"), "{text}");
        let orphan = pair.pod.apply(&step).failed[0].1.to_string();
        assert!(orphan.ends_with("(it comes from another namespace, which the caller did not give)"), "{orphan}");
    }
    assert_eq!(pair.all(), before);
    pair.remove()
}

/// A macvlan's mode is changed where it lives, though its lower link has no name there; one in the pod that stands on
/// the pod's own link is another link.
pub fn what_was_born_elsewhere_is_changed_in_place() -> Outcome {
    let mut pair = Pair::new()?;
    pair.establish("eth0", &born(macvlan()));
    let index = pair.pod.index(&name("eth0"))?;
    let private = Macvlan { bc_queue_len: Some(50), ..Macvlan::on(name("eth0"), MacvlanMode::Private) };
    pair.establish("eth0", &born(LinkKind::Macvlan(private)));
    assert_eq!(pair.pod.link(&name("eth0"))?.map(|l| l.index), Some(index), "the same link");
    pair.establish("eth0", &born(LinkKind::Macvlan(Macvlan::on(name("eth0"), MacvlanMode::Passthru))));
    assert_ne!(pair.pod.link(&name("eth0"))?.map(|l| l.index), Some(index), "passthru needs a new one");
    make_pair(&mut pair.pod, "a", "b");
    pair.establish("eth0", &Link::up(LinkKind::Macvlan(Macvlan::on(name("a"), MacvlanMode::Passthru))));
    let seen = pair.pod.link(&name("eth0"))?.expect("eth0");
    assert_eq!(seen.named(pair.pod.names()).kind.lower(), Some(&name("a")));
    pair.remove()
}

/// A TAP device is opened in the pod, whatever its birth, with all desired settings.
pub fn a_tap_is_opened_in_the_pod() -> Outcome {
    let mut pair = Pair::new()?;
    let [before, _] = pair.all();
    let tap = LinkKind::TunTap(TunTap { tap: true, owner: Some(0), ..TunTap::default() });
    let wanted = Link { mac: Some(MAC), mtu: Some(Mtu(1400)), multicast: Some(false), ..born(tap) };
    pair.establish("eth0", &wanted);
    assert_eq!(pair.pod.link(&name("eth0"))?.and_then(|l| l.link.mac), Some(MAC));
    assert_eq!(pair.all()[0], before, "the host is as it was");
    pair.remove()
}

/// Moved in under another name, with its old name as alias, and moved back.
pub fn a_device_moves_in_and_back(kind: &LinkKind) -> Outcome {
    let mut pair = Pair::new()?;
    for (own, inside) in [("ens3", "eth0"), ("same", "same"), ("enp9s0", "wire")] {
        pair.host.apply(&[Step::CreateLink(name(own), Link::up(kind.clone()))]).ok()?;
        let [before, _] = pair.all();
        let wanted =
            Link { birth: Birth::Moved(name(own)), mac: Some(MAC), mtu: Some(Mtu(1400)), ..Link::up(kind.clone()) };
        pair.establish(inside, &wanted);
        let seen = pair.pod.link(&name(inside))?.expect("the device in the pod");
        assert_eq!((seen.link.alias.as_deref(), seen.link.up), (Some(own), true));
        assert_eq!(pair.host.link(&name(own))?, None, "it left the host");
        assert!(pair.host.link(&name("eth0"))?.is_some(), "the host's own eth0 stays");

        let home =
            Link { birth: Birth::Moved(name(inside)), alias: Some(String::new()), up: false, ..Link::up(kind.clone()) };
        pair.host.apply_from(&mut pair.pod, &[Step::CreateLink(name(own), home)]).ok()?;
        let back = pair.host.link(&name(own))?.expect("the device on the host");
        assert_eq!((back.link.alias, back.link.up), (None, false));
        assert_eq!(pair.pod.link(&name(inside))?, None, "it left the pod");
        assert_eq!(pair.all()[0].len(), before.len());
        pair.host.apply(&[Step::DeleteLink(name(own))]).ok()?;
    }
    pair.remove()
}

/// A device whose name is taken in the pod is moved back unchanged, with its alias.
pub fn a_device_that_cannot_move_stays(kind: &LinkKind) -> Outcome {
    let mut pair = Pair::new()?;
    let own = Link { alias: Some("mine".into()), mac: Some(MAC), ..Link::up(kind.clone()) };
    let mut state = State::default();
    state.links.insert(name("ens3"), own);
    pair.host.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok()?;
    make_pair(&mut pair.pod, "eth0", "other");
    // the kernel may number it anew, and the other end of a pair is down for a moment
    let is = |links: [Vec<Found>; 2]| {
        let all = links.into_iter().flatten().filter(|found| found.name.as_str() != "far");
        let mut all: Vec<_> = all.map(|f| (f.name, f.link.up, f.link.alias, f.link.mac, f.link.mtu)).collect();
        all.sort();
        all
    };
    let wanted = Link { birth: Birth::Moved(name("ens3")), ..Link::up(kind.clone()) };
    let refused = |pair: &mut Pair, case: &str| {
        let before = is(pair.all());
        let report = pair.pod.apply_from(&mut pair.host, &[Step::CreateLink(name("eth0"), wanted.clone())]);
        assert!(report.failed.first().is_some_and(|(_, error)| error.is_already()), "{case}: {report:?}");
        assert_eq!(is(pair.all()), before, "{case}: all is as it was");
    };
    refused(&mut pair, "the kernel moves it and cannot rename it");
    make_pair(&mut pair.pod, "ens3", "unrelated");
    refused(&mut pair, "its own name is taken, too");
    pair.remove()
}

/// A veth end: the only device that a test can move, because tests have no hardware.
fn cable() -> LinkKind {
    LinkKind::Veth(Veth { peer: Some(Box::new(VethPeer { name: name("far"), mac: None, mtu: None, netns: None })) })
}

pub fn a_veth_moves_in_and_back() -> Outcome {
    a_device_moves_in_and_back(&cable())
}

pub fn a_veth_that_cannot_move_stays() -> Outcome {
    a_device_that_cannot_move_stays(&cable())
}
