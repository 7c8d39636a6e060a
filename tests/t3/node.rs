//! A node of a real cluster: containerd, kubelet, kube-proxy and flanneld, in a network namespace and with files of their own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use kernel::types::Family;
use lab::pods::Runtime;
use lab::process::{Daemon, Launch, last_lines};
use lab::wait::eventually;
use lab::world::World;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use serde_json::{Value, json};
use tests::apiserver::User;
use tests::harness::executables;
use tests::kubernetes::program;

use crate::control::{Control, SERVICE};
use crate::{Failure, Outcome, host, image};

/// The first argument of the process that holds a node's mounts.
pub const HOLD: &str = "--hold-mounts";
/// Folders that each node has for itself, empty at the start.
const OWN: [&str; 9] = [
    "/etc/cni",
    "/etc/kube-flannel",
    "/opt/cni",
    "/var/lib/cni",
    "/run/netns",
    "/run/flannel",
    "/run/cni-attachments",
    "/run/containerd",
    "/run/secrets",
];
/// Made last: the mounts are in place.
const READY: &str = "/run/secrets/.ready";
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";
const PATIENCE: Duration = Duration::from_secs(60);

/// Mounts a node's own folders, and holds them until it is killed.
pub fn hold() -> ExitCode {
    match mounts() {
        Ok(()) => loop {
            std::thread::park();
        },
        Err(error) => crate::complain(&*error),
    }
}

fn mounts() -> Outcome {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for dir in OWN {
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None)?;
    }
    Ok(fs::write(READY, "")?)
}

/// Makes the folders that nodes mount over.
pub fn prepare_machine() -> Outcome {
    Ok(OWN.iter().try_for_each(fs::create_dir_all)?)
}

/// The user that the kubelet of a node is.
pub fn kubelet(node: usize) -> User {
    User { token: format!("kubelet-token-{node}"), name: format!("system:node:n{node}"), may: Vec::new() }
}

/// The user that all kube-proxies are.
pub fn proxy() -> User {
    User { token: "proxy-token".into(), name: "system:kube-proxy".into(), may: Vec::new() }
}

/// A node. All its processes end with it.
pub struct Node {
    pub number: usize,
    pub address: IpAddr,
    netns: PathBuf,
    files: PathBuf,
    holder: Daemon,
    containerd: Option<Daemon>,
    kubelet: Option<Daemon>,
    proxy: Option<Daemon>,
    flanneld: Option<Daemon>,
    configurations: u32,
}

impl Node {
    /// Prepares the node `number` of a world: its files, and no daemon yet.
    pub fn new(world: &World, number: usize) -> Result<Self, Failure> {
        let room = world.host(number)?;
        let files = PathBuf::from(format!("/run/lab/host{number}"));
        fs::create_dir_all(&files)?;
        let me = std::env::current_exe()?;
        let launch = Launch {
            program: "unshare".into(),
            args: [OsStr::new("--mount"), OsStr::new("--"), me.as_os_str(), OsStr::new(HOLD)].map(Into::into).to_vec(),
            env: Vec::new(),
            netns: room.path().to_owned(),
            log: files.join("holder.log"),
            outlive: false,
        };
        let node = Self {
            number,
            address: world.topology.underlay(number, Family::V4).ok_or("no such host")?,
            netns: room.path().to_owned(),
            files,
            holder: launch.start()?,
            containerd: None,
            kubelet: None,
            proxy: None,
            flanneld: None,
            configurations: 0,
        };
        let log = node.log("holder");
        eventually("the node's own folders", PATIENCE, || match node.at(READY).exists() {
            true => Ok(()),
            false => Err(last_lines(&log)),
        })?;
        Ok(node)
    }

