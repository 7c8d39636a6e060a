//! Real etcd servers on hosts of the lab, and what etcdctl says of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kernel::types::Family;
use lab::process::{Daemon, Launch, last_lines};
use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use overlay::lease::{StoredAttrs, Subnets};
use rustix::process::{Pid, Signal, kill_process};
use store::etcd::{Asked, Options, Timing};
use store::{Changes, CompareStore, Etcd, Feed, Raw, StoreError, StoreHealth, Written};

use crate::{Failure, Outcome};

pub const PREFIX: &str = "/coreos.com/network";
const PATIENCE: Duration = Duration::from_secs(15);

/// Where a lab's files are: on the sandbox's own tmpfs.
pub fn dir() -> PathBuf {
    PathBuf::from("/run/lab/etcd")
}

/// One etcd server.
pub struct Member {
    host: usize,
    addr: IpAddr,
    launch: Launch,
    process: Option<Daemon>,
    /// `http` or `https`.
    scheme: &'static str,
}

/// What a member is started with.
#[derive(Clone, Default)]
pub struct Start {
    /// The hosts of all members.
    pub hosts: Vec<usize>,
    /// More of etcd's flags.
    pub more: Vec<String>,
    pub tls: bool,
}

impl Member {
    /// Prepares the member on `host`.
    pub fn new(world: &World, host: usize, start: &Start) -> Result<Self, Failure> {
        fs::create_dir_all(dir())?;
        let addr = world.topology.underlay(host, Family::V4).ok_or("no such host")?;
        let peer = |host: usize| {
            let addr = world.topology.underlay(host, Family::V4).map(|addr| addr.to_string()).unwrap_or_default();
            format!("m{host}=http://{addr}:2380")
        };
        let cluster: Vec<String> = start.hosts.iter().map(|host| peer(*host)).collect();
        let scheme = if start.tls { "https" } else { "http" };
        let mut args = vec![
            format!("--name=m{host}"),
            format!("--data-dir={}", data_dir(host).display()),
            format!("--listen-client-urls={scheme}://{addr}:2379"),
            format!("--advertise-client-urls={scheme}://{addr}:2379"),
            format!("--listen-peer-urls=http://{addr}:2380"),
            format!("--initial-advertise-peer-urls=http://{addr}:2380"),
            format!("--initial-cluster={}", cluster.join(",")),
            "--heartbeat-interval=30".into(),
            "--election-timeout=300".into(),
            // the tests ask more often than a daemon would
            "--grpc-keepalive-min-time=200ms".into(),
            "--logger=zap".into(),
            "--log-level=error".into(),
        ];
        args.extend(start.more.iter().cloned());
        let launch = Launch {
            program: PathBuf::from("etcd"),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            netns: world.host(host)?.path().to_owned(),
            log: dir().join(format!("m{host}.log")),
            outlive: false,
        };
        Ok(Self { host, addr, launch, process: None, scheme })
    }

    pub fn url(&self) -> String {
        format!("{}://{}:2379", self.scheme, self.addr)
    }

    /// Starts it, without waiting.
    pub fn launch(&mut self) -> Outcome {
        self.process = Some(self.launch.clone().start()?);
        Ok(())
    }

    /// Waits until it takes connections.
    pub fn wait(&self, world: &World) -> Outcome {
        let at = SocketAddr::new(self.addr, 2379);
        let connect = || world.host(self.host)?.enter(|| TcpStream::connect_timeout(&at, Duration::from_millis(200)));
        eventually(format_args!("etcd at {at}"), PATIENCE, || match connect() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("{error}; {}", last_lines(&self.launch.log))),
            Err(error) => Err(error.to_string()),
        })?;
        Ok(())
    }

    pub fn start(&mut self, world: &World) -> Outcome {
        self.launch()?;
        self.wait(world)
    }

    pub fn kill(&mut self) -> Outcome {
        Ok(self.process.take().ok_or("it does not run")?.kill()?)
    }

    /// SIGSTOP: it holds its connections and answers nothing.
    pub fn pause(&self) -> Outcome {
        self.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Outcome {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Outcome {
        let pid = self.process.as_ref().and_then(|process| Pid::from_raw(process.pid() as i32));
        Ok(kill_process(pid.ok_or("it does not run")?, signal)?)
    }

    /// Deletes what it has stored.
    pub fn wipe(&self) -> Outcome {
        Ok(fs::remove_dir_all(data_dir(self.host))?)
    }

    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.host)
    }
}

