//! What is not ours stays: other programs' objects stand beside those of an attachment, and no command, whether it succeeds
//! or fails, changes one of them.
//!
//! Which objects there are and which commands are called is chosen at random, for each plugin.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tests::drill::snapshot::Lines;
use tests::harness::Outcome;

use crate::call::{Caller, Whose};
use crate::drills::rows::{self, Row};
use crate::drills::stage::Stage;

type Failure = Box<dyn std::error::Error>;

/// How many worlds are tried per plugin.
const CASES: u32 = 6;

/// On the host.
const ON_HOST: &[&str] = &[
    "ip route add 10.5.200.0/24 via 192.0.2.9",
    "ip route add 10.5.201.0/24 via 192.0.2.9 proto static metric 50",
    "ip route add 10.5.202.0/24 dev eth0 proto dhcp",
    "ip route add 10.5.203.0/24 via 192.0.2.9 proto bgp",
    "ip route add blackhole 10.5.204.0/24 proto bird",
    "ip route add 10.5.97.128/25 via 192.0.2.9 proto zebra",
    "ip route add 10.44.200.0/24 via 192.0.2.9 onlink dev eth0 proto boot",
    "ip route add 10.44.2.128/25 via 192.0.2.9 proto static",
    "ip route add 10.9.1.128/25 via 192.0.2.9",
    "ip route add default via 192.0.2.254",
    "ip route add 10.5.200.0/24 via 192.0.2.9 table 99; ip rule add priority 100 from 10.5.97.0/24 lookup 99",
    "ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
    "ip link add docker0 up type bridge; ip addr add 172.17.0.1/16 dev docker0",
    "ip link add br0 up type bridge; ip link add port0 up type veth peer port1; ip link set port0 master br0",
    "ip link add flannel.99 up type vxlan id 99 dstport 8473 nolearning; ip link set flannel.99 alias 'flannel 10.99.0.0/16'; \
     ip addr add 10.99.1.0/32 dev flannel.99; ip route add 10.99.2.0/24 via 10.99.2.0 dev flannel.99 onlink proto 70",
    "ip link add vethbeef up type veth peer lost",
    "nft add table inet other '{ chain c { type filter hook forward priority 0; ip saddr 10.5.0.0/16 counter accept; }; }'",
    "nft add table inet cni_plugins_masquerade; nft add chain inet cni_plugins_masquerade theirs; \
     nft add rule inet cni_plugins_masquerade theirs ip saddr 10.5.97.7 accept comment \\\"theirs\\\"",
    "nft add table ip nat '{ chain theirs { ip saddr 10.5.97.0/24 accept comment \"theirs\"; }; }'",
    "nft add table ip flannel-ipv4 '{ chain postrtg { type nat hook postrouting priority 100; ip saddr 10.99.0.0/16 return; }; }'",
];

/// In the pod.
const IN_POD: &[&str] = &[
    "ip link add net1 up type veth peer end1; ip addr add 172.20.0.2/16 dev net1",
    "ip link add net1 up type veth peer end1; ip link set end1 up; ip addr add 172.20.0.2/16 dev net1; \
     ip route add default via 172.20.0.1 metric 10",
    "ip link add br1 up type bridge; ip addr add 10.5.98.1/24 dev br1; ip neigh add 10.5.98.7 lladdr 02:00:00:00:00:07 dev br1",
    "ip rule add priority 50 from 172.20.0.2 lookup 50; ip route add blackhole default table 50",
];

/// What a runtime calls.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Add,
    /// With a route that cannot be set.
    FailedAdd,
    Check,
    Del,
    DelWithoutPath,
    Gc,
}

/// What there is and what is called.
#[derive(Clone)]
struct Case {
    on_host: Vec<&'static str>,
    in_pod: Option<&'static str>,
    other_lives: bool,
    verbs: Vec<Verb>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { on_host, in_pod, other_lives, verbs } = self;
        write!(f, "{verbs:?} beside {on_host:#?}, in the pod {in_pod:?}, another pod: {other_lives}")
    }
}

prop_compose! {
    fn case()(
        on_host in subsequence(ON_HOST, 1..ON_HOST.len()),
        in_pod in prop::option::of(prop::sample::select(IN_POD)),
        other_lives in any::<bool>(),
        more in prop::collection::vec(
            prop::sample::select(&[Verb::Add, Verb::FailedAdd, Verb::Check, Verb::Del, Verb::DelWithoutPath, Verb::Gc][..]),
            1..5,
        ),
    ) -> Case {
        // most of what can go wrong needs an attachment, and its end
        let verbs = [Verb::Add].into_iter().chain(more).chain([Verb::Del, Verb::Gc]).collect();
        Case { on_host, in_pod, other_lives, verbs }
    }
}

/// One function per plugin.
macro_rules! rows {
    ($($name:ident $row:ident),*) => {
        $(pub fn $name() -> Outcome {
            stays(&rows::$row)
        })*
    };
}

rows!(
    flannel FLANNEL, bridge BRIDGE, bridge_with_rules BRIDGE_RULES, macvlan MACVLAN,
    vxlan VXLAN, host_gw HOST_GW, direct_routing DIRECT_ROUTING, loopback LOOPBACK
);

fn stays(row: &Row) -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    Ok(runner
        .run(&case(), |case| try_case(&caller, row, &case).map_err(|error| TestCaseError::fail(error.to_string())))?)
}

fn try_case(caller: &Caller, row: &Row, case: &Case) -> Result<(), Failure> {
    let stage = Stage::new(caller, row, case.other_lives)?;
    let verdict = on_stage(&stage, case);
    // the next world has the same names
    stage.remove()?;
    verdict
}

fn on_stage(stage: &Stage<'_>, case: &Case) -> Result<(), Failure> {
    let before = stage.state()?;
    case.on_host.iter().try_for_each(|script| stage.on_host(script))?;
    case.in_pod.iter().try_for_each(|script| stage.in_pod(script))?;
    let theirs: Lines = stage.state()?.difference(&before).cloned().collect();
    let mut result = Value::Null;
    for (number, verb) in case.verbs.iter().enumerate() {
        let answer = call(stage, *verb, &mut result)?;
        let now = stage.state()?;
        let lost: Vec<&String> = theirs.difference(&now).collect();
        if !lost.is_empty() {
            return Err(format!("{verb:?}, number {number}, answers {answer} and changes {lost:#?}").into());
        }
    }
    Ok(())
}

/// Calls the plugin; what it answers is not judged.
fn call(stage: &Stage<'_>, verb: Verb, result: &mut Value) -> Result<String, Failure> {
    let mut conf = stage.conf.clone();
    if !result.is_null() {
        conf["prevResult"] = result.clone();
    }
    let answer = match verb {
        Verb::Add => stage.call("ADD", &stage.conf)?,
        Verb::FailedAdd => {
            let mut broken = stage.conf.clone();
            broken["ipam"]["routes"] = json!([{ "dst": "10.1.0.0/16", "gw": "203.0.113.1" }]);
            stage.call("ADD", &broken)?
        }
        Verb::Check => stage.call("CHECK", &conf)?,
        Verb::Del => stage.call("DEL", &conf)?,
        Verb::DelWithoutPath => stage.call_without_path("DEL", &conf)?,
        Verb::Gc => stage.call("GC", &stage.collected())?,
    };
    if let (Verb::Add, 0) = (verb, answer.status) {
        *result = serde_json::from_str(&answer.stdout)?;
    }
    Ok(format!("{answer:?}"))
}
