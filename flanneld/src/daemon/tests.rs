use std::net::IpAddr;

use kernel::diff::{Conflict, Step};
use kernel::message::link::SeenLink;
use kernel::state::{Bridge, Link, LinkKind, Vxlan};
use kernel::types::{Family, IfIndex, IfName, Mac, Mtu, Vni};
use kernel::{Errno, KernelError, Outcome};
use overlay::backend::vxlan;
use overlay::backend::{Host, Identity};
use overlay::lease::StoredLease;
use overlay::net::ByFamily;
use overlay::netconf::NetConf;
use overlay::ownership::{NOBODY, Owner};
use overlay::peers;
use overlay::render::{Ours, Renderer};

use super::report::Applied;
use super::*;
use crate::underlay::Survey;
use overlay::status::Reach;

const KEY: &str = "10.5.1.0-24";
const MAC: &str = "02:00:00:00:00:01";

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
fn the_mac_is_the_devices_then_the_leases_then_a_new_one() {
    let random: Mac = "02:00:00:00:00:99".parse().unwrap();
    let published =
        br#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}"#;
    let lease = StoredLease::read(KEY, published, 0).unwrap();
    let with = |links| Survey { links, ..Survey::default() };
    let mac = |survey: &Survey, own| {
        make::vtep_mac(Family::V4, &IfName::new("flannel.1").unwrap(), (survey, &NOBODY), own, random).to_string()
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
    let [Backend::Vxlan(left)] = make::left(&survey, &NOBODY)[..] else { panic!() };
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
    let host = Host {
        networks: conf.network_by_family(),
        own: KEY.parse().unwrap(),
        identity: Identity { vtep_macs: ByFamily { v4: MAC.parse().ok(), v6: None }, ..Identity::default() },
        underlay: overlay::underlay::Underlay {
            dev: IfName::new("eth0").unwrap(),
            mtu: Mtu(1500),
            addresses: ByFamily { v4: "192.0.2.1".parse().ok(), v6: None },
            connected: vec!["192.0.2.0/24".parse().unwrap()],
        },
    };
    let ours = Ours { devices: &[], owner: &NOBODY, complete: true };
    let desired = Renderer::new(&host, &conf.backend, &[]).desired(&judged.good, ours);
    let mut status = Status::default();
    report::base(&mut status, &conf, &underlay());
    let picture = tell::Picture { peers: judged, paths: desired.paths };
    let peers = report::peers(&picture);
    let paths: Vec<_> = peers.iter().map(|p| (p.subnet.to_string(), p.path, p.vtep_mac.as_deref())).collect();
    assert_eq!(
        paths,
        [
            ("10.5.2.0/24".to_owned(), Reach::Through(vxlan::TUNNEL), Some("02:00:00:00:00:02")),
            ("10.5.3.0/24".to_owned(), Reach::Unreachable, None),
        ]
    );
    let rejected: Vec<_> = report::rejected(&picture.peers).map(|r| r.key).collect();
    assert_eq!(rejected, ["10.9.0.0-24", "junk"]);
    let warnings = report::warnings(&picture.peers, &picture.paths).join("\n");
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
        (&["--bogus"][..], 64),
        (&["--store-dir=/a", "--etcd-cafile=/b"], 64),
        (&["--ip-masq"], 64),
        (&["--log-format=xml"], 64),
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
    let config = store::config_path(&dir, "n");
    store::files::replace(&config, br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let (store, file) =
        (format!("-store-dir={}", dir.display()), format!("-subnet-file={}/run/subnet.env", dir.display()));
    assert_eq!(run(&[&store, "-etcd-prefix=n", &file]), format!("{:?}", std::process::ExitCode::FAILURE));
}
