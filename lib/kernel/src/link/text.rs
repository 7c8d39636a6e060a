//! The commands that create and change links.

use std::fmt;
use std::os::fd::RawFd;

use super::{Made, Phase};
use crate::state::{Birth, Link};
use crate::types::IfName;

/// A file descriptor of this process, as a path that other programs can open while this one runs.
pub(crate) fn descriptor(fd: RawFd) -> String {
    format!("/proc/{}/fd/{fd}", std::process::id())
}

/// The command that creates a link. A link that is born from the parent's namespace is created there, and `netns`
/// names its destination.
pub(crate) struct Creation<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) link: &'a Link,
    pub(crate) netns: &'a str,
}

impl<'a> Creation<'a> {
    /// For an unknown namespace: the shell variable NETNS holds its path.
    pub(crate) fn new(name: &'a IfName, link: &'a Link) -> Self {
        Self { name, link, netns: "$NETNS" }
    }

    fn add(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, link, netns } = self;
        let kind = link.kind.as_kind();
        match kind.lower().filter(|_| kind.lower_comes_first()) {
            Some(lower) => write!(f, "ip link add link {lower} name {name}")?,
            None => write!(f, "ip link add {name}")?,
        }
        if link.birth == Birth::Parent {
            write!(f, " netns {netns}")?;
        }
        link.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))?;
        link.mac.map_or(Ok(()), |mac| write!(f, " address {mac}"))?;
        kind.options(f)?;
        if let Some(Some(master)) = &link.master {
            write!(f, " master {master}")?;
        }
        flags(f, link.arp, link.multicast)?;
        write!(f, " type {}", kind.word())?;
        kind.parameters(f, Phase::Creation)
    }

    fn move_in(&self, from: &IfName, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, link, netns } = self;
        write!(f, "ip link set dev {from} netns {netns} name {name} alias {:?}", link.birth_alias(from))
    }
}

impl fmt::Display for Creation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.link.kind.as_kind();
        match &self.link.birth {
            Birth::Moved(from) => self.move_in(from, f),
            _ if kind.made() == Made::Ioctl => {
                write!(f, "ip tuntap add dev {}", self.name)?;
                kind.parameters(f, Phase::Creation)
            }
            _ => self.add(f),
        }
    }
}

/// `arp` and `multicast`, as `ip link` has them.
pub(crate) fn flags(f: &mut fmt::Formatter<'_>, arp: Option<bool>, multicast: Option<bool>) -> fmt::Result {
    for (word, wanted) in [("arp", arp), ("multicast", multicast)] {
        if let Some(on) = wanted {
            write!(f, " {word} {}", if on { "on" } else { "off" })?;
        }
    }
    Ok(())
}
