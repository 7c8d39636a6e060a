use proptest::prelude::*;

use super::*;
use crate::pending::Pending;

fn rules() -> Rules {
    Rules { keys: "flannel.alpha.coreos.com".parse().unwrap(), on: ByFamily { v4: true, v6: false } }
}

/// A Node that was created at second `created`, with a podCIDR 10.244.`net`.0/24 and a public address 192.0.2.`host`.
fn node(name: &str, created: i64, net: u8, host: u8) -> Node {
    let key = |name: &str| rules().keys.key(name);
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": name,
            "creationTimestamp": format!("2026-11-27T20:00:{created:02}Z"),
            "annotations": {
                key("kube-subnet-manager"): "true", key("backend-type"): "host-gw", key("backend-data"): "null",
                key("public-ip"): format!("192.0.2.{host}"),
            },
        },
        "spec": { "podCIDRs": [format!("10.244.{net}.0/24")] },
    }))
    .unwrap()
}

/// What a consumer has after some events, as text.
fn view(pending: &mut Pending, seen: &mut BTreeMap<String, String>) -> Vec<String> {
    let (changes, _) = pending.take();
    if changes.snapshot {
        seen.retain(|key, _| key.starts_with("node "));
    }
    for lease in changes.put {
        seen.insert(lease.subnets.to_string(), format!("{:?}", lease.attrs.public_ip));
    }
    changes.gone.into_iter().for_each(|subnets| drop(seen.remove(&subnets.to_string())));
    for (key, refusal) in changes.refused {
        match refusal {
            Some(refusal) => drop(seen.insert(key, refusal.to_string())),
            None => drop(seen.remove(&key)),
        }
    }
    seen.iter().map(|(key, value)| format!("{key}: {value}")).collect()
}

#[test]
fn a_node_whose_lease_fields_are_equal_changes_nothing() {
    let mut nodes = Nodes::new(rules());
    assert!(!nodes.put(&node("n1", 1, 1, 1)).is_empty());
    let mut again = node("n1", 1, 1, 1);
    again.metadata.resource_version = "7".into();
    again.metadata.annotations.as_mut().unwrap().insert("volumes.example.org/attached".into(), "x".into());
    assert!(nodes.put(&again).is_empty());
    again.metadata.annotations = None;
    assert_eq!(nodes.put(&again).len(), 2, "a Node that no flanneld claims any more is gone");
    assert!(nodes.put(&again).is_empty() && nodes.remove("n1").is_empty() && nodes.len() == 0);
}

#[test]
fn a_new_pod_cidr_replaces_the_lease() {
    let (mut nodes, mut pending, mut seen) = (Nodes::new(rules()), Pending::default(), BTreeMap::new());
    for (net, expected) in [(1, "10.244.1.0-24"), (2, "10.244.2.0-24")] {
        nodes.put(&node("n1", 1, net, 1)).into_iter().for_each(|event| pending.apply(event));
        let all = view(&mut pending, &mut seen);
        assert!(all.len() == 1 && all[0].starts_with(expected), "{all:?}");
    }
}

#[test]
fn the_older_of_two_nodes_keeps_a_pod_cidr_until_it_is_gone() {
    let (mut nodes, mut pending, mut seen) = (Nodes::new(rules()), Pending::default(), BTreeMap::new());
    let mut after = |events: Vec<Event>, seen: &mut BTreeMap<String, String>| {
        events.into_iter().for_each(|event| pending.apply(event));
        view(&mut pending, seen)
    };
    after(nodes.put(&node("young", 5, 1, 5)), &mut seen);
    let both = after(nodes.put(&node("old", 1, 1, 1)), &mut seen);
    assert_eq!(both, ["10.244.1.0-24: Some(192.0.2.1)", "node young: the node old has the same podCIDR and is older"]);
    assert_eq!(after(nodes.remove("old"), &mut seen), ["10.244.1.0-24: Some(192.0.2.5)"]);
    let mut bad = node("young", 5, 1, 5);
    bad.spec = serde_json::from_str(r#"{"podCIDR":"10.244.1.0"}"#).unwrap();
    assert_eq!(after(nodes.put(&bad), &mut seen), [r#"node young: podCIDR "10.244.1.0" is not a prefix"#]);
    assert_eq!(after(nodes.remove("young"), &mut seen), [""; 0]);
}

/// A change of a Node.
#[derive(Debug, Clone)]
enum Step {
    Put { name: u8, net: u8, host: u8 },
    Remove { name: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..5_u8, 0..3_u8, 1..4_u8).prop_map(|(name, net, host)| Step::Put { name, net, host }),
        1 => (0..5_u8).prop_map(|name| Step::Remove { name }),
    ]
}

proptest! {
    /// The events lead to what a snapshot at the end contains.
    #[test]
    fn events_lead_to_the_snapshot(steps in prop::collection::vec(step(), 0..40)) {
        let (mut nodes, mut pending) = (Nodes::new(rules()), Pending::default());
        pending.replace(Snapshot::default());
        let mut seen = BTreeMap::new();
        for step in steps {
            let events = match step {
                Step::Put { name, net, host } => nodes.put(&node(&format!("n{name}"), name.into(), net, host)),
                Step::Remove { name } => nodes.remove(&format!("n{name}")),
            };
            events.into_iter().for_each(|event| pending.apply(event));
            view(&mut pending, &mut seen);
        }
        let by_events = view(&mut pending, &mut seen);
        let (mut fresh, mut whole) = (Pending::default(), BTreeMap::new());
        fresh.replace(nodes.snapshot(None));
        prop_assert_eq!(by_events, view(&mut fresh, &mut whole));
    }
}
