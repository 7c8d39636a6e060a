//! Raises the limits of the neighbour tables when there are more peers than they allow.
//!
//! Every peer has a neighbour entry. Before Linux 4.20 permanent entries count towards the limits (`neigh_alloc`,
//! net/core/neighbour.c), and beyond `gc_thresh3` (1,024) none can be added: "Neighbour table overflow". The limits
//! belong to the machine: only the first network namespace has them.

use kernel::types::Family;

use crate::net::ByFamily;

/// gc_thresh1 to gc_thresh3 per family, if this namespace has them.
pub type Limits = ByFamily<Option<[u32; 3]>>;

const NAMES: [&str; 3] = ["gc_thresh1", "gc_thresh2", "gc_thresh3"];

/// The paths of a family's limits below `/proc/sys`, gc_thresh1 first.
pub fn paths(family: Family) -> [String; 3] {
    let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
    NAMES.map(|name| format!("net/{family}/neigh/default/{name}"))
}

/// Higher limits, if `neighbours` entries would take more than half of a table; the other half is for other programs.
pub fn higher(neighbours: ByFamily<usize>, now: &Limits) -> Limits {
    let of = |family| enough(*neighbours.get(family), (*now.get(family))?);
    Limits { v4: of(Family::V4), v6: of(Family::V6) }
}

/// The kernel's own proportions (128, 512, 1,024), scaled up to twice `count`; `None` when there is room already.
fn enough(count: usize, now: [u32; 3]) -> Option<[u32; 3]> {
    let hard = u32::try_from(count).ok()?.checked_mul(2)?.checked_next_power_of_two()?;
    let wanted = [hard / 8, hard / 2, hard];
    let [one, two, three] = now;
    (three < hard).then(|| [wanted[0].max(one), wanted[1].max(two), wanted[2].max(three)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: [u32; 3] = [128, 512, 1024];

    #[test]
    fn limits_follow_the_peers_and_never_sink() {
        assert_eq!(enough(512, KERNELS), None);
        assert_eq!(enough(513, KERNELS), Some([256, 1024, 2048]));
        assert_eq!(enough(10_000, KERNELS), Some([4096, 16384, 32768]));
        assert_eq!(enough(600, [1000, 1200, 1500]), Some([1000, 1200, 2048]));
        assert_eq!(enough(10_000, [1, 2, 80_000]), None);
    }

    #[test]
    fn each_family_has_its_own() {
        let neighbours = ByFamily { v4: 600, v6: 0 };
        assert_eq!(higher(neighbours, &Limits::default()), Limits::default(), "not the first namespace");
        let higher = higher(neighbours, &Limits { v4: Some(KERNELS), v6: Some(KERNELS) });
        assert_eq!(higher, Limits { v4: Some([256, 1024, 2048]), v6: None });
        assert_eq!(paths(Family::V4)[2], "net/ipv4/neigh/default/gc_thresh3");
    }
}
