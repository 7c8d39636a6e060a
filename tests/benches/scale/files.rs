//! The embedded store's files, written as another daemon of the machine writes them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lab::{Doing, Error};

use crate::daemon::ROOT;
use crate::leases;

/// A store of files with the network's configuration.
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes it, without a lease.
    pub fn make() -> Result<Self, Error> {
        let files = Self { dir: Path::new(ROOT).join("store") };
        fs::create_dir_all(files.network().join("subnets")).doing("make the store")?;
        fs::write(files.network().join("config"), leases::CONFIG).doing("write the configuration")?;
        Ok(files)
    }

    fn network(&self) -> PathBuf {
        self.dir.join("coreos.com/network")
    }

    /// The flag that names it.
    pub fn flag(&self) -> String {
        format!("--store-dir={}", self.dir.display())
    }

    /// Writes the leases of these peers, each at once whole.
    pub fn put(&self, peers: Range<usize>) -> Result<(), Error> {
        for n in peers {
            let (draft, lease) = (self.dir.join("draft"), self.network().join("subnets").join(leases::key(n)));
            fs::write(&draft, leases::value(n)).and_then(|()| fs::rename(&draft, lease)).doing("write a lease")?;
        }
        Ok(())
    }

    /// Removes the lease of peer `n`.
    pub fn delete(&self, n: usize) -> Result<(), Error> {
        fs::remove_file(self.network().join("subnets").join(leases::key(n))).doing("remove a lease")
    }
}
