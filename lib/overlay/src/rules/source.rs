//! Which network a rule is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::state::nft::{Expr, Is, PayloadBase, Rule};
use kernel::types::Family;

/// The offset of the source address in the header (RFC 791 §3.1, RFC 8200 §3).
fn offset(family: Family) -> u32 {
    match family {
        Family::V4 => 12,
        Family::V6 => 8,
    }
}

/// The network of `ip saddr NET`, whoever wrote the rule; `None` for a rule without one, and for `saddr != NET`.
pub(super) fn source(family: Family, rule: &Rule) -> Option<IpNetwork> {
    let loads = |expr: &Expr| matches!(expr, Expr::Payload { base: PayloadBase::NETWORK, offset: at, .. } if *at == offset(family));
    let at = rule.exprs.iter().position(loads)?;
    match rule.exprs.get(at + 1..)? {
        [Expr::Cmp { is: Is::Eq, data, .. }, ..] => network(family, data, 8 * data.len() as u32),
        [Expr::Bitwise { mask, .. }, Expr::Cmp { is: Is::Eq, data, .. }, ..] => {
            network(family, data, mask.iter().map(|byte| byte.count_ones()).sum())
        }
        _ => None,
    }
}

fn network(family: Family, data: &[u8], prefix: u32) -> Option<IpNetwork> {
    let mut bytes = [0; 16];
    bytes.get_mut(..data.len())?.copy_from_slice(data);
    let address = match (family, bytes) {
        (Family::V4, [a, b, c, d, ..]) => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
        (Family::V6, bytes) => IpAddr::from(Ipv6Addr::from(bytes)),
    };
    IpNetwork::new(address, u8::try_from(prefix).ok()?).ok()
}
