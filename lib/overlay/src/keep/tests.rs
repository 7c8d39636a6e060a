use gojson::Json;
use kernel::types::Mac;

use super::*;
use crate::backend::vxlan::VxlanConf;
use crate::netconf::NetConf;
use crate::peers::{self, Own};

fn backend(text: &str) -> Backend {
    NetConf::parse(format!(r#"{{"Network":"10.5.0.0/16","Backend":{text}}}"#).as_bytes()).unwrap().conf.backend
}

fn vxlan(options: &str) -> Backend {
    backend(&format!(r#"{{"Type":"vxlan"{options}}}"#))
}

fn plain(name: &str) -> Backend {
    backend(&format!(r#"{{"Type":"{name}"}}"#))
}

fn identity() -> Identity {
    Identity { vtep_macs: ByFamily { v4: Some(Mac([2, 0, 0, 0, 0, 9])), v6: None }, ..Identity::default() }
}

/// What a host publishes that runs this backend.
fn lease(backend: &Backend) -> LeaseAttrs {
    publish(backend, &[], ByFamily { v4: "192.0.2.7".parse().ok(), v6: None }, &identity())
}

/// The leases of hosts that run these backends.
fn census(backends: &[&Backend]) -> Census {
    let conf = NetConf::parse(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap().conf;
    let leases = backends.iter().enumerate().map(|(n, backend)| {
        let mut attrs = lease(backend);
        attrs.public_ip = format!("192.0.2.{}", n + 10).parse().ok();
        if let Some(Json::Object(fields)) = &mut attrs.backend_data {
            for (_, value) in fields.iter_mut().filter(|(key, _)| key == "VtepMAC") {
                *value = Mac([2, 0, 0, 0, 1, u8::try_from(n).unwrap()]).to_string().into();
            }
        }
        (format!("10.5.{}.0-24", n + 1), attrs.to_json())
    });
    let judged = peers::check(&conf, &Own::default(), leases);
    assert_eq!(judged.rejected, []);
    Census::of(&judged.good)
}

/// A host, and the time since its start.
struct Host {
    keep: Keep,
    start: Instant,
    found: Vec<Backend>,
    can_rename: bool,
}

impl Host {
    fn new() -> Self {
        Self { keep: Keep::default(), start: Instant::now(), found: Vec::new(), can_rename: true }
    }

    fn look(&mut self, millis: u64, now: &Backend, peers: &[&Backend], published: &Backend) -> Keeping {
        self.keep.follow(&Facts {
            now: self.start + Duration::from_millis(millis),
            backend: now,
            found: &self.found,
            census: &census(peers),
            complete: true,
            published: Some(&lease(published)),
            can_rename: self.can_rename,
        })
    }
}

fn names(keeping: &Keeping) -> Vec<&'static str> {
    keeping.kept.iter().map(|kept| kept.backend.name()).collect()
}

#[test]
fn a_device_stays_while_a_peer_may_send_to_it_and_a_moment_longer() {
    let (old, new) = (vxlan(""), plain("host-gw"));
    let mut host = Host::new();
    assert_eq!(host.look(0, &old, &[&old], &old), Keeping::default());
    // this host's own lease still names it, but is to do so no more
    let during = host.look(1_000, &new, &[&new], &old);
    assert_eq!((names(&during), during.offered.len(), during.look_again), (vec!["vxlan"], 0, None));
    // a peer still sends by it, for as long as it likes
    let during = host.look(9_000_000, &new, &[&new, &old], &new);
    assert_eq!((names(&during), during.offered.len()), (vec!["vxlan"], 1));
    // nobody does: it is not offered any more, and drained
    let drained = host.look(9_001_000, &new, &[&new], &new);
    assert_eq!((names(&drained), drained.offered.len()), (vec!["vxlan"], 0));
    assert_eq!(drained.look_again, Some(host.start + Duration::from_millis(9_002_000)));
    assert_eq!(host.look(9_001_999, &new, &[&new], &new).kept.len(), 1);
    assert_eq!(host.look(9_002_000, &new, &[&new], &new), Keeping::default());
}

#[test]
fn whatever_was_left_stays_while_not_all_leases_are_known() {
    for old in ["vxlan", "udp", "ipip", "wireguard"] {
        let (old, new) = (plain(old), plain("host-gw"));
        let mut host = Host { found: vec![old.clone()], ..Host::new() };
        let facts = Facts {
            now: host.start,
            backend: &new,
            found: &host.found,
            census: &Census::default(),
            complete: false,
            published: None,
            can_rename: true,
        };
        assert_eq!(host.keep.follow(&facts).kept.len(), 1, "{old:?}");
        let known = Facts { complete: true, ..facts };
        assert_eq!(host.keep.follow(&known).kept.len(), 1, "{old:?} is drained");
        assert_eq!(host.keep.follow(&Facts { now: host.start + DRAIN, ..known }), Keeping::default());
        // what is left over later was known and has been dropped
        assert_eq!(host.keep.follow(&Facts { now: host.start + DRAIN, ..known }), Keeping::default());
    }
}

#[test]
fn a_vni_is_told_by_the_leases() {
    let (one, seven) = (vxlan(""), vxlan(r#","VNI":7"#));
    let mut host = Host::new();
    host.look(0, &one, &[&one], &one);
    let during = host.look(1, &seven, &[&one, &seven], &seven);
    assert_eq!(during.kept, [Kept { backend: one.clone(), leads: false }]);
    host.look(10, &seven, &[&seven], &seven);
    assert_eq!(host.look(1_010, &seven, &[&seven], &seven), Keeping::default());
    // an old lease without a VNI may be of any
    let mut host = Host::new();
    host.look(0, &one, &[], &one);
    let conf = NetConf::parse(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap().conf;
    let text = r#"{"PublicIP":"192.0.2.9","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:03"}}"#;
    let old = peers::check(&conf, &Own::default(), [("10.5.9.0-24", text)]);
    let facts = Facts {
        now: host.start + Duration::from_secs(100),
        backend: &seven,
        found: &[],
        census: &Census::of(&old.good),
        complete: true,
        published: None,
        can_rename: true,
    };
    assert_eq!(host.keep.follow(&facts).look_again, None);
}

#[test]
fn a_port_is_told_by_time() {
    let (one, other) = (vxlan(""), vxlan(r#","Port":4789"#));
    let mut host = Host::new();
    host.look(0, &one, &[&one], &one);
    // the old one sends until all hosts have the new one
    let first = host.look(100, &other, &[&one], &other);
    assert_eq!(first.kept, [Kept { backend: one.clone(), leads: true }]);
    assert_eq!(first.look_again, Some(host.start + Duration::from_millis(1_100)));
    // then it only receives
    let second = host.look(1_100, &other, &[&one], &other);
    assert_eq!(second.kept, [Kept { backend: one.clone(), leads: false }]);
    assert_eq!(second.look_again, Some(host.start + Duration::from_millis(2_100)));
    // back again in between
    let back = host.look(1_500, &one, &[&one], &one);
    assert_eq!(back.kept, [Kept { backend: other.clone(), leads: true }]);
    host.look(2_500, &one, &[&one], &one);
    assert_eq!(host.look(3_500, &one, &[&one], &one), Keeping::default());
}

#[test]
fn what_cannot_be_beside_the_new_one_goes() {
    let one = vxlan("");
    // a kernel that renames no link that is up
    let mut host = Host { can_rename: false, ..Host::new() };
    host.look(0, &one, &[], &one);
    assert_eq!(host.look(1, &vxlan(r#","Port":4789"#), &[&one], &one), Keeping::default());
    // one socket cannot do both
    let mut host = Host::new();
    host.look(0, &one, &[], &one);
    assert_eq!(host.look(1, &vxlan(r#","VNI":7,"GBP":true"#), &[&one], &one), Keeping::default());
    assert_eq!(host.look(2, &vxlan(r#","VNI":8,"GBP":true,"Port":4789"#), &[&one], &one).kept.len(), 1);
    // of several with one name the newest stays
    let mut host = Host::new();
    host.look(0, &one, &[], &one);
    host.look(1, &vxlan(r#","Port":4789"#), &[], &one);
    let kept = host.look(2, &vxlan(r#","VNI":7"#), &[&one], &one).kept;
    let Backend::Vxlan(VxlanConf { port, .. }) = kept[0].backend else { panic!() };
    assert_eq!((kept.len(), port), (1, Some(4789)));
}

#[test]
fn options_that_change_in_place_leave_nothing() {
    let mut host = Host::new();
    let one = vxlan("");
    host.look(0, &one, &[&one], &one);
    for options in [r#","DirectRouting":true"#, r#","MTU":1400"#, r#","Learning":true"#, r#","Port":8472"#] {
        assert_eq!(host.look(1, &vxlan(options), &[&one], &one), Keeping::default(), "{options}");
    }
    assert_eq!(host.look(2, &plain("alloc"), &[], &plain("alloc")).kept.len(), 1);
}

/// The leases of alloc look like those of udp.
#[test]
fn from_udp_to_alloc_time_decides() {
    let (udp, alloc) = (plain("udp"), plain("alloc"));
    let mut host = Host::new();
    host.look(0, &udp, &[&udp], &udp);
    assert_eq!(host.look(0, &alloc, &[&alloc], &alloc).kept.len(), 1);
    host.look(1_000, &alloc, &[&alloc], &alloc);
    assert_eq!(host.look(2_000, &alloc, &[&alloc], &alloc), Keeping::default());
}
