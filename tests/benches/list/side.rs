//! A suite of plugins with its network, and what is on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cni::runtime::{Attachment, NetworkList, Runtime};
use gojson::Json;
use lab::netns::Room;
use lab::{Doing, Error};
use serde_json::json;

/// The reference plugins, as Debian installs them.
pub const REFERENCE: &str = "/usr/lib/cni";

/// A suite and its network.
pub struct Side {
    pub name: &'static str,
    path: PathBuf,
    list: NetworkList,
}

impl Side {
    pub fn new(name: &'static str, path: &Path, number: u8) -> Self {
        let data = format!("{}/{name}", crate::ROOT);
        let list = json!({
            "cniVersion": "1.0.0", "name": name,
            "plugins": [
                {
                    "type": "bridge", "bridge": format!("br{number}"), "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": { "type": "host-local", "subnet": format!("10.{number}.0.0/16"), "dataDir": format!("{data}/networks") },
                },
                { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
                { "type": "firewall" },
                { "type": "bandwidth", "capabilities": { "bandwidth": true } },
                { "type": "tuning", "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" }, "dataDir": format!("{data}/tuning") },
            ],
        });
        let list = NetworkList::parse(list.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        Self { name, path: path.to_owned(), list }
    }

    /// The pod with this number, which chooses its host ports.
    fn attachment(&self, room: &Room, number: usize) -> Attachment {
        let base = if self.name == "ours" { 10_000 } else { 30_000 };
        let mapping =
            |port: usize, protocol: &str| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol });
        let ports = json!([mapping(base + 2 * number, "tcp"), mapping(base + 2 * number + 1, "udp")]);
        let rate = json!({ "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000 });
        let tree = |value: serde_json::Value| Json::parse(value.to_string().as_bytes()).unwrap_or_default();
        Attachment {
            container_id: format!("{}-{number}", self.name),
            netns: room.path().display().to_string(),
            ifname: if self.name == "ours" { "eth0" } else { "eth1" }.into(),
            args: Vec::new(),
            capability_args: BTreeMap::from([("portMappings".into(), tree(ports)), ("bandwidth".into(), tree(rate))]),
        }
    }

    fn runtime(&self) -> Runtime<'static> {
        Runtime::new(self.path.display().to_string(), format!("{}/{}/cache", crate::ROOT, self.name))
    }

    pub fn add(&self, room: &Room, number: usize) -> Result<(), Error> {
        let done = self.runtime().add(&self.list, &self.attachment(room, number));
        done.map(drop).map_err(|error| Error::Wrong(format!("{}: {error}", self.name)))
    }

    pub fn del(&self, room: &Room, number: usize) -> Result<(), Error> {
        let done = self.runtime().del(&self.list, &self.attachment(room, number));
        done.map_err(|error| Error::Wrong(format!("{}: {error}", self.name)))
    }
}

/// What the host has, a line per object: links, queueing disciplines, rules and elements.
pub fn belongings() -> Result<BTreeSet<String>, Error> {
    let mut all = BTreeSet::new();
    for (program, args) in [("ip", &["-o", "link"][..]), ("tc", &["qdisc", "show"]), ("nft", &["list", "ruleset"])] {
        let output = Command::new(program).args(args).output().doing(format_args!("run {program}"))?;
        // of links the names; a link's number changes
        let name = |line: &str| match program {
            "ip" => line.split(": ").nth(1).unwrap_or(line).to_owned(),
            _ => line.trim().trim_end_matches(',').to_owned(),
        };
        all.extend(String::from_utf8_lossy(&output.stdout).lines().map(name).map(|line| format!("{program} {line}")));
    }
    Ok(all)
}

/// What is there that was not, in a line.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let more: Vec<&str> = after.difference(before).map(String::as_str).collect();
    format!("{} objects, such as {}", more.len(), more.iter().take(3).copied().collect::<Vec<_>>().join("; "))
}
