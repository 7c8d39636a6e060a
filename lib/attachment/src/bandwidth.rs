//! The limits of the bandwidth plugin, with the objects and names of the reference plugin:
//!
//! ```text
//! tc qdisc add dev veth… root handle 1: tbf rate … burst … limit …        # to the pod
//! ip link add bwp… type ifb                                               # from the pod
//! tc qdisc add dev bwp… root handle 1: tbf rate … burst … limit …
//! tc qdisc add dev veth… ingress
//! tc filter add dev veth… ingress prio 1 protocol all u32 match u32 0 0 action mirred egress redirect dev bwp…
//! ```

use kernel::state::{
    Filter, FilterAction, FilterKey, Link, LinkKind, Qdisc, QdiscKey, QdiscPlace, Scope, Selects, State, Tbf,
};
use kernel::types::{IfName, Mtu};
use serde::{Deserialize, Serialize};

use crate::Key;
use crate::rules::digest;

/// How long a packet may wait, in microseconds; upstream's value.
const LATENCY_MICROS: f64 = 25_000.0;

/// The names of ifb devices begin with this.
pub const PREFIX: &str = "bwp";

/// What the plugin made for an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Bandwidth {
    /// The host's link that leads to the pod.
    pub link: String,
    /// The limit of what the pod receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Limit>,
    /// The limit of what the pod sends, and the device for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// The limit of what a pod sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Egress {
    /// The limit.
    pub limit: Limit,
    /// The ifb device that holds the packets back.
    pub device: String,
    /// The device's MAC address.
    pub mac: String,
    /// The device's MTU in bytes.
    pub mtu: u32,
}

/// A rate and a burst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// Bits per second. At least 8.
    pub rate: u64,
    /// The largest number of bits that pass at once. At least 8, and less than 8 × (2³² − 1).
    pub burst: u64,
}

impl Limit {
    /// The token bucket that the reference plugin makes of it. Its CHECK compares the numbers, so they are rounded as
    /// there.
    pub fn tbf(self) -> Tbf {
        let rate = self.rate / 8;
        let burst = u32::try_from(self.burst / 8).unwrap_or(u32::MAX);
        let waiting = (rate as f64 * LATENCY_MICROS / 1e6) as u32;
        Tbf { rate, burst, limit: waiting.saturating_add(burst) }
    }
}

/// The names of an attachment's ifb device: the reference plugin's, which a container's interfaces in one network share,
/// and one for a further interface.
pub fn devices(key: Key<'_>) -> [String; 2] {
    let Key { network, container, ifname } = key;
    let name = |text: String| format!("{PREFIX}{:.12}", digest(&text));
    [name(format!("{network}{container}")), name(format!("{network}{container}{ifname}"))]
}

impl Bandwidth {
    /// The objects on the host, and the scope in which the attachment has no others. Names that no link can have are
    /// left out.
    pub fn host(&self) -> (State, Scope) {
        let (mut state, mut scope) = (State::default(), Scope::default());
        let Ok(link) = IfName::new(&self.link) else { return (state, scope) };
        if let Some(limit) = self.ingress {
            state.qdiscs.insert(root(&link), Qdisc::Tbf(limit.tbf()));
        }
        let device = self.egress.as_ref().and_then(|egress| Some((IfName::new(&egress.device).ok()?, egress)));
        if let Some((device, egress)) = device {
            egress.add(&link, &device, &mut state);
            scope.queues.push(device.clone());
            scope.links.push(device);
        }
        scope.queues.push(link);
        (state, scope)
    }
}

impl Egress {
    fn add(&self, link: &IfName, device: &IfName, state: &mut State) {
        let mtu = Some(Mtu(self.mtu)).filter(|mtu| mtu.0 != 0);
        state.links.insert(device.clone(), Link { mac: self.mac.parse().ok(), mtu, ..Link::up(LinkKind::Ifb) });
        state.qdiscs.insert(root(device), Qdisc::Tbf(self.limit.tbf()));
        state.qdiscs.insert(QdiscKey { dev: link.clone(), place: QdiscPlace::Ingress }, Qdisc::Ingress);
        let redirect = Filter { selects: Selects::All, action: FilterAction::Redirect(Some(device.clone())) };
        state.filters.insert(FilterKey { dev: link.clone(), prio: 1 }, redirect);
    }
}

fn root(dev: &IfName) -> QdiscKey {
    QdiscKey { dev: dev.clone(), place: QdiscPlace::Root }
}

#[cfg(test)]
mod tests {
    use kernel::diff::diff;

    use super::*;

    const KEY: Key<'_> = Key { network: "net1", container: "cid1", ifname: "eth0" };

    fn limit(rate: u64, burst: u64) -> Limit {
        Limit { rate, burst }
    }

    #[test]
    fn names_are_upstreams() {
        let [shared, own] = devices(KEY);
        assert_eq!(shared, "bwpe8f6f419596f");
        let other = Key { ifname: "net1", ..KEY };
        assert_eq!(devices(other)[0], shared);
        assert!(own != shared && own != devices(other)[1] && own.len() == 15 && own.starts_with(PREFIX));
    }

    /// The numbers of `tc -d qdisc` for the reference plugin.
    #[test]
    fn numbers_are_upstreams() {
        assert_eq!(limit(1_000_000, 200_000).tbf(), Tbf { rate: 125_000, burst: 25_000, limit: 28_125 });
        assert_eq!(limit(8, 8).tbf(), Tbf { rate: 1, burst: 1, limit: 1 });
        let most = limit(u64::MAX, 8 * (u64::from(u32::MAX) - 1)).tbf();
        assert_eq!((most.rate, most.burst, most.limit), (u64::MAX / 8, u32::MAX - 1, u32::MAX));
    }

    #[test]
    fn the_objects_are_removed_by_their_scope() {
        let egress =
            Egress { limit: limit(8000, 80_000), device: "bwp0".into(), mac: "02:00:00:00:00:01".into(), mtu: 1400 };
        let both = Bandwidth { link: "veth0".into(), ingress: Some(limit(8000, 80_000)), egress: Some(egress) };
        let (state, scope) = both.host();
        assert_eq!((state.links.len(), state.qdiscs.len(), state.filters.len()), (1, 3, 1));
        let mut seen = state.clone();
        seen.links.insert(IfName::new("veth0").unwrap(), Link::up(LinkKind::Veth(kernel::state::Veth::default())));
        assert!(diff(&state, &seen, &scope).is_empty());
        let removed: Vec<_> = diff(&State::default(), &seen, &scope).steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            removed,
            [
                "tc filter del dev veth0 ingress prio 1",
                "tc qdisc del dev veth0 root",
                "tc qdisc del dev veth0 ingress",
                "ip link del bwp0"
            ]
        );
        let nowhere = Bandwidth { link: "no/link".into(), ..both };
        assert_eq!(nowhere.host(), (State::default(), Scope::default()));
    }
}
