//! The bridge and its gateway addresses do not belong to the attachment that made them: a failed ADD removes nothing
//! that another attachment uses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Barrier;
use std::thread;

use kernel::Kernel;
use kernel::diff::{Step, diff};
use kernel::state::{Link, LinkKind, Scope, State};
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{addresses, conf, link, links, name, v4_only, with};
use crate::call::{Answer, Caller, Pod, Whose};

/// More rounds than any lost race has ever needed.
const ROUNDS: usize = 30;
/// An ADD on a new bridge makes more calls than this.
const FEWEST_CALLS: usize = 6;
const GATEWAYS: [&str; 2] = ["10.9.1.1/24", "fd09:1::1/64"];

/// The gateway of a route is not on the link: the pod's last batch fails.
fn failing(conf: &Value) -> Value {
    let mut conf = conf.clone();
    conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    conf
}

/// What is missing on the host for an attached pod.
fn harm(answer: &Answer) -> Option<String> {
    if answer.status != 0 {
        return Some(format!("it is not attached: {answer:?}"));
    }
    let mut host = Kernel::open().unwrap();
    let Some(bridge) = host.link(&name("cni0")).unwrap() else { return Some("cni0 is gone".to_owned()) };
    let veth = answer.json()["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let have = addresses(&mut host, "cni0");
    if link(&mut host, &veth).master != Some(bridge.index.0) {
        return Some(format!("{veth} is no port of cni0"));
    }
    let gone: Vec<_> = GATEWAYS.iter().filter(|gateway| !have.iter().any(|have| have == *gateway)).collect();
    (!gone.is_empty()).then(|| format!("of its gateways {gone:?} are gone"))
}

/// An ADD that fails late is stopped after each of its calls in turn, while another pod is attached.
fn interrupted_everywhere(prepare: impl Fn(&mut Kernel)) -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (one, two) = (Room::create("one")?, Room::create("two")?);
    let (fails, stays) = (Pod::of(&one, "fails"), Pod::of(&two, "stays"));
    let conf = conf(&caller);
    let mut host = Kernel::open()?;
    let mut harmed = Vec::new();
    for nth in 1.. {
        prepare(&mut host);
        let stop = caller
            .traced("ADD", &fails, &failing(&conf), |traced| traced.stop_behind(caller.files.path(), "sendto", nth))?;
        let Some(stopped) = stop else {
            assert!(nth > FEWEST_CALLS, "it made {nth} calls only");
            break;
        };
        let answer = caller.call("ADD", &stays, &conf);
        let failed = Answer::from(stopped.go_on()?).error();
        assert!(failed.contains("Nexthop has invalid gateway"), "{failed}");
        harmed.extend(harm(&answer).map(|harm| format!("stopped behind call {nth}: {harm}")));
        for pod in [&fails, &stays] {
            caller.call("DEL", pod, &conf).ok();
        }
        // it may be gone
        let _ = host.apply(&[Step::DeleteLink(name("cni0"))]);
    }
    assert!(harmed.is_empty(), "a failed ADD has harmed another pod: {harmed:#?}");
    Ok(())
}

/// On a bridge that the failing ADD itself makes.
pub fn a_failed_add_harms_no_other_pod_of_a_new_bridge() -> Outcome {
    interrupted_everywhere(|_| ())
}

/// On one that was there, without an address.
pub fn a_failed_add_harms_no_other_pod_of_a_bridge_without_addresses() -> Outcome {
    let bridge = Link::up(LinkKind::Bridge(kernel::state::Bridge::default()));
    interrupted_everywhere(|host| host.apply(&[Step::CreateLink(name("cni0"), bridge.clone())]).ok().unwrap())
}

