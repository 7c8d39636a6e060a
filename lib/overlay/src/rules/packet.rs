//! What a rule does to a packet of which not all is known. Pure.
//!
//! The packet opens a connection. Its headers and its links are known as far as [`Packet`] says; a match on something
//! else may hold or not.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::state::nft::{Expr, Is, PayloadBase, Rule, Verdict, ct};
use kernel::types::{Family, IfName};

/// NFT_META_* (linux/netfilter/nf_tables.h).
const PROTOCOL: u32 = 1;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// The length of a link's name in a register (IFNAMSIZ).
const NAME: usize = 16;
/// The bytes in all registers.
const REGISTERS: usize = 64;

/// A packet. What is `None` may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its source is in this network, and may be any address there.
    pub src: IpNetwork,
    /// Its destination, likewise.
    pub dst: IpNetwork,
    /// The link that it comes by.
    pub iif: Option<IfName>,
    /// The link that it leaves by.
    pub oif: Option<IfName>,
    /// The protocol inside.
    pub protocol: Option<u8>,
    /// The destination port.
    pub port: Option<u16>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Nothing that decides about the packet.
    Nothing,
    Accept,
    Drop,
    /// The policy decides.
    Return,
    /// What comes of it is not known: it leads to another chain, or is of an unknown kind.
    Unknown,
}

/// A byte, and which of its bits are known.
#[derive(Debug, Clone, Copy, Default)]
struct Byte {
    value: u8,
    known: u8,
}

impl From<u8> for Byte {
    fn from(value: u8) -> Self {
        Self { value, known: u8::MAX }
    }
}

fn known(bytes: &[u8]) -> Vec<Byte> {
    bytes.iter().copied().map(Byte::from).collect()
}

/// The bits of the network's prefix are known, the others are not.
fn address(net: IpNetwork) -> Vec<Byte> {
    let bytes: Vec<u8> = match net.network() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mask: Vec<u8> = match net.mask() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    bytes.into_iter().zip(mask).map(|(value, known)| Byte { value, known }).collect()
}

fn name(dev: Option<&IfName>) -> Vec<Byte> {
    let Some(dev) = dev else { return vec![Byte::default(); NAME] };
    let mut bytes = dev.as_str().as_bytes().to_vec();
    bytes.resize(NAME, 0);
    known(&bytes)
}

impl Packet {
    /// What the rule does, and whether that is certain.
    pub(super) fn meets(&self, rule: &Rule) -> (Does, bool) {
        let (mut registers, mut certain) = (vec![Byte::default(); REGISTERS], true);
        for expr in &rule.exprs {
            let step = match expr {
                Expr::Other { name, .. } if name == "target" && rule.is_target("REJECT") => Step::Decides(Does::Drop),
                expr => self.step(expr, &mut registers),
            };
            match step {
                Step::Goes => {}
                Step::MayEnd => certain = false,
                Step::Ends => return (Does::Nothing, true),
                Step::Decides(does) => return (does, certain),
            }
        }
        (Does::Nothing, true)
    }

