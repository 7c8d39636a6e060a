//! The fields that all links share; [`LinkKind`] has those of one kind.

use crate::link::{LinkKind, Made};
use crate::types::{IfName, Mac, Mtu};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kind. A link of another kind under the same name is not ours to touch; one of the same kind with different
    /// unchangeable fields is recreated.
    pub kind: LinkKind,
    /// How the link is created. Used at creation only. Observed: `Parent` when the lower link is in another
    /// namespace.
    pub birth: Birth,
    /// Another name under which the link may exist: it is then renamed, even while it is up, with all its objects
    /// (`ip link set … name …`). Never observed. Linux before 6.2 refuses to rename a link that is up.
    pub was: Option<IfName>,
    /// Whether the link is administratively up.
    pub up: bool,
    /// The MTU in bytes; `None`: the kernel's choice.
    pub mtu: Option<Mtu>,
    /// The MAC address; `None`: the kernel's choice (random for most kinds).
    pub mac: Option<Mac>,
    /// The bridge or other upper device that this link is a port of. `None`: any; `Some(None)`: none.
    pub master: Option<Option<IfName>>,
    /// IFLA_IFALIAS, up to 255 bytes: the owner's mark, which `ip link` shows.
    pub alias: Option<String>,
    /// IFF_PROMISC as set by an administrator (`ip link set promisc on`).
    pub promisc: Option<bool>,
    /// Whether all multicast packets are received: IFF_ALLMULTI as set by an administrator (`ip link set allmulticast on`).
    pub allmulti: Option<bool>,
    /// The largest number of packets that wait to be sent (`ip link set txqueuelen`). A link without a queue keeps the
    /// number for a queueing discipline that it gets later.
    pub queue_len: Option<u32>,
    /// Whether neighbours are resolved: not IFF_NOARP (`ip link set arp on`).
    pub arp: Option<bool>,
    /// IFF_MULTICAST (`ip link set multicast on`).
    pub multicast: Option<bool>,
    /// Whether the link is kept without a carrier, so that it sends nothing (`ip link set protodown on`).
    pub protodown: Option<bool>,
}

impl Link {
    /// A link of `kind` that is up, with everything else left to the kernel.
    pub fn up(kind: LinkKind) -> Self {
        Self {
            kind,
            birth: Birth::Here,
            was: None,
            up: true,
            mtu: None,
            mac: None,
            master: None,
            alias: None,
            promisc: None,
            allmulti: None,
            queue_len: None,
            arp: None,
            multicast: None,
            protodown: None,
        }
    }

    /// Whether one RTM_NEWLINK on this namespace's socket creates the link (`ip link add`).
    pub(crate) fn is_born_by_own_message(&self) -> bool {
        self.birth == Birth::Here && self.kind.as_kind().made() != Made::Ioctl
    }

    /// The alias of a link that is moved here: unless another is desired, its previous name, as upstream's
    /// host-device does, so that it can be moved back under that name.
    pub(crate) fn birth_alias<'a>(&'a self, from: &'a IfName) -> &'a str {
        self.alias.as_deref().unwrap_or(from.as_str())
    }
}

/// How a link gets into a pod's namespace. `Parent` and `Moved` need
/// [`Kernel::apply_from`](crate::Kernel::apply_from).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Birth {
    /// It is created there, with its lower link in the same namespace.
    #[default]
    Here,
    /// It is created from the parent's (the host's) namespace, where its lower link is and stays.
    Parent,
    /// The parent's link of this name is moved there. It is then down, and has this name as its alias unless another
    /// is desired. It is never recreated, because it belongs to the parent.
    Moved(IfName),
}

/// The flags of a bridge port (`bridge link set`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// Whether a frame may leave by the port that it arrived on.
    pub hairpin: bool,
    /// Whether the port is isolated: isolated ports cannot reach each other.
    pub isolated: bool,
    /// Whether frames pass. `None` on the desired side: whatever the port has.
    pub passing: Option<Passing>,
}

/// What decides whether frames pass a bridge port. The default is that of a new port, where all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// Addresses are learned from what comes in (`learning`).
    pub learning: bool,
    /// Frames to unknown addresses leave by it (`flood`).
    pub unicast: bool,
    /// Frames to groups leave by it (`mcast_flood`).
    pub multicast: bool,
    /// Frames to all leave by it (`bcast_flood`).
    pub broadcast: bool,
    /// ARP and NDP requests do not leave by it (`neigh_suppress`).
    pub suppressed: bool,
    /// Nothing from unknown addresses comes in (`locked`).
    pub locked: bool,
    /// Its link is up and it does not forward (`state`).
    pub blocked: bool,
}

impl Default for Passing {
    fn default() -> Self {
        Self {
            learning: true,
            unicast: true,
            multicast: true,
            broadcast: true,
            suppressed: false,
            locked: false,
            blocked: false,
        }
    }
}

impl Port {
    /// A port that is `have` does what this says; what this leaves open is not looked at.
    pub fn is_met_by(&self, have: &Self) -> bool {
        let passes = |passing: &Passing| *passing == have.passing.unwrap_or_default();
        (self.hairpin, self.isolated) == (have.hairpin, have.isolated) && self.passing.as_ref().is_none_or(passes)
    }
}