fn data_dir(host: usize) -> PathBuf {
    dir().join(format!("m{host}"))
}

/// Hosts and one etcd.
pub struct Lab {
    pub world: World,
    pub etcd: Member,
}

impl Lab {
    /// `hosts` hosts, and etcd on one more behind the same switch.
    pub fn up(hosts: usize) -> Result<Self, Failure> {
        let mut lab = Self::prepare(hosts, &Start::default())?;
        lab.etcd.start(&lab.world)?;
        Ok(lab)
    }

    /// The same, with no etcd running yet.
    pub fn prepare(hosts: usize, start: &Start) -> Result<Self, Failure> {
        let world = World::build(Topology::flat(hosts + 1))?;
        let start = Start { hosts: vec![hosts + 1], ..start.clone() };
        let etcd = Member::new(&world, hosts + 1, &start)?;
        Ok(Self { world, etcd })
    }

    /// Runs etcdctl beside etcd and gives what it prints.
    pub fn ctl(&self, args: &[&str]) -> Result<String, Failure> {
        self.ctl_as(&[], args)
    }

    pub fn ctl_as(&self, who: &[&str], args: &[&str]) -> Result<String, Failure> {
        ctl(&self.world, self.etcd.host, &self.etcd.url(), &[who, args].concat())
    }

    pub fn put(&self, name: &str, value: &str) -> Outcome {
        self.ctl(&["put", &format!("{PREFIX}/{name}"), value]).map(|_| ())
    }

    pub fn configure(&self, json: &str) -> Outcome {
        self.put("config", json)
    }

    /// The fields of one key.
    pub fn key(&self, name: &str) -> Result<Key, Failure> {
        Key::parse(&self.ctl(&["get", &format!("{PREFIX}/subnets/{name}"), "-w", "fields"])?)
    }

    /// The names of all leases.
    pub fn leases(&self) -> Result<Vec<String>, Failure> {
        let folder = format!("{PREFIX}/subnets/");
        let text = self.ctl(&["get", "--prefix", &folder, "--keys-only"])?;
        Ok(text.lines().filter_map(|line| line.strip_prefix(&folder)).map(str::to_owned).collect())
    }

    /// The store as a daemon on host 1 has it, and work with it there.
    pub fn with_store<T>(&self, work: impl AsyncFnOnce(&mut Followed) -> Result<T, Failure>) -> Result<T, Failure> {
        with_store(&self.world, options(&self.etcd.url())?, work)
    }
}

/// Opens a store on host 1 and works with it there.
pub fn with_store<T>(
    world: &World,
    options: Options,
    work: impl AsyncFnOnce(&mut Followed) -> Result<T, Failure>,
) -> Result<T, Failure> {
    world.host(1)?.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async { work(&mut Followed::open(options)).await });
        runtime.shutdown_background();
        outcome
    })?
}

/// Options for `endpoints`, less patient than a daemon's.
pub fn options(endpoints: &str) -> Result<Options, Failure> {
    let asked = Asked { endpoints: Some(endpoints.into()), ..Asked::default() };
    Ok(quick(Options::check(asked).map_err(|mistakes| mistakes.join("; "))?))
}

/// The same for one that a busy etcd may keep waiting.
pub fn patient(endpoints: &str) -> Result<Options, Failure> {
    let options = options(endpoints)?;
    Ok(Options { timing: Timing { call: PATIENCE, ..options.timing }, ..options })
}

