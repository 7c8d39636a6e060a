//! The packet rules of attachments on a real kernel: ours and the reference plugins' `nft -f -` accept each other's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use attachment::Key;
use attachment::rules::{Rules, macspoof, masquerade};
use ipnetwork::IpNetwork;
use kernel::Kernel;
use kernel::nft::RuleHandle;
use kernel::types::{IfName, Mac};
use tests::harness::Outcome;

/// One attachment of network net1 (eth0, cid1), with the reference plugins' hashes.
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

fn nft(args: &[&str], stdin: &str) -> String {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `nft list ruleset`, each line without the spaces around it.
fn ruleset() -> Vec<String> {
    nft(&["list", "ruleset"], "").lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

fn key(container: &str) -> Key<'_> {
    Key { network: "net1", container, ifname: "eth0" }
}

fn nets() -> Vec<IpNetwork> {
    vec!["10.1.2.3/24".parse().unwrap(), "fd00::3/64".parse().unwrap()]
}

fn add(kernel: &mut Kernel, container: &str) -> Vec<RuleHandle> {
    masquerade::rules(key(container), &nets(), &[]).add(kernel).unwrap()
}

/// How often a rule set was changed.
fn generation(kernel: &mut Kernel) -> u32 {
    kernel.nft().unwrap().generation().unwrap()
}

#[track_caller]
fn in_place(kernel: &mut Kernel, rules: &Rules) {
    assert_eq!(rules.differences(kernel).unwrap(), Vec::<String>::new());
}

pub fn masquerade_is_what_the_reference_plugins_write() -> Outcome {
    let mut kernel = Kernel::open()?;
    nft(&["-f", "-"], UPSTREAM_MASQUERADE);
    let theirs = ruleset();
    in_place(&mut kernel, &masquerade::rules(key("cid1"), &nets(), &[]));
    nft(&["flush", "ruleset"], "");
    let handles = add(&mut kernel, "cid1");
    assert_eq!((ruleset(), handles.len()), (theirs.clone(), 2));
    // and theirs on top of ours finds a table that it knows
    nft(&["-f", "-"], UPSTREAM_MASQUERADE.split("add rule inet cni_plugins_masquerade masq_checks").next().unwrap());
    assert_eq!(ruleset(), theirs);
    // theirs is deleted without a record
    nft(&["flush", "ruleset"], "");
    nft(&["-f", "-"], UPSTREAM_MASQUERADE);
    masquerade::rules(key("cid1"), &[], &[]).remove(&mut kernel, &[])?;
    assert!(!ruleset().join("\n").contains("cid1"));
    Ok(())
}

/// Beside other attachments' rules, ADD is one transaction. DEL is one transaction too, and reads only its own rules.
pub fn masquerade_is_added_in_one_transaction_and_deleted_by_handle() -> Outcome {
    let mut kernel = Kernel::open()?;
    nft(&["-f", "-"], "table ip foreign {\nchain c {\naccept\n}\n}");
    let foreign = ruleset();
    add(&mut kernel, "cid1");
    let before = generation(&mut kernel);
    let handles = add(&mut kernel, "cid2");
    assert_eq!((generation(&mut kernel), handles.len()), (before + 1, 2));
    masquerade::rules(key("cid2"), &[], &[]).remove(&mut kernel, &handles)?;
    assert_eq!(generation(&mut kernel), before + 2);
    let left = ruleset().join("\n");
    assert!(left.contains("id: cid1") && !left.contains("id: cid2"), "{left}");
    assert!(foreign.iter().all(|line| ruleset().contains(line)));
    Ok(())
}

/// After `flush ruleset` or a table made anew, a handle may name another pod's rule.
pub fn a_handle_of_another_rule_deletes_nothing_of_others() -> Outcome {
    let mut kernel = Kernel::open()?;
    let old = add(&mut kernel, "cid1");
    nft(&["flush", "ruleset"], "");
    let new = add(&mut kernel, "cid2");
    assert_eq!(old, new, "handles begin anew with the table");
    masquerade::rules(key("cid1"), &[], &[]).remove(&mut kernel, &old)?;
    in_place(&mut kernel, &masquerade::rules(key("cid2"), &nets(), &[]));
    // and where the handles are wrong, the rules are found by reading
    let wrong: Vec<RuleHandle> =
        new.iter().map(|rule| RuleHandle { handle: rule.handle + 1000, ..rule.clone() }).collect();
    masquerade::rules(key("cid2"), &[], &[]).remove(&mut kernel, &wrong)?;
    assert!(!ruleset().join("\n").contains("cid2"));
    // nothing is left to delete, nor a table
    masquerade::rules(key("cid2"), &[], &[]).remove(&mut kernel, &new)?;
    nft(&["flush", "ruleset"], "");
    masquerade::rules(key("cid2"), &[], &[]).remove(&mut kernel, &new)?;
    Ok(())
}

/// The next ADD repairs the frame, whatever is left of it.
pub fn a_broken_frame_is_mended() -> Outcome {
    let mut kernel = Kernel::open()?;
    for damage in [
        "delete table inet cni_plugins_masquerade",
        "flush table inet cni_plugins_masquerade; delete chain inet cni_plugins_masquerade masq_checks",
        "flush chain inet cni_plugins_masquerade postrouting; delete chain inet cni_plugins_masquerade postrouting; \
         flush chain inet cni_plugins_masquerade masq_checks; delete chain inet cni_plugins_masquerade masq_checks",
    ] {
        add(&mut kernel, "cid1");
        nft(&["-f", "-"], damage);
        add(&mut kernel, "cid2");
        in_place(&mut kernel, &masquerade::rules(key("cid2"), &nets(), &[]));
        nft(&["flush", "ruleset"], "");
    }
    Ok(())
}

/// Rules in a chain that no packet enters would silently do nothing.
pub fn a_chain_without_its_hook_is_refused() -> Outcome {
    let mut kernel = Kernel::open()?;
    for chain in ["postrouting", "postrouting { type filter hook postrouting priority 100; }"] {
        nft(
            &["-f", "-"],
            &format!(
                "add table inet cni_plugins_masquerade; add chain inet cni_plugins_masquerade masq_checks; add chain inet cni_plugins_masquerade {chain}"
            ),
        );
        let error = masquerade::rules(key("cid1"), &nets(), &[]).add(&mut kernel).unwrap_err().to_string();
        assert!(
            error.contains("chain postrouting of table inet cni_plugins_masquerade is not of the desired kind"),
            "{error}"
        );
        assert!(!ruleset().join("\n").contains("cid1"));
        nft(&["flush", "ruleset"], "");
    }
    Ok(())
}

pub fn masquerade_of_dead_attachments_is_collected() -> Outcome {
    let mut kernel = Kernel::open()?;
    masquerade::collect(&mut kernel, "net1", &[])?;
    ["cid1", "cid2", "cid3"].iter().for_each(|container| drop(add(&mut kernel, container)));
    masquerade::rules(Key { network: "net2", ..key("cid1") }, &nets(), &[]).add(&mut kernel)?;
    masquerade::collect(&mut kernel, "net1", &[key("cid2")])?;
    let text = ruleset().join("\n");
    assert!(text.contains("net: net1, if: eth0, id: cid2") && text.contains("net: net2, if: eth0, id: cid1"), "{text}");
    assert!(!text.contains("net: net1, if: eth0, id: cid1") && !text.contains("cid3"), "{text}");
    Ok(())
}

/// Sixteen ADDs and DELs at once, beside a program that commits a table of its own all the time: nobody is refused.
pub fn sixteen_at_once_beside_another_program_are_all_served() -> Outcome {
    let done = std::sync::atomic::AtomicBool::new(false);
    let start = std::sync::Barrier::new(16);
    let (done, start) = (&done, &start);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                nft(&["-f", "-"], "add table ip other; add set ip other s { type mark; }; add element ip other s { 1 }; flush set ip other s");
            }
        });
        let pods: Vec<_> = (0..16)
            .map(|n| {
                scope.spawn(move || {
                    let mut kernel = Kernel::open().unwrap();
                    start.wait();
                    for i in 0..5 {
                        let name = format!("c{n}-{i}");
                        let handles = add(&mut kernel, &name);
                        if i % 2 == 1 {
                            masquerade::rules(key(&name), &[], &[]).remove(&mut kernel, &handles).unwrap();
                        }
                    }
                })
            })
            .collect();
        let joined: Vec<_> = pods.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        joined.into_iter().for_each(|outcome| outcome.unwrap());
    });
    let mut kernel = Kernel::open()?;
    let view = kernel.nft()?.view(&masquerade::table())?;
    assert_eq!((view.rules_of("masq_checks").count(), view.rules_of("postrouting").count()), (16 * 3 * 2, 3));
    Ok(())
}

