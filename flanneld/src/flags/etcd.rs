//! The flags of the etcd store. As in upstream, etcd on this host is the default store.

use std::path::PathBuf;

use clap::Args;

use store::StoreOptions;
use store::etcd::{Asked, DEFAULT_ENDPOINTS, Options, Secret};

/// The flags as they were given.
#[derive(Args)]
pub(super) struct EtcdFlags {
    #[arg(long, value_name = "URLS", help = format!("etcd's members, URLs with commas between them [default: {DEFAULT_ENDPOINTS}]"))]
    etcd_endpoints: Option<String>,
    /// The private key of --etcd-certfile
    #[arg(long, value_name = "FILE")]
    etcd_keyfile: Option<String>,
    /// Client certificate for etcd; a replaced file is used from the next connection on
    #[arg(long, value_name = "FILE")]
    etcd_certfile: Option<String>,
    /// Certificates of the authorities that may sign etcd's certificate; default: the system's
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<String>,
    /// User name in etcd
    #[arg(long, value_name = "USER")]
    etcd_username: Option<String>,
    /// The user's password; FLANNELD_ETCD_PASSWORD keeps it out of the process list
    #[arg(long, value_name = "PASSWORD")]
    etcd_password: Option<String>,
}

impl EtcdFlags {
    /// The names of the flags that are set.
    fn given(&self) -> Vec<&'static str> {
        let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let all = [
            // upstream's default requests nothing
            (
                "--etcd-endpoints",
                text(&self.etcd_endpoints) && self.etcd_endpoints.as_deref() != Some(DEFAULT_ENDPOINTS),
            ),
            ("--etcd-keyfile", text(&self.etcd_keyfile)),
            ("--etcd-certfile", text(&self.etcd_certfile)),
            ("--etcd-cafile", text(&self.etcd_cafile)),
            ("--etcd-username", text(&self.etcd_username)),
            ("--etcd-password", text(&self.etcd_password)),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// The store that the flags select.
pub(super) fn store(dir: Option<PathBuf>, raw: EtcdFlags) -> Result<StoreOptions, Vec<String>> {
    let given = raw.given();
    let checked = Options::check(Asked {
        endpoints: raw.etcd_endpoints,
        key_file: raw.etcd_keyfile.map(PathBuf::from),
        cert_file: raw.etcd_certfile.map(PathBuf::from),
        ca_file: raw.etcd_cafile.map(PathBuf::from),
        username: raw.etcd_username,
        password: raw.etcd_password.map(Secret::new),
    });
    match dir.filter(|dir| !dir.as_os_str().is_empty()) {
        None => Ok(StoreOptions::Etcd(Box::new(checked?))),
        Some(dir) if given.is_empty() => Ok(StoreOptions::Embedded(dir)),
        Some(_) => {
            let both = format!("--store-dir and {}: use either a directory or etcd as the store", given.join(", "));
            Err(std::iter::once(both).chain(checked.err().into_iter().flatten()).collect())
        }
    }
}
