use proptest::prelude::*;

use super::*;
use crate::lease::VxlanData;

fn keys() -> NodeKeys {
    "flannel.alpha.coreos.com".parse().unwrap()
}

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(name, value)| (keys().key(name), (*value).to_owned())).collect()
}

/// What upstream's flanneld 0.28.9 writes for a dual-stack vxlan node.
const DUAL: [(&str, &str); 6] = [
    ("backend-data", r#"{"VNI":1,"VtepMAC":"4a:ed:0f:9b:24:90"}"#),
    ("backend-type", "vxlan"),
    ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"12:a5:0d:d7:d9:76"}"#),
    ("kube-subnet-manager", "true"),
    ("public-ip", "192.0.2.5"),
    ("public-ipv6", "2001:db8::5"),
];

fn both() -> ByFamily<bool> {
    ByFamily { v4: true, v6: true }
}

fn cidrs(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn prefixes_are_upstreams() {
    for (text, key) in [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/public-ip"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/public-ip"),
        ("a.b/net", "a.b/net-public-ip"),
        ("a.b/net-", "a.b/net-public-ip"),
    ] {
        assert_eq!(text.parse::<NodeKeys>().unwrap().key("public-ip"), key);
    }
    assert_eq!("a.b/c/d".parse::<NodeKeys>(), Err(PrefixError::Slashes));
    for bad in ["", "/", "local", "A.b", "a..b", "a.b/C", "a.b/c.d", ".a.b", "a.b./", "a b.c"] {
        assert_eq!(bad.parse::<NodeKeys>(), Err(PrefixError::Format), "{bad:?}");
    }
}

#[test]
fn annotations_are_read_and_written_byte_for_byte() {
    let stored = annotations(&DUAL);
    assert!(keys().is_claimed(&stored));
    let attrs = keys().attrs(&stored).unwrap();
    assert_eq!(attrs.public_ip, Some(Ipv4Addr::new(192, 0, 2, 5)));
    let data = VxlanData::parse(attrs.data(Family::V6).unwrap()).unwrap();
    assert_eq!(data.vtep_mac.to_string(), "12:a5:0d:d7:d9:76");
    assert_eq!(keys().patch(&attrs, &Annotations::new()), stored, "a Node without annotations gets all of them");
    assert_eq!(keys().patch(&attrs, &stored), Annotations::new(), "nothing differs, so nothing is patched");
    let mut other = stored.clone();
    other.insert(keys().key("public-ip"), "192.0.2.6".into());
    other.insert("example.org/foreign".into(), "x".into());
    assert_eq!(keys().patch(&attrs, &other), annotations(&[("public-ip", "192.0.2.5")]));
}

#[test]
fn a_backend_without_data_writes_null_as_upstream() {
    let attrs = LeaseAttrs {
        public_ip: Some(Ipv4Addr::new(192, 0, 2, 5)),
        backend_type: "host-gw".into(),
        ..LeaseAttrs::default()
    };
    let written = keys().patch(&attrs, &Annotations::new());
    assert_eq!(
        written,
        annotations(&[
            ("backend-data", "null"),
            ("backend-type", "host-gw"),
            ("kube-subnet-manager", "true"),
            ("public-ip", "192.0.2.5"),
        ])
    );
    assert_eq!(keys().attrs(&written).unwrap(), attrs);
    let dual = LeaseAttrs { public_ipv6: Some("2001:db8::5".parse().unwrap()), ..attrs.clone() };
    assert_eq!(
        keys().patch(&dual, &written),
        annotations(&[("backend-v6-data", "null"), ("public-ipv6", "2001:db8::5")])
    );
    let alloc = LeaseAttrs { backend_type: String::new(), ..dual };
    let left = keys().patch(&alloc, &annotations(&DUAL));
    assert_eq!(left, annotations(&[("backend-data", "null"), ("backend-type", ""), ("backend-v6-data", "null")]));
}

