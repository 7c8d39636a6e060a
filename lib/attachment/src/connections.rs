//! Connections that the kernel tracks and that host ports make out of date.
//!
//! The kernel translates a connection as its first packet was. A UDP sender that keeps its port is one connection while
//! it sends, so packets would go to a pod that is gone, or past a new one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kernel::conntrack::{Conntrack, Entry, Filter, UDP, may_exist};
use kernel::types::Family;
use kernel::{Kernel, KernelError};

use crate::rules::portmap::HostPort;

/// Deletes UDP connections to new host ports that do not lead to their pods (`conntrack -D -p udp --dport PORT`).
/// Connections to addresses of other hosts stay. Returns how many were deleted.
///
/// # Errors
/// The kernel refused to list or delete connections. Without connection tracking there are none.
pub fn forget_before(conntrack: &mut Conntrack, ports: &[HostPort]) -> Result<usize, KernelError> {
    let mut host = Kernel::open()?;
    let udp: Vec<&HostPort> = of_udp(ports).collect();
    let mut known = BTreeMap::new();
    delete(conntrack, &udp, |entry| {
        let passes_by = udp.iter().any(|port| is_to(port, entry) && !leads_to_pod(port, entry));
        // what cannot be looked up is left alone
        passes_by && *known.entry(entry.original.dst).or_insert_with_key(|dst| host.is_local(*dst).unwrap_or(false))
    })
}

/// Deletes the UDP connections through host ports to pods that are gone. Returns how many were deleted.
///
/// # Errors
/// As [`forget_before`].
pub fn forget_after(conntrack: &mut Conntrack, ports: &[HostPort]) -> Result<usize, KernelError> {
    let udp: Vec<&HostPort> = of_udp(ports).collect();
    delete(conntrack, &udp, |entry| udp.iter().any(|port| is_to(port, entry) && leads_to_pod(port, entry)))
}

/// The ports whose connections do not end when nobody answers.
pub fn of_udp(ports: &[HostPort]) -> impl Iterator<Item = &HostPort> {
    ports.iter().filter(|port| port.protocol == UDP)
}

/// Whether the connection was opened to the host port.
fn is_to(port: &HostPort, entry: &Entry) -> bool {
    let Entry { proto, original, .. } = entry;
    let is_address = |address: IpAddr| address == original.dst;
    *proto == port.protocol && original.dport == port.port && port.address.is_none_or(is_address)
}

fn leads_to_pod(port: &HostPort, entry: &Entry) -> bool {
    (entry.reply.src, entry.reply.sport) == (port.pod.ip(), port.pod_port)
}

/// Deletes connections to any of the ports for which `which` is true. The kernel's table is read once per family.
fn delete(
    conntrack: &mut Conntrack,
    ports: &[&HostPort],
    mut which: impl FnMut(&Entry) -> bool,
) -> Result<usize, KernelError> {
    let mut deleted = 0;
    for family in Family::ALL {
        let of_family = ports.iter().filter(|port| Family::from(port.pod) == family);
        let filter = of_family.map(|port| only(port)).reduce(both);
        let Some(filter) = filter.filter(|filter| may_exist(family, filter)) else { continue };
        let mut entries = match conntrack.list(family, &filter) {
            // no module for connection tracking: nothing was translated
            Err(error) if error.is_invalid() => continue,
            entries => entries?,
        };
        entries.retain(&mut which);
        deleted += conntrack.delete_all(&entries)?;
    }
    Ok(deleted)
}

fn only(port: &HostPort) -> Filter {
    Filter { proto: Some(port.protocol), dport: Some(port.port), dst: None }
}

/// The narrowest filter that selects what either does. A port needs a protocol.
fn both(one: Filter, other: Filter) -> Filter {
    let proto = one.proto.filter(|_| one.proto == other.proto);
    let dport = one.dport.filter(|_| proto.is_some() && one.dport == other.dport);
    Filter { proto, dport, dst: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: u8, port: u16) -> HostPort {
        HostPort { protocol, address: None, port, pod: "10.1.2.3/24".parse().unwrap(), pod_port: 80 }
    }

    #[test]
    fn one_filter_selects_all_ports() {
        let filter = |ports: &[HostPort]| ports.iter().map(only).reduce(both).unwrap();
        assert_eq!(filter(&[port(17, 53)]), Filter { proto: Some(17), dport: Some(53), dst: None });
        assert_eq!(filter(&[port(17, 53), port(17, 54)]), Filter { proto: Some(17), ..Filter::default() });
        assert_eq!(filter(&[port(17, 53), port(6, 53)]), Filter::default());
        assert_eq!(filter(&[port(17, 53), port(6, 53), port(17, 53)]), Filter::default());
    }
}
