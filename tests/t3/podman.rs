//! podman with its CNI backend.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{FILES, Host, Whose, fetch_in, left, nothing_left, output, serve, time_transfer};
use crate::{Failure, Outcome, image};

/// podman on a host.
struct Podman {
    host: Host,
}

impl Podman {
    fn new(whose: Whose) -> Result<Self, Failure> {
        let podman = Self { host: Host::new(whose)? };
        fs::create_dir_all(Self::networks())?;
        fs::write(Path::new(FILES).join("containers.conf"), podman.settings())?;
        let files = format!("[storage]\ndriver=\"vfs\"\ngraphroot=\"{FILES}/images\"\nrunroot=\"{FILES}/podman\"\n");
        fs::write(Path::new(FILES).join("storage.conf"), files)?;
        let archive = Path::new(FILES).join("image.tar");
        image::write(&archive)?;
        podman.run(&["load", "-q", "-i", &archive.to_string_lossy()])?;
        Ok(podman)
    }

    fn networks() -> PathBuf {
        Path::new(FILES).join("networks")
    }

    /// Root without CAP_SYS_RESOURCE cannot have podman's own limits.
    fn settings(&self) -> String {
        format!(
            "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n\
             [network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[\"{}\"]\nnetwork_config_dir=\"{}\"\n\
             [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"runc\"\n",
            self.host.bin.display(),
            Self::networks().display()
        )
    }

    fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut podman = Command::new("podman");
        podman.env("CONTAINERS_CONF", format!("{FILES}/containers.conf"));
        podman.env("CONTAINERS_STORAGE_CONF", format!("{FILES}/storage.conf"));
        output(podman.args(arguments))
    }

    /// A container's network settings, and the path of its network namespace.
    fn inspect(&self, container: &str) -> Result<(Value, PathBuf), Failure> {
        let text = self.run(&["inspect", container, "--format", "{{json .NetworkSettings}}"])?;
        let settings: Value = serde_json::from_str(&text)?;
        let netns = settings["SandboxKey"].as_str().map(PathBuf::from).ok_or("no namespace")?;
        Ok((settings["Networks"].clone(), netns))
    }

    fn address(&self, container: &str, network: &str) -> Result<String, Failure> {
        let (networks, _) = self.inspect(container)?;
        let address = networks[network]["IPAddress"].as_str().filter(|text| !text.is_empty());
        Ok(address.ok_or_else(|| format!("no address in {network}: {networks}"))?.to_owned())
    }
}

/// Two containers of a network that podman made, a published port, a second network; then nothing is left.
fn a_network_lives_and_goes(whose: Whose) -> Outcome {
    let podman = Podman::new(whose)?;
    podman.run(&["network", "create", "--subnet", "10.77.0.0/24", "--ipv6", "--subnet", "fd77::/64", "net1"])?;
    podman.run(&["run", "-d", "--name", "one", "--network", "net1", "-p", "8080:80", image::NAME])?;
    podman.run(&["run", "-d", "--name", "two", "--network", "net1", image::NAME])?;
    let ((_, one), (_, two)) = (podman.inspect("one")?, podman.inspect("two")?);
    let address = podman.address("one", "net1")?;
    assert_eq!((&*address, &*podman.address("two", "net1")?), ("10.77.0.2", "10.77.0.3"));

    let server = serve(&one, 81, b"from one to two".to_vec())?;
    assert_eq!(fetch_in(&two, SocketAddr::new(address.parse()?, 81))?, "from one to two");
    server.done()?;
    let server = serve(&one, 80, b"from one to outside".to_vec())?;
    assert_eq!(podman.host.fetch(8080)?, "from one to outside");
    server.done()?;

    podman.run(&["network", "create", "--subnet", "10.78.0.0/24", "net2"])?;
    podman.run(&["network", "connect", "net2", "one"])?;
    assert_eq!(podman.address("one", "net2")?, "10.78.0.2");
    podman.run(&["network", "disconnect", "net2", "one"])?;
    podman.run(&["network", "rm", "net2"])?;

    podman.run(&["stop", "-t", "0", "one", "two"])?;
    podman.run(&["rm", "one", "two"])?;
    nothing_left(&["10.77.0.", "10.78.0.", "fd77::"])?;
    podman.run(&["network", "rm", "net1"])?;
    Ok(())
}

