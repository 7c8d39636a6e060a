use super::*;
use crate::lease::Subnets;
use kernel::state::{LinkKind, Vxlan};
use kernel::types::{TableId, Vni};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn owner() -> Owner {
    Owner::new(vec![net("10.5.0.0/16"), net("fd05::/56")], vec![net("10.4.0.0/16"), net("10.5.0.0/16")])
}

fn device(alias: Option<&str>) -> Link {
    let kind = LinkKind::Vxlan(Vxlan::new(Vni::new(1).unwrap()));
    Link { alias: alias.map(str::to_owned), ..Link::up(kind) }
}

#[test]
fn the_mark_names_the_networks_and_is_read_back() {
    let text = mark(owner().networks.clone());
    assert_eq!(text, "flannel 10.5.0.0/16 fd05::/56");
    assert_eq!(marked(&text), Some(vec![net("10.5.0.0/16"), net("fd05::/56")]));
    for none in ["", "flannel", "flannel ", "flannel 10.5.0.0", "flannel-cni/10.5.0.0/16", "x 10.5.0.0/16"] {
        assert_eq!(marked(none), None, "{none:?}");
    }
    assert!(is_mark("flannel") && is_mark(&text) && !is_mark("flannel-cni/net") && !is_mark("somebody's"));
    let many = mark((0..64).map(|n| net(&format!("fd05:0:0:{n:x}00::/56"))));
    assert!(many.len() <= 255 && marked(&many).is_some());
}

#[test]
fn a_device_belongs_to_the_network_that_its_alias_names() {
    let judge = |alias: &str| owner().judge(&name("flannel.9"), &device(Some(alias)), &[net("10.9.0.0/32")]);
    assert_eq!(judge("flannel 10.5.0.0/16"), Whose::Ours);
    assert_eq!(judge("flannel 10.9.0.0/16 fd05::/56"), Whose::Ours, "one of two has stayed");
    assert_eq!(judge("flannel 10.4.0.0/16"), Whose::Ours, "a network of before");
    assert_eq!(judge("flannel 10.9.0.0/16"), Whose::Another(vec![net("10.9.0.0/16")]));
    let bridge = Link { alias: Some("flannel 10.9.0.0/16".into()), ..Link::up(LinkKind::Loopback) };
    assert_eq!(owner().judge(&name("flannel.1"), &bridge, &[]), Whose::Unmarked);
}

#[test]
fn without_a_network_name_and_address_must_agree() {
    let judge = |dev: &str, alias: Option<&str>, addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|text| net(text)).collect();
        owner().judge(&name(dev), &device(alias), &addresses)
    };
    assert_eq!(judge("flannel.1", Some("flannel"), &["10.5.1.0/32", "fe80::1/64"]), Whose::Ours);
    assert_eq!(judge("flannel.1", Some("flannel"), &["10.4.1.0/32"]), Whose::Ours);
    assert_eq!(judge("flannel.1", Some("flannel"), &["fe80::1/64"]), Whose::Ours);
    assert_eq!(judge("flannel.1", Some("flannel"), &["10.9.1.0/32"]), Whose::Another(vec![net("10.9.1.0/32")]));
    assert_eq!(judge("vx0", Some("flannel"), &["10.5.1.0/32"]), Whose::Unmarked);
    // a Go flanneld's
    assert_eq!(judge("flannel.1", None, &["10.5.1.0/32"]), Whose::Unmarked);
    assert_eq!(judge("flannel.1", None, &["10.9.1.0/32"]), Whose::Another(vec![net("10.9.1.0/32")]));
    assert_eq!(judge("flannel.1", Some("somebody's"), &[]), Whose::Unmarked);
}

#[test]
fn others_devices_are_named_and_their_networks_may_overlap() {
    let mut owner = owner();
    let (ours, theirs) = (device(Some("flannel 10.5.0.0/16")), device(Some("flannel 10.5.128.0/17")));
    let (one, two) = (name("flannel.1"), name("flannel.2"));
    let known = owner.survey([(&one, &ours, vec![]), (&two, &theirs, vec![])]);
    assert_eq!(known, [name("flannel.1")]);
    assert_eq!(owner.others(), [(name("flannel.2"), "10.5.128.0/17".to_owned())].into());
    let overlap = owner.overlap([]).unwrap().to_string();
    assert!(overlap.starts_with("the network 10.5.0.0/16 overlaps 10.5.128.0/17, ") && overlap.contains("flannel.2"));
    assert_eq!(owner.survey([]), []);
    assert_eq!(owner.overlap([net("10.6.0.0/16"), net("fd06::/56")]), None);
    let runs = owner.overlap([net("10.5.0.0/16")]).unwrap();
    assert_eq!((runs.ours, runs.theirs, runs.by.as_str()), (net("10.5.0.0/16"), net("10.5.0.0/16"), "it runs"));
    assert_eq!(owner.overlap([net("10.4.0.0/16")]), None, "what was left may be another's now");
}

#[test]
fn routes_of_others_are_named_where_they_may_lead_ours_elsewhere() {
    let leased = Gateways::new([(net("10.5.2.0/24"), "192.0.2.2".parse().unwrap())].into());
    let scope = owner().routes(Some(leased));
    assert_eq!(scope.within.len(), 3);
    let route = |dst: &str, via: &str, protocol| {
        let route = Route { via: via.parse().ok(), protocol, ..Route::by(&name("eth0")) };
        (RouteKey::main(net(dst)), route)
    };
    let on_device = (RouteKey::main(net("10.5.6.0/24")), Route::by(&name("flannel.1")));
    let routes = [
        route("10.5.2.0/24", "192.0.2.2", RouteProtocol::BOOT),
        route("10.5.2.0/24", "192.0.2.9", RouteProtocol::BOOT),
        route("10.5.3.0/25", "192.0.2.9", RouteProtocol::STATIC),
        route("10.4.0.0/16", "192.0.2.9", RouteProtocol(186)),
        route("10.5.4.0/24", "", RouteProtocol::KERNEL),
        route("10.5.1.7/32", "", RouteProtocol::BOOT),
        route("10.9.0.0/24", "192.0.2.9", RouteProtocol::BOOT),
        on_device,
    ];
    let own: Subnets = "10.5.1.0-24".parse().unwrap();
    let named = |scope: &RouteScope| -> Vec<String> {
        let devices = [name("flannel.1")];
        let foreign = foreign(scope, (&devices, own), &routes);
        foreign.into_iter().map(|(key, route)| format!("{} {:?}", key.dst, route.via)).collect()
    };
    assert_eq!(
        named(&scope),
        ["10.5.2.0/24 Some(192.0.2.9)", "10.5.3.0/25 Some(192.0.2.9)", "10.4.0.0/16 Some(192.0.2.9)"]
    );
    let local = |dst: &str| {
        let key = RouteKey { table: TableId::LOCAL, ..RouteKey::main(net(dst)) };
        may_mislead(&scope.within, own, &(key, Route { kind: RouteKind::Blackhole, ..Route::by(&name("lo")) }))
    };
    assert!(local("10.5.3.0/25") && local("10.0.0.0/8") && !local("10.9.0.0/16"));
    let others = owner().routes(None);
    assert_eq!((others.adopt.clone(), named(&others)), (Adopt::default(), vec![]), "somebody else routes");
}
