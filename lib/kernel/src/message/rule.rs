//! Rules of the routing policy: RTM_NEWRULE (Documentation/netlink/specs/rt-rule.yaml). They are only read.

use std::fmt;

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::address_family;
use crate::types::{Family, TableId};

/// A rule (`ip rule`): which packets it is for, and the table that it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRule {
    /// The IP version.
    pub family: Family,
    /// Its place: the lowest is asked first.
    pub priority: u32,
    /// Only packets from here.
    pub from: Option<IpNetwork>,
    /// Only packets to there.
    pub to: Option<IpNetwork>,
    /// Only packets that come by this link.
    pub iif: Option<String>,
    /// The table. `None`: it drops what it is for, or goes on elsewhere.
    pub table: Option<TableId>,
    /// It has more that selects packets.
    pub further: bool,
}

impl SeenRule {
    /// One of those that every namespace begins with: the tables local, main and default (fib_default_rules_init,
    /// net/ipv4/fib_rules.c; fib6_rules_net_init, net/ipv6/fib6_rules.c).
    pub fn is_usual(&self) -> bool {
        let place = (self.priority, self.table.map(|table| table.0));
        let all = self.from.is_none() && self.to.is_none() && self.iif.is_none() && !self.further;
        all && [(0, Some(255)), (32766, Some(254)), (32767, Some(253))].contains(&place)
    }
}

impl fmt::Display for SeenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => write!(f, " from all")?,
        }
        self.to.map_or(Ok(()), |to| write!(f, " to {to}"))?;
        self.iif.as_ref().map_or(Ok(()), |iif| write!(f, " iif {iif}"))?;
        f.write_str(if self.further { " …" } else { "" })?;
        self.table.map_or(Ok(()), |table| write!(f, " lookup {}", table.0))
    }
}

/// `ip rule show`
pub(crate) fn get(family: Family) -> Message {
    let mut message = RuleMessage::default();
    message.header.family = address_family(family);
    Message::GetRule(message)
}

/// Decodes a RTM_NEWRULE of IP.
pub(crate) fn decode(message: &Message) -> Option<SeenRule> {
    let Message::NewRule(message) = message else { return None };
    let header = &message.header;
    let family = Family::ALL.into_iter().find(|family| address_family(*family) == header.family)?;
    let asks = header.action == RuleAction::ToTable;
    let mut rule = SeenRule {
        family,
        priority: 0,
        from: None,
        to: None,
        iif: None,
        table: asks.then_some(TableId(header.table.into())),
        further: header.tos != 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = asks.then_some(TableId(*table)),
            RuleAttribute::Source(addr) => rule.from = IpNetwork::new(*addr, header.src_len).ok(),
            RuleAttribute::Destination(addr) => rule.to = IpNetwork::new(*addr, header.dst_len).ok(),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(1..)
            | RuleAttribute::TunId(_)
            | RuleAttribute::L3MDev(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => rule.further = true,
            // the kernel says "none" with every bit set
            RuleAttribute::SuppressPrefixLen(length) => rule.further |= *length != u32::MAX,
            RuleAttribute::SuppressIfGroup(group) => rule.further |= *group != u32::MAX,
            _ => {}
        }
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32, table: u8, more: Vec<RuleAttribute>) -> SeenRule {
        let mut message = RuleMessage::default();
        message.header.family = address_family(Family::V4);
        (message.header.action, message.header.table, message.header.dst_len) = (RuleAction::ToTable, table, 16);
        message.attributes.push(RuleAttribute::Priority(priority));
        message.attributes.extend(more);
        decode(&Message::NewRule(message)).unwrap()
    }

    #[test]
    fn the_three_that_are_always_there_are_usual() {
        for (priority, table) in [(0, 255), (32766, 254), (32767, 253)] {
            assert!(rule(priority, table, vec![RuleAttribute::SuppressPrefixLen(u32::MAX)]).is_usual());
        }
        let to = RuleAttribute::Destination([10, 5, 0, 0].into());
        assert!(!rule(100, 254, vec![]).is_usual());
        assert!(!rule(32766, 254, vec![to.clone()]).is_usual());
        assert!(!rule(32766, 254, vec![RuleAttribute::SuppressPrefixLen(0)]).is_usual());
        assert_eq!(rule(100, 99, vec![to]).to_string(), "100: from all to 10.5.0.0/16 lookup 99");
        assert_eq!(rule(100, 99, vec![RuleAttribute::FwMark(7)]).to_string(), "100: from all … lookup 99");
    }
}
