//! Calls plugins as a runtime does, ours or Debian's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lab::netns::Room;
use lab::pods::place_plugins;
use serde_json::{Value, json};
use tests::harness::executables;
use tests::need::newest_plugins;
use tests::strace::Traced;

/// Where Debian's `containernetworking-plugins` are.
pub const REFERENCE: &str = "/usr/lib/cni";
/// Where a plugin finds programs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Which plugins are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This project's.
    Ours,
    /// The Go ones.
    Reference,
}

/// A place to call plugins from: a directory of them, a directory for their files.
#[derive(Debug)]
pub struct Caller {
    bin: PathBuf,
    path: String,
    pub files: tempfile::TempDir,
}

/// The answer of a plugin.
#[derive(Debug)]
pub struct Answer {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Caller {
    pub fn new(whose: Whose) -> Self {
        let files = tempfile::tempdir().unwrap();
        let bin = match whose {
            Whose::Ours => {
                let bin = files.path().join("bin");
                place_plugins(&executables().unwrap().plugins, &bin).unwrap();
                bin
            }
            Whose::Reference => PathBuf::from(REFERENCE),
        };
        Self { bin, path: PATH.to_owned(), files }
    }

    /// The newest Go plugins that Debian has.
    pub fn newest() -> Self {
        Self { bin: newest_plugins().unwrap(), ..Self::new(Whose::Reference) }
    }

    /// Finds programs on `path` instead.
    pub fn with_path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Where the plugins are: CNI_PATH.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A bridge that is the pods' IPv4 gateway, with host-local. The host does not forward IPv6, so it may accept
    /// routers.
    pub fn gateway(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
            "ipam": { "type": "host-local", "dataDir": self.data(), "ranges": [[{ "subnet": "10.9.1.0/24" }]] },
        })
    }

    /// A folder for IPAM data.
    pub fn data(&self) -> PathBuf {
        self.files.path().join("networks")
    }

    /// Reservations of `network`: the files that are addresses.
    pub fn reserved(&self, network: &str) -> Vec<String> {
        let Ok(dir) = std::fs::read_dir(self.data().join(network)) else { return Vec::new() };
        let mut names: Vec<_> = dir.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
        names.sort();
        names
    }

    /// Calls `conf.type` for the container `pod`.
    pub fn call(&self, command: &str, pod: &Pod, conf: &Value) -> Answer {
        let netns = pod.netns.display().to_string();
        let variables = self.variables(command, pod, &netns);
        self.raw(conf["type"].as_str().unwrap(), &variables, conf.to_string().as_bytes())
    }

    /// The same through `run`, which traces the call.
    pub fn traced<T>(&self, command: &str, pod: &Pod, conf: &Value, run: impl FnOnce(&Traced<'_>) -> T) -> T {
        let (netns, stdin) = (pod.netns.display().to_string(), conf.to_string());
        let (program, variables) =
            (self.bin.join(conf["type"].as_str().unwrap()), self.variables(command, pod, &netns));
        run(&Traced { program: &program, variables: &variables, stdin: stdin.as_bytes() })
    }

    fn variables<'a>(&'a self, command: &'a str, pod: &Pod, netns: &'a str) -> [(&'a str, &'a str); 7] {
        [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", pod.id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", pod.ifname),
            ("CNI_ARGS", pod.args),
            ("CNI_PATH", self.bin.to_str().unwrap()),
            // the reference runs iptables
            ("PATH", self.path.as_str()),
        ]
    }

    /// Calls `plugin` with exactly these variables and this input.
    pub fn raw(&self, plugin: &str, variables: &[(&str, &str)], stdin: &[u8]) -> Answer {
        run(Command::new(self.bin.join(plugin)).env_clear().envs(variables.iter().copied()), stdin).into()
    }

    /// Calls `conf.type` as the last argument of `program`, such as strace, which gets the variables, too.
    pub fn under(&self, mut program: Command, command: &str, pod: &Pod, conf: &Value) -> Output {
        let path = self.bin.to_str().unwrap();
        program.arg(self.bin.join(conf["type"].as_str().unwrap()));
        program.envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", pod.id), ("CNI_IFNAME", pod.ifname)]);
        program.envs([("CNI_NETNS", pod.netns.to_str().unwrap()), ("CNI_ARGS", pod.args), ("CNI_PATH", path)]);
        run(&mut program, conf.to_string().as_bytes())
    }
}

fn run(program: &mut Command, stdin: &[u8]) -> Output {
    let program = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    // A plugin that refuses early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The container a plugin is called for.
#[derive(Debug, Clone)]
pub struct Pod {
    pub id: &'static str,
    pub netns: PathBuf,
    pub ifname: &'static str,
    pub args: &'static str,
}

impl Pod {
    pub fn new(id: &'static str, netns: &Path) -> Self {
        Self { id, netns: netns.to_owned(), ifname: "eth0", args: "" }
    }

    pub fn of(room: &Room, id: &'static str) -> Self {
        Self::new(id, room.path())
    }
}

impl Answer {
    /// The result or error object.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The result of a call that must succeed.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 0, "{self:?}");
        if self.stdout.is_empty() { Value::Null } else { self.json() }
    }

    /// The text of an error that must come.
    #[track_caller]
    pub fn error(&self) -> String {
        assert_eq!(self.status, 1, "{self:?}");
        let json = self.json();
        format!("{} {}; {}", json["code"], json["msg"].as_str().unwrap(), json["details"].as_str().unwrap_or_default())
    }
}
