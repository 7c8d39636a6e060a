//! Two flannelds on one host, each with its own network, store and subnet file: neither touches the other's objects.

use std::fs;
use std::path::PathBuf;

use kernel::types::TableId;
use lab::cluster::PATIENCE;
use lab::netns::Room;
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use overlay::status::{Status, path_beside};
use store::config_path;
use store::files;
use tests::harness;

use crate::disturb::{run, stays};
use crate::{Failure, Outcome};

/// A network: 10.NUMBER.0.0/PREFIX, with one peer.
struct Network {
    number: u8,
    prefix: u8,
    /// None: host-gw.
    vni: Option<u32>,
}

impl Network {
    fn new(number: u8, vni: Option<u32>) -> Self {
        Self { number, prefix: 16, vni }
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from(format!("/run/lab/network{}-{}", self.number, self.prefix))
    }

    fn subnet_file(&self) -> PathBuf {
        self.dir().join("subnet.env")
    }

    fn log(&self) -> PathBuf {
        self.dir().join("log")
    }

    /// The network's configuration, and the peer's lease.
    fn texts(&self) -> (String, String) {
        let Self { number, prefix, .. } = self;
        let (backend, data) = match self.vni {
            Some(vni) => (
                format!(r#"{{"Type":"vxlan","VNI":{vni}}}"#),
                format!(r#""vxlan","BackendData":{{"VNI":{vni},"VtepMAC":"02:00:00:00:{number:02x}:01"}}"#),
            ),
            None => (r#"{"Type":"host-gw"}"#.to_owned(), r#""host-gw""#.to_owned()),
        };
        (
            format!(r#"{{"Network":"10.{number}.0.0/{prefix}","Backend":{backend}}}"#),
            format!(r#"{{"PublicIP":"192.168.1.50","PublicIPv6":null,"BackendType":{data}}}"#),
        )
    }

    fn start(&self, room: &Room) -> Result<Daemon, Failure> {
        let store = self.dir().join("store");
        let config = config_path(&store, "/coreos.com/network");
        let (text, lease) = self.texts();
        files::replace(
            &config.with_file_name("subnets").join(format!("10.{}.100.0-24", self.number)),
            lease.as_bytes(),
        )?;
        files::replace(&config, text.as_bytes())?;
        let launch = Launch {
            program: harness::executables()?.flanneld,
            args: [
                format!("--store-dir={}", store.display()),
                "--iface=eth0".into(),
                "--ip-masq".into(),
                format!("--subnet-file={}", self.subnet_file().display()),
            ]
            .map(Into::into)
            .to_vec(),
            env: Vec::new(),
            netns: room.path().to_owned(),
            log: self.log(),
            outlive: false,
        };
        Ok(launch.start()?)
    }

    fn is_ready(&self) -> Outcome {
        Ok(eventually(format_args!("the flanneld of 10.{}.0.0/16 is ready", self.number), PATIENCE, || {
            if self.subnet_file().exists() { Ok(()) } else { Err(last_lines(&self.log())) }
        })?)
    }

    /// What is there for the network: its device's number, and its routes.
    fn seen(&self, room: &Room) -> Result<(Option<u32>, Vec<String>), Failure> {
        let mut kernel = room.kernel()?;
        let name = format!("flannel.{}", self.vni.unwrap_or_default());
        let device = kernel.links()?.into_iter().find(|link| link.name.as_str() == name).map(|link| link.index.0);
        let inside = format!("10.{}.", self.number);
        let routes = kernel.routes(TableId::MAIN)?.into_iter().map(|(key, _)| key.dst.to_string());
        Ok((device, routes.filter(|dst| dst.starts_with(&inside)).collect()))
    }

    fn status(&self) -> Result<Status, Failure> {
        Ok(serde_json::from_str(&fs::read_to_string(path_beside(&self.subnet_file()))?)?)
    }

    fn repairs(&self) -> Result<String, Failure> {
        Ok(format!("{:?}", self.status()?.drift))
    }
}

fn both_stand(networks: [Network; 2]) -> Outcome {
    let world = World::build(Topology::flat(1))?;
    let room = world.host(1)?;
    let mut daemons = Vec::new();
    for network in &networks {
        daemons.push(network.start(room)?);
        network.is_ready()?;
    }
    let look = || networks.each_ref().map(|network| network.seen(room));
    let before = look().into_iter().collect::<Result<Vec<_>, _>>()?;
    stays("what each of the two flannelds made", || {
        let now = look().into_iter().collect::<Result<Vec<_>, _>>()?;
        let whole = |(network, (device, routes)): (&Network, &(Option<u32>, Vec<String>))| {
            network.vni.is_some() == device.is_some() && *routes == [format!("10.{}.100.0/24", network.number)]
        };
        let good = now == before && networks.iter().zip(&now).all(whole);
        Ok((!good).then(|| format!("{now:?}, and before {before:?}")))
    })?;
    let tables = run(room, "nft list tables")?;
    let of_second = format!("table ip flannel-ipv4-10.{}.0.0/16", networks[1].number);
    assert!(tables.contains("table ip flannel-ipv4\n") && tables.contains(&of_second), "{tables}");
    for network in &networks {
        assert_eq!(network.repairs()?, "{}", "10.{}.0.0/16 repairs what the other flanneld breaks", network.number);
    }
    Ok(())
}

pub fn vxlan_beside_vxlan() -> Outcome {
    both_stand([Network::new(244, Some(1)), Network::new(245, Some(2))])
}

pub fn host_gw_beside_host_gw() -> Outcome {
    both_stand([Network::new(244, None), Network::new(245, None)])
}

pub fn vxlan_beside_host_gw() -> Outcome {
    both_stand([Network::new(244, Some(7)), Network::new(245, None)])
}

/// Starts the second network beside the first, and waits until it says why it does not serve.
fn second_is_refused(networks: [Network; 2], why: &str) -> Outcome {
    let world = World::build(Topology::flat(1))?;
    let room = world.host(1)?;
    let [first, second] = &networks;
    let _first = first.start(room)?;
    first.is_ready()?;
    let _second = second.start(room)?;
    eventually("the second network is refused", PATIENCE, || {
        let status = second.status().map_err(|error| error.to_string())?;
        match status.last_error {
            Some(error) if error.contains(why) => Ok(()),
            other => Err(format!("{other:?}; {}", last_lines(&second.log()))),
        }
    })?;
    assert!(!second.subnet_file().exists(), "it serves no pods");
    stays("what the first flanneld made", || {
        let (device, routes) = first.seen(room)?;
        let whole = first.vni.is_some() == device.is_some() && routes == [format!("10.{}.100.0/24", first.number)];
        Ok((!whole).then(|| format!("{device:?} {routes:?}")))
    })
}

pub fn one_vni_for_two_is_refused() -> Outcome {
    let networks = [Network::new(244, Some(1)), Network::new(245, Some(1))];
    second_is_refused(networks, "flannel.1 belongs to 10.244.0.0/16")
}

/// Without a device the other process is found by its claim.
pub fn a_network_inside_anothers_is_refused() -> Outcome {
    let inside = Network { prefix: 17, ..Network::new(244, None) };
    second_is_refused([Network::new(244, None), inside], "10.244.0.0/17 overlaps 10.244.0.0/16")
}