    fn step(&self, expr: &Expr, registers: &mut [Byte]) -> Step {
        match expr {
            Expr::Meta { key, dreg } => load(registers, dreg.0, &self.meta(key.0)),
            Expr::Payload { dreg, base, offset, len } => load(registers, dreg.0, &self.header(*base, *offset, *len)),
            Expr::Ct { key: ct::STATE, dreg } => load(registers, dreg.0, &known(&ct::NEW.to_ne_bytes())),
            Expr::Ct { dreg, .. } | Expr::Fib { dreg, .. } => load(registers, dreg.0, &[Byte::default(); NAME]),
            Expr::Immediate { dreg, data } => load(registers, dreg.0, &known(data)),
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                let masked = slice(registers, sreg.0, mask.len()).into_iter().zip(mask).zip(xor);
                let masked: Vec<Byte> = masked
                    .map(|((byte, mask), xor)| Byte { value: (byte.value & mask) ^ xor, known: byte.known | !mask })
                    .collect();
                load(registers, dreg.0, &masked)
            }
            Expr::Cmp { sreg, is, data } => compare(&slice(registers, sreg.0, data.len()), *is, data),
            Expr::Verdict(verdict) => Step::Decides(match verdict {
                Verdict::Accept => Does::Accept,
                Verdict::Drop => Does::Drop,
                Verdict::Return => Does::Return,
                Verdict::Jump(_) | Verdict::Goto(_) => Does::Unknown,
            }),
            Expr::LookupVerdict { .. } => Step::Decides(Does::Unknown),
            Expr::Other { name, .. } => other(name),
            Expr::Lookup { .. } | Expr::LookupData { .. } => Step::MayEnd,
            Expr::MetaSet { .. } | Expr::Counter | Expr::Masquerade { .. } | Expr::Nat { .. } => Step::Goes,
        }
    }

    fn meta(&self, key: u32) -> Vec<Byte> {
        let family = Family::from(self.src);
        match key {
            IIFNAME => name(self.iif.as_ref()),
            OIFNAME => name(self.oif.as_ref()),
            // NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h)
            NFPROTO => known(&[if family == Family::V4 { 2 } else { 10 }]),
            // ETH_P_IP and ETH_P_IPV6 (linux/if_ether.h)
            PROTOCOL => known(&(if family == Family::V4 { 0x0800_u16 } else { 0x86dd }).to_be_bytes()),
            L4PROTO => vec![self.protocol.map(Byte::from).unwrap_or_default()],
            _ => vec![Byte::default(); NAME],
        }
    }

    /// RFC 791 section 3.1, RFC 8200 section 3; ports are at the same place in TCP, UDP and SCTP.
    fn header(&self, base: PayloadBase, offset: u32, len: u32) -> Vec<Byte> {
        let (at, len) = (offset as usize, len as usize);
        let (mut header, fields) = match (base, Family::from(self.src)) {
            (PayloadBase::NETWORK, Family::V4) => (vec![Byte::default(); 20], [(9, 12, 16)]),
            (PayloadBase::NETWORK, Family::V6) => (vec![Byte::default(); 40], [(6, 8, 24)]),
            (PayloadBase::TRANSPORT, _) => {
                let port = self.port.map(|port| known(&port.to_be_bytes())).unwrap_or_default();
                let mut header = vec![Byte::default(); 2];
                header.extend(port);
                return part(&header, at, len);
            }
            _ => return vec![Byte::default(); len],
        };
        for (protocol, src, dst) in fields {
            put(&mut header, protocol, &[self.protocol.map(Byte::from).unwrap_or_default()]);
            put(&mut header, src, &address(self.src));
            put(&mut header, dst, &address(self.dst));
        }
        part(&header, at, len)
    }
}

/// How a rule goes on after an expression.
enum Step {
    Goes,
    /// The expression may not match.
    MayEnd,
    /// It does not match.
    Ends,
    Decides(Does),
}

fn other(name: &str) -> Step {
    match name {
        "reject" => Step::Decides(Does::Drop),
        // an extension of iptables, such as its own verdicts; a program in user space
        "target" | "queue" => Step::Decides(Does::Unknown),
        "log" | "notrack" | "objref" | "dup" | "last" => Step::Goes,
        _ => Step::MayEnd,
    }
}

