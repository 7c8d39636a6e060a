//! Real daemons over a real etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use kernel::types::TableId;
use lab::cluster::{Cluster, PATIENCE, host_dir, log_file, subnet_file};
use lab::process::{Daemon, Launch, last_lines};
use lab::wait::eventually;
use overlay::status::Status;
use tests::harness;

use crate::etcd_server::{Lab, Start, says};
use crate::{Failure, Outcome};

const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const HOST_GW: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// Daemons on the hosts of a lab.
struct Fleet {
    lab: Lab,
    daemons: BTreeMap<usize, Daemon>,
}

impl Fleet {
    fn new(lab: Lab) -> Self {
        Self { lab, daemons: BTreeMap::new() }
    }

    /// A configuration, and a daemon on each of `hosts` hosts that has its lease.
    fn up(hosts: usize, config: &str) -> Result<Self, Failure> {
        let mut fleet = Self::new(Lab::up(hosts)?);
        fleet.lab.configure(config)?;
        (1..=hosts).try_for_each(|host| fleet.start(host))?;
        for host in 1..=hosts {
            eventually(format_args!("host{host} is ready"), PATIENCE, || {
                if subnet_file(host).exists() { Ok(()) } else { Err(last_lines(&log_file(host))) }
            })?;
        }
        Ok(fleet)
    }

    fn start(&mut self, host: usize) -> Outcome {
        fs::create_dir_all(host_dir(host))?;
        let args = [
            format!("--etcd-endpoints={}", self.lab.etcd.url()),
            "--iface=eth0".into(),
            format!("--subnet-file={}", subnet_file(host).display()),
        ];
        let launch = Launch {
            program: harness::executables()?.flanneld,
            args: args.map(Into::into).to_vec(),
            env: Vec::new(),
            netns: self.lab.world.host(host)?.path().to_owned(),
            log: log_file(host),
            outlive: false,
        };
        self.daemons.insert(host, launch.start()?);
        Ok(())
    }

    /// Kills the daemon of a host, starts another, and waits for its first pass.
    fn restart(&mut self, host: usize) -> Outcome {
        self.daemons.remove(&host).ok_or("no daemon")?.kill()?;
        self.start(host)?;
        let pid = self.daemons[&host].pid();
        let anew = |status: &Status| status.pid == pid && !status.subnets.is_empty() && status.last_error.is_none();
        wait(host, "a new daemon", anew).map(|_| ())
    }

    /// The one lease of a host that has one family.
    fn lease(&self, host: usize) -> Result<String, Failure> {
        let status = wait(host, "a lease", |status| !status.subnets.is_empty())?;
        let names: Vec<_> = status.subnets.iter().map(|net| net.to_string().replace('/', "-")).collect();
        Ok(names.join("&"))
    }

    /// The routes of a host's daemon.
    fn routes(&self, host: usize) -> Result<BTreeSet<String>, Failure> {
        let routes = self.lab.world.host(host)?.kernel()?.routes(TableId::MAIN)?;
        let within = |text: &String| text.starts_with("10.5.");
        Ok(routes.iter().map(|(key, _)| key.dst.to_string()).filter(within).collect())
    }

    fn wait_route(&self, host: usize, to: &str, there: bool) -> Outcome {
        let word = if there { "there" } else { "gone" };
        eventually(format_args!("the route of host{host} to {to} is {word}"), PATIENCE, || {
            let routes = self.routes(host).map_err(|error| error.to_string())?;
            if routes.contains(to) == there {
                Ok(())
            } else {
                Err(format!("{routes:?} {}", last_lines(&log_file(host))))
            }
        })?;
        Ok(())
    }

    /// Subnets that no host has leased.
    fn free(&self) -> Result<impl Iterator<Item = String>, Failure> {
        let leased = self.lab.leases()?;
        Ok((240..255).map(|n| format!("10.5.{n}.0-24")).filter(move |name| !leased.contains(name)))
    }
}

fn wait(host: usize, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
    Ok(eventually(format_args!("host{host}: {what}"), PATIENCE, || match Cluster::status(host) {
        Some(status) if wanted(&status) => Ok(status),
        other => Err(format!("{other:?} {}", last_lines(&log_file(host)))),
    })?)
}

