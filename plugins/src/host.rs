//! Settings of the host's side that several plugins need. Pure.

use kernel::message::link::SeenLink;
use kernel::state::State;
use kernel::types::{Family, IfName};

/// The settings that make a host forward between pods and other networks, by family.
const FORWARDING: [(Family, &str); 2] =
    [(Family::V4, "net/ipv4/ip_forward"), (Family::V6, "net/ipv6/conf/all/forwarding")];

/// The host forwards packets of this family.
pub fn forward(state: &mut State, family: Family) {
    let of_family = FORWARDING.iter().filter(|(of, _)| *of == family);
    state.sysctls.extend(of_family.map(|(_, path)| ((*path).to_owned(), "1".to_owned())));
}

/// The paths of the settings of [`forward`] in `wanted`.
pub fn forwarding(wanted: &State) -> Vec<String> {
    let is_forwarding = |path: &&String| FORWARDING.iter().any(|(_, of)| of == path);
    wanted.sysctls.keys().filter(is_forwarding).cloned().collect()
}

/// The path of a link's `accept_ra` below /proc/sys.
pub fn accept_ra(dev: &IfName) -> String {
    format!("net/ipv6/conf/{dev}/accept_ra")
}

/// The host must ignore router advertisements from pods (CVE-2020-10749).
pub fn refuse_routers(state: &mut State, dev: &IfName) {
    state.sysctls.insert(accept_ra(dev), "0".to_owned());
}

/// The known value of a link's `accept_ra`, which was read with the link. A link without IPv6 has no such setting.
pub fn seen_accept_ra(seen: &SeenLink) -> (String, String) {
    let value = seen.ipv6.map_or(0, |ipv6| ipv6.accept_ra);
    (accept_ra(&seen.name), value.to_string())
}
