//! Pods: network namespaces attached and detached by running the plugins through a conflist, as a runtime does.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::netns::Room;
use super::{Doing, Error};
use crate::ctl::install::install;

/// What a runtime calls the pod's interface.
const INTERFACE: &str = "eth0";
/// The network's name: host-local keeps its addresses in a folder of this name.
pub const NETWORK: &str = "lab";

/// Runs plugins.
#[derive(Debug, Clone)]
pub struct Runtime {
    bin_dir: PathBuf,
}

/// An attached pod.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub room: Room,
    /// Its addresses, without prefix lengths.
    pub addresses: Vec<IpAddr>,
    /// The host's end of its cable.
    pub veth: String,
    id: String,
    files: PathBuf,
    runtime: Runtime,
}

impl Runtime {
    /// Installs the plugin executable under every name below `root`.
    pub fn install(executable: &Path, root: &Path) -> Result<Self, Error> {
        let bin_dir = root.join("bin");
        install(executable, &bin_dir).doing("install the plugins")?;
        Ok(Self { bin_dir })
    }

    /// Makes a namespace called `name` and attaches it to `host`, whose files are in `files`.
    pub fn attach(&self, host: &Room, files: &Path, name: &str) -> Result<Pod, Error> {
        let pod = Pod {
            room: Room::create(name)?,
            addresses: Vec::new(),
            veth: String::new(),
            id: name.to_owned(),
            files: files.to_owned(),
            runtime: self.clone(),
        };
        pod.attach(host)
    }
}

impl Pod {
    fn attach(mut self, host: &Room) -> Result<Self, Error> {
        self.run(host, "ADD", &loopback(), "lo")?;
        let result = self.run(host, "ADD", &network(&self.files), INTERFACE)?;
        for ip in result["ips"].as_array().into_iter().flatten() {
            let text = ip["address"].as_str().unwrap_or_default();
            self.addresses.push(text.parse::<ipnetwork::IpNetwork>().doing("read the pod's address")?.ip());
        }
        let host_end = |i: &&Value| i["name"].as_str().is_some_and(|n| n.starts_with("veth"));
        let interfaces = result["interfaces"].as_array().into_iter().flatten();
        self.veth = interfaces.clone().find(host_end).and_then(|i| i["name"].as_str()).unwrap_or_default().to_owned();
        Ok(self)
    }

    /// Detaches it and removes its namespace.
    pub fn detach(self, host: &Room) -> Result<(), Error> {
        self.run(host, "DEL", &network(&self.files), INTERFACE)?;
        self.run(host, "DEL", &loopback(), "lo")?;
        self.room.remove()
    }

    fn run(&self, host: &Room, command: &str, list: &Value, ifname: &str) -> Result<Value, Error> {
        use std::io::Write;
        let mut prev = Value::Null;
        for plugin in list["plugins"].as_array().into_iter().flatten() {
            let mut conf = plugin.clone();
            conf["name"] = list["name"].clone();
            conf["cniVersion"] = list["cniVersion"].clone();
            if prev != Value::Null {
                conf["prevResult"] = prev.clone();
            }
            let output = host
                .enter(|| -> std::io::Result<std::process::Output> {
                    let mut child = std::process::Command::new(
                        self.runtime.bin_dir.join(plugin["type"].as_str().unwrap_or_default()),
                    )
                    .env("CNI_COMMAND", command)
                    .env("CNI_CONTAINERID", &self.id)
                    .env("CNI_NETNS", self.room.path())
                    .env("CNI_IFNAME", ifname)
                    .env("CNI_PATH", &self.runtime.bin_dir)
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()?;
                    if let Some(mut stdin) = child.stdin.take() {
                        stdin.write_all(conf.to_string().as_bytes())?;
                    }
                    child.wait_with_output()
                })?
                .doing("run")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                return Err(Error::Wrong(format!("{command} {} {}: {text}", self.id, plugin["type"])));
            }
            if command == "ADD" {
                prev = serde_json::from_str(&text).doing("parse result")?;
            }
        }
        Ok(prev)
    }
}

fn loopback() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "cni-loopback", "plugins": [{ "type": "loopback" }] })
}

/// flannel → bridge → host-local, with every file in the host's own folder.
fn network(files: &Path) -> Value {
    let cni = files.join("cni");
    json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [{
            "type": "flannel",
            "subnetFile": files.join("subnet.env"),
            "dataDir": cni.join("flannel"),
            "ipam": { "type": "host-local", "dataDir": cni.join("networks") },
            // pods see each other's own addresses
            "delegate": { "hairpinMode": true, "isDefaultGateway": true, "ipMasq": false },
        }],
    })
}