pub fn a_lease_is_upstreams_and_so_are_its_peers() -> Outcome {
    let mut fleet = Fleet::up(2, VXLAN)?;
    let names = [fleet.lease(1)?, fleet.lease(2)?];
    let mut stored = fleet.lab.leases()?;
    assert_eq!(stored.iter().collect::<BTreeSet<_>>(), names.iter().collect());
    let seen = wait(2, "its peer", |status| status.peers.len() == 1)?;
    assert_eq!(seen.store, format!("etcd {}", fleet.lab.etcd.url()));
    assert_eq!((seen.store_stale_since, seen.store_error, seen.last_error), (None, None, None));
    let mac = seen.peers.iter().next().and_then(|peer| peer.vtep_mac.clone()).ok_or("no VTEP")?;
    let key = fleet.lab.key(&names[0])?;
    let data = format!(r#""BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#);
    assert_eq!(key.value, format!(r#"{{"PublicIP":"192.168.1.11","PublicIPv6":null,"BackendType":"vxlan",{data}}}"#));
    let life = fleet.lab.ctl(&["lease", "timetolive", &format!("{:x}", key.lease)])?;
    assert!(life.contains("granted with TTL(86400s)"), "{life}");

    // A restarted daemon takes its lease over, and wakes no other host.
    fleet.restart(1)?;
    assert_eq!(fleet.lab.key(&names[0])?, key);
    assert_eq!(fleet.lab.ctl(&["lease", "list"])?.lines().count(), 3, "two leases and a title");

    // another's, as Go's daemon writes it
    let mut free = fleet.free()?;
    let (theirs, bad, elsewhere) = (free.next().ok_or("none")?, free.next().ok_or("none")?, free.next().ok_or("none")?);
    let granted = fleet.lab.ctl(&["lease", "grant", "86400"])?;
    let id = granted.split(' ').nth(1).ok_or("no lease")?;
    let value = r#"{"PublicIP":"192.168.1.50","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:50"}}"#;
    let net = theirs.replace('-', "/");
    fleet.lab.ctl(&["put", "--lease", id, &format!("/coreos.com/network/subnets/{theirs}"), value])?;
    [1, 2].into_iter().try_for_each(|host| fleet.wait_route(host, &net, true))?;

    // Entries that are not leases disturb no host.
    fleet.lab.put("subnets/README", "not a lease")?;
    fleet.lab.put(&format!("subnets/{bad}"), "{")?;
    fleet.lab.put(&format!("subnets-x/{elsewhere}"), value)?;
    for host in [1, 2] {
        let named = |status: &Status| ["README", &bad].iter().all(|key| status.rejected.iter().any(|r| r.key == **key));
        let status = wait(host, "what it ignores", named)?;
        assert_eq!((status.peers.len(), status.rejected.len()), (2, 2), "{status:?}");
    }
    fleet.lab.ctl(&["lease", "revoke", id])?;
    [1, 2].into_iter().try_for_each(|host| fleet.wait_route(host, &net, false))?;
    stored.extend(["README".into(), bad]);
    assert_eq!(fleet.lab.leases()?.into_iter().collect::<BTreeSet<_>>(), stored.into_iter().collect());
    Ok(())
}

pub fn hosts_without_ipv4_get_different_subnets() -> Outcome {
    let config = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"host-gw"}}"#;
    let fleet = Fleet::up(2, config)?;
    let leases = fleet.lab.leases()?;
    assert_eq!(leases.len(), 2, "{leases:?}");
    for (host, addr) in [(1, "fd00:1::b"), (2, "fd00:1::c")] {
        let name = format!("0.0.0.0-0&{}", fleet.lease(host)?);
        assert!(leases.contains(&name), "{name} {leases:?}");
        let value = format!(r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"{addr}","BackendType":"host-gw"}}"#);
        assert_eq!(fleet.lab.key(&name)?.value, value);
        let peers = wait(host, "its peer", |status| status.peers.len() == 1)?.peers;
        assert!(peers.iter().all(|peer| Ok(peer.public_ip) != addr.parse::<IpAddr>()), "{peers:?}");
    }
    Ok(())
}

