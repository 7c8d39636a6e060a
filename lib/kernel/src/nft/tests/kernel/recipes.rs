//! The plugins' tables against the kernel, and against what the reference plugins leave there.

use ipnetwork::IpNetwork;

use super::{namespace, nft, ruleset};
use crate::nft::recipes::{macspoof, masquerade};
use crate::nft::*;
use crate::types::{IfName, Mac};

/// What the reference plugins' `nft -f -` makes of one attachment (network net1, eth0, cid1; hashes of theirs).
const UPSTREAM_MASQUERADE: &str = r#"
add table inet cni_plugins_masquerade { comment "Masquerading for plugins from github.com/containernetworking/plugins" ; }
add chain inet cni_plugins_masquerade masq_checks { comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet" ; }
add chain inet cni_plugins_masquerade postrouting { type nat hook postrouting priority 100 ; }
flush chain inet cni_plugins_masquerade postrouting
add rule inet cni_plugins_masquerade postrouting ip daddr == 224.0.0.0/4  return
add rule inet cni_plugins_masquerade postrouting ip6 daddr == ff00::/8 return
add rule inet cni_plugins_masquerade postrouting goto masq_checks
add rule inet cni_plugins_masquerade masq_checks ip saddr == 10.1.2.3 ip daddr != 10.1.2.0/24 masquerade comment "8e48f37d5de60467-0b65a318f52e521b, net: net1, if: eth0, id: cid1"
add rule inet cni_plugins_masquerade masq_checks ip6 saddr == fd00::3 ip6 daddr != fd00::/64 masquerade comment "8e48f37d5de60467-0b65a318f52e521b, net: net1, if: eth0, id: cid1"
"#;

const UPSTREAM_MACSPOOF: &str = r#"
add table bridge nat
add chain bridge nat PREROUTING { type filter hook prerouting priority -300; policy accept; }
add chain bridge nat cni-br-iface-cid1-eth0
add chain bridge nat cni-br-iface-cid1-eth0-mac
add rule bridge nat PREROUTING iifname "vethaa" jump cni-br-iface-cid1-eth0 comment "macspoofchk-cid1-eth0"
add rule bridge nat cni-br-iface-cid1-eth0 jump cni-br-iface-cid1-eth0-mac comment "macspoofchk-cid1-eth0"
add rule bridge nat cni-br-iface-cid1-eth0-mac ether saddr 02:00:00:00:00:01 return comment "macspoofchk-cid1-eth0"
add rule bridge nat cni-br-iface-cid1-eth0-mac drop comment "macspoofchk-cid1-eth0"
"#;

fn attachment(container: &str) -> masquerade::Attachment {
    // the vector of the reference plugins for cid1; the others only have to differ
    let hash = if container == "cid1" { "0b65a318f52e521b".to_owned() } else { format!("{container:0>16}") };
    masquerade::Attachment::new("8e48f37d5de60467", &hash, "net1", "eth0", container)
}

fn nets() -> Vec<IpNetwork> {
    vec!["10.1.2.3/24".parse().unwrap(), "fd00::3/64".parse().unwrap()]
}

fn masq(ours: &mut Nft, container: &str, nets: &[IpNetwork]) -> Batch {
    ours.update(&masquerade::table(), |seen| masquerade::ensure(seen, &attachment(container), nets)).unwrap()
}

#[test]
fn masquerade_writes_what_the_reference_plugins_write() {
    namespace();
    nft(&["-f", "-"], UPSTREAM_MASQUERADE);
    let theirs = ruleset();
    let mut ours = Nft::open().unwrap();
    // theirs is adopted as it is
    assert!(masq(&mut ours, "cid1", &nets()).is_empty());
    nft(&["flush", "ruleset"], "");
    let batch = masq(&mut ours, "cid1", &nets());
    assert!(!batch.deletes(), "{:?}", batch.describe().collect::<Vec<_>>());
    assert_eq!(ruleset(), theirs);
    // and theirs again on top of ours finds a table it knows
    nft(&["-f", "-"], UPSTREAM_MASQUERADE.split("add rule inet cni_plugins_masquerade masq_checks").next().unwrap());
    assert_eq!(ruleset(), theirs);
}

#[test]
fn masquerade_is_idempotent_and_drops_its_stale_rules() {
    namespace();
    nft(&["-f", "-"], "table ip foreign {\nchain c {\naccept\n}\n}");
    let foreign = ruleset();
    let mut ours = Nft::open().unwrap();
    masq(&mut ours, "cid1", &nets());
    masq(&mut ours, "cid2", &["10.1.2.4/24".parse().unwrap()]);
    let before = (ruleset(), ours.generation().unwrap());
    assert!(masq(&mut ours, "cid1", &nets()).is_empty());
    assert_eq!((ruleset(), ours.generation().unwrap()), before);

    // another address: the old rule goes and the new one comes at once
    let generation = ours.generation().unwrap();
    assert!(masq(&mut ours, "cid1", &["10.1.2.9/24".parse().unwrap()]).deletes());
    assert_eq!(ours.generation().unwrap(), generation + 1);
    let listed = ruleset().join("\n");
    assert!(listed.contains("ip saddr 10.1.2.9 ip daddr != 10.1.2.0/24 masquerade comment"), "{listed}");
    assert!(listed.contains("10.1.2.4") && !listed.contains("10.1.2.3 ") && !listed.contains("fd00::3"), "{listed}");

    // a frame that somebody broke is mended
    nft(&["-f", "-"], "insert rule inet cni_plugins_masquerade postrouting accept");
    masq(&mut ours, "cid1", &["10.1.2.9/24".parse().unwrap()]);
    assert_eq!(ruleset().join("\n"), listed);

    for container in ["cid1", "cid2", "never"] {
        ours.update(&masquerade::table(), |seen| masquerade::remove(seen, &attachment(container))).unwrap();
    }
    let view = ours.view(&masquerade::table()).unwrap();
    assert_eq!((view.rules_of("masq_checks").count(), view.rules_of("postrouting").count()), (0, 3));
    assert!(foreign.iter().all(|line| ruleset().contains(line)));
}

#[test]
fn masquerade_removal_and_gc_need_no_table() {
    namespace();
    let mut ours = Nft::open().unwrap();
    let table = masquerade::table();
    let gone = ours.update(&table, |seen| masquerade::remove(seen, &attachment("cid1"))).unwrap();
    assert!(gone.is_empty() && ruleset().is_empty());

    ["cid1", "cid2", "cid3"].iter().for_each(|c| drop(masq(&mut ours, c, &nets())));
    let other = masquerade::Attachment::new("ffffffffffffffff", "0b65a318f52e521b", "net2", "eth0", "cid1");
    ours.update(&table, |seen| masquerade::ensure(seen, &other, &nets())).unwrap();
    ours.update(&table, |seen| masquerade::gc(seen, "8e48f37d5de60467", &[attachment("cid2")])).unwrap();
    let mut left: Vec<_> =
        ours.rules(&table, Some("masq_checks")).unwrap().into_iter().filter_map(|r| r.rule.comment).collect();
    left.dedup();
    assert_eq!(left, [attachment("cid2").comment(), other.comment()]);
}

#[test]
fn sixteen_at_once_all_get_their_rules() {
    namespace();
    let start = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let start = &start;
            scope.spawn(move || {
                let mut ours = Nft::open().unwrap();
                start.wait();
                for i in 0..5 {
                    masq(&mut ours, &format!("c{n}-{i}"), &[format!("10.1.{n}.{i}/16").parse().unwrap()]);
                }
            });
        }
    });
    let view = Nft::open().unwrap().view(&masquerade::table()).unwrap();
    assert_eq!((view.rules_of("masq_checks").count(), view.rules_of("postrouting").count()), (80, 3));
}

