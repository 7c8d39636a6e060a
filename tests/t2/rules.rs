//! flanneld's packet rules: what they do to packets of pods, hosts and others, and how they are kept.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use kernel::types::Family;
use lab::cluster::{Cluster, PATIENCE, Spec};
use lab::mode::Mode;
use lab::netns::Room;
use lab::topology::Topology;
use lab::wait::eventually;
use serde_json::Value;
use store::files;
use tests::harness;

use crate::disturb::{self, get, repaired, run, start_first};
use crate::sources::{own, seen};
use crate::takeover::go;
use crate::{Failure, Outcome};

/// The outside: a host without a daemon.
pub const OUTSIDE: usize = 3;
/// Networks of the outside to which pods keep their address.
const EXCLUDED: [(Family, &str); 2] = [(Family::V4, "198.51.100"), (Family::V6, "fd00:100:")];

fn sh(room: &Room, script: &str) -> Result<String, Failure> {
    let output = room.enter(|| Command::new("sh").args(["-ec", script]).output())??;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Hosts of a dual-stack network whose rules are those of one of upstream's modes; no daemon runs yet.
pub fn prepare(hosts: usize, nftables: bool) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(hosts), mode: Mode::Vxlan, dual_stack: true, outlive: false };
    let cluster = Cluster::prepare(spec, &harness::executables()?)?;
    if nftables {
        let mut config: Value = serde_json::from_str(&Mode::Vxlan.config(true))?;
        config["EnableNFTables"] = true.into();
        files::replace(&Cluster::store_dir().join("coreos.com/network/config"), config.to_string().as_bytes())?;
    }
    Ok(cluster)
}

/// Daemons and pods on hosts 1 and 2.
pub fn start(cluster: &mut Cluster, flags: &[&str]) -> Outcome {
    start_first(cluster, flags)?;
    cluster.start_daemon_with(2, flags)?;
    cluster.wait_ready()?;
    cluster.attach_pod(1)?;
    cluster.attach_pod(2)?;
    Ok(())
}

pub fn underlay(cluster: &Cluster, host: usize, family: Family) -> Result<IpAddr, Failure> {
    cluster.spec.topology.underlay(host, family).ok_or_else(|| "no underlay address".into())
}

/// Routes between the outside and the pods of both hosts, by host 1.
pub fn connect_outside(cluster: &Cluster) -> Outcome {
    let (first, outside) = (cluster.world.host(1)?, cluster.world.host(OUTSIDE)?);
    for (family, net) in EXCLUDED {
        let (gateway, there) = (underlay(cluster, 1, family)?, underlay(cluster, OUTSIDE, family)?);
        let (address, prefix) = if family == Family::V4 { (format!("{net}.3"), 24) } else { (format!("{net}:3"), 64) };
        run(outside, &format!("ip addr add {address}/{prefix} dev eth0"))?;
        run(first, &format!("ip route add {address} via {there}"))?;
        for host in [1, 2] {
            let status = Cluster::status(host).ok_or("no status")?;
            for subnet in status.subnets.iter().filter(|subnet| Family::from(**subnet) == family) {
                run(outside, &format!("ip route add {subnet} via {gateway}"))?;
            }
        }
    }
    Ok(())
}

fn sources_are_right(nftables: bool) -> Outcome {
    let mut cluster = prepare(OUTSIDE, nftables)?;
    start(&mut cluster, &["--ip-masq", "--ip-masq-exclude=198.51.100.0/24,fd00:100::/64"])?;
    connect_outside(&cluster)?;
    for (family, net) in EXCLUDED {
        let of = |host: usize| -> Result<_, Failure> {
            Ok((cluster.world.host(host)?, &cluster.pod(host)?.room, cluster.address(host, family)?))
        };
        let ((host1, pod1, addr1), (_, pod2, addr2)) = (of(1)?, of(2)?);
        let (outside, there) = (cluster.world.host(OUTSIDE)?, underlay(&cluster, OUTSIDE, family)?);
        assert_eq!(seen(pod1, pod2, addr2)?, addr1, "pod to pod");
        assert_eq!(seen(pod2, pod1, addr1)?, addr2, "pod to pod");
        assert_eq!(seen(pod1, outside, there)?, underlay(&cluster, 1, family)?, "pod to the outside");
        let excluded = if family == Family::V4 { format!("{net}.3") } else { format!("{net}:3") };
        assert_eq!(seen(pod1, outside, excluded.parse()?)?, addr1, "pod to an excluded network");
        assert_eq!(seen(outside, pod1, addr1)?, own(outside, addr1)?, "the outside to a pod by a route");
        assert_eq!(seen(host1, pod1, addr1)?, own(host1, addr1)?, "host to its own pod");
        assert_eq!(seen(host1, pod2, addr2)?, own(host1, addr2)?, "host to another host's pod");
        // upstream's modes differ here
        let by_host1 = own(if nftables { outside } else { host1 }, addr2)?;
        assert_eq!(seen(outside, pod2, addr2)?, by_host1, "the outside to another host's pod by way of host 1");
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        sh(
            host1,
            &format!(
                "nft add table {ip} proxy\nnft add chain {ip} proxy marks '{{ type filter hook prerouting priority -150; }}'\n\
             nft add rule {ip} proxy marks {ip} daddr {there} meta mark set 0x4000"
            ),
        )?;
        assert_eq!(seen(pod1, outside, there)?, addr1, "kube-proxy's mark: it masquerades these itself");
    }
    Ok(())
}

