//! Leases whose subnet holds an address that this host needs, or whose address no host can have.

use std::fs;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use lab::cluster::{Cluster, PATIENCE, Spec, host_dir, log_file, subnet_file};
use lab::mode::Mode;
use lab::process::{Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use rustix::mount::mount_bind;
use store::{config_path, files};
use tests::harness;

use crate::disturb::run;
use crate::etcd_server::{Lab, Start};
use crate::{Failure, Outcome};

const KEY: &str = "10.244.7.0-24";

/// A lease of a host that may be hostile.
fn lease(public: &str) -> String {
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:07"}}}}"#
    )
}

/// Host 1 judges the lease with `key`: it rejects the lease, and reports it.
fn is_refused(key: &str, because: &str) -> Outcome {
    let subnet: IpNetwork = key.replace('-', "/").parse()?;
    let followed = eventually(format_args!("host1 judges {key}"), PATIENCE, || {
        let status = Cluster::status(1).ok_or_else(|| last_lines(&log_file(1)))?;
        match status.peers.iter().any(|peer| peer.subnet == subnet) {
            true => Ok(true),
            false if status.rejected.iter().any(|rejected| rejected.key == key) => Ok(false),
            false => Err(format!("{status:?}")),
        }
    })?;
    assert!(!followed, "the lease {key} is accepted: {because}");
    Ok(())
}

/// A world with an unstarted daemon, in whose store the lease lies.
fn prepare(public: &str) -> Result<Cluster, Failure> {
    let spec = Spec { topology: Topology::flat(1), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let cluster = Cluster::prepare(spec, &harness::executables()?)?;
    files::replace(&Cluster::leases_dir().join(KEY), lease(public).as_bytes())?;
    Ok(cluster)
}

pub fn one_that_holds_the_gateways_address() -> Outcome {
    let mut cluster = prepare("192.168.1.50")?;
    run(cluster.world.host(1)?, "ip route add default via 10.244.7.1 dev eth0 onlink")?;
    cluster.start_daemons()?;
    is_refused(KEY, "its subnet holds the gateway's address")
}

pub fn one_that_holds_a_dns_servers_address() -> Outcome {
    let mut cluster = prepare("192.168.1.50")?;
    let file = host_dir(1).join("resolv.conf");
    fs::write(&file, "nameserver 10.244.7.53\n")?;
    // in the sandbox's own mount namespace
    mount_bind(&file, "/etc/resolv.conf")?;
    cluster.start_daemons()?;
    is_refused(KEY, "its subnet holds the address of a DNS server")
}

pub fn one_that_holds_the_stores_address() -> Outcome {
    let all = "--listen-client-urls=http://0.0.0.0:2379".to_owned();
    let mut lab = Lab::prepare(1, &Start { more: vec![all], ..Start::default() })?;
    run(lab.world.host(2)?, "ip addr add 10.244.7.9/32 dev eth0")?;
    run(lab.world.host(1)?, "ip route add 10.244.7.9/32 via 192.168.1.12 proto static")?;
    lab.etcd.start(&lab.world)?;
    lab.configure(&Mode::Vxlan.config(false))?;
    lab.put(&format!("subnets/{KEY}"), &lease("192.168.1.50"))?;
    fs::create_dir_all(host_dir(1))?;
    let args = [
        "--etcd-endpoints=http://10.244.7.9:2379".to_owned(),
        "--iface=eth0".into(),
        format!("--subnet-file={}", subnet_file(1).display()),
    ];
    let launch = Launch {
        program: harness::executables()?.flanneld,
        args: args.map(Into::into).to_vec(),
        env: Vec::new(),
        netns: lab.world.host(1)?.path().to_owned(),
        log: log_file(1),
        outlive: false,
    };
    let _daemon = launch.start()?;
    is_refused(KEY, "its subnet holds the store's address")
}

fn of_the_underlay(public: &str, because: &str) -> Outcome {
    public.parse::<IpAddr>()?;
    let mut cluster = prepare(public)?;
    cluster.start_daemons()?;
    is_refused(KEY, because)
}

pub fn one_of_the_underlays_broadcast_address() -> Outcome {
    of_the_underlay("192.168.1.255", "its address is the underlay's broadcast address")
}

pub fn one_of_the_underlays_network_address() -> Outcome {
    of_the_underlay("192.168.1.0", "its address is the underlay's network address")
}

/// A network over the LAN of its host: the status names both, the host is ready, and does not lease the LAN's own subnet.
pub fn a_network_over_the_hosts_lan_is_said() -> Outcome {
    let spec = Spec { topology: Topology::flat(1), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let mut cluster = Cluster::prepare(spec, &harness::executables()?)?;
    let config = config_path(&Cluster::store_dir(), "/coreos.com/network");
    // the subnets 192.168.0.0/24 and 192.168.1.0/24, of which the second is the lab's first segment
    let text = r#"{"Network":"192.168.0.0/22","SubnetMin":"192.168.0.0","SubnetMax":"192.168.1.0","Backend":{"Type":"vxlan"}}"#;
    files::replace(&config, text.as_bytes())?;
    cluster.start_daemons()?;
    cluster.wait_ready()?;
    let wanted = "the network 192.168.0.0/22 overlaps 192.168.1.11/24 of eth0";
    let status = eventually("the status is written", PATIENCE, || match Cluster::status(1) {
        Some(status) if status.warnings.iter().any(|warning| warning.contains(wanted)) => Ok(status),
        other => Err(format!("{other:?}; {}", last_lines(&log_file(1)))),
    })?;
    assert_eq!(status.warnings.len(), 1, "{:?}", status.warnings);
    assert_eq!(status.subnets, ["192.168.0.0/24".parse::<IpNetwork>()?]);
    assert_eq!(status.last_error, None);
    let log = fs::read_to_string(log_file(1))?;
    assert_eq!(log.matches(wanted).count(), 1, "once: {log}");
    Ok(())
}
