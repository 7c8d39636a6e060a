use overlay::lease::{Annotations, NodeKeys};

use super::*;
use crate::kubernetes::options::NodeName;

fn options() -> Arc<Options> {
    let keys: NodeKeys = "flannel.alpha.coreos.com".parse().unwrap();
    Arc::new(Options {
        api_url: None,
        kubeconfig: None,
        keys,
        net_config: "/etc/kube-flannel/net-conf.json".into(),
        node: NodeName::Named("n1".into()),
        set_network_unavailable: None,
        saved: "/run/flannel/nodes.json".into(),
        answer: crate::kubernetes::ANSWER,
    })
}

fn own(node: Option<&str>) -> Own {
    let node = node.map(|cidr| OwnNode { cidrs: vec![cidr.to_owned()], annotations: Annotations::new(), created: 0 });
    Own { api: None, name: Some("n1".into()), node, read: true }
}

/// A keeper, and the end with which a follower tells it about the Node.
fn keeper() -> (Keeper, Arc<watch::Sender<Own>>) {
    let sender = Arc::new(watch::channel(Own::default()).0);
    (Keeper::new(options(), sender.clone()), sender)
}

fn hold(keeper: &mut Keeper, conf: &str) -> Result<Held, HoldError> {
    let conf = NetConf::parse(conf.as_bytes()).unwrap().conf;
    let attrs = LeaseAttrs::default();
    let (previous, started, now) = (Subnets::default(), false, Instant::now());
    keeper.hold(&Claim { conf: &conf, attrs: &attrs, previous, started, now, random: 0, avoid: &[] })
}

const V4: &str = r#"{"Network":"10.244.0.0/16"}"#;
const DUAL: &str =
    r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}"#;

#[test]
fn a_missing_pod_cidr_is_waited_for_and_named() {
    let (mut keeper, sender) = keeper();
    assert!(matches!(hold(&mut keeper, V4), Err(HoldError::Wait(Waiting::Unread))));
    for (own, conf, said) in [
        (own(None), V4, r#"the node "n1" does not exist"#),
        (own(Some("")), V4, r#"node "n1" pod cidr not assigned: no podCIDR is assigned (kube-controller-manager"#),
        (own(Some("x/24")), V4, r#"pod cidr not assigned: podCIDR "x/24" is not a prefix"#),
        (own(Some("10.244.1.0/24")), DUAL, r#"node "n1" pod cidr not assigned for fd00::/48"#),
        (
            own(Some("10.1.0.0/24")),
            V4,
            r#"subnet "10.244.0.0/16" specified in the flannel net config doesn't contain "10.1.0.0/24" PodCIDR of the "n1" node"#,
        ),
    ] {
        sender.send_replace(own);
        let error = hold(&mut keeper, conf).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(keeper.held().is_none());
    }
}

#[test]
fn a_pod_cidr_that_changes_moves_the_lease() {
    let (mut keeper, sender) = keeper();
    sender.send_replace(own(Some("10.244.1.0/24")));
    let held = hold(&mut keeper, V4).unwrap();
    assert_eq!((held.subnets.to_string().as_str(), held.moved_from), ("10.244.1.0-24", None));
    sender.send_replace(own(Some("10.244.2.0/24")));
    let moved = hold(&mut keeper, V4).unwrap();
    assert_eq!((moved.subnets.to_string().as_str(), moved.moved_from), ("10.244.2.0-24", Some(held.subnets)));
    assert_eq!(hold(&mut keeper, V4).unwrap().moved_from, None);
}

#[test]
fn a_node_that_is_deleted_keeps_its_subnet_until_it_returns() {
    let (mut keeper, sender) = keeper();
    sender.send_replace(own(Some("10.244.1.0/24")));
    let held = hold(&mut keeper, V4).unwrap();
    sender.send_replace(own(None));
    let kept = hold(&mut keeper, V4).unwrap();
    assert_eq!(kept.subnets, held.subnets);
    assert!(kept.note.as_deref().is_some_and(|note| note.contains(r#"the node "n1" does not exist"#)), "{kept:?}");
    sender.send_replace(own(Some("10.244.1.0/24")));
    assert_eq!(hold(&mut keeper, V4).unwrap().note, None);
}