/// Eight at once on a host without a bridge, every second one fails.
pub fn of_eight_at_once_those_that_succeed_keep_what_they_need() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    const NAMES: [&str; 8] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];
    let rooms: Vec<Room> = NAMES.iter().map(|name| Room::create(name)).collect::<Result<_, _>>()?;
    let pods: Vec<Pod> = rooms.iter().zip(NAMES).map(|(room, name)| Pod::of(room, name)).collect();
    let good = conf(&caller);
    let bad = failing(&good);
    let mut harmed = Vec::new();
    for round in 0..ROUNDS {
        let start = Barrier::new(pods.len());
        let add = |pod: &Pod, conf: &Value| {
            start.wait();
            caller.call("ADD", pod, conf)
        };
        let answers: Vec<Answer> = thread::scope(|scope| {
            let confs = [&good, &bad].into_iter().cycle();
            let all: Vec<_> = pods.iter().zip(confs).map(|(pod, conf)| scope.spawn(move || add(pod, conf))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let harms = answers.iter().step_by(2).filter_map(harm);
        harmed.extend(harms.map(|harm| format!("round {round}: {harm}")));
        for pod in &pods {
            caller.call("DEL", pod, &good).ok();
        }
        let _ = Kernel::open()?.apply(&[Step::DeleteLink(name("cni0"))]);
        if !harmed.is_empty() {
            break;
        }
    }
    assert!(harmed.is_empty(), "failed ADDs have harmed pods that came with them: {harmed:#?}");
    Ok(())
}

/// A bridge without ports keeps its gateway address.
pub fn a_failed_add_leaves_an_idle_bridge_its_addresses() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let conf = conf(&caller);
    let mut host = Kernel::open()?;
    caller.call("ADD", &pod, &conf).ok();
    caller.call("DEL", &pod, &conf).ok();
    caller.call("ADD", &pod, &failing(&conf)).error();
    assert_eq!(addresses(&mut host, "cni0"), GATEWAYS, "the plugins' own bridge");

    host.apply(&[Step::DeleteLink(name("cni0"))]).ok()?;
    administrators_bridge(&mut host, "cni0", "10.9.1.1/24");
    caller.call("ADD", &pod, &failing(&v4_only(&conf, "10.9.1.0/24"))).error();
    assert_eq!(addresses(&mut host, "cni0"), ["10.9.1.1/24"], "an administrator's");
    Ok(())
}

/// A bridge with an address and without a port.
fn administrators_bridge(host: &mut Kernel, bridge: &str, address: &str) {
    let mut state = State::default();
    state.links.insert(name(bridge), Link::up(LinkKind::Bridge(kernel::state::Bridge::default())));
    state.address(&name(bridge), address.parse().unwrap(), true);
    host.apply(&diff(&state, &State::default(), &Scope::default()).steps).ok().unwrap();
}

/// `docker0` before the first container: another program's, though no port says so.
pub fn another_programs_idle_bridge_is_refused(whose: Whose) -> Outcome {
    another_programs(whose, "docker0", "172.17.0.1/16", "10.9.1.0/24")
}

/// The same for IPv6, where the prefixes overlap.
pub fn another_programs_idle_ipv6_bridge_is_refused(whose: Whose) -> Outcome {
    another_programs(whose, "virbr0", "fd09:1::1/48", "fd09:1::/64")
}

fn another_programs(whose: Whose, bridge: &str, address: &str, subnet: &str) -> Outcome {
    let caller = Caller::new(whose);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let mut host = Kernel::open()?;
    administrators_bridge(&mut host, bridge, address);
    let conf = with(&v4_only(&conf(&caller), subnet), json!({ "bridge": bridge }));
    let answer = caller.call("ADD", &pod, &conf);
    assert_eq!(addresses(&mut host, bridge), [address], "the address that {bridge} had is replaced");
    assert!(answer.error().contains(&format!("{bridge:?} already has an IP address different from")), "{answer:?}");
    caller.call("DEL", &pod, &conf).ok();
    assert_eq!(links(&mut host), [bridge]);
    Ok(())
}

/// `forceAddress` may replace the address of a bridge, but not for an ADD that fails afterwards.
pub fn a_failed_add_with_force_address_leaves_the_old_address() -> Outcome {
    failed_takeover(json!({ "forceAddress": true }), "10.9.2.0/24", "10.9.1.1/24")
}

pub fn a_failed_add_with_force_address_leaves_the_old_ipv6_address() -> Outcome {
    failed_takeover(json!({ "forceAddress": true }), "fd09:1::/64", "fd09:1::1/48")
}

/// An ADD without that setting does not leave a bridge without an address either.
pub fn a_failed_add_leaves_an_idle_bridge_of_another_subnet_its_address() -> Outcome {
    failed_takeover(json!({}), "10.9.2.0/24", "10.9.1.1/24")
}

fn failed_takeover(more: Value, subnet: &str, address: &str) -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let mut host = Kernel::open()?;
    administrators_bridge(&mut host, "cni0", address);
    let conf = failing(&with(&v4_only(&conf(&caller), subnet), more));
    caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
    assert_eq!(addresses(&mut host, "cni0"), [address], "the failed ADD has taken the bridge's address away");
    Ok(())
}
