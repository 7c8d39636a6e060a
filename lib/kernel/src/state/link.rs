//! Links: how they are set. What they are made of is [`LinkKind`]'s.

use crate::link::{LinkKind, Made};
use crate::types::{IfName, Mac, Mtu};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What the link is. A link of another kind under the same name is not ours to touch; one of the same kind with
    /// other unchangeable fields is recreated.
    pub kind: LinkKind,
    /// How the link gets here. Read at creation only. Observed: `Parent` when the lower link is in another namespace.
    pub birth: Birth,
    /// The name under which the link may be found: there it is given its own one, up as it is, with all that hangs on it
    /// (`ip link set … name …`). Observed: never. Linux before 6.2 refuses that for a link that is up.
    pub was: Option<IfName>,
    /// Administratively up.
    pub up: bool,
    /// `None`: the kernel's choice.
    pub mtu: Option<Mtu>,
    /// `None`: the kernel's choice (random for most kinds).
    pub mac: Option<Mac>,
    /// The bridge (or other upper device) that this link is a port of. `None`: whatever it has; `Some(None)`: it is
    /// no port.
    pub master: Option<Option<IfName>>,
    /// IFLA_IFALIAS, up to 255 bytes: the owner mark that `ip link` shows.
    pub alias: Option<String>,
    /// IFF_PROMISC asked for by an administrator (`ip link set promisc on`).
    pub promisc: Option<bool>,
    /// Neighbours are resolved: not IFF_NOARP (`ip link set arp on`).
    pub arp: Option<bool>,
    /// IFF_MULTICAST (`ip link set multicast on`).
    pub multicast: Option<bool>,
    /// Kept without a carrier, so that nothing leaves by it (`ip link set protodown on`).
    pub protodown: Option<bool>,
}

impl Link {
    /// A link of `kind`, up, everything else left to the kernel.
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
            arp: None,
            multicast: None,
            protodown: None,
        }
    }

    /// True when one RTM_NEWLINK on this namespace's socket creates the link (`ip link add`).
    pub(crate) fn is_born_by_own_message(&self) -> bool {
        self.birth == Birth::Here && self.kind.as_kind().made() != Made::Ioctl
    }

    /// The alias that a link moved here gets: where nothing else is wanted, its name before, as upstream's host-device
    /// has it, so that it can be moved back under that.
    pub(crate) fn birth_alias<'a>(&'a self, from: &'a IfName) -> &'a str {
        self.alias.as_deref().unwrap_or(from.as_str())
    }
}

/// How a link of a pod gets into the pod's namespace. `Parent` and `Moved` need
/// [`Kernel::apply_from`](crate::Kernel::apply_from).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Birth {
    /// It is made there; its lower link is there, too.
    #[default]
    Here,
    /// It is made from the parent's (the host's) namespace, where its lower link is and stays.
    Parent,
    /// The parent's link of this name is moved there. It is down then, and has this name as its alias unless another
    /// is wanted. The link is never made anew: it is the parent's.
    Moved(IfName),
}

/// The flags of a bridge port (`bridge link set`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// A frame may leave by the port it came in by.
    pub hairpin: bool,
    /// Isolated ports cannot reach each other.
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
