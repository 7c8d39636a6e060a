//! Reads flanneld's files on this host: subnet.env, and status.json beside it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cni::conf::Conf;
use cni::error::{Error, code};
use cni::quote;
use gojson::Json;
use ipnetwork::IpNetwork;
use overlay::subnet_env::{DEFAULT_PATH, SubnetEnv, load_error};
use serde::Deserialize;

/// The paths of flanneld's files.
pub(super) struct Host {
    subnet_file: PathBuf,
}

/// The fields of status.json that the plugin needs. Go's flanneld writes no status.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    pid: u32,
    network: Vec<String>,
    backend: String,
    direct_routing: bool,
    last_error: Option<String>,
}

/// A running flanneld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    pub(super) pid: u32,
    /// Its networks; empty while it has not written any.
    pub(super) network: Vec<IpNetwork>,
}

/// How packets reach other hosts, named after the plugin that requires it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataPath {
    Vxlan,
    DirectRouting,
    HostGw,
}

impl DataPath {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::DirectRouting => "direct-routing",
            Self::HostGw => "host-gw",
        }
    }
}

impl Status {
    /// The plugin that matches flanneld's data path, or else the backend's name; `None` while flanneld has not
    /// written it.
    fn data_path(&self) -> Option<&str> {
        match (self.backend.as_str(), self.direct_routing) {
            ("", _) => None,
            ("vxlan", true) => Some(DataPath::DirectRouting.name()),
            (backend, _) => Some(backend),
        }
    }
}

impl Host {
    /// Uses `subnetFile` of the configuration, or upstream's path.
    pub(super) fn of(conf: &Conf) -> Self {
        let given = conf.tree().get("subnetFile").and_then(Json::as_str).filter(|path| !path.is_empty());
        Self { subnet_file: given.unwrap_or(DEFAULT_PATH).into() }
    }

    /// The subnets that flanneld leased, for a plugin that may require a data path.
    ///
    /// # Errors
    /// Those of [`Host::subnet_env`] and [`Host::require`].
    pub(super) fn leased(&self, wanted: Option<DataPath>) -> Result<SubnetEnv, Error> {
        let env = self.subnet_env()?;
        wanted.map_or(Ok(()), |wanted| self.require(wanted))?;
        Ok(env)
    }

    /// The subnets that flanneld leased. Returns code 11 until it has written them.
    pub(super) fn subnet_env(&self) -> Result<SubnetEnv, Error> {
        let path = self.subnet_file.display().to_string();
        let bytes = fs::read(&self.subnet_file).map_err(|cause| self.unreadable(&path, &cause))?;
        SubnetEnv::parse(&path, &String::from_utf8_lossy(&bytes)).map_err(|cause| Error::internal(load_error(&cause)))
    }

    fn unreadable(&self, path: &str, cause: &io::Error) -> Error {
        if cause.kind() != ErrorKind::NotFound {
            return Error::new(code::IO, load_error(&format_args!("open {path}: {cause}")));
        }
        let msg = load_error(&format_args!("open {path}: no such file or directory"));
        let details = match self.status().and_then(|status| status.last_error) {
            Some(last) => {
                format!("flanneld has not finished starting on this host; its last error was {}", quote(&last))
            }
            None => "flanneld has not finished starting on this host, or does not run".to_owned(),
        };
        Error::new(code::TRY_AGAIN, msg).with_details(details)
    }

    /// Returns code 11 when flanneld runs another data path. A data path that it has not written yet is accepted.
    fn require(&self, wanted: DataPath) -> Result<(), Error> {
        let Some(status) = self.status() else { return Ok(()) };
        let wanted = wanted.name();
        match status.data_path() {
            Some(runs) if runs != wanted => Err(Error::new(
                code::TRY_AGAIN,
                format!(
                    "{wanted}: the network asks for {wanted}, but flanneld on this host runs {runs}: make one follow the \
                     other, or use \"type\": \"flannel\", which takes what the host runs"
                ),
            )
            .with_details(format!("as {} says", self.status_file().display()))),
            _ => Ok(()),
        }
    }

    /// The flanneld that wrote status.json, if it still runs. One in another PID namespace is invisible, but its
    /// marks in the kernel are not.
    pub(super) fn daemon(&self) -> Option<Daemon> {
        let status = self.status().filter(|status| status.pid != 0)?;
        let comm = fs::read_to_string(format!("/proc/{}/comm", status.pid)).ok()?;
        let network = status.network.iter().filter_map(|text| gojson::parse_cidr(text)).collect();
        (comm.trim_end() == "flanneld").then_some(Daemon { pid: status.pid, network })
    }

    fn status_file(&self) -> PathBuf {
        self.subnet_file.parent().unwrap_or(Path::new("/")).join("status.json")
    }

    fn status(&self) -> Option<Status> {
        gojson::decode(&fs::read(self.status_file()).ok()?).ok()
    }
}
