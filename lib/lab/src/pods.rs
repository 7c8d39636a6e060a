//! Pods: network namespaces that are attached and detached by running the plugins of a list, as a runtime does.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::result::Interface;
use cni::runtime::{Attachment, NetworkList, Runtime as CniRuntime};
use serde_json::{Value, json};

use super::netns::Room;
use super::{Doing, Error};

/// CNI_IFNAME of every pod.
const INTERFACE: &str = "eth0";
/// The network's name. host-local keeps its reservations in a folder of this name.
pub const NETWORK: &str = "lab";

/// The plugins, installed in one directory, and how to run them.
#[derive(Debug, Clone)]
pub struct Runtime {
    bin_dir: PathBuf,
}

/// An attached pod.
#[derive(Debug)]
pub struct Pod {
    /// The pod's network namespace.
    pub room: Room,
    /// The pod's addresses, without prefix lengths.
    pub addresses: Vec<IpAddr>,
    /// The host's end of the pod's veth pair.
    pub veth: String,
    id: String,
    files: PathBuf,
    runtime: Runtime,
}

/// Copies the plugin executable into a directory that has none, under every plugin's name: hard links, because a debug build is
/// large.
///
/// # Errors
/// The file system refuses something.
pub fn place_plugins(executable: &Path, dir: &Path) -> Result<(), Error> {
    let copy = dir.join("cni-plugins");
    if copy.exists() {
        return Ok(());
    }
    let mut done = std::fs::create_dir_all(dir).and_then(|()| std::fs::copy(executable, &copy)).map(drop);
    for name in cni::SUITE {
        done = done.and_then(|()| std::fs::hard_link(&copy, dir.join(name)));
    }
    done.doing("install the plugins")
}

impl Runtime {
    /// Installs the plugin executable under every plugin's name below `root`.
    pub fn install(executable: &Path, root: &Path) -> Result<Self, Error> {
        let bin_dir = root.join("bin");
        place_plugins(executable, &bin_dir)?;
        Ok(Self { bin_dir })
    }

    /// Creates a namespace called `name` and attaches it to `host`. The host's files are in `files`.
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
        self.as_runtime(host, |runtime| {
            runtime.add_or_undo(&loopback()?, &self.attachment("lo")).doing(format_args!("attach {} to lo", self.id))
        })?;
        let result = self.as_runtime(host, |runtime| {
            let network = network(&self.files)?;
            runtime.add_or_undo(&network, &self.attachment(INTERFACE)).doing(format_args!("attach {}", self.id))
        })?;
        self.addresses = result.ips.iter().map(|ip| ip.address.ip()).collect();
        let ours = |interface: &&Interface| interface.sandbox.is_empty() && interface.name.starts_with("veth");
        self.veth = result.interfaces.iter().find(ours).map(|interface| interface.name.clone()).unwrap_or_default();
        Ok(self)
    }

    /// Calls CHECK for the pod.
    pub fn check(&self, host: &Room) -> Result<(), Error> {
        self.as_runtime(host, |runtime| {
            let outcome = runtime.check(&network(&self.files)?, &self.attachment(INTERFACE));
            outcome.doing(format_args!("check {}", self.id))
        })
    }

    /// Detaches the pod and removes its namespace.
    pub fn detach(self, host: &Room) -> Result<(), Error> {
        self.as_runtime(host, |runtime| {
            let outcome = runtime.del(&network(&self.files)?, &self.attachment(INTERFACE));
            outcome.doing(format_args!("detach {}", self.id))?;
            runtime.del(&loopback()?, &self.attachment("lo")).doing(format_args!("detach {} from lo", self.id))
        })?;
        self.room.remove()
    }

    /// Runs `work` with a runtime in the host's namespace, which the plugins inherit.
    fn as_runtime<T>(&self, host: &Room, work: impl FnOnce(&CniRuntime<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let runtime = CniRuntime::new(self.runtime.bin_dir.to_string_lossy(), self.files.join("cni"));
        host.enter(|| work(&runtime))?
    }

    fn attachment(&self, interface: &str) -> Attachment {
        Attachment {
            container_id: self.id.clone(),
            netns: self.room.path().to_string_lossy().into_owned(),
            ifname: interface.to_owned(),
            ..Attachment::default()
        }
    }
}

fn loopback() -> Result<NetworkList, Error> {
    list(&json!({ "cniVersion": "1.1.0", "name": "cni-loopback", "plugins": [{ "type": "loopback" }] }))
}

/// The list: flannel, which delegates to bridge and host-local, with every file in the host's own folder.
fn network(files: &Path) -> Result<NetworkList, Error> {
    let cni = files.join("cni");
    list(&json!({
        "cniVersion": "1.1.0",
        "name": NETWORK,
        "plugins": [{
            "type": "flannel",
            "subnetFile": files.join("subnet.env"),
            "dataDir": cni.join("flannel"),
            "ipam": { "type": "host-local", "dataDir": cni.join("networks") },
            // pods must see each other's own addresses
            "delegate": { "hairpinMode": true, "isDefaultGateway": true, "ipMasq": false },
        }],
    }))
}

fn list(json: &Value) -> Result<NetworkList, Error> {
    NetworkList::parse(json.to_string().as_bytes()).doing("read the conflist")
}
