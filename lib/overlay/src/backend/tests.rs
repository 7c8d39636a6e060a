use kernel::state::{Ipip, LinkKind, TunTap, Vxlan};
use kernel::types::Vni;

use super::*;

#[test]
fn names_and_lease_types_are_upstreams() {
    let all = KINDS.map(|kind| (kind.name, kind.lease_type));
    assert_eq!(
        all,
        [
            ("vxlan", "vxlan"),
            ("host-gw", "host-gw"),
            ("udp", ""),
            ("ipip", "ipip"),
            ("wireguard", "wireguard"),
            ("extension", "extension"),
            ("alloc", "")
        ]
    );
    let tunnels: Vec<&str> = tunnels().map(Tunnel::name).collect();
    assert_eq!(tunnels, ["vxlan", "udp", "ipip", "wireguard", "extension"]);
    assert_eq!((data_of("vxlan"), data_of(""), data_of("geneve")), (Some(Data::Vtep), Some(Data::KeptVtep), None));
}

#[test]
fn a_device_tells_its_backend() {
    let vxlan = Vxlan { port: Some(4789), gbp: true, ..Vxlan::new(Vni::new(7).unwrap()) };
    for (name, kind, backend) in [
        ("flannel.7", LinkKind::Vxlan(vxlan.clone()), Some("vxlan")),
        ("fl8472.7", LinkKind::Vxlan(vxlan.clone()), Some("vxlan")),
        ("flannel.x", LinkKind::Vxlan(vxlan), None),
        ("flannel0", LinkKind::TunTap(TunTap::default()), Some("udp")),
        ("tap0", LinkKind::TunTap(TunTap::default()), None),
        ("flannel.ipip", LinkKind::Ipip(Ipip::default()), Some("ipip")),
        ("flannel-wg-v6", LinkKind::Wireguard, Some("wireguard")),
        ("wg0", LinkKind::Wireguard, None),
        ("flannel.1", LinkKind::Dummy, None),
    ] {
        let found = left(&IfName::new(name).unwrap(), &Link::up(kind));
        assert_eq!(found.as_ref().map(Backend::name), backend, "{name}");
        if let Some(Backend::Vxlan(conf)) = found {
            assert_eq!((conf.vni.get(), conf.port, conf.gbp), (7, Some(4789), true));
        }
    }
}
