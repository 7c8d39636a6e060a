//! Queueing disciplines and filters of lib/kernel, against the kernel and `tc`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use kernel::Kernel;
use kernel::diff::{Conflict, Step};
use kernel::state::{
    Filter, FilterAction, FilterKey, Link, LinkKind, Qdisc, QdiscKey, QdiscPlace, Scope, Selects, State, Tbf,
};
use kernel::types::Mtu;
use lab::netns::Room;
use tests::harness::Outcome;

use crate::births::{make_pair, name};

fn key(dev: &str, place: QdiscPlace) -> QdiscKey {
    QdiscKey { dev: name(dev), place }
}

fn to(net: &str) -> Selects {
    Selects::To(net.parse().unwrap())
}

/// A link `eth0` whose rate is limited in both directions, but not to two networks.
fn limited(rate: u64) -> State {
    let tbf = Qdisc::Tbf(Tbf { rate, burst: 25_000, limit: 30_000 });
    let mut state = State::default();
    state.links.insert(name("ifb7"), Link { mtu: Some(Mtu(1400)), ..Link::up(LinkKind::Ifb) });
    state.qdiscs.insert(key("eth0", QdiscPlace::Root), tbf.clone());
    state.qdiscs.insert(key("ifb7", QdiscPlace::Root), tbf);
    state.qdiscs.insert(key("eth0", QdiscPlace::Ingress), Qdisc::Ingress);
    let redirect = FilterAction::Redirect(Some(name("ifb7")));
    let filters =
        [(to("10.9.0.0/16"), FilterAction::Pass), (to("fd09::/44"), FilterAction::Pass), (Selects::All, redirect)];
    for (prio, (selects, action)) in (1..).zip(filters) {
        state.filters.insert(FilterKey { dev: name("eth0"), prio }, Filter { selects, action });
    }
    state
}

fn scope() -> Scope {
    Scope { links: vec![name("ifb7")], queues: vec![name("eth0"), name("ifb7")], ..Scope::default() }
}

fn room(called: &str) -> Result<(Room, Kernel), Box<dyn std::error::Error>> {
    let room = Room::create(called)?;
    let mut kernel = room.kernel()?;
    make_pair(&mut kernel, "eth0", "wire");
    Ok((room, kernel))
}

fn run(room: &Room, command: &str) -> Outcome {
    let mut sh = Command::new("sh");
    let output = room.enter(|| sh.args(["-ec", command]).output())??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command}: {}: {said}", output.status).into()) }
}

/// Made, read back, changed, and removed; each printed command does the same in another namespace.
pub fn limits_are_made_changed_and_removed() -> Outcome {
    let (first, mut kernel) = room("limits")?;
    let (second, _) = room("by-commands")?;
    let other = State { links: limited(1).links, ..State::default() };
    for desired in [limited(125_000), limited(12_500_000_000), limited(1000), other, State::default()] {
        let plan = kernel.plan(&desired, &scope(), None)?;
        for step in &plan.steps {
            run(&second, &step.to_string())?;
        }
        assert!(kernel.apply(&plan.steps).ok().is_ok(), "{plan:?}");
        let rest = [first.kernel()?, second.kernel()?].map(|mut new| new.plan(&desired, &scope(), None));
        for rest in rest {
            assert_eq!(rest?, kernel::diff::Plan::default(), "{desired:#?}");
        }
    }
    Ok(())
}

/// An empty view comes first, so that nothing is asked between the steps.
pub fn deleting_what_is_gone_is_a_success() -> Outcome {
    let (_room, mut kernel) = room("gone")?;
    let filter = FilterKey { dev: name("eth0"), prio: 3 };
    let [root, ingress] = [QdiscPlace::Root, QdiscPlace::Ingress].map(|place| key("eth0", place));
    let steps = [Step::DeleteFilter(filter), Step::DeleteQdisc(root), Step::DeleteQdisc(ingress.clone())];
    kernel.apply(&steps).ok()?;
    kernel.apply(&[Step::AddQdisc(ingress, Qdisc::Ingress)]).ok()?;
    kernel.apply(&steps).ok()?;
    Ok(())
}

/// A filter that leads to a link that is gone drops packets: it is found, and made again with the link.
pub fn a_filter_to_a_link_that_is_gone_is_made_again() -> Outcome {
    let (first, mut kernel) = room("lost")?;
    let desired = limited(125_000);
    kernel.converge(&desired, &scope(), None)?.ok()?;
    run(&first, "ip link del ifb7")?;
    let mut kernel = first.kernel()?;
    let filters = kernel.observe(&scope())?.filters;
    assert!(filters.values().any(|filter| filter.action == FilterAction::Redirect(None)), "{filters:?}");
    kernel.converge(&desired, &scope(), None)?.ok()?;
    assert!(kernel.plan(&desired, &scope(), None)?.is_empty());
    Ok(())
}

/// What others have set stays, and is named.
pub fn what_others_have_set_stays() -> Outcome {
    let (first, mut kernel) = room("others")?;
    run(&first, "tc qdisc add dev eth0 root handle 7: htb default 1; tc qdisc add dev eth0 clsact")?;
    run(
        &first,
        "tc filter add dev eth0 ingress prio 2 protocol ip u32 match ip src 10.1.2.3 action mirred egress mirror dev wire",
    )?;
    run(
        &first,
        "tc filter add dev eth0 egress prio 7 protocol ip u32 match ip src 10.1.2.3 action mirred egress mirror dev wire",
    )?;
    let before = kernel.observe(&scope())?;
    let outcome = kernel.converge(&limited(125_000), &scope(), None)?;
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    let text: Vec<String> = outcome.conflicts.iter().map(Conflict::to_string).collect();
    let [qdisc, filter] = text.as_slice() else { panic!("{text:?}") };
    assert!(qdisc.contains("eth0 has another queueing discipline, htb, where tbf should be"), "{qdisc}");
    assert!(filter.contains("tc filter show dev eth0 ingress prio 2"), "{filter}");
    kernel.converge(&State::default(), &scope(), None)?.ok()?;
    assert_eq!(kernel.observe(&scope())?, before);
    Ok(())
}
