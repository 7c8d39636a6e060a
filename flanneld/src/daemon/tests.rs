use std::net::IpAddr;
use std::sync::Arc;

use kernel::diff::{Conflict, Step};
use kernel::message::link::SeenLink;
use kernel::state::{Bridge, Link, LinkKind, Vxlan};
use kernel::types::{Family, IfIndex, IfName, Mtu, Vni};
use kernel::{Errno, KernelError, Outcome};
use overlay::host::{self, HostInputs};
use overlay::lease::LeaseAttrs;
use overlay::netconf::NetConf;
use overlay::ownership::{NOBODY, Owner};
use overlay::peers;

use super::acquire::{Standing, fits, renewal, standing};
use super::report::Applied;
use super::*;
use crate::clock::Moment;
use crate::status::Reach;
use crate::underlay::Survey;

const KEY: &str = "10.5.1.0-24";
const MAC: &str = "02:00:00:00:00:01";

fn own(value: &str) -> Own {
    Own {
        key: KEY.into(),
        subnets: KEY.parse().unwrap(),
        value: value.into(),
        reservation: false,
        renewed: Instant::now(),
    }
}

fn view(leases: &[(&str, &str)]) -> View {
    let leases = leases.iter().map(|(key, value)| (key.to_string(), Arc::from(value.as_bytes()))).collect();
    View { leases: Arc::new(leases), complete: true, ..View::default() }
}

fn conf(text: &str) -> NetConf {
    NetConf::parse(text.as_bytes()).unwrap().conf
}

fn vxlan_conf() -> NetConf {
    conf(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#)
}

fn underlay() -> Underlay {
    let addr: IpAddr = "192.0.2.1".parse().unwrap();
    Underlay {
        dev: IfName::new("eth0").unwrap(),
        index: IfIndex(2),
        mtu: Mtu(1500),
        addresses: vec![addr],
        public: vec![addr],
        why: String::new(),
    }
}

/// A VXLAN device; `alias` is the owner mark.
fn device(name: &str, vni: u32, mac: &str, alias: Option<&str>) -> SeenLink {
    let vxlan = Vxlan { local: "192.0.2.1".parse().ok(), gbp: true, ..Vxlan::new(Vni::new(vni).unwrap()) };
    let link = Link { mac: mac.parse().ok(), alias: alias.map(str::to_owned), ..Link::up(LinkKind::Vxlan(vxlan)) };
    SeenLink {
        index: IfIndex(7),
        name: IfName::new(name).unwrap(),
        link,
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: true,
        operstate: "Up".into(),
        ipv6: None,
    }
}

#[test]
fn a_lease_is_held_altered_or_gone() {
    assert_eq!(standing(&own("a"), &view(&[(KEY, "a"), ("10.5.2.0-24", "b")])), Standing::Held);
    assert_eq!(standing(&own("a"), &view(&[(KEY, "b")])), Standing::Altered);
    assert_eq!(standing(&own("a"), &view(&[("10.5.2.0-24", "a")])), Standing::Gone);
}

#[test]
fn renewal_is_a_margin_before_the_end_and_never_for_a_reservation() {
    let end = Moment::since_boot(Duration::from_secs(100_000));
    let mut seen = view(&[(KEY, "a")]);
    assert_eq!(renewal(&own("a"), &seen, Duration::from_secs(3600)), None, "a reservation does not end");
    seen.expires = Arc::new([(KEY.to_owned(), Some(end))].into());
    let due = Moment::since_boot(Duration::from_secs(96_400));
    assert_eq!(renewal(&own("a"), &seen, Duration::from_secs(3600)), Some(due));
    let unknown = View { expires: Arc::new([(KEY.to_owned(), None)].into()), ..seen.clone() };
    assert_eq!(renewal(&own("a"), &unknown, Duration::from_secs(3600)), Some(Moment::default()), "at once");
    assert_eq!(renewal(&Own { reservation: true, ..own("a") }, &seen, Duration::from_secs(3600)), None);
}

#[test]
fn subnets_fit_their_configuration() {
    let dual = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/56","Backend":{"Type":"vxlan"}}"#;
    for (config, key, fit) in [
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, KEY, true),
        (r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}"#, KEY, false),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":25,"Backend":{"Type":"vxlan"}}"#, KEY, false),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","Backend":{"Type":"vxlan"}}"#, KEY, false),
        (dual, KEY, false),
        (dual, "10.5.1.0-24&fd05:0:0:1::-64", true),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, "10.5.1.0-24&fd05:0:0:1::-64", false),
    ] {
        assert_eq!(fits(&conf(config), &key.parse().unwrap()), fit, "{config} {key}");
    }
}

