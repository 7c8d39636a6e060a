//! Which plugins are called, with which configuration, in which pods.

use std::fs;
use std::path::{Path, PathBuf};

use kernel::Kernel;
use kernel::types::IfName;
use lab::netns::Room;
use lab::{Doing, Error};
use serde_json::{Value, json};
use tests::strace::{Counts, Traced};

use crate::call::{Answer, Call};

/// Where Debian's `containernetworking-plugins` are.
pub const REFERENCE: &str = "/usr/lib/cni";

/// The pods' interface.
const INTERFACE: &str = "eth0";

/// A chain of plugins under measurement.
#[derive(Debug, Clone)]
pub struct Side {
    bin: PathBuf,
    files: PathBuf,
    conf: Value,
}

/// The objects on the host and the files that attachments create.
#[derive(Debug, PartialEq, Eq)]
pub struct Belongings {
    links: Vec<String>,
    files: Vec<PathBuf>,
}

impl Side {
    /// bridge → host-local from the folder `bin`, with a bridge of its own and a /16 of its own: `net` is its second
    /// number.
    pub fn bridge(bin: &Path, root: &Path, name: &str, net: u8) -> Self {
        let files = root.join(name);
        let conf = json!({
            "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": name, "isDefaultGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": files, "ranges": [[{ "subnet": format!("10.{net}.0.0/16") }]],
            },
        });
        Self { bin: bin.to_owned(), files, conf }
    }

    /// flannel → bridge → host-local.
    pub fn flannel(bin: &Path, root: &Path, name: &str, net: u8) -> Result<Self, Error> {
        let files = root.join(name);
        let env = root.join(format!("{name}.env"));
        let text = format!(
            "FLANNEL_NETWORK=10.{net}.0.0/16\nFLANNEL_SUBNET=10.{net}.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        fs::write(&env, text).doing("write subnet.env")?;
        let conf = json!({
            "cniVersion": "1.0.0", "name": name, "type": "flannel", "subnetFile": env, "dataDir": files.join("state"),
            "ipam": { "type": "host-local", "dataDir": files },
            "delegate": { "bridge": name, "isDefaultGateway": true, "ipMasq": false },
        });
        Ok(Self { bin: bin.to_owned(), files, conf })
    }

    /// The same with `ipMasq`.
    pub fn masquerade(mut self) -> Self {
        self.conf["ipMasq"] = true.into();
        self
    }

    /// The call of `command` for the pod in `room`.
    pub fn call(&self, command: &str, room: &Room) -> Call {
        let path = room.path().to_string_lossy();
        let id = path.rsplit('/').next().unwrap_or_default();
        Call {
            program: self.bin.join(self.conf["type"].as_str().unwrap_or_default()),
            variables: vec![
                ("CNI_COMMAND", command.into()),
                ("CNI_CONTAINERID", id.into()),
                ("CNI_NETNS", path.clone().into_owned()),
                ("CNI_IFNAME", INTERFACE.into()),
                ("CNI_PATH", self.bin.to_string_lossy().into_owned()),
                // Debian's run iptables
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ],
            stdin: self.conf.to_string(),
        }
    }

    /// Runs `command`, which must succeed.
    pub fn run(&self, command: &str, room: &Room) -> Result<Answer, Error> {
        let call = self.call(command, room);
        let answer = call.run().doing(format_args!("run {}", call.program.display()))?;
        success(&call, &answer)?;
        Ok(answer)
    }

    /// Counts what `command` asks of the kernel.
    pub fn count(&self, command: &str, room: &Room, dir: &Path) -> Result<Counts, Error> {
        let call = self.call(command, room);
        let variables: Vec<_> = call.variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let traced = Traced { program: &call.program, variables: &variables, stdin: call.stdin.as_bytes() };
        let (output, counts) = traced.run(dir).doing("run strace")?;
        let answer = Answer { took: std::time::Duration::ZERO, status: output.status, stdout: output.stdout };
        success(&call, &answer)?;
        Ok(counts)
    }

    /// Reservations, state files, and the host's links, without host-local's own files.
    pub fn belongings(&self, host: &mut Kernel) -> Result<Belongings, Error> {
        let mut links: Vec<_> =
            host.links().doing("list links")?.into_iter().map(|link| link.name.to_string()).collect();
        links.sort();
        let mut files = Vec::new();
        list(&self.files, &mut files).doing(format_args!("list {}", self.files.display()))?;
        files.sort();
        Ok(Belongings { links, files })
    }
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (entry, own) = entry.map(|e| (e.path(), e.file_name()))?;
        let own = own.to_string_lossy();
        if entry.is_dir() {
            list(&entry, files)?;
        } else if own != "lock" && !own.starts_with("last_reserved_ip.") {
            files.push(entry);
        }
    }
    Ok(())
}

/// An answer that is an error, as an error.
pub fn success(call: &Call, answer: &Answer) -> Result<(), Error> {
    if answer.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer.stdout);
    Err(Error::Wrong(format!("{}: {}: {text}", call.program.display(), answer.status)))
}

/// The host's end of the pair in an ADD's result.
pub fn host_end(answer: &Answer) -> Result<IfName, Error> {
    let result: Value = serde_json::from_slice(&answer.stdout).doing("read the result")?;
    let links = result["interfaces"].as_array().into_iter().flatten();
    let veth = links.filter_map(|link| link["name"].as_str()).find(|name| name.starts_with("veth"));
    IfName::new(veth.unwrap_or_default()).doing("read the host's end from the result")
}

/// What is left of a pair right after DEL has returned.
pub fn remains(host: &mut Kernel, room: &Room, veth: &IfName) -> Result<usize, Error> {
    let outside = host.link(veth).doing("look for the host's end")?;
    let pod = IfName::new(INTERFACE).doing("name the pod's end")?;
    let inside = room.kernel()?.link(&pod).doing("look for the pod's end")?;
    Ok(usize::from(outside.is_some()) + usize::from(inside.is_some()))
}