pub fn a_network_lives_and_goes_on_ours() -> Outcome {
    a_network_lives_and_goes(Whose::Ours)
}

pub fn a_network_lives_and_goes_with_their_chained_plugins() -> Outcome {
    a_network_lives_and_goes(Whose::OursThenTheirs)
}

pub fn a_network_lives_and_goes_behind_their_plugins() -> Outcome {
    a_network_lives_and_goes(Whose::TheirsThenOurs)
}

/// A container that is started again has its network again, and its port.
pub fn a_container_is_started_again() -> Outcome {
    let podman = Podman::new(Whose::Ours)?;
    podman.run(&["network", "create", "--subnet", "10.77.0.0/24", "net1"])?;
    podman.run(&["run", "-d", "--name", "one", "--network", "net1", "-p", "8080:80", image::NAME])?;
    for _ in 0..2 {
        podman.run(&["restart", "-t", "0", "one"])?;
        let (_, netns) = podman.inspect("one")?;
        let server = serve(&netns, 80, b"again".to_vec())?;
        assert_eq!(podman.host.fetch(8080)?, "again");
        server.done()?;
    }
    podman.run(&["rm", "-f", "-t", "0", "one"])?;
    nothing_left(&["10.77.0."])
}

/// Bits per second, and bits at once, of the limited container.
const RATE: usize = 8_000_000;
const BURST: usize = 800_000;

/// A list of podman's with `bandwidth` behind the bridge: what the container receives is no faster than the limit.
pub fn bandwidth_is_limited() -> Outcome {
    let podman = Podman::new(Whose::Ours)?;
    let list = json!({
        "cniVersion": "0.4.0", "name": "slow",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni-slow", "isGateway": true,
                "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.79.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] },
            },
            { "type": "bandwidth", "ingressRate": RATE, "ingressBurst": BURST },
        ],
    });
    fs::write(Podman::networks().join("slow.conflist"), list.to_string())?;
    podman.run(&["run", "-d", "--name", "one", "--network", "slow", image::NAME])?;
    podman.run(&["run", "-d", "--name", "two", "--network", "slow", image::NAME])?;
    let ((_, one), (_, two)) = (podman.inspect("one")?, podman.inspect("two")?);
    let at = SocketAddr::new(podman.address("one", "slow")?.parse()?, 80);
    // received by `two`, which is limited
    let took = time_transfer(&two, at, &one, 2_000_000)?;
    assert!(took >= limited(2_000_000), "2 MB took {took:?}");
    podman.run(&["rm", "-f", "-t", "0", "one", "two"])?;
    nothing_left(&["10.79.0."])
}

/// The least time that this many bytes take, less a tenth.
fn limited(bytes: usize) -> Duration {
    Duration::from_secs_f64(0.9 * (bytes * 8 - BURST) as f64 / RATE as f64)
}

/// A container that cannot have its address leaves nothing.
pub fn a_refused_container_leaves_nothing() -> Outcome {
    let podman = Podman::new(Whose::Ours)?;
    podman.run(&["network", "create", "--subnet", "10.77.0.0/24", "net1"])?;
    podman.run(&["run", "-d", "--name", "one", "--network", "net1", "--ip", "10.77.0.9", image::NAME])?;
    let before = left(&["10.77.0."])?;
    let refused = podman.run(&["run", "-d", "--name", "two", "--network", "net1", "--ip", "10.77.0.9", image::NAME]);
    let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("10.77.0.9 is not available"), "{error}");
    assert_eq!(left(&["10.77.0."])?, before);
    podman.run(&["rm", "-f", "-t", "0", "one", "two"])?;
    nothing_left(&["10.77.0."])
}