#[test]
fn an_operator_sets_other_addresses() {
    let attrs = keys().attrs(&annotations(&DUAL)).unwrap();
    let set = annotations(&[
        ("public-ip-overwrite", "198.51.100.7"),
        ("public-ipv6-overwrite", "2001:db8::7"),
        ("node-public-ip", "192.0.2.9"),
    ]);
    let published = keys().overwritten(&attrs, &set).unwrap();
    assert_eq!(published.public(Family::V4), Some("198.51.100.7".parse().unwrap()));
    assert_eq!(published.public(Family::V6), Some("2001:db8::7".parse().unwrap()));
    let only_v4 = LeaseAttrs { public_ipv6: None, ..attrs };
    assert_eq!(keys().overwritten(&only_v4, &set).unwrap().public_ipv6, None, "a family that is off stays off");
    let own = keys().own_addresses(&set).unwrap();
    assert_eq!((own.v4, own.v6), (Some("192.0.2.9".parse().unwrap()), None));
}

#[test]
fn bad_annotations_are_named() {
    for (name, value, said) in [
        ("public-ip", "2001:db8::5", r#"/public-ip is "2001:db8::5", which is not an address of its family"#),
        ("public-ipv6", "192.0.2.5", "/public-ipv6 is"),
        ("backend-data", "{", "/backend-data is not JSON"),
        ("backend-v6-data", &" ".repeat(LONGEST + 1), "/backend-v6-data is longer than 16 KiB"),
    ] {
        let mut stored = annotations(&DUAL);
        stored.insert(keys().key(name), value.to_owned());
        let error = keys().attrs(&stored).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
    for name in ["backend-type", "public-ip"] {
        let mut stored = annotations(&DUAL[..5]);
        stored.remove(&keys().key(name));
        assert_eq!(keys().attrs(&stored), Err(NodeError::Missing(keys().key(name))));
    }
    assert!(!keys().is_claimed(&annotations(&[("kube-subnet-manager", "True")])));
}

#[test]
fn subnets_are_the_pod_cidrs_of_the_families_that_are_on() {
    let v4 = ByFamily { v4: true, v6: false };
    for (texts, on, key) in [
        (&["10.244.3.0/24"][..], v4, "10.244.3.0-24"),
        (&["10.244.3.0/24", "fd00:3::/64"], both(), "10.244.3.0-24&fd00:3::-64"),
        (&["fd00:3::/64", "10.244.3.0/24"], v4, "10.244.3.0-24"),
        (&["fd00:3::/64"], ByFamily { v4: false, v6: true }, "0.0.0.0-0&fd00:3::-64"),
        (&["", "10.244.3.0/24"], both(), "10.244.3.0-24"),
    ] {
        assert_eq!(assigned(&cidrs(texts), on).unwrap().to_string(), key);
    }
    for (texts, said) in [
        (&[][..], "no podCIDR is assigned"),
        (&[""], "no podCIDR is assigned"),
        (&["fd00:3::/64"], "no podCIDR is assigned"),
        (&["10.244.3.0"], r#"podCIDR "10.244.3.0" is not a prefix"#),
        (&["10.244.3.0/33"], "is not a prefix"),
        (&["10.244.3.0/24", "10.244.4.0/24"], "IPv4/IPv6 only or dualstack, not 10.244.3.0/24,10.244.4.0/24"),
    ] {
        let error = assigned(&cidrs(texts), v4).unwrap_err().to_string();
        assert!(error.contains(said), "{texts:?}: {error}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(ip: u32, v6: Option<u128>, kind in "(vxlan|host-gw|ipip|wireguard|)", data: bool) {
        prop_assume!(ip != 0 && v6 != Some(0));
        let json = |on: bool| on.then(|| Json::from_iter([("VNI", Json::from(1_u32))]));
        let attrs = LeaseAttrs {
            public_ip: Some(ip.into()),
            public_ipv6: v6.map(Into::into),
            backend_type: kind,
            backend_data: json(data),
            backend_v6_data: json(data && v6.is_some()),
        };
        let written = keys().patch(&attrs, &Annotations::new());
        prop_assert_eq!(keys().attrs(&written).unwrap(), attrs);
    }

    #[test]
    fn no_annotation_panics(name in "(public-ip|backend-data|backend-type|public-ipv6)", value in ".{0,40}") {
        let mut stored = annotations(&DUAL);
        stored.insert(keys().key(&name), value);
        let _ = keys().attrs(&stored);
    }
}
