//! The limits of the neighbour tables, raised when there are more peers than they allow.
//!
//! Every peer has a neighbour entry. Before Linux 4.20 permanent ones count (`neigh_alloc`, net/core/neighbour.c), and past
//! `gc_thresh3` (1,024) none can be added: "Neighbour table overflow". The limits are the machine's, not a namespace's:
//! only its first network namespace has them.

use kernel::state::State;
use kernel::sysctl;
use kernel::types::Family;
use overlay::net::ByFamily;

/// gc_thresh1 to 3 per family, where this namespace has them.
pub type Limits = ByFamily<Option<[u32; 3]>>;

const NAMES: [&str; 3] = ["gc_thresh1", "gc_thresh2", "gc_thresh3"];

fn path(family: Family, name: &str) -> String {
    let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
    format!("net/{family}/neigh/default/{name}")
}

/// Reads them. What cannot be read is not there to be raised.
pub(super) fn read() -> Limits {
    let mut limits = Limits::default();
    for family in Family::ALL {
        let value = |name| sysctl::read(&path(family, name)).ok().flatten()?.parse().ok();
        *limits.get_mut(family) = match NAMES.map(value) {
            [Some(one), Some(two), Some(three)] => Some([one, two, three]),
            _ => None,
        };
    }
    limits
}

/// Wants higher limits in `state` where its neighbours need them: half of them is left for others.
pub(super) fn raise(state: &mut State, limits: &Limits) {
    for family in Family::ALL {
        let Some(now) = limits.get(family) else { continue };
        let count = state.neighbours.keys().filter(|key| Family::from(key.addr) == family).count();
        let Some(wanted) = enough(count, *now) else { continue };
        for (name, value) in NAMES.into_iter().zip(wanted) {
            state.sysctls.insert(path(family, name), value.to_string());
        }
    }
}

/// The kernel's own proportions (128, 512, 1,024) at a size that has room for `count` twice; `None` when there is room.
fn enough(count: usize, now: [u32; 3]) -> Option<[u32; 3]> {
    let hard = u32::try_from(count).ok()?.checked_mul(2)?.checked_next_power_of_two()?;
    let wanted = [hard / 8, hard / 2, hard];
    let [one, two, three] = now;
    (three < hard).then(|| [wanted[0].max(one), wanted[1].max(two), wanted[2].max(three)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::state::NeighbourKey;
    use kernel::types::{IfName, Mac};

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
        let mut state = State::default();
        let dev = IfName::new("flannel.1").unwrap();
        for n in 0..600_u32 {
            let addr = std::net::Ipv4Addr::from(n).into();
            state.neighbours.insert(NeighbourKey { dev: dev.clone(), addr }, Mac::local([1; 6]));
        }
        let mut nowhere = state.clone();
        raise(&mut nowhere, &Limits::default());
        assert!(nowhere.sysctls.is_empty());
        raise(&mut state, &Limits { v4: Some(KERNELS), v6: Some(KERNELS) });
        let wanted: Vec<_> = state.sysctls.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            wanted,
            [
                "net/ipv4/neigh/default/gc_thresh1=256",
                "net/ipv4/neigh/default/gc_thresh2=1024",
                "net/ipv4/neigh/default/gc_thresh3=2048"
            ]
        );
    }
}