#[test]
fn what_is_published_is_upstreams_text() {
    let macs = ByFamily { v4: MAC.parse().ok(), v6: None };
    assert_eq!(
        make::attributes(&vxlan_conf(), &underlay(), &macs).to_json(),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}"#
    );
    let host_gw = conf(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#);
    assert_eq!(
        make::attributes(&host_gw, &underlay(), &macs).to_json(),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}"#
    );
}

#[test]
fn the_mac_is_the_devices_then_the_leases_then_a_new_one() {
    let random: Mac = "02:00:00:00:00:99".parse().unwrap();
    let published = r#"{"PublicIP":"192.0.2.1","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}"#;
    let lease = LeaseAttrs::parse(published.as_bytes()).unwrap();
    let with = |links| Survey { links, ..Survey::default() };
    let mac = |survey: &Survey, own| {
        make::vtep_mac(Family::V4, &VxlanConf::default(), (survey, &NOBODY), own, random).to_string()
    };
    let bridge = SeenLink {
        link: Link::up(LinkKind::Bridge(Bridge { vlan_filtering: false })),
        ..device("flannel.1", 1, MAC, None)
    };
    assert_eq!(mac(&with(vec![device("flannel.1", 1, MAC, None)]), Some(&lease)), MAC);
    assert_eq!(mac(&with(vec![device("flannel.2", 2, MAC, None)]), Some(&lease)), "02:00:00:00:00:02");
    assert_eq!(mac(&with(vec![bridge]), None), random.to_string());
    assert_eq!(mac(&with(vec![]), None), random.to_string());
    // a group address is nobody's
    assert_eq!(mac(&with(vec![device("flannel.1", 1, "01:00:5e:00:00:01", None)]), None), random.to_string());
}

#[test]
fn only_devices_with_our_mark_are_known() {
    let links = vec![
        device("flannel.1", 1, MAC, Some("flannel")),
        device("vx0", 9, MAC, None),
        SeenLink {
            link: Link { alias: Some("flannel".into()), ..Link::up(LinkKind::Loopback) },
            ..device("lo", 1, MAC, None)
        },
    ];
    let survey = Survey { links, ..Survey::default() };
    assert_eq!(make::known_devices(&survey, &mut Owner::default()), [IfName::new("flannel.1").unwrap()]);
    let left = make::vxlan_left(&survey, &NOBODY).unwrap();
    assert_eq!((left.vni.get(), left.port, left.gbp), (1, None, true));
}

