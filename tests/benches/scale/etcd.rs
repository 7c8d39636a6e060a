//! An etcd server beside the host, and what is put into it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::types::Family;
use lab::process::{Daemon, Launch, last_lines};
use lab::wait::eventually;
use lab::world::World;
use lab::{Doing, Error};
use store::etcd::{Asked, Client, Options, pb};
use tokio::runtime::Runtime;

use crate::leases;

/// The lab's host that it runs on.
const HOST: usize = 2;
const PREFIX: &str = "/coreos.com/network";
const PATIENCE: Duration = Duration::from_secs(20);
/// etcd's own limit of operations in a transaction is 128.
const PAGE: usize = 100;

/// A server, new and empty.
pub struct Etcd<'a> {
    world: &'a World,
    url: String,
    client: Client,
    runtime: Runtime,
    _server: Daemon,
}

impl<'a> Etcd<'a> {
    /// Starts it with its data in `dir`, which is emptied.
    pub fn start(world: &'a World, dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).doing("make etcd's folder")?;
        let addr = world.topology.underlay(HOST, Family::V4).ok_or_else(|| Error::Wrong("no second host".into()))?;
        let (url, peer) = (format!("http://{addr}:2379"), format!("http://{addr}:2380"));
        let log = dir.join("log");
        let args = [
            format!("--data-dir={}", dir.join("data").display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--logger=zap".into(),
            "--log-level=error".into(),
        ];
        let launch = Launch {
            program: PathBuf::from("etcd"),
            args: args.map(Into::into).to_vec(),
            env: Vec::new(),
            netns: world.host(HOST)?.path().to_owned(),
            log: log.clone(),
            outlive: false,
        };
        let server = launch.start()?;
        let asked = Asked { endpoints: Some(url.clone()), ..Asked::default() };
        let options = Options::check(asked).map_err(|mistakes| Error::Wrong(mistakes.join("; ")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start a runtime")?;
        let etcd = Self { world, url, client: Client::new(options), runtime, _server: server };
        eventually("etcd answers", PATIENCE, || {
            etcd.put_all(&[("config".to_owned(), leases::CONFIG.to_owned())])
                .map_err(|error| format!("{error}; {}", last_lines(&log)))
        })?;
        Ok(etcd)
    }

    /// For `--etcd-endpoints`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Puts the leases of these peers.
    pub fn put(&self, peers: Range<usize>) -> Result<(), Error> {
        let all: Vec<_> = peers.map(|n| (format!("subnets/{}", leases::key(n)), leases::value(n))).collect();
        all.chunks(PAGE).try_for_each(|page| self.put_all(page))
    }

    /// Deletes the lease of peer `n`.
    pub fn delete(&self, n: usize) -> Result<(), Error> {
        let key = format!("{PREFIX}/subnets/{}", leases::key(n)).into_bytes();
        let delete = pb::DeleteRangeRequest { key, ..pb::DeleteRangeRequest::default() };
        self.write(vec![pb::RequestOp { request: Some(pb::Request::DeleteRange(delete)) }])
    }

    fn put_all(&self, pairs: &[(String, String)]) -> Result<(), Error> {
        let put = |(name, value): &(String, String)| {
            let key = format!("{PREFIX}/{name}").into_bytes();
            let put = pb::PutRequest { key, value: value.clone().into_bytes(), lease: 0 };
            pb::RequestOp { request: Some(pb::Request::Put(put)) }
        };
        self.write(pairs.iter().map(put).collect())
    }

    fn write(&self, success: Vec<pb::RequestOp>) -> Result<(), Error> {
        let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        let done = self.world.host(HOST)?.enter(|| self.runtime.block_on(self.client.txn(txn)))?;
        done.map(drop).doing("write to etcd")
    }
}