fn put(all: &mut [Byte], at: usize, bytes: &[Byte]) {
    for (place, byte) in all.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// Bytes that are not there are not known.
fn part(all: &[Byte], at: usize, len: usize) -> Vec<Byte> {
    let mut bytes: Vec<Byte> = all.iter().skip(at).take(len).copied().collect();
    bytes.resize(len, Byte::default());
    bytes
}

/// A register has four bytes.
fn slice(registers: &[Byte], number: u8, len: usize) -> Vec<Byte> {
    part(registers, usize::from(number) * 4, len)
}

fn load(registers: &mut [Byte], number: u8, bytes: &[Byte]) -> Step {
    put(registers, usize::from(number) * 4, bytes);
    Step::Goes
}

fn compare(bytes: &[Byte], is: Is, data: &[u8]) -> Step {
    let pairs = || bytes.iter().zip(data);
    let differs = pairs().any(|(byte, data)| (byte.value ^ data) & byte.known != 0);
    let equals = pairs().all(|(byte, data)| byte.known == u8::MAX && byte.value == *data);
    match is {
        Is::Eq if equals => Step::Goes,
        Is::Eq if differs => Step::Ends,
        Is::Not if differs => Step::Goes,
        Is::Not if equals => Step::Ends,
        _ => Step::MayEnd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::state::nft::{NftFamily, RuleBuilder, Side};

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn packet() -> Packet {
        Packet {
            src: net("10.244.1.0/24"),
            dst: net("10.244.2.0/24"),
            iif: IfName::new("cni0").ok(),
            oif: None,
            protocol: None,
            port: None,
        }
    }

    fn rule() -> RuleBuilder {
        RuleBuilder::new(NftFamily::Ip)
    }

    #[test]
    fn what_is_known_decides() {
        let dev = |name: &str| IfName::new(name).unwrap();
        let drops = (Does::Drop, true);
        let no = (Does::Nothing, true);
        let may = (Does::Drop, false);
        for (rule, does) in [
            (rule().drop().done(), drops),
            (rule().counter().drop().done(), drops),
            (rule().addr(Side::Source, Is::Eq, net("10.244.0.0/16")).drop().done(), drops),
            (rule().addr(Side::Source, Is::Eq, net("10.244.1.0/24")).drop().done(), drops),
            (rule().addr(Side::Source, Is::Eq, net("10.244.0.0/15")).drop().done(), drops),
            (rule().addr(Side::Source, Is::Not, net("10.244.1.0/25")).drop().done(), may),
            (rule().addr(Side::Source, Is::Eq, net("10.244.1.7/32")).drop().done(), may),
            (rule().addr(Side::Source, Is::Eq, net("10.9.0.0/16")).drop().done(), no),
            (rule().addr(Side::Destination, Is::Not, net("10.9.0.0/16")).drop().done(), drops),
            (rule().iifname(Is::Eq, &dev("cni0")).drop().done(), drops),
            (rule().iifname(Is::Eq, &dev("eth0")).drop().done(), no),
            (rule().iifname(Is::Not, &dev("eth0")).drop().done(), drops),
            (rule().ct_state(Is::Eq, ct::ESTABLISHED | ct::RELATED).drop().done(), no),
            (rule().ct_state(Is::Eq, ct::NEW).drop().done(), drops),
            (rule().mark(Is::Eq, 7).drop().done(), may),
            (rule().accept().done(), (Does::Accept, true)),
            (rule().back().done(), (Does::Return, true)),
            (rule().jump("elsewhere").done(), (Does::Unknown, true)),
        ] {
            assert_eq!(packet().meets(&rule), does, "{rule:?}");
        }
    }

    /// `meta l4proto udp udp dport 8472 drop`
    #[test]
    fn a_tunnels_packets_have_a_protocol_and_a_port() {
        let (reg, udp) = (kernel::nft::Reg(0), 17);
        let port = |port: u16| Rule {
            exprs: vec![
                Expr::Meta { key: kernel::nft::MetaKey(L4PROTO), dreg: reg },
                Expr::Cmp { sreg: reg, is: Is::Eq, data: vec![udp] },
                Expr::Payload { dreg: reg, base: PayloadBase::TRANSPORT, offset: 2, len: 2 },
                Expr::Cmp { sreg: reg, is: Is::Eq, data: port.to_be_bytes().to_vec() },
                Expr::Verdict(Verdict::Drop),
            ],
            ..Rule::default()
        };
        let tunnel = Packet { protocol: Some(udp), port: Some(8472), ..packet() };
        assert_eq!(tunnel.meets(&port(8472)), (Does::Drop, true));
        assert_eq!(tunnel.meets(&port(53)), (Does::Nothing, true));
        assert_eq!(packet().meets(&port(8472)), (Does::Drop, false), "any protocol");
    }

    /// `ip6 saddr fd10:244::/48 drop`
    #[test]
    fn ipv6_is_read_alike() {
        let packet = Packet { src: net("fd10:244:0:1::/64"), dst: net("fd10:244:0:2::/64"), ..packet() };
        let of = |side, text| RuleBuilder::new(NftFamily::Ip6).addr(side, Is::Eq, net(text)).drop().done();
        assert_eq!(packet.meets(&of(Side::Source, "fd10:244::/48")), (Does::Drop, true));
        assert_eq!(packet.meets(&of(Side::Destination, "fd10:244:0:1::/64")), (Does::Nothing, true));
    }
}
