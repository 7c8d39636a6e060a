//! Twenty nodes on a double of the API server: after each change the kernel of each host has what the Nodes say.

use std::collections::BTreeMap;
use std::fs;

use lab::cluster::{PATIENCE, host_dir, log_file};
use lab::process::last_lines;
use lab::wait::eventually;
use tests::apiserver::node;

use crate::disturb::run;
use crate::kube_daemon::{Fleet, VXLAN};
use crate::{Failure, Outcome};

/// Hosts.
const HOSTS: usize = 20;

/// The podCIDRs of the hosts that are Nodes, and the hosts that have a daemon.
struct Nodes {
    fleet: Fleet,
    cidrs: BTreeMap<usize, String>,
}

impl Nodes {
    fn up() -> Result<Self, Failure> {
        let fleet = Fleet::up(HOSTS, VXLAN)?;
        Ok(Self { fleet, cidrs: (1..=HOSTS).map(|host| (host, format!("10.244.{host}.0/24"))).collect() })
    }

    /// Each host has a route and a forwarding entry to each other one, and no more.
    fn agree(&self, when: &str) -> Outcome {
        for host in self.cidrs.keys() {
            let others = || self.cidrs.iter().filter(|(other, _)| *other != host);
            let mut routes: Vec<String> = others().map(|(_, cidr)| cidr.clone()).collect();
            let mut hosts: Vec<String> = others().map(|(other, _)| format!("192.168.1.{}", 10 + other)).collect();
            routes.sort();
            hosts.sort();
            eventually(format!("{when}: host{host} has what the Nodes say"), PATIENCE, || {
                let seen = self.seen(*host).map_err(|error| error.to_string())?;
                if seen == (routes.clone(), hosts.clone()) {
                    return Ok(());
                }
                Err(format!("{seen:?}, not {routes:?} {hosts:?}\n{}", last_lines(&log_file(*host))))
            })?;
        }
        Ok(())
    }

    /// The other hosts' subnets that a host has routes to, and the addresses that it forwards to.
    fn seen(&self, host: usize) -> Result<(Vec<String>, Vec<String>), Failure> {
        let mut routes = self.fleet.routes(host)?;
        let entries = run(self.fleet.world.host(host)?, "bridge fdb show dev flannel.1")?;
        let to = |line: &str| line.split_whitespace().skip_while(|word| *word != "dst").nth(1).map(str::to_owned);
        let mut hosts: Vec<String> = entries.lines().filter_map(to).collect();
        routes.sort();
        hosts.sort();
        Ok((routes, hosts))
    }

    /// A host goes, with its Node.
    fn leaves(&mut self, host: usize) -> Outcome {
        self.fleet.kill(host)?;
        self.cidrs.remove(&host);
        self.fleet.api()?.objects(|all| all.delete(&format!("n{host}")));
        Ok(())
    }

    /// A host comes back, with another podCIDR.
    fn joins(&mut self, host: usize) -> Outcome {
        let cidr = format!("10.244.{}.0/24", 100 + host);
        self.fleet.api()?.objects(|all| all.put(node(&format!("n{host}"), &[&cidr])));
        self.cidrs.insert(host, cidr);
        self.fleet.start(host)
    }
}

pub fn the_kernels_have_what_the_nodes_say() -> Outcome {
    let mut nodes = Nodes::up()?;
    nodes.agree("at the start")?;

    (16..=20).try_for_each(|host| nodes.leaves(host))?;
    nodes.agree("five are gone")?;
    (16..=20).try_for_each(|host| nodes.joins(host))?;
    nodes.agree("five are back, with other subnets")?;

    nodes.fleet.kill(1)?;
    nodes.leaves(20)?;
    nodes.fleet.start(1)?;
    nodes.agree("one is gone while a daemon was down")?;

    let mut objects = nodes.fleet.stop_server()?;
    // host 2 saves the changes of a moment ago, although its watch has ended
    eventually("host2 has saved what it knows", PATIENCE, || {
        match fs::read_to_string(host_dir(2).join("nodes.json")) {
            Ok(text) if text.contains("10.244.119.0-24") && !text.contains("\"n20\"") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    nodes.fleet.kill(2)?;
    nodes.fleet.start(2)?;
    nodes.fleet.wait(2, "its network without the server", |status| status.store_stale_since.is_some())?;
    nodes.agree("the server is away")?;
    nodes.fleet.kill(19)?;
    nodes.cidrs.remove(&19);
    objects.delete("n19");
    objects.compact();
    nodes.fleet.serve(objects)?;
    nodes.agree("one is gone while the server was away")?;

    // the watch of each host ends where the server has forgotten the changes
    let api = nodes.fleet.api()?;
    api.hang_up();
    api.objects(|all| {
        all.delete("n18");
        all.compact();
    });
    nodes.fleet.kill(18)?;
    nodes.cidrs.remove(&18);
    nodes.agree("all Nodes are read again")
}