fn spoof(ours: &mut Nft, link: &str, mac: u8) -> Batch {
    let (who, link) = (macspoof::Attachment::new("cid1", "eth0"), IfName::new(link).unwrap());
    let mac = Mac([2, 0, 0, 0, 0, mac]);
    ours.update(&macspoof::table(), |seen| macspoof::ensure(seen, &who, &link, mac)).unwrap()
}

#[test]
fn macspoof_writes_what_the_reference_plugins_write_and_takes_it_away() {
    namespace();
    nft(&["-f", "-"], UPSTREAM_MACSPOOF);
    let theirs = ruleset();
    let mut ours = Nft::open().unwrap();
    assert!(spoof(&mut ours, "vethaa", 1).is_empty());
    nft(&["flush", "ruleset"], "");
    nft(&["-f", "-"], "table bridge nat {\nchain mine {\ndrop comment \"macspoofchk-cid1-eth0\"\n}\n}");
    let foreign = ruleset();
    assert!(!spoof(&mut ours, "vethaa", 1).deletes());
    let listed = ruleset();
    assert!(theirs.iter().all(|line| listed.contains(line)), "{}", listed.join("\n"));

    // a later attempt with another veth replaces all of it
    spoof(&mut ours, "vethbb", 7);
    let again = ruleset().join("\n");
    assert!(again.contains("vethbb") && again.contains("02:00:00:00:00:07"), "{again}");
    assert!(!again.contains("vethaa") && !again.contains("02:00:00:00:00:01"), "{again}");

    let other = macspoof::Attachment::new("cid1", "eth1");
    ours.update(&macspoof::table(), |seen| {
        macspoof::ensure(seen, &other, &IfName::new("vethcc").unwrap(), Mac([2, 0, 0, 0, 0, 9]))
    })
    .unwrap();
    let remove = |ours: &mut Nft, who: &macspoof::Attachment| {
        ours.update(&macspoof::table(), |seen| macspoof::remove(seen, who)).unwrap()
    };
    remove(&mut ours, &macspoof::Attachment::new("cid1", "eth0"));
    let left = ruleset().join("\n");
    assert!(left.contains("vethcc") && !left.contains("vethbb"), "{left}");
    remove(&mut ours, &other);
    assert!(remove(&mut ours, &other).is_empty());
    let left = ours.view(&macspoof::table()).unwrap();
    assert_eq!(left.chains.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["mine", "PREROUTING"]);
    assert!(foreign.iter().all(|line| ruleset().contains(line)));
}
