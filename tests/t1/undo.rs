//! A failed ADD of bridge removes what it made itself, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use attachment::rules::masquerade;
use kernel::Kernel;
use kernel::diff::Step;
use kernel::nft::Nft;
use kernel::state::{Link, LinkKind};
use kernel::types::IfName;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{addresses, conf, links, v4_only, with};
use crate::call::{Caller, Pod, Whose};

/// A gateway that is not on the link: the pod's last batch fails, when the host's side is done.
fn fails_late(conf: &Value) -> Value {
    let mut conf = conf.clone();
    conf["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    conf
}

fn masqueraded() -> usize {
    Nft::open().unwrap().rules(&masquerade::table(), Some("masq_checks")).map_or(0, |rules| rules.len())
}

/// The earlier pod keeps everything: its link, bridge, gateway, rules and reservation.
pub fn a_failed_add_leaves_other_pods_alone() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (old, new) = (Room::create("old")?, Room::create("new")?);
    let mut host = Kernel::open()?;
    let good = with(&v4_only(&conf(&caller), "10.9.1.0/24"), json!({ "ipMasq": true }));
    let (old, new_pod) = (Pod::of(&old, "old"), Pod::of(&new, "new"));
    let reply = caller.call("ADD", &old, &good).ok();
    let before = (links(&mut host), addresses(&mut host, "cni0"), caller.reserved("net"), masqueraded());
    let error = caller.call("ADD", &new_pod, &fails_late(&good)).error();
    assert!(error.contains("Nexthop has invalid gateway"), "{error}");
    let after = (links(&mut host), addresses(&mut host, "cni0"), caller.reserved("net"), masqueraded());
    assert_eq!(after, before, "links, the bridge's addresses, reservations, masquerade rules");
    assert_eq!(links(&mut new.kernel()?), Vec::<String>::new(), "the pod that was refused");
    caller.call("CHECK", &old, &with(&good, json!({ "prevResult": reply }))).ok();
    Ok(())
}

/// A bridge that an administrator made stays, and the gateway's address, which another pod may need by now.
pub fn a_failed_add_leaves_the_bridge_that_was_there() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let mut host = Kernel::open()?;
    let bridge = IfName::new("cni0")?;
    let made = Step::CreateLink(bridge.clone(), Link::up(LinkKind::Bridge(kernel::state::Bridge::default())));
    host.apply(&[made]).ok()?;
    let conf = fails_late(&v4_only(&conf(&caller), "10.9.1.0/24"));
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
    assert!(error.contains("Nexthop has invalid gateway"), "{error}");
    assert_eq!(links(&mut host), ["cni0"], "the bridge stays, the pair goes");
    assert_eq!(addresses(&mut host, "cni0"), ["10.9.1.1/24"]);
    Ok(())
}

/// An IPAM plugin that attaches something else to the new bridge, and then has no address.
const JOINS: &str = r#"#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
ip link add other type veth peer name other-end
ip link set other master cni0
echo '{"cniVersion":"1.0.0","code":100,"msg":"no address today"}'
exit 1
"#;

/// Between its birth and the failure, the new bridge got another port: that one keeps its bridge.
pub fn a_new_bridge_that_others_have_joined_stays() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let joins = caller.files.path().join("bin/joins");
    std::fs::write(&joins, JOINS)?;
    std::fs::set_permissions(&joins, std::fs::Permissions::from_mode(0o755))?;
    let conf = with(&conf(&caller), json!({ "ipam": { "type": "joins" } }));
    let error = caller.call("ADD", &Pod::of(&room, "cid"), &conf).error();
    assert!(error.contains("no address today"), "{error}");
    let mut host = Kernel::open()?;
    let mut left = links(&mut host);
    left.sort();
    assert_eq!(left, ["cni0", "other", "other-end"], "the bridge stays, the pair goes");
    let master = host.link(&IfName::new("other")?)?.and_then(|link| link.master);
    assert_eq!(master, Some(host.index(&IfName::new("cni0")?)?.0), "other's master");
    Ok(())
}

/// The MAC check cannot be set up after the masquerade: its rules are removed, and those of another pod stay.
pub fn rules_that_were_written_are_taken_back() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let (old, new) = (Room::create("old")?, Room::create("new")?);
    let good = with(&v4_only(&conf(&caller), "10.9.1.0/24"), json!({ "ipMasq": true }));
    caller.call("ADD", &Pod::of(&old, "old"), &good).ok();
    // Another program's chain has the name that the check must hook.
    let status = Command::new("nft").arg("add table bridge nat; add chain bridge nat PREROUTING").status()?;
    assert!(status.success(), "nft: {status}");
    let before = masqueraded();
    assert!(before > 0, "the first pod is masqueraded");
    let error = caller.call("ADD", &Pod::of(&new, "new"), &with(&good, json!({ "macspoofchk": true }))).error();
    assert!(error.contains("chain PREROUTING of table bridge nat is not of the desired kind"), "{error}");
    assert_eq!(masqueraded(), before, "masquerade rules");
    assert_eq!(links(&mut Kernel::open()?).len(), 2, "the bridge and the first pod's link");
    assert_eq!(caller.reserved("net"), ["10.9.1.2"]);
    Ok(())
}
