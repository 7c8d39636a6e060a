//! Nodes, configurations and rights that are wrong: each is named in the status, and nobody else's traffic is touched.

use std::fs;

use lab::cluster::{Cluster, PATIENCE, host_dir, subnet_file};
use lab::wait::eventually;
use overlay::status::Status;
use serde_json::{Value, json};
use tests::apiserver::{Refusal, User, client, node};

use crate::disturb::run;
use crate::kube_daemon::{Fleet, HOST_GW, VXLAN};
use crate::{Failure, Outcome};

const PREFIX: &str = "flannel.alpha.coreos.com/";

/// A Node `bad` with the podCIDR 10.244.9.0/24, claimed by a flanneld of a third host: right, but for what a row changes.
fn peer() -> Value {
    let mut peer = node("bad", &["10.244.9.0/24"]);
    for (key, value) in [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}"#),
        ("public-ip", "192.168.1.99"),
    ] {
        annotate(&mut peer, key, value);
    }
    peer
}

fn annotate(node: &mut Value, key: &str, value: &str) {
    node["metadata"]["annotations"][format!("{PREFIX}{key}")] = value.into();
}

/// Everything that leads host 1's packets to others.
fn ways(fleet: &Fleet) -> Result<String, Failure> {
    let room = fleet.world.host(1)?;
    let lines = ["ip -4 route", "bridge fdb show dev flannel.1", "ip neigh show dev flannel.1 nud permanent"];
    let all = lines.into_iter().map(|line| run(room, line)).collect::<Result<Vec<_>, _>>()?;
    Ok(all.concat())
}

/// What host 1 says of `bad`, under any of its names.
fn said(status: &Status) -> Vec<String> {
    let rejected = status.rejected.iter().map(|one| format!("{}: {}", one.key, one.reason));
    rejected.chain(status.warnings.iter().cloned()).collect()
}

type Row = (&'static str, fn(&mut Value, &Others), &'static str);

/// What rows take from others.
struct Others {
    mac: String,
}

const ROWS: &[Row] = &[
    ("backend data that is no JSON", |bad, _| annotate(bad, "backend-data", "{"), "is not JSON"),
    (
        "a MAC address that is none",
        |bad, _| annotate(bad, "backend-data", r#"{"VNI":1,"VtepMAC":"zz"}"#),
        r#"VtepMAC "zz" is not a MAC address"#,
    ),
    (
        "another host's MAC address",
        |bad, others| annotate(bad, "backend-data", &format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, others.mac)),
        "belongs to the lease 10.244.2.0-24",
    ),
    ("no MAC address", |bad, _| annotate(bad, "backend-data", "null"), "publishes no VTEP"),
    ("an address that is none", |bad, _| annotate(bad, "public-ip", "10.0.0.300"), "which is not an address"),
    ("host 1's own address", |bad, _| annotate(bad, "public-ip", "192.168.1.11"), "is this host's own"),
    ("an address of the pods", |bad, _| annotate(bad, "public-ip", "10.244.2.5"), "is inside the leased subnet"),
    ("a multicast address", |bad, _| annotate(bad, "public-ip", "224.0.0.1"), "224.0.0.1 is"),
    ("an annotation of 1 MB", |bad, _| annotate(bad, "backend-data", &"x".repeat(1 << 20)), "is longer than 16 KiB"),
    ("host 2's subnet", |bad, _| cidrs(bad, &["10.244.2.0/24"]), "the node n2 has the same podCIDR and is older"),
    ("a part of host 2's subnet", |bad, _| cidrs(bad, &["10.244.2.128/25"]), "overlaps"),
    ("a subnet around host 2's", |bad, _| cidrs(bad, &["10.244.2.0/23"]), "overlaps"),
    ("a part of host 1's own subnet", |bad, _| cidrs(bad, &["10.244.1.0/26"]), "overlaps this host's own"),
    ("a subnet outside of the network", |bad, _| cidrs(bad, &["10.99.0.0/24"]), "is not inside the network"),
    ("the whole network", |bad, _| cidrs(bad, &["10.244.0.0/16"]), "is the whole network"),
    (
        "two subnets of one family",
        |bad, _| cidrs(bad, &["10.244.9.0/24", "10.244.8.0/24"]),
        "node pod cidrs should be IPv4/IPv6 only or dualstack",
    ),
    ("a subnet that is no prefix", |bad, _| cidrs(bad, &["10.244.9.0/240"]), "is not a prefix"),
];

fn cidrs(node: &mut Value, cidrs: &[&str]) {
    node["spec"] = json!({ "podCIDR": cidrs.first(), "podCIDRs": cidrs });
}

