//! The image under podman, with what the manifest gives its containers: as a node beside one whose flanneld is a service.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cni::runtime::{Attachment, NetworkList, Runtime};
use kernel::types::Family;
use lab::netns::Room;
use lab::process::{Daemon, Launch};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use serde_json::Value;
use tests::apiserver::{Apiserver, Objects, node};
use tests::harness::executables;

use crate::host::{FILES, fetch_in, output, run, serve};
use crate::{Failure, Outcome};

const PORT: u16 = 6443;
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "localhost/flannel:test";
/// The host whose flanneld is a container, the one whose flanneld is a process, and the API server's.
const BOXED: usize = 1;
const PLAIN: usize = 2;
const SERVER: usize = 3;

/// The manifest's two containers.
struct Manifest {
    pod: Value,
    config: Value,
}

impl Manifest {
    fn read() -> Result<Self, Failure> {
        let path = checkout().join("conf/kubernetes/kube-flannel.yml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(path)?)?;
        let the = |kind: &str| objects.iter().find(|object| object["kind"] == kind).cloned().ok_or("no such object");
        Ok(Self {
            pod: the("DaemonSet")?["spec"]["template"]["spec"].clone(),
            config: the("ConfigMap")?["data"].clone(),
        })
    }

    /// The ConfigMap as a kubelet would mount it.
    fn write_config(&self, folder: &Path) -> Outcome {
        fs::create_dir_all(folder)?;
        for (name, text) in self.config.as_object().ok_or("no data")? {
            fs::write(folder.join(name), text.as_str().ok_or("not text")?)?;
        }
        Ok(())
    }

    /// A container's mounts, as podman's `--volume`.
    fn volumes(&self, container: &Value, config: &Path) -> Result<Vec<String>, Failure> {
        let mut volumes = Vec::new();
        for mount in container["volumeMounts"].as_array().ok_or("no mounts")? {
            let (name, at) = (&mount["name"], mount["mountPath"].as_str().ok_or("no path")?);
            let all = self.pod["volumes"].as_array().ok_or("no volumes")?;
            let volume = all.iter().find(|volume| volume["name"] == *name).ok_or("no such volume")?;
            let from = volume["hostPath"]["path"].as_str().map_or(config.to_owned(), PathBuf::from);
            if volume["hostPath"]["type"] == "DirectoryOrCreate" {
                fs::create_dir_all(&from)?;
            }
            let mut options = vec![if mount["readOnly"] == true { "ro" } else { "rw" }];
            options.extend((mount["mountPropagation"] == "HostToContainer").then_some("rslave"));
            volumes.push(format!("--volume={}:{at}:{}", from.display(), options.join(",")));
        }
        Ok(volumes)
    }

    /// A container's rights, as podman's options. A kubelet has a seccomp profile of the runtime's; podman has its own.
    fn rights(container: &Value) -> Vec<String> {
        let context = &container["securityContext"];
        assert_eq!((&context["privileged"], &context["allowPrivilegeEscalation"]), (&false.into(), &false.into()));
        let words = |key: &str| context["capabilities"][key].as_array().cloned().unwrap_or_default();
        let option = |key: &str| {
            let all = words(key).into_iter().filter_map(|word| word.as_str().map(str::to_owned));
            all.map(|word| format!("--cap-{key}={word}")).collect::<Vec<_>>()
        };
        let mut rights = [option("drop"), option("add")].concat();
        rights.extend(["--security-opt=no-new-privileges", "--user=0"].map(str::to_owned));
        rights.extend((context["readOnlyRootFilesystem"] == true).then(|| "--read-only".to_owned()));
        rights
    }

    fn words(container: &Value) -> Vec<String> {
        let all = ["command", "args"].iter().flat_map(|key| container[*key].as_array().cloned().unwrap_or_default());
        all.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    }
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn podman(arguments: &[String]) -> Command {
    let mut podman = Command::new("podman");
    podman.env("CONTAINERS_CONF", format!("{FILES}/containers.conf"));
    podman.env("CONTAINERS_STORAGE_CONF", format!("{FILES}/storage.conf"));
    podman.args(arguments);
    podman
}

/// As podman.rs: root without CAP_SYS_RESOURCE cannot have podman's own limits.
fn configure_podman() -> Outcome {
    fs::create_dir_all(FILES)?;
    let settings = "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n\
         [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"runc\"\n";
    fs::write(Path::new(FILES).join("containers.conf"), settings)?;
    let files = format!("[storage]\ndriver=\"vfs\"\ngraphroot=\"{FILES}/images\"\nrunroot=\"{FILES}/podman\"\n");
    fs::write(Path::new(FILES).join("storage.conf"), files)?;
    Ok(())
}

/// Builds the image from the executables of the test's profile, without their symbols.
fn build() -> Outcome {
    let folder = Path::new(FILES).join("executables");
    fs::create_dir_all(&folder)?;
    let built = executables()?;
    let flannelctl = built.flanneld.with_file_name("flannelctl");
    for program in [&built.flanneld, &built.plugins, &flannelctl] {
        let to = folder.join(program.file_name().ok_or("no name")?);
        run("strip", &["-o", &to.to_string_lossy(), &program.to_string_lossy()])?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let mut build = Command::new(checkout().join("conf/image/build"));
    build.env("CONTAINERS_STORAGE_CONF", format!("{FILES}/storage.conf"));
    build.args(["-t", NAME, &format!("{architecture}={}", folder.display())]);
    assert_eq!(output(&mut build)?.lines().last(), Some(NAME));
    Ok(())
}

/// What debug executables need and static ones do not: the C library of the machine.
fn libraries() -> impl Iterator<Item = String> {
    ["/lib", "/lib64", "/usr/lib"]
        .into_iter()
        .filter(|dir| Path::new(dir).exists())
        .map(|dir| format!("--volume={dir}:{dir}:ro"))
}

/// Three hosts: a node with the image, a node with a service, the API server.
struct Nodes {
    world: World,
    api: Apiserver,
    manifest: Manifest,
    config: PathBuf,
    /// podman's option for the seccomp profile; empty: podman's own.
    profile: Vec<String>,
    _service: Daemon,
}

impl Nodes {
    fn new(profile: Option<&Path>) -> Result<Self, Failure> {
        configure_podman()?;
        let profile = profile.iter().map(|path| format!("--security-opt=seccomp={}", path.display())).collect();
        build()?;
        let (world, manifest) = (World::build(Topology::flat(3))?, Manifest::read()?);
        let config = Path::new(FILES).join("config");
        manifest.write_config(&config)?;
        let mut objects = Objects::default();
        for host in [BOXED, PLAIN] {
            objects.put(node(&format!("n{host}"), &[&format!("10.244.{host}.0/24")]));
        }
        let at = SocketAddr::new(address(&world, SERVER)?, PORT);
        let listener = world.host(SERVER)?.enter(|| TcpListener::bind(at))??;
        let api = Apiserver::start(listener, objects)?;
        let service = service(&world, &at.to_string(), &config)?;
        Ok(Self { world, api, manifest, config, profile, _service: service })
    }

    /// Runs a container of the manifest in the network of its host, and returns what it prints.
    fn run(&self, container: &Value, more: &[String]) -> Result<String, Failure> {
        let network = format!("--network=ns:{}", self.world.host(BOXED)?.path().display());
        let mut arguments = vec!["run".to_owned(), network, format!("--env=NODE_NAME=n{BOXED}")];
        arguments.extend(Manifest::rights(container));
        arguments.extend_from_slice(&self.profile);
        arguments.extend(self.manifest.volumes(container, &self.config)?);
        arguments.extend(libraries());
        let words = Manifest::words(container);
        let (command, rest) = words.split_first().ok_or("no command")?;
        arguments.extend([format!("--entrypoint={command}")]);
        arguments.extend_from_slice(more);
        arguments.push(NAME.to_owned());
        arguments.extend_from_slice(rest);
        if more.iter().any(|word| word == "--detach") {
            // in a cluster, the pod's service account says where the server is
            arguments.push(format!("--kube-api-url=http://{}:{PORT}", address(&self.world, SERVER)?));
            arguments.push("--iface=eth0".into());
        }
        output(&mut podman(&arguments))
    }

    fn install(&self) -> Outcome {
        let container = self.manifest.pod["initContainers"][0].clone();
        let text = self.run(&container, &["--rm".into()])?;
        assert!(text.contains("install /etc/cni/net.d/10-flannel.conflist"), "{text}");
        let again = self.run(&container, &["--rm".into()])?;
        assert_eq!(again, "nothing is to be done");
        Ok(())
    }

    fn start(&self) -> Outcome {
        let container = self.manifest.pod["containers"][0].clone();
        self.run(&container, &["--detach".into(), "--name=flanneld".into()]).map(drop)
    }

    fn logs(&self) -> String {
        let text = podman(&["logs".into(), "--tail=20".into(), "flanneld".into()]).output();
        text.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default()
    }

    /// Waits until something is as it should be on the host with the image.
    fn wait(&self, what: &str, look: impl Fn() -> Result<(), String>) -> Outcome {
        let told = || look().map_err(|error| format!("{error}; {}", self.logs()));
        Ok(eventually(what, PATIENCE, told)?)
    }

    /// `ip`, `nft` or another program in the network of the host with the image.
    fn on_host(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        self.world.host(BOXED)?.enter(|| run(program, arguments))?
    }

    fn is_ready(&self) -> Result<(), String> {
        let ask = || -> Result<String, Failure> {
            let text = crate::host::get("127.0.0.1:8081".parse()?, "/readyz")?;
            Ok(text)
        };
        let text = self.world.host(BOXED).and_then(|room| room.enter(ask)).map_err(|error| error.to_string())?;
        let text = text.map_err(|error| error.to_string())?;
        if text.ends_with("flanneld is ready") { Ok(()) } else { Err(text) }
    }
}

fn address(world: &World, host: usize) -> Result<IpAddr, Failure> {
    Ok(world.topology.underlay(host, Family::V4).ok_or("no such host")?)
}

/// flanneld of the other node, as a process.
fn service(world: &World, server: &str, config: &Path) -> Result<Daemon, Failure> {
    let folder = Path::new(FILES).join("service");
    fs::create_dir_all(&folder)?;
    let args = [
        "--kube-subnet-mgr".to_owned(),
        format!("--kube-api-url=http://{server}"),
        format!("--net-config-path={}", config.join("net-conf.json").display()),
        "--iface=eth0".to_owned(),
        "--reclaim=false".to_owned(),
        format!("--subnet-file={}", folder.join("subnet.env").display()),
    ];
    let launch = Launch {
        program: executables()?.flanneld,
        args: args.map(Into::into).to_vec(),
        env: vec![("NODE_NAME".into(), format!("n{PLAIN}").into())],
        netns: world.host(PLAIN)?.path().to_owned(),
        log: folder.join("log"),
        outlive: false,
    };
    Ok(launch.start()?)
}

/// A pod that a runtime attached by what the init container installed.
struct Pod {
    room: Room,
    address: IpAddr,
}

fn attach(host: &Room, name: &str) -> Result<Pod, Failure> {
    let room = Room::create(name)?;
    let list = NetworkList::load(Path::new("/etc/cni/net.d/10-flannel.conflist"))?;
    let attachment = Attachment {
        container_id: name.to_owned(),
        netns: format!("/var{}", room.path().display()),
        ifname: "eth0".into(),
        ..Attachment::default()
    };
    let runtime = Runtime::new("/opt/cni/bin", PathBuf::from("/var/lib/cni"));
    let result = host.enter(|| runtime.add_or_undo(&list, &attachment))??;
    let address = result.ips.first().ok_or("no address")?.address.ip();
    Ok(Pod { room, address })
}

/// A pod of this node, and the other node's own address in the network, exchange bytes.
fn talk(nodes: &Nodes, pod: &Pod) -> Outcome {
    let other = nodes.world.host(PLAIN)?;
    let server = serve(other.path(), 80, b"hello".to_vec())?;
    assert_eq!(fetch_in(pod.room.path(), SocketAddr::new(format!("10.244.{PLAIN}.0").parse()?, 80))?, "hello");
    server.done()
}

pub fn a_node_runs_the_image() -> Outcome {
    works(None)
}

/// The profile is that of a node's own, which the chart's `flannel.seccompProfile` names.
pub fn the_seccomp_profile_suffices() -> Outcome {
    works(Some(&checkout().join("conf/kubernetes/seccomp.json")))
}

fn works(profile: Option<&Path>) -> Outcome {
    // containers see namespaces that are made later
    run("mount", &["--make-rshared", "/run"])?;
    let nodes = Nodes::new(profile)?;
    if !Path::new("/var/run").exists() {
        symlink("/run", "/var/run")?;
    }
    nodes.install()?;
    nodes.start()?;
    nodes.wait("flanneld in the container is ready", || nodes.is_ready())?;
    let published = nodes.api.objects(|all| all.annotation("n1", "backend-type"));
    assert_eq!(published.as_deref(), Some("vxlan"));
    let (first, second) = (attach(nodes.world.host(BOXED)?, "pod1")?, attach(nodes.world.host(BOXED)?, "pod2")?);
    talk(&nodes, &first)?;
    heals(&nodes)?;
    talk(&nodes, &first)?;
    reclaims(&nodes, first, &second)
}

/// What is broken beside the container is mended from inside.
fn heals(nodes: &Nodes) -> Outcome {
    let link = nodes.on_host("ip", &["-o", "link", "show", "flannel.1"])?;
    assert!(link.contains("flannel.1"), "{link}");
    nodes.on_host("ip", &["link", "del", "flannel.1"])?;
    nodes.on_host("nft", &["delete", "table", "ip", "flannel-ipv4"])?;
    nodes.on_host("sysctl", &["-qw", "net.ipv4.ip_forward=0"])?;
    nodes.wait("flanneld makes its device, route and settings again", || {
        let look = || -> Result<String, Failure> {
            let route = nodes.on_host("ip", &["route", "show", &format!("10.244.{PLAIN}.0/24")])?;
            let tables = nodes.on_host("nft", &["list", "tables"])?;
            Ok(format!("{route} {tables} {}", nodes.on_host("sysctl", &["-n", "net.ipv4.ip_forward"])?))
        };
        let found = look().map_err(|error| error.to_string())?;
        if ["dev flannel.1", "flannel-ipv4"].iter().all(|part| found.contains(part)) && found.ends_with(" 1") {
            Ok(())
        } else {
            Err(found)
        }
    })?;
    nodes.wait("flanneld is ready again", || nodes.is_ready())
}

/// A pod that goes without DEL leaves nothing, as long as another one is seen to live.
fn reclaims(nodes: &Nodes, gone: Pod, lives: &Pod) -> Outcome {
    let file = |pod: &Pod| Path::new("/var/lib/cni/networks/cbr0").join(pod.address.to_string());
    let record = Path::new(attachment::record::DIRECTORY).join("cbr0/pod1@eth0");
    let reservation = file(&gone);
    assert!(reservation.exists() && record.exists() && file(lives).exists());
    gone.room.remove()?;
    nodes.wait("the address of a dead pod is free", || match (reservation.exists(), record.exists()) {
        (false, false) => Ok(()),
        other => Err(format!("reservation and record: {other:?}")),
    })?;
    assert!(file(lives).exists());
    talk(nodes, lives)
}