pub fn quick(options: Options) -> Options {
    let (call, half) = (Duration::from_secs(1), Duration::from_millis(500));
    let timing = Timing { connect: half, call, keep_alive: half, keep_alive_answer: half };
    Options { timing, ..options }
}

/// Runs etcdctl on `host`.
pub fn ctl(world: &World, host: usize, endpoint: &str, args: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(args);
    let output = world.host(host)?.enter(|| command.output())??;
    if !output.status.success() {
        return Err(format!("etcdctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A key as `etcdctl get -w fields` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub lease: i64,
}

impl Key {
    fn parse(text: &str) -> Result<Self, Failure> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")));
            line.ok_or_else(|| format!("no {name} in {text}"))
        };
        Ok(Self {
            value: serde_json::from_str(field("Value")?)?,
            create_revision: field("CreateRevision")?.parse()?,
            mod_revision: field("ModRevision")?.parse()?,
            lease: field("Lease")?.parse()?,
        })
    }
}

/// Everything that a store has delivered so far.
#[derive(Debug, Clone)]
pub struct View {
    pub health: StoreHealth,
    /// Each lease's key and what it says.
    pub leases: BTreeMap<String, StoredAttrs>,
    /// How many change sets there were, and how many of them were snapshots.
    pub changes: usize,
    pub snapshots: usize,
}

impl View {
    /// Takes a change set.
    pub fn take(&mut self, changes: Changes) {
        let Changes { leases, health, .. } = changes;
        self.changes += 1;
        self.health = health;
        if leases.snapshot {
            self.snapshots += 1;
            self.leases.clear();
        }
        self.leases.extend(leases.put.into_iter().map(|lease| (lease.subnets.to_string(), lease.attrs)));
        leases.gone.iter().for_each(|gone| drop(self.leases.remove(&gone.to_string())));
    }
}

/// etcd as a daemon uses it: writes, and the changes that it delivers.
pub struct Followed {
    etcd: Etcd,
    feed: Feed,
    pub view: View,
}

impl Followed {
    pub fn open(options: Options) -> Self {
        let (etcd, feed) = Etcd::open(options, PREFIX);
        let view = View { health: feed.health(), leases: BTreeMap::new(), changes: 0, snapshots: 0 };
        Self { etcd, feed, view }
    }

    pub async fn read(&self, key: &str) -> Result<Option<Raw>, StoreError> {
        self.etcd.read(subnets(key)).await
    }

    pub async fn create(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        self.etcd.create(subnets(key), value, ttl).await
    }

    pub async fn renew(&self, key: &str, old: &[u8], new: &[u8], ttl: Option<Duration>) -> Result<Written, StoreError> {
        self.etcd.renew(subnets(key), old, new, ttl).await
    }

    pub async fn delete(&self, key: &str, old: &[u8]) -> Result<Written, StoreError> {
        self.etcd.delete(subnets(key), old).await
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.etcd.addresses()
    }

    /// Waits until the view is as wanted, and gives it.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&View) -> bool) -> Result<View, Failure> {
        self.until_within(PATIENCE, what, wanted).await
    }

    pub async fn until_within(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&View) -> bool,
    ) -> Result<View, Failure> {
        let seen = tokio::time::timeout(limit, async {
            while !wanted(&self.view) {
                self.view.take(self.feed.changes().await?);
            }
            Ok::<_, Failure>(())
        });
        match seen.await {
            Ok(seen) => seen.map(|()| self.view.clone()),
            Err(_) => {
                let last = format!("{:?}", self.view);
                Err(format!("{what}: not within {limit:?}; last seen: {}", &last[..last.len().min(2000)]).into())
            }
        }
    }
}

/// The subnets of a key that a test writes.
pub fn subnets(key: &str) -> Subnets {
    key.parse().unwrap_or_default()
}

/// A host's lease in upstream's words.
pub fn value(n: usize) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

/// Its words in a log.
pub fn says(log: &Path, words: &str) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains(words))
}
