//! Announces which networks this host serves, by sockets that live as long as the daemon.
//!
//! A socket is an abstract Unix socket with the name `flanneld/10.244.0.0/16`. Such names belong to a network
//! namespace, like the objects of a daemon, and disappear with the process, however it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use ipnetwork::IpNetwork;
use overlay::net::parse_cidr;
use overlay::status::ANNOUNCEMENT;
use rustix::net::sockopt::socket_peercred;

/// The sockets of this host's network namespace; a name that begins with `@` is abstract (proc(5)).
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// The networks that this daemon serves.
#[derive(Debug, Default)]
pub struct Claims {
    networks: Vec<IpNetwork>,
    /// The open sockets; their names exist as long as they do.
    sockets: BTreeMap<IpNetwork, UnixListener>,
}

impl Claims {
    /// Whether exactly these networks are claimed.
    pub fn are(&self, networks: &[IpNetwork]) -> bool {
        self.networks == networks
    }

    /// Claims `networks` in addition to those that are claimed. Skips a network that another daemon has claimed:
    /// [`served`] returns it.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn claim(&mut self, networks: &[IpNetwork]) -> io::Result<()> {
        for network in networks.iter().filter(|network| !self.sockets.contains_key(*network)).collect::<Vec<_>>() {
            match UnixListener::bind_addr(&address(*network)?) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                socket => drop(self.sockets.insert(*network, socket?)),
            }
        }
        Ok(())
    }

    /// Keeps only the claims to these networks, which this daemon serves.
    pub fn keep(&mut self, networks: Vec<IpNetwork>) {
        self.networks = networks;
        self.give_up();
    }

    /// Drops the last claim, because another daemon serves the network.
    pub fn give_up(&mut self) {
        self.sockets.retain(|network, _| self.networks.contains(network));
    }
}

fn address(network: IpNetwork) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{ANNOUNCEMENT}{network}"))
}

/// The networks that other flannelds on this host serve. Claims of unprivileged users do not count.
pub fn served() -> Vec<IpNetwork> {
    let sockets = fs::read_to_string(SOCKETS).unwrap_or_default();
    let claimed: BTreeSet<IpNetwork> = sockets.lines().filter_map(claimed).collect();
    claimed.into_iter().filter(|network| is_served(*network)).collect()
}

/// Parses a line of [`SOCKETS`]: seven fields, then the name.
fn claimed(line: &str) -> Option<IpNetwork> {
    parse_cidr(line.split_once(" @")?.1.strip_prefix(ANNOUNCEMENT)?)
}

fn is_served(network: IpNetwork) -> bool {
    let owner = address(network).and_then(|address| {
        let stream = UnixStream::connect_addr(&address)?;
        Ok(socket_peercred(&stream)?)
    });
    let me = rustix::process::geteuid();
    owner.is_ok_and(|owner| {
        let other = owner.pid != rustix::process::getpid();
        other && (owner.uid.is_root() || owner.uid == me)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_claim_is_read_from_a_line() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 7 @flanneld/10.244.0.0/16";
        assert_eq!(claimed(line), Some("10.244.0.0/16".parse().unwrap()));
        for other in [
            "Num       RefCount Protocol Flags    Type St Inode Path",
            "0000000000000000: 00000002 00000000 00010000 0001 01 7",
            "0000000000000000: 00000002 00000000 00010000 0001 01 7 /run/flanneld/10.244.0.0/16",
            "0000000000000000: 00000002 00000000 00010000 0001 01 7 @flanneld/10.244.0.0",
        ] {
            assert_eq!(claimed(other), None, "{other}");
        }
    }

    /// The own process is not another flanneld, but its socket exists.
    #[test]
    fn a_claim_lives_as_long_as_it_is_held() {
        let networks = nets(&["10.211.7.0/24", "fd00:211:7::/56"]);
        let there = || {
            let sockets = fs::read_to_string(SOCKETS).unwrap();
            networks.iter().filter(|net| sockets.lines().any(|line| claimed(line) == Some(**net))).count()
        };
        let mut claims = Claims::default();
        claims.claim(&networks).unwrap();
        assert!(!claims.are(&networks), "another daemon may serve them");
        claims.keep(networks.clone());
        assert!(claims.are(&networks) && !claims.are(&networks[..1]));
        assert_eq!((there(), served()), (2, vec![]));
        let mut late = Claims::default();
        late.claim(&networks).unwrap();
        assert_eq!(late.sockets.len(), 0, "they are taken");
        // One network less, and one that is refused.
        claims.claim(&networks[..1]).unwrap();
        claims.keep(networks[..1].to_vec());
        assert_eq!(there(), 1);
        claims.claim(&networks).unwrap();
        claims.give_up();
        assert_eq!(there(), 1);
        drop(claims);
        assert_eq!(there(), 0);
    }
}