pub fn wrong_nodes_touch_nobody() -> Outcome {
    let fleet = Fleet::up(2, VXLAN)?;
    let status = fleet.wait(1, "its peer", |status| status.peers.len() == 1)?;
    let mac = status.peers.iter().find_map(|peer| peer.vtep_mac.clone()).ok_or("no VTEP")?;
    let others = Others { mac: mac.to_string() };
    let before = ways(&fleet)?;
    let mut wrong = Vec::new();
    for (what, change, words) in ROWS {
        let mut bad = peer();
        change(&mut bad, &others);
        fleet.api()?.objects(|all| all.put(bad));
        let looked = eventually(format!("{what} is named"), PATIENCE / 3, || {
            let said = Cluster::status(1).map(|status| said(&status)).unwrap_or_default();
            if said.iter().any(|line| line.contains(words)) { Ok(()) } else { Err(format!("{said:?}")) }
        });
        let now = ways(&fleet)?;
        match looked {
            Err(error) => wrong.push(error.to_string()),
            Ok(()) if now != before => wrong.push(format!("{what}: {now}\nbefore:\n{before}")),
            Ok(()) => {}
        }
        fleet.api()?.objects(|all| all.delete("bad"));
        fleet.wait(1, "nothing of it", |status| said(status).is_empty())?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Two Nodes with one address: the second one's pods cannot be reached, and the first one's can.
pub fn a_shared_address_is_named() -> Outcome {
    let fleet = Fleet::up(2, VXLAN)?;
    let before = ways(&fleet)?;
    let mut bad = peer();
    annotate(&mut bad, "public-ip", "192.168.1.12");
    fleet.api()?.objects(|all| all.put(bad));
    fleet.sees(1, 2)?;
    let words = "publish the same address 192.168.1.12";
    fleet.wait(1, words, |status| status.warnings.iter().any(|line| line.contains(words)))?;
    let now = ways(&fleet)?;
    let lost = before.lines().find(|line| !now.contains(line));
    assert_eq!(lost, None, "{now}");
    Ok(())
}

/// The API server's own address may be that of a node that runs it: it is reached, and everybody else, too.
pub fn a_node_on_the_servers_host_takes_nothing() -> Outcome {
    let fleet = Fleet::up(2, VXLAN)?;
    let mut bad = peer();
    annotate(&mut bad, "public-ip", &fleet.server()?.to_string());
    fleet.api()?.objects(|all| all.put(bad));
    fleet.sees(1, 2)?;
    // the server is still followed
    fleet.api()?.objects(|all| all.delete("bad"));
    fleet.sees(1, 1)
}

fn complaint(words: &str) -> impl Fn(&Status) -> bool {
    move |status| status.last_error.as_deref().is_some_and(|error| error.contains(words))
}

/// A configuration that is wrong, or gone, is named, and the last good one stays in use.
pub fn a_wrong_configuration_changes_nothing() -> Outcome {
    let fleet = Fleet::up(2, VXLAN)?;
    let (before, env) = (ways(&fleet)?, fs::read_to_string(subnet_file(1))?);
    for (conf, words) in [
        ("{", "is not JSON"),
        (r#"{"Network":"10.244.0.0/33"}"#, "10.244.0.0/33"),
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}"#, "VNI"),
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"nonsense"}}"#, "nonsense"),
    ] {
        fleet.configure(1, conf)?;
        fleet.wait(1, conf, complaint(words))?;
        assert_eq!((ways(&fleet)?, fs::read_to_string(subnet_file(1))?), (before.clone(), env.clone()), "{conf}");
        fleet.configure(1, VXLAN)?;
        fleet.wait(1, "the right one", |status| status.last_error.is_none())?;
    }
    fs::remove_file(host_dir(1).join("net-conf.json"))?;
    fleet.wait(1, "that it is gone", complaint("the last good one stays in force"))?;
    assert_eq!((ways(&fleet)?, fs::read_to_string(subnet_file(1))?), (before, env));
    Ok(())
}

/// A right that is missing is named, with its verb and resource.
pub fn a_missing_right_is_named() -> Outcome {
    let mut fleet = Fleet::new(1, HOST_GW)?;
    let config = client::kubeconfig(&fleet.api()?.url(), None, "t");
    fs::write(host_dir(1).join("kubeconfig"), config.to_string())?;
    let flag = format!("--kubeconfig-file={}", host_dir(1).join("kubeconfig").display());
    for (may, words) in [
        (&["list nodes", "watch nodes"][..], "cannot patch resource \"nodes/status\""),
        (&["list nodes", "patch nodes/status"], "cannot watch resource \"nodes\""),
        (&[], "cannot watch resource \"nodes\""),
        (&["list nodes", "watch nodes", "patch nodes/status"], ""),
    ] {
        // one whose annotations have to be written
        fleet.api()?.objects(|all| all.put(node("n1", &["10.244.1.0/24"])));
        let name = "system:serviceaccount:kube-flannel:flannel".to_owned();
        let may = may.iter().map(|may| (*may).to_owned()).collect();
        fleet.api()?.faults(|faults| faults.users = vec![User { token: "t".into(), name, may }]);
        fleet.start_with(1, &[&flag])?;
        fleet.wait(1, words, |status| match words {
            "" => !status.subnets.is_empty() && status.last_error.is_none(),
            words => complaint(words)(status) && complaint("ClusterRole needs")(status),
        })?;
        fleet.kill(1)?;
    }
    Ok(())
}

/// An admission webhook or policy that refuses this host's annotations is quoted, and the host goes on.
pub fn the_refusal_of_an_admission_webhook_is_quoted() -> Outcome {
    let mut fleet = Fleet::new(1, HOST_GW)?;
    let message = "admission webhook \"nodes.example.org\" denied the request: not this node";
    for (code, reason) in [(403, "Forbidden"), (422, "Invalid")] {
        fleet.api()?.objects(|all| all.put(node("n1", &["10.244.1.0/24"])));
        let refusal = Refusal { code, reason, message: message.into(), retry_after: 0 };
        fleet.api()?.faults(|faults| faults.refuse_patches = Some(refusal));
        fleet.start(1)?;
        let status = fleet.wait(1, "the webhook's words", complaint("denied the request: not this node"))?;
        let error = status.last_error.unwrap_or_default();
        assert!(!error.contains("ClusterRole"), "{error}");
        fleet.api()?.faults(|faults| faults.refuse_patches = None);
        fleet.wait(1, "its lease", |status| !status.subnets.is_empty() && status.last_error.is_none())?;
        fleet.kill(1)?;
    }
    Ok(())
}