pub fn sources_with_iptables_modes_rules() -> Outcome {
    sources_are_right(false)
}

pub fn sources_with_nftables_modes_rules() -> Outcome {
    sources_are_right(true)
}

fn ruleset(room: &Room) -> Result<String, Failure> {
    run(room, "nft list ruleset")
}

/// The lines of the rule set in no order: what is made anew is listed last.
fn lines(room: &Room) -> Result<BTreeSet<String>, Failure> {
    Ok(ruleset(room)?.lines().map(str::to_owned).collect())
}

pub fn they_are_repaired() -> Outcome {
    let mut cluster = prepare(2, true)?;
    start(&mut cluster, &["--ip-masq"])?;
    let room = cluster.world.host(1)?;
    disturb::rests(room)?;
    let before = ruleset(room)?;
    let ordered = |text: &str| text.split("table ").map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(before.contains("table ip flannel-ipv4 ") && before.contains("table ip6 flannel-ipv6 "), "{before}");
    let handle = "nft -a list chain ip flannel-ipv4 postrtg | sed -n 's/.*224.0.0.0.*handle //p'";
    for (what, script) in [
        ("the rules after `nft flush ruleset`", "nft flush ruleset".to_owned()),
        ("a rule after it was deleted", format!("nft delete rule ip flannel-ipv4 postrtg handle $({handle})")),
        ("a chain after a rule was put into it", "nft insert rule ip6 flannel-ipv6 postrtg return".into()),
        ("a table after it was deleted", "nft delete table ip6 flannel-ipv6".into()),
    ] {
        sh(room, &script)?;
        repaired(what, || {
            let now = ruleset(room)?;
            Ok((ordered(&now) != ordered(&before)).then_some(now))
        })?;
    }
    repaired("the count of repairs", || {
        let drift = Cluster::status(1).map(|status| status.drift).unwrap_or_default();
        Ok((drift.get("nft").copied().unwrap_or_default() == 0).then(|| format!("{drift:?}")))
    })
}

/// What `iptables -S` prints of upstream's accepts.
fn accepts(network: &str) -> String {
    let rule =
        |side: &str| format!("-A FLANNEL-FWD {side} {network} -m comment --comment \"flanneld forward\" -j ACCEPT\n");
    format!("-N FLANNEL-FWD\n{}{}", rule("-s"), rule("-d"))
}

const JUMP: &str = "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
const FAMILIES: [(Family, &str, &str); 2] =
    [(Family::V4, "iptables", "10.244.0.0/16"), (Family::V6, "ip6tables", "fd10:244::/48")];

pub fn a_forward_policy_of_drop_is_overridden() -> Outcome {
    let mut cluster = prepare(2, false)?;
    start(&mut cluster, &[])?;
    let room = cluster.world.host(1)?;
    disturb::rests(room)?;
    assert_eq!(ruleset(room)?, "", "nothing is asked for, and nothing drops");
    for (family, iptables, network) in FAMILIES {
        let is_there = |what: &str| {
            repaired(what, || {
                let chains =
                    [run(room, &format!("{iptables} -S FORWARD"))?, run(room, &format!("{iptables} -S FLANNEL-FWD"))?];
                let wanted = [format!("-P FORWARD DROP\n{JUMP}"), accepts(network)];
                Ok((chains != wanted).then(|| chains.concat()))
            })
        };
        run(room, &format!("{iptables} -P FORWARD DROP"))?;
        eventually("the accepts are there", PATIENCE, || {
            run(room, &format!("{iptables} -S FLANNEL-FWD")).map(drop).map_err(|error| error.to_string())
        })?;
        is_there("the accepts after FORWARD was set to drop")?;
        let (pod1, pod2) = (&cluster.pod(1)?.room, &cluster.pod(2)?.room);
        seen(pod1, pod2, cluster.address(2, family)?)?;
        seen(pod2, pod1, cluster.address(1, family)?)?;
        sh(room, &format!("{iptables} -F FLANNEL-FWD"))?;
        is_there("the accepts after they were flushed")?;
        sh(room, &format!("{iptables} -D FORWARD 1"))?;
        is_there("the jump after it was deleted")?;
        run(room, &format!("{iptables} -P FORWARD ACCEPT"))?;
        repaired("the table after FORWARD was set to accept", || {
            let text = run(room, &format!("{iptables} -S"))?;
            Ok(text.contains("FLANNEL").then_some(text))
        })?;
    }
    Ok(())
}