pub fn the_mac_check_is_what_the_reference_plugins_write() -> Outcome {
    let mut kernel = Kernel::open()?;
    let check = |container: &'static str, link: &str, mac: u8| {
        macspoof::rules(key(container), Some((&IfName::new(link).unwrap(), Mac([2, 0, 0, 0, 0, mac]))))
    };
    nft(&["-f", "-"], UPSTREAM_MACSPOOF);
    let theirs = ruleset();
    in_place(&mut kernel, &check("cid1", "vethaa", 1));
    macspoof::rules(key("cid1"), None).remove(&mut kernel, &[])?;
    assert!(!ruleset().join("\n").contains("cid1"), "theirs is deleted");
    nft(&["flush", "ruleset"], "");
    nft(&["-f", "-"], "table bridge nat {\nchain mine {\ndrop comment \"macspoofchk-cid1-eth0\"\n}\n}");
    let foreign = ruleset();
    let first = check("cid1", "vethaa", 1).add(&mut kernel)?;
    let listed = ruleset();
    assert!(theirs.iter().all(|line| listed.contains(line)), "{}", listed.join("\n"));
    let second = check("cid2", "vethbb", 2).add(&mut kernel)?;
    macspoof::rules(key("cid1"), None).remove(&mut kernel, &first)?;
    let left = ruleset().join("\n");
    assert!(left.contains("vethbb") && !left.contains("vethaa") && !left.contains("iface-cid1"), "{left}");
    macspoof::rules(key("cid2"), None).remove(&mut kernel, &second)?;
    macspoof::rules(key("cid2"), None).remove(&mut kernel, &second)?;
    let left = kernel.nft()?.view(&macspoof::table())?;
    let chains: Vec<&str> = left.chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(chains, ["mine", "PREROUTING"]);
    assert!(foreign.iter().all(|line| ruleset().contains(line)));
    Ok(())
}
