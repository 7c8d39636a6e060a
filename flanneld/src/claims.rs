//! Which networks are served on this host, said by a socket that lives as long as the daemon.
//!
//! The socket is an abstract one of the Unix family, called `flanneld/10.244.0.0/16`: such names belong to a network
//! namespace, as what a daemon makes does, and nothing is left of them when the daemon is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use ipnetwork::IpNetwork;
use overlay::net::parse_cidr;
use rustix::net::sockopt::socket_peercred;

const PREFIX: &str = "flanneld/";

/// The sockets of this host's network namespace, those with a name that begins with `@` abstract ones (proc(5)).
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// The networks that this daemon serves.
#[derive(Debug, Default)]
pub struct Claims {
    networks: Vec<IpNetwork>,
    /// Kept: the names are there as long as these are.
    sockets: BTreeMap<IpNetwork, UnixListener>,
}

impl Claims {
    /// Exactly these networks are claimed already.
    pub fn are(&self, networks: &[IpNetwork]) -> bool {
        self.networks == networks
    }

    /// Claims `networks` beside those that are claimed. One that another daemon has claimed is not claimed a second time:
    /// [`served`] names it.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn claim(&mut self, networks: &[IpNetwork]) -> io::Result<()> {
        for network in networks.iter().filter(|network| !self.sockets.contains_key(*network)).collect::<Vec<_>>() {
            match UnixListener::bind_addr(&address(*network)?) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                socket => drop(self.sockets.insert(*network, socket?)),
            }
        }
        Ok(())
    }

    /// These are served, and no others.
    pub fn keep(&mut self, networks: Vec<IpNetwork>) {
        self.networks = networks;
        self.give_up();
    }

    /// What was claimed last is not served: another daemon does.
    pub fn give_up(&mut self) {
        self.sockets.retain(|network, _| self.networks.contains(network));
    }
}

fn address(network: IpNetwork) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{PREFIX}{network}"))
}

/// The networks that other flannelds on this host serve. What a user without their rights claims is no claim.
pub fn served() -> Vec<IpNetwork> {
    let sockets = fs::read_to_string(SOCKETS).unwrap_or_default();
    let claimed: BTreeSet<IpNetwork> = sockets.lines().filter_map(claimed).collect();
    claimed.into_iter().filter(|network| is_served(*network)).collect()
}

/// A line of [`SOCKETS`]: seven fields, then the name.
fn claimed(line: &str) -> Option<IpNetwork> {
    parse_cidr(line.split_once(" @")?.1.strip_prefix(PREFIX)?)
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

    /// The own process is no other flanneld; the socket is there all the same.
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
        // a network less, and one that is refused
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
