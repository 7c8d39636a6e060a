//! The machine as a host of pods: another machine outside, the plugins, and what attachments leave.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use attachment::record::{DIRECTORY, list, networks};
use lab::netns::{Room, enter_path};
use lab::pods::place_plugins;
use lab::wait::eventually;
use tests::harness::executables;

use crate::{Failure, Outcome};

/// Where Debian's `containernetworking-plugins` are.
pub const REFERENCE: &str = "/usr/lib/cni";
/// The files of the runtimes.
pub const FILES: &str = "/run/t3";
/// The machine's address on the wire to the outside.
pub const ADDRESS: &str = "192.0.2.1";
/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which plugins a runtime calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This project's; Debian's are there for names that this project does not have.
    Ours,
    /// This project's for interfaces and addresses, Debian's chained behind them.
    OursThenTheirs,
    /// Debian's for interfaces and addresses, this project's chained behind them.
    TheirsThenOurs,
}

/// The reference plugins that are chained behind others.
const CHAINED: [&str; 6] = ["bandwidth", "firewall", "portmap", "sbr", "tuning", "vrf"];

/// A host with a wire to another machine.
pub struct Host {
    /// The other machine, 192.0.2.2.
    outside: Room,
    /// The plugins: CNI_PATH.
    pub bin: PathBuf,
}

impl Host {
    pub fn new(whose: Whose) -> Result<Self, Failure> {
        fs::create_dir_all(FILES)?;
        let outside = Room::create("outside")?;
        for line in [
            "link set lo up",
            "link add up0 type veth peer name out0 netns outside",
            "address add 192.0.2.1/24 dev up0",
            "link set up0 up",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        outside.enter(|| {
            run("ip", &["address", "add", "192.0.2.2/24", "dev", "out0"])?;
            run("ip", &["link", "set", "out0", "up"])
        })??;
        let host = Self { outside, bin: PathBuf::from("/opt/cni/bin") };
        host.install(whose)?;
        Ok(host)
    }

    /// Fills the directory with this project's plugins, and replaces or completes them by Debian's.
    pub fn install(&self, whose: Whose) -> Outcome {
        plugins(&self.bin, whose)
    }

    /// What the outside receives from a port of this machine.
    pub fn fetch(&self, port: u16) -> Result<String, Failure> {
        let at = SocketAddr::new(ADDRESS.parse()?, port);
        self.outside.enter(|| fetch(at))?
    }
}

fn plugins(bin: &Path, whose: Whose) -> Outcome {
    match fs::remove_dir_all(bin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(bin)?,
    }
    place_plugins(&executables()?.plugins, bin)?;
    for entry in fs::read_dir(REFERENCE)? {
        let entry = entry?;
        let (name, place) = (entry.file_name(), bin.join(entry.file_name()));
        let chained = name.to_str().is_some_and(|name| CHAINED.contains(&name));
        let replaces = match whose {
            Whose::Ours => false,
            Whose::OursThenTheirs => chained,
            Whose::TheirsThenOurs => !chained,
        };
        if replaces && place.exists() {
            fs::remove_file(&place)?;
        }
        if !place.exists() {
            symlink(entry.path(), &place)?;
        }
    }
    Ok(())
}

/// Runs a program, and returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    output(Command::new(program).args(arguments))
}

/// The same for a prepared command.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(text.trim().to_owned());
    }
    Err(format!("{command:?}: {}: {text}{errors}", output.status).into())
}

/// A server in a pod.
pub struct Server {
    thread: JoinHandle<std::io::Result<()>>,
}

/// Serves one connection to `port` in the network namespace at `netns`: sends `bytes`, and closes.
pub fn serve(netns: &Path, port: u16, bytes: Vec<u8>) -> Result<Server, Failure> {
    let listener =
        enter_path(netns, || TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))))??;
    let thread = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept()?;
        connection.write_all(&bytes)
    });
    Ok(Server { thread })
}

impl Server {
    /// Waits for its end.
    pub fn done(self) -> Outcome {
        Ok(self.thread.join().map_err(|_| "the server panicked")??)
    }
}

/// What a server sends.
pub fn fetch(at: SocketAddr) -> Result<String, Failure> {
    let connect = || TcpStream::connect_timeout(&at, Duration::from_secs(2)).map_err(|error| error.to_string());
    let mut connection = eventually(format!("a connection to {at}"), PATIENCE, connect)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

/// The answer of an HTTP server.
pub fn get(at: SocketAddr, path: &str) -> Result<String, Failure> {
    let mut connection = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

/// What the server at `at` sends to the pod at `netns`.
pub fn fetch_in(netns: &Path, at: SocketAddr) -> Result<String, Failure> {
    enter_path(netns, || fetch(at))?
}

/// How long `bytes` take to the place at `from` from the pod at `to`, whose address is `at`.
pub fn time_transfer(from: &Path, at: SocketAddr, to: &Path, bytes: usize) -> Result<Duration, Failure> {
    let server = serve(to, at.port(), vec![b'x'; bytes])?;
    let started = Instant::now();
    let got = fetch_in(from, at)?;
    let took = started.elapsed();
    server.done()?;
    if got.len() == bytes { Ok(took) } else { Err(format!("{} of {bytes} bytes arrived", got.len()).into()) }
}

/// The links, reservations, records and cached results of pods, and the packet rules with one of `words`.
pub fn left(words: &[&str]) -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    for kind in ["veth", "ifb"] {
        left.extend(run("ip", &["-o", "link", "show", "type", kind])?.lines().map(str::to_owned));
    }
    left.retain(|line| !line.contains(": up0@"));
    for network in networks(Path::new(DIRECTORY))? {
        left.extend(
            list(Path::new(DIRECTORY), &network)?.into_iter().map(|(id, ifname)| format!("record {id}@{ifname}")),
        );
    }
    // host-local's own folder, and kindnet's
    for folder in ["/var/lib/cni/networks", "/run/cni-ipam-state"].iter().flat_map(|dir| folders(Path::new(dir))) {
        let files = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        left.extend(files.filter(|name| name.parse::<std::net::IpAddr>().is_ok()));
    }
    let results = fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten();
    left.extend(results.map(|entry| entry.path().display().to_string()));
    let rules = run("nft", &["list", "ruleset"])?;
    left.extend(rules.lines().filter(|line| words.iter().any(|word| names(line, word))).map(str::to_owned));
    Ok(left)
}

/// Whether a packet rule has this word. The beginning of an address stands for those of pods, and not for their network,
/// which frames of tables keep.
fn names(rule: &str, word: &str) -> bool {
    let begins_address = word.ends_with(['.', ':']);
    let of_pod = |rest: &str| rest.starts_with(|c: char| c != '0' && c.is_ascii_hexdigit());
    rule.match_indices(word).any(|(at, _)| !begins_address || of_pod(&rule[at + word.len()..]))
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Waits until pods have left nothing.
pub fn nothing_left(words: &[&str]) -> Outcome {
    let look = || match left(words) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("{left:#?}")),
        Err(error) => Err(error.to_string()),
    };
    Ok(eventually("the pods have left nothing", PATIENCE, look)?)
}