pub fn a_chain_that_drops_is_named() -> Outcome {
    let mut cluster = prepare(2, false)?;
    start(&mut cluster, &[])?;
    let room = cluster.world.host(1)?;
    disturb::rests(room)?;
    let chain = "chain forward of table inet filter drops forwarded packets of pods (10.244.0.0/16)";
    sh(
        room,
        "nft add table inet filter\n\
         nft add chain inet filter forward '{ type filter hook forward priority 0; policy drop; }'",
    )?;
    let words = || -> Result<(u16, [String; 3]), Failure> {
        let status = Cluster::status(1).ok_or("no status")?;
        let (ready, text) = get(room, "/readyz")?;
        Ok((ready, [status.dropping.join("; "), status.last_error.unwrap_or_default(), text]))
    };
    repaired("what is said of a chain that drops", || {
        let (ready, words) = words()?;
        let right = ready == 503 && words.iter().all(|text| text.contains(chain));
        Ok((!right).then(|| format!("{ready}: {words:?}")))
    })?;
    run(room, "nft add rule inet filter forward accept")?;
    repaired("what is said of a chain that accepts", || {
        let (ready, words) = words()?;
        let right = ready == 200 && !words.iter().any(|text| text.contains("chain"));
        Ok((!right).then(|| format!("{ready}: {words:?}")))
    })
}

/// The masquerade rules of upstream's iptables mode.
fn masquerade_of_iptables_mode(iptables: &str, network: &str, pod: &str, multicast: &str) -> String {
    let comment = "-m comment --comment 'flanneld masq'";
    let add = |rule: String| format!("{iptables} -t nat -A FLANNEL-POSTRTG {rule}\n");
    format!("{iptables} -t nat -N FLANNEL-POSTRTG\n{iptables} -t nat -A POSTROUTING {comment} -j FLANNEL-POSTRTG\n")
        + &add(format!("-m mark --mark 0x4000/0x4000 {comment} -j RETURN"))
        + &add(format!("-s {pod} -d {network} {comment} -j RETURN"))
        + &add(format!("-s {network} -d {pod} {comment} -j RETURN"))
        + &add(format!("! -s {network} -d {pod} {comment} -j RETURN"))
        + &add(format!("-s {network} ! -d {multicast} {comment} -j MASQUERADE --random-fully"))
        + &add(format!("! -s {network} -d {network} {comment} -j MASQUERADE --random-fully"))
}

fn forward_of_iptables_mode(iptables: &str, network: &str) -> String {
    let comment = "-m comment --comment 'flanneld forward'";
    format!(
        "{iptables} -N FLANNEL-FWD\n{iptables} -A FORWARD {comment} -j FLANNEL-FWD\n\
         {iptables} -A FLANNEL-FWD -s {network} {comment} -j ACCEPT\n\
         {iptables} -A FLANNEL-FWD -d {network} {comment} -j ACCEPT\n"
    )
}

/// What Go's start in nftables mode sends to `nft -f -`.
fn start_of_nftables_mode(family: Family, network: &str, pod: &str) -> String {
    let (ip, table, multicast) = match family {
        Family::V4 => ("ip", "ip flannel-ipv4", "224.0.0.0/4"),
        Family::V6 => ("ip6", "ip6 flannel-ipv6", "ff00::/8"),
    };
    let name = table.split(' ').next_back().unwrap_or_default();
    let (masq, forward) = (format!("add rule {table} postrtg"), format!("add rule {table} forward"));
    format!(
        "add table {table} {{ comment \"rules for {name}\" ; }}\n\
         add chain {table} postrtg {{ type nat hook postrouting priority 100 ; comment \"chain to manage traffic masquerading by flannel\" ; }}\n\
         flush chain {table} postrtg\n\
         {masq} meta mark 0x4000 return\n\
         {masq} {ip} saddr {pod} {ip} daddr {network} return\n\
         {masq} {ip} saddr {network} {ip} daddr {pod} return\n\
         {masq} {ip} saddr != {pod} {ip} daddr {network} return\n\
         {masq} {ip} saddr {network} {ip} daddr != {multicast} masquerade fully-random\n\
         {masq} {ip} saddr != {network} {ip} daddr {network} masquerade fully-random\n\
         add chain {table} forward {{ type filter hook forward priority 0 ; comment \"chain to accept flannel traffic\" ; }}\n\
         flush chain {table} forward\n\
         {forward} {ip} saddr {network} accept\n\
         {forward} {ip} daddr {network} accept\n"
    )
}