#[test]
fn peers_and_rejected_leases_are_told_once() {
    let conf = vxlan_conf();
    let leases = [
        (
            "10.5.2.0-24",
            r#"{"PublicIP":"192.0.2.2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}"#,
        ),
        ("10.5.3.0-24", r#"{"PublicIP":"198.51.100.3","BackendType":"host-gw"}"#),
        ("10.9.0.0-24", r#"{"PublicIP":"192.0.2.9"}"#),
        ("junk", "{}"),
    ];
    let judged = peers::check(&conf, &peers::Own { subnets: KEY.parse().unwrap(), ..Default::default() }, leases);
    let facts = host::Underlay {
        dev: IfName::new("eth0").unwrap(),
        mtu: Mtu(1500),
        addresses: ByFamily { v4: "192.0.2.1".parse().ok(), v6: None },
        connected: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let desired = host::desired(&HostInputs {
        conf: &conf,
        own: KEY.parse().unwrap(),
        vtep_macs: ByFamily { v4: MAC.parse().ok(), v6: None },
        wireguard_keys: None,
        peers: &judged.good,
        underlay: &facts,
        keep_vtep: None,
        owner: &NOBODY,
        known_devices: &[],
        complete: true,
    });
    let mut status = Status::default();
    report::base(&mut status, &conf, &underlay());
    let ignored = [("README".to_owned(), "its name is not a lease's key".to_owned())].into();
    let picture = tell::Picture { peers: judged, paths: desired.paths, ignored: Arc::new(ignored) };
    report::peers(&mut status, &picture);
    let paths: Vec<_> = status.peers.iter().map(|p| (p.subnet.to_string(), p.path, p.vtep_mac.as_deref())).collect();
    assert_eq!(
        paths,
        [
            ("10.5.2.0/24".to_owned(), Reach::Vxlan, Some("02:00:00:00:00:02")),
            ("10.5.3.0/24".to_owned(), Reach::Unreachable, None),
        ]
    );
    assert_eq!(status.rejected.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["10.9.0.0-24", "junk", "README"]);
    let warnings = report::warnings(&picture.peers, &picture.paths, &picture.ignored).join("\n");
    assert!(warnings.contains("10.5.3.0/24 at 198.51.100.3 cannot be reached: the peer has no VTEP"), "{warnings}");
    assert!(warnings.contains("junk in the store is ignored"), "{warnings}");
    assert_eq!(status.backend, "vxlan");
}

#[test]
fn host_gw_behind_nat_is_said() {
    let nat = Underlay { public: vec!["203.0.113.1".parse().unwrap()], ..underlay() };
    let host_gw = conf(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#);
    assert!(report::behind_nat(&host_gw, &nat).is_some());
    assert!(report::behind_nat(&vxlan_conf(), &nat).is_none() && report::behind_nat(&host_gw, &underlay()).is_none());
}

#[test]
fn a_peer_with_this_hosts_public_address_is_named() {
    let nat = Underlay { public: vec!["203.0.113.1".parse().unwrap()], ..underlay() };
    let wireguard = conf(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#);
    for (public, named) in [("203.0.113.1", true), ("203.0.113.2", false)] {
        let lease = format!(r#"{{"PublicIP":"{public}","BackendType":"host-gw"}}"#);
        let peers = peers::check(&vxlan_conf(), &peers::Own::default(), [("10.5.2.0-24", lease)]);
        assert_eq!(peers.good.len(), 1);
        let text = report::same_address(&vxlan_conf(), &nat, &peers);
        assert_eq!(text.is_some_and(|text| text.contains("10.5.2.0-24") && text.contains(public)), named, "{public}");
        assert_eq!(report::same_address(&wireguard, &nat, &peers), None, "there both are told apart by their ports");
    }
}

#[test]
fn peers_are_invited_only_to_devices_that_are_there() {
    let dev = IfName::new("flannel.1").unwrap();
    let error = KernelError::new("x", Errno(1));
    let failed = |step: Step| Applied {
        outcome: Outcome { failed: vec![(step, error.clone())], ..Outcome::default() },
        ..Applied::default()
    };
    assert!(Applied::default().ready() && Applied::default().trouble().is_none());
    assert!(!failed(Step::CreateLink(dev.clone(), Link::up(LinkKind::Loopback))).ready());
    assert!(failed(Step::DeleteLink(dev.clone())).ready(), "what is left over is in nobody's way");
    assert!(failed(Step::WriteSysctl("a".into(), "b".into())).ready());
    let (wanted, found) = (LinkKind::Loopback, LinkKind::Other("dummy".into()));
    let conflict = Conflict::Link { name: dev, wanted, found };
    let blocked = Applied {
        outcome: Outcome { conflicts: vec![conflict.clone(), conflict], ..Outcome::default() },
        ..Applied::default()
    };
    assert!(!blocked.ready());
    let trouble = blocked.trouble().unwrap();
    assert!(trouble.contains("flannel.1 is a link of kind dummy") && trouble.ends_with("(and 1 more)"), "{trouble}");
}

#[test]
fn the_earliest_time_counts() {
    let (mut due, now) = (Due::default(), Instant::now());
    for seconds in [5, 3, 9] {
        due.by(now + Duration::from_secs(seconds));
    }
    assert_eq!(due.at, Some(now + Duration::from_secs(3)));
}

fn run(args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    format!("{:?}", crate::run(&args, &Default::default()))
}

#[test]
fn exit_codes_that_need_no_kernel() {
    use std::process::ExitCode;
    for (args, code) in [
        (&["--bogus"][..], 2),
        (&["--store-dir=/a", "--etcd-cafile=/b"], 2),
        (&["--ip-masq"], 2),
        (&["-h"], 0),
        (&["--version"], 0),
    ] {
        assert_eq!(run(args), format!("{:?}", ExitCode::from(code)), "{args:?}");
    }
}

#[test]
fn a_start_that_fails_says_why_to_the_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut alone = std::process::Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net"]).arg(exe);
    alone
        .args(["--exact", "daemon::tests::without_a_network", "--ignored", "--nocapture"])
        .env("DAEMON_TEST_DIR", dir.path());
    let output = alone.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let status = std::fs::read(dir.path().join("run/status.json")).unwrap();
    let error = serde_json::from_slice::<Status>(&status).unwrap().last_error.unwrap();
    assert!(error.starts_with("unable to find default route"), "{error}");
    assert!(!dir.path().join("run/subnet.env").exists());
}

#[test]
#[ignore = "run by a_start_that_fails_says_why_to_the_plugin"]
fn without_a_network() {
    let dir = std::path::PathBuf::from(std::env::var_os("DAEMON_TEST_DIR").expect("only run by another test"));
    let config = crate::store::config_path(&dir, "n");
    crate::files::replace(&config, br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let (store, file) =
        (format!("-store-dir={}", dir.display()), format!("-subnet-file={}/run/subnet.env", dir.display()));
    assert_eq!(run(&[&store, "-etcd-prefix=n", &file]), format!("{:?}", std::process::ExitCode::FAILURE));
}
