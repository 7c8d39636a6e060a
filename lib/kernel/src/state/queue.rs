//! Queueing disciplines, and the filters that send arriving packets to another link: `tc`.

use std::fmt;

use ipnetwork::IpNetwork;

use crate::types::IfName;

/// Which queueing discipline of which link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QdiscKey {
    /// The link.
    pub dev: IfName,
    /// Its place on the link.
    pub place: QdiscPlace,
}

/// Where packets meet a queueing discipline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QdiscPlace {
    /// Packets that the link sends (`root`). The discipline that the kernel itself puts there is not observed.
    Root,
    /// Packets that the link receives (`ingress`).
    Ingress,
}

/// A queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qdisc {
    /// Limits the rate (net/sched/sch_tbf.c).
    Tbf(Tbf),
    /// Has filters, and no queue (net/sched/sch_ingress.c).
    Ingress,
    /// As [`Qdisc::Ingress`], also for packets that the link sends (`clsact`). Observed only.
    Clsact,
    /// Another kind, by the kernel's name. Observed only.
    Other(String),
}

/// A token bucket filter (`tc-tbf(8)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes per second.
    pub rate: u64,
    /// The largest number of bytes that leave at once.
    pub burst: u32,
    /// The largest number of bytes that wait.
    pub limit: u32,
}

/// The longest time by which the kernel's form of a burst may differ from the number of bytes: programs round its
/// duration to ticks of 64 ns, to nanoseconds, or to microseconds.
const ROUNDING_MICROS: u64 = 2;

impl Tbf {
    fn agrees(self, have: Self) -> bool {
        let tolerance = 1 + self.rate.saturating_mul(ROUNDING_MICROS) / 1_000_000;
        let burst = u64::from(self.burst.abs_diff(have.burst)) <= tolerance;
        burst && (self.rate, self.limit) == (have.rate, have.limit)
    }
}

impl Qdisc {
    /// Whether an observed discipline does what this one does.
    pub fn agrees(&self, have: &Self) -> bool {
        match (self, have) {
            (Self::Tbf(want), Self::Tbf(have)) => want.agrees(*have),
            (Self::Ingress, Self::Clsact) => true,
            (want, have) => want == have,
        }
    }

    /// The kernel's name of the kind.
    pub fn word(&self) -> &str {
        match self {
            Self::Tbf(_) => "tbf",
            Self::Ingress => "ingress",
            Self::Clsact => "clsact",
            Self::Other(word) => word,
        }
    }
}

/// Identifies a filter of the packets that a link receives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilterKey {
    /// The link. It needs a [`Qdisc::Ingress`].
    pub dev: IfName,
    /// The order: a filter with a smaller number sees a packet first (`prio`). Not 0.
    pub prio: u16,
}

/// What becomes of which packets (`u32`, net/sched/cls_u32.c). Later filters do not see a packet that a filter selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The packets.
    pub selects: Selects,
    /// What becomes of them.
    pub action: FilterAction,
}

/// The packets that a filter selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selects {
    /// All.
    All,
    /// IP packets to an address of this network.
    To(IpNetwork),
    /// Others. Observed only.
    Other,
}

/// What becomes of the packets that a filter selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterAction {
    /// They leave by this link instead (`action mirred egress redirect`). `None`: that link is gone, and the packets are
    /// dropped. Observed only.
    Redirect(Option<IfName>),
    /// They pass.
    Pass,
    /// Another action, or a filter of another kind. Observed only.
    Other,
}

impl fmt::Display for QdiscPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Root { "root" } else { "ingress" })
    }
}

impl fmt::Display for QdiscKey {
    /// `dev NAME root handle 1:` or `dev NAME`, as `tc qdisc` takes it before the kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            QdiscPlace::Root => write!(f, "dev {} root handle 1:", self.dev),
            QdiscPlace::Ingress => write!(f, "dev {}", self.dev),
        }
    }
}

impl fmt::Display for Qdisc {
    /// The kind and its parameters, after a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.word())?;
        match self {
            Self::Tbf(Tbf { rate, burst, limit }) => write!(f, " rate {rate}bps burst {burst} limit {limit}"),
            Self::Ingress | Self::Clsact | Self::Other(_) => Ok(()),
        }
    }
}

impl fmt::Display for Filter {
    /// The protocol, what the filter selects, and the action, after a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.selects {
            Selects::To(net) if net.is_ipv4() => write!(f, " protocol ip u32 match ip dst {net}")?,
            Selects::To(net) => write!(f, " protocol ipv6 u32 match ip6 dst {net}")?,
            Selects::All | Selects::Other => write!(f, " protocol all u32 match u32 0 0")?,
        }
        match &self.action {
            FilterAction::Redirect(Some(to)) => write!(f, " action mirred egress redirect dev {to}"),
            FilterAction::Redirect(None) | FilterAction::Pass | FilterAction::Other => {
                write!(f, " flowid 1:1")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_may_be_rounded_by_two_microseconds() {
        let tbf = |rate, burst| Qdisc::Tbf(Tbf { rate, burst, limit: 9 });
        // one gigabit per second: 125 bytes in a microsecond
        assert!(tbf(125_000_000, 10_000).agrees(&tbf(125_000_000, 10_251)));
        assert!(!tbf(125_000_000, 10_000).agrees(&tbf(125_000_000, 10_252)));
        assert!(tbf(1000, 10_000).agrees(&tbf(1000, 9_999)));
        assert!(!tbf(1000, 10_000).agrees(&tbf(1000, 9_998)));
        assert!(!tbf(1000, 10_000).agrees(&tbf(1001, 10_000)));
        assert!(tbf(u64::MAX, 0).agrees(&tbf(u64::MAX, u32::MAX)));
    }

    #[test]
    fn kinds_differ() {
        let all = [Qdisc::Ingress, Qdisc::Other("fq".into()), Qdisc::Other("htb".into())];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(one.agrees(other), i == j, "{one:?} {other:?}");
            }
        }
        assert!(Qdisc::Ingress.agrees(&Qdisc::Clsact) && !Qdisc::Clsact.agrees(&Qdisc::Ingress));
    }
}