    /// The name of the Node object.
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Where a file of the node is for everybody else.
    pub fn at(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.pid()))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.files.join(format!("{name}.log"))
    }

    /// The end of the log of one of its daemons.
    pub fn words(&self, name: &str) -> String {
        last_lines(&self.log(name))
    }

    /// Starts a program on the node.
    fn start(&self, name: &str, program: &Path, args: &[String], env: &[(&str, String)]) -> Result<Daemon, Failure> {
        let mut all: Vec<OsString> = vec![format!("--mount=/proc/{}/ns/mnt", self.holder.pid()).into(), "--".into()];
        all.push(program.into());
        all.extend(args.iter().map(Into::into));
        let launch = Launch {
            program: "nsenter".into(),
            args: all,
            env: env.iter().map(|(key, value)| ((*key).into(), value.into())).collect(),
            netns: self.netns.clone(),
            log: self.log(name),
            outlive: false,
        };
        Ok(launch.start()?)
    }

    /// Runs a program on the node, and returns what it prints.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("nsenter");
        let holder = self.holder.pid();
        command.arg(format!("--mount=/proc/{holder}/ns/mnt")).arg(format!("--net=/proc/{holder}/ns/net")).arg("--");
        host::output(command.arg(program).args(args))
    }

    /// Puts the plugins and the list of the manifest where the runtime looks for them.
    pub fn install(&self, list: &Value) -> Outcome {
        Runtime::install(&executables()?.plugins, &self.at("/opt/cni"))?;
        fs::create_dir_all(self.at("/etc/cni/net.d"))?;
        Ok(fs::write(self.at("/etc/cni/net.d/10-flannel.conflist"), list.to_string())?)
    }

    /// Replaces the network's configuration as the kubelet replaces a ConfigMap's files: by a link to another folder.
    pub fn configure(&mut self, text: &str) -> Outcome {
        self.configurations += 1;
        let (mount, folder) = (self.at("/etc/kube-flannel"), format!("..data{}", self.configurations));
        fs::create_dir_all(mount.join(&folder))?;
        fs::write(mount.join(&folder).join("net-conf.json"), text)?;
        symlink(&folder, mount.join("..data_tmp"))?;
        fs::rename(mount.join("..data_tmp"), mount.join("..data"))?;
        match symlink("..data/net-conf.json", mount.join("net-conf.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Gives flanneld the token of its service account, as the kubelet mounts it.
    pub fn account(&self, control: &Control, token: &str) -> Outcome {
        let dir = self.at(ACCOUNT);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("token"), token)?;
        fs::write(dir.join("namespace"), "kube-flannel")?;
        fs::copy(control.authority.certificate(), dir.join("ca.crt"))?;
        Ok(())
    }

    /// Starts flanneld with the arguments of the manifest.
    pub fn start_flanneld(&mut self) -> Outcome {
        let args = ["--ip-masq".into(), "--kube-subnet-mgr".into(), "--healthz-port=8081".into(), "--v=1".into()];
        let env = [
            ("NODE_NAME", self.name()),
            ("POD_NAME", format!("kube-flannel-ds-{}", self.number)),
            ("POD_NAMESPACE", "kube-flannel".into()),
            ("KUBERNETES_SERVICE_HOST", SERVICE.into()),
            ("KUBERNETES_SERVICE_PORT", "443".into()),
        ];
        self.flanneld = Some(self.start("flanneld", &executables()?.flanneld, &args, &env)?);
        Ok(())
    }

    /// Kills flanneld.
    pub fn kill_flanneld(&mut self) -> Outcome {
        Ok(self.flanneld.take().ok_or("it does not run")?.kill()?)
    }

    /// The process ID of its flanneld.
    pub fn flanneld_pid(&self) -> Option<u64> {
        self.flanneld.as_ref().map(|flanneld| flanneld.pid().into())
    }

    /// What flanneld says of itself.
    pub fn status(&self) -> Result<Value, Failure> {
        Ok(serde_json::from_slice(&fs::read(self.at("/run/flannel/status.json"))?)?)
    }

    /// Starts kube-proxy in its mode iptables.
    pub fn start_proxy(&mut self, control: &Control) -> Outcome {
        let config = control.kubeconfig(&proxy())?;
        let args = [
            format!("--kubeconfig={}", config.display()),
            "--proxy-mode=iptables".into(),
            "--cluster-cidr=10.244.0.0/16".into(),
            format!("--hostname-override={}", self.name()),
            // these settings belong to the machine, and not to a namespace
            "--conntrack-max-per-core=0".into(),
            "--conntrack-min=0".into(),
            "--conntrack-tcp-timeout-established=0s".into(),
            "--conntrack-tcp-timeout-close-wait=0s".into(),
        ];
        let program = program("kube-proxy").ok_or("no kube-proxy")?;
        self.proxy = Some(self.start("kube-proxy", &program, &args, &[])?);
        Ok(())
    }

    /// Starts containerd, with the image of the pods.
    pub fn start_containerd(&mut self) -> Outcome {
        let config = self.files.join("containerd.toml");
        fs::write(&config, self.runtime_settings())?;
        let args = [format!("--config={}", config.display()), "--log-level=warn".into()];
        self.containerd = Some(self.start("containerd", Path::new("containerd"), &args, &[])?);
        let (archive, socket) = (self.files.join("image.tar"), self.socket());
        image::write(&archive)?;
        let log = self.log("containerd");
        let ctr = |args: &[&str]| self.run("ctr", &[&["--address", &socket], args].concat());
        eventually("containerd answers", PATIENCE, || {
            ctr(&["version"]).map_err(|error| format!("{error}; {}", last_lines(&log)))
        })?;
        let import = ["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"];
        ctr(&[&import[..], &[&archive.to_string_lossy()]].concat())?;
        Ok(())
    }

    fn socket(&self) -> String {
        self.files.join("containerd.sock").display().to_string()
    }

    fn runtime_settings(&self) -> String {
        let files = self.files.display();
        format!(
            "version = 2\nroot = \"{files}/containerd\"\nstate = \"{files}/containerd-state\"\n\
             [grpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
             sandbox_image = \"{}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.d\"\n",
            self.socket(),
            image::NAME
        )
    }

    /// Starts the kubelet, which registers the Node.
    pub fn start_kubelet(&mut self, control: &Control) -> Outcome {
        let settings = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            // control groups of the first version, as a guest in the machine's own
            "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
            "failSwapOn": false, "oomScoreAdj": 0, "resolvConf": "",
            "evictionHard": { "memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
            "nodeStatusUpdateFrequency": "2s",
        });
        let config = self.files.join("kubelet.json");
        fs::write(&config, settings.to_string())?;
        let files = self.files.display();
        let args = [
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", control.kubeconfig(&kubelet(self.number))?.display()),
            "--container-runtime=remote".into(),
            format!("--container-runtime-endpoint=unix://{}", self.socket()),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={}", self.address),
            format!("--root-dir={files}/kubelet"),
            format!("--cert-dir={files}/certificates"),
            "--cgroup-root=/".into(),
        ];
        let program = program("kubelet").ok_or("no kubelet")?;
        self.kubelet = Some(self.start("kubelet", &program, &args, &[])?);
        Ok(())
    }

    /// Kills the kubelet: one that starts again registers its Node again.
    pub fn kill_kubelet(&mut self) -> Outcome {
        Ok(self.kubelet.take().ok_or("it does not run")?.kill()?)
    }
}