pub fn daemons_that_race_share_no_half() -> Outcome {
    const HOSTS: usize = 8;
    // Eight of eight subnets, so hosts that choose at the same time choose the same one.
    let config = r#"{"Network":"10.5.0.0/21","SubnetMin":"10.5.0.0","EnableIPv6":true,"IPv6Network":"fd05::/61","IPv6SubnetMin":"fd05::","Backend":{"Type":"host-gw"}}"#;
    let fleet = Fleet::up(HOSTS, config)?;
    let mut subnets = BTreeSet::new();
    for host in 1..=HOSTS {
        let status = wait(host, "all peers", |status| status.peers.len() == 2 * (HOSTS - 1))?;
        let name = fleet.lease(host)?;
        let key = fleet.lab.key(&name)?;
        assert!(key.value.contains(&format!(r#""PublicIPv6":"fd00:1::{:x}""#, 10 + host)), "{name}: {key:?}");
        subnets.extend(status.subnets);
    }
    assert_eq!((subnets.len(), fleet.lab.leases()?.len()), (2 * HOSTS, HOSTS));
    Ok(())
}

pub fn a_reservation_stays_one() -> Outcome {
    let mut fleet = Fleet::new(Lab::up(1)?);
    fleet.lab.configure(VXLAN)?;
    fleet.lab.put("subnets/10.5.77.0-24", r#"{"PublicIP":"192.168.1.11","PublicIPv6":null}"#)?;
    fleet.start(1)?;
    wait(1, "the reserved subnet", |status| {
        status.subnets == ["10.5.77.0/24".parse().ok()].into_iter().flatten().collect::<Vec<_>>()
    })?;
    let key = eventually("the value is published", PATIENCE, || match fleet.lab.key("10.5.77.0-24") {
        Ok(key) if key.value.contains("VtepMAC") => Ok(key),
        other => Err(format!("{other:?}")),
    })?;
    assert_eq!(key.lease, 0);
    fleet.restart(1)?;
    assert_eq!(fleet.lab.key("10.5.77.0-24")?, key);
    assert_eq!(fleet.lab.ctl(&["lease", "list"])?.lines().count(), 1, "a title");
    Ok(())
}

pub fn it_waits_for_etcd_and_outlives_it() -> Outcome {
    let mut fleet = Fleet::new(Lab::prepare(1, &Start::default())?);
    fleet.start(1)?;
    let waits = |status: &Status| status.store_stale_since.is_some() && status.store_error.is_some();
    let status = wait(1, "it waits", waits)?;
    assert!(status.last_error.as_ref().is_some_and(|error| error.contains("Connection refused")), "{status:?}");
    assert!(says(&log_file(1), "cannot follow etcd"));
    fleet.lab.etcd.start(&fleet.lab.world)?;
    let upstreams = "flannel config not found in etcd store. Did you create your config using etcdv3 API? (the key is /coreos.com/network/config)";
    let status = wait(1, "no configuration", |status| status.last_error.as_deref() == Some(upstreams))?;
    assert_eq!((status.store_stale_since, status.store_error), (None, None));
    fleet.lab.configure(HOST_GW)?;
    let name = fleet.lease(1)?;
    let theirs = fleet.free()?.next().ok_or("no free subnet")?;
    let net = theirs.replace('-', "/");
    fleet.lab.put(
        &format!("subnets/{theirs}"),
        r#"{"PublicIP":"192.168.1.50","PublicIPv6":null,"BackendType":"host-gw"}"#,
    )?;
    fleet.wait_route(1, &net, true)?;

    fleet.lab.etcd.kill()?;
    let status = wait(1, "it says that etcd is away", waits)?;
    assert_eq!((status.peers.len(), status.subnets.len()), (1, 1), "{status:?}");
    assert!(fleet.routes(1)?.contains(&net), "the data path stays");
    fleet.lab.etcd.start(&fleet.lab.world)?;
    let back = |status: &Status| status.store_stale_since.is_none() && status.last_error.is_none();
    assert_eq!(wait(1, "etcd is back", back)?.peers.len(), 1);

    // made anew: the host's own lease is there again, under the same name
    fleet.lab.etcd.kill()?;
    fleet.lab.etcd.wipe()?;
    fleet.lab.etcd.start(&fleet.lab.world)?;
    let kept =
        |status: &Status| status.last_error.as_ref().is_some_and(|error| error.contains("the last good one stays"));
    wait(1, "the configuration is gone", kept)?;
    eventually("the lease is written again", PATIENCE, || match fleet.lab.leases() {
        Ok(leases) if leases == [name.clone()] => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    fleet.wait_route(1, &net, false)?;
    fleet.lab.configure(HOST_GW)?;
    wait(1, "all is well", back)?;
    Ok(())
}