fn go_starts_in_nftables_mode(room: &Room) -> Outcome {
    for (family, _, network) in FAMILIES {
        let text = start_of_nftables_mode(family, network, &go::subnet(family)?.to_string());
        sh(room, &format!("nft -f - <<'END'\n{text}END\n"))?;
    }
    Ok(())
}

/// Host 1 has had the lease of Go's last run.
fn from_go(nftables: bool, laid_down: impl FnOnce(&Room) -> Outcome) -> Result<(Cluster, String), Failure> {
    let mut cluster = prepare(2, nftables)?;
    go::write_subnet_env(&cluster)?;
    laid_down(cluster.world.host(1)?)?;
    let before = ruleset(cluster.world.host(1)?)?;
    start_first(&mut cluster, &["--ip-masq"])?;
    eventually("host 1 is ready", PATIENCE, || match Cluster::status(1) {
        Some(status) if status.mtu != 0 => Ok(()),
        status => Err(format!("{status:?}")),
    })?;
    disturb::rests(cluster.world.host(1)?)?;
    Ok((cluster, before))
}

/// The same rules in the same tables: nothing is written.
pub fn those_of_gos_nftables_mode_are_taken_over_and_back() -> Outcome {
    let (mut cluster, before) = from_go(true, go_starts_in_nftables_mode)?;
    assert_eq!(ruleset(cluster.world.host(1)?)?, before);
    // ours are gone, and made again by us; Go puts its own in their place
    run(cluster.world.host(1)?, "nft flush ruleset")?;
    let wanted: BTreeSet<String> = before.lines().map(str::to_owned).collect();
    repaired("the rules after `nft flush ruleset`", || {
        let now = lines(cluster.world.host(1)?)?;
        Ok((now != wanted).then(|| format!("{now:?}")))
    })?;
    cluster.take_daemon(1)?.stop(PATIENCE)?;
    go_starts_in_nftables_mode(cluster.world.host(1)?)?;
    assert_eq!(lines(cluster.world.host(1)?)?, wanted);
    Ok(())
}

pub fn those_of_gos_iptables_mode_are_replaced_and_back() -> Outcome {
    let multicast = |family| if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    let gos = |room: &Room| -> Outcome {
        for (family, iptables, network) in FAMILIES {
            let pod = go::subnet(family)?.to_string();
            sh(room, &masquerade_of_iptables_mode(iptables, network, &pod, multicast(family)))?;
        }
        Ok(())
    };
    let (mut cluster, _) = from_go(false, |room| {
        for (family, iptables, network) in FAMILIES {
            sh(room, &forward_of_iptables_mode(iptables, network))?;
            // where nothing drops, the accepts are of no use
            if family == Family::V4 {
                run(room, "iptables -P FORWARD DROP")?;
            }
        }
        gos(room)
    })?;
    let room = cluster.world.host(1)?;
    for (family, iptables, network) in FAMILIES {
        let nat = run(room, &format!("{iptables} -t nat -S"))?;
        assert!(!nat.contains("FLANNEL"), "{nat}");
        let filter = run(room, &format!("{iptables} -S"))?;
        match family {
            Family::V4 => {
                let (forward, chain) = (run(room, "iptables -S FORWARD")?, run(room, "iptables -S FLANNEL-FWD")?);
                assert_eq!((forward, chain), (format!("-P FORWARD DROP\n{JUMP}"), accepts(network)));
            }
            Family::V6 => assert!(!filter.contains("FLANNEL"), "{filter}"),
        }
        let table = if family == Family::V4 { "ip flannel-ipv4" } else { "ip6 flannel-ipv6" };
        assert!(run(room, &format!("nft list table {table}"))?.contains("masquerade fully-random"));
    }
    // back: Go deletes the tables, finds the accepts by its own words, and replaces them
    cluster.take_daemon(1)?.stop(PATIENCE)?;
    let room = cluster.world.host(1)?;
    run(room, "nft delete table ip flannel-ipv4")?;
    run(room, "nft delete table ip6 flannel-ipv6")?;
    let comment = "-m comment --comment 'flanneld forward'";
    for verb in ["-C", "-D", "-A"] {
        sh(
            room,
            &format!(
                "iptables {verb} FLANNEL-FWD -s 10.244.0.0/16 {comment} -j ACCEPT\n\
             iptables {verb} FLANNEL-FWD -d 10.244.0.0/16 {comment} -j ACCEPT\n\
             iptables {verb} FORWARD {comment} -j FLANNEL-FWD"
            ),
        )?;
    }
    sh(room, &forward_of_iptables_mode("ip6tables", "fd10:244::/48"))?;
    gos(room)
}
