//! Segmenting and joining keep the stream, and every packet is complete.

use std::net::Ipv4Addr;

use etherparse::{IpNumber, Ipv4Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice, UdpHeader};
use kernel::tuntap::VNET_HDR_LEN;
use proptest::collection::vec;
use proptest::prelude::*;

use super::counters::Loss;
use super::gro::Incoming;
use super::gso::{Outgoing, Refused};
use super::packet::Packet;
use super::runs::runs;
use super::table::Table;
use super::vnet::{Kind, Vnet};
use super::{checksum, packet};

const HERE: [u8; 4] = [10, 5, 1, 7];
const THERE: [u8; 4] = [10, 5, 2, 9];
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn table() -> Table {
    let route = ("10.5.2.0/24".parse().unwrap(), PEER);
    Table::new("10.5.0.0/16".parse().unwrap(), "10.5.1.0/24".parse().unwrap(), [route])
}

fn ip(protocol: IpNumber, payload: usize) -> Ipv4Header {
    let mut header = Ipv4Header::new(payload as u16, 64, protocol, HERE, THERE).unwrap();
    header.identification = 0xfffe;
    header.header_checksum = header.calc_header_checksum();
    header
}

fn tcp(options: usize) -> TcpHeader {
    let mut tcp = TcpHeader::new(40_000, 443, 0xffff_ff00, 502);
    tcp.acknowledgment_number = 77;
    tcp.ack = true;
    tcp.set_options_raw(&[1; 40][..options]).unwrap();
    tcp
}

/// Bytes that differ from position to position.
fn stream(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// A packet as the kernel delivers it: its checksum covers only the pseudo header.
fn partial(mut packet: Vec<u8>, field: usize, vnet: Vnet) -> Vec<u8> {
    let pseudo = checksum::pseudo(HERE.into(), THERE.into(), packet[9], (packet.len() - 20) as u16);
    packet[20 + field..22 + field].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
    [vnet.to_bytes().as_slice(), &packet].concat()
}

fn tso(tcp: &TcpHeader, payload: &[u8], size: u16) -> Vec<u8> {
    let header = ip(IpNumber::TCP, tcp.header_len() + payload.len());
    let packet = [header.to_bytes().as_slice(), tcp.to_bytes().as_slice(), payload].concat();
    let vnet = Vnet { kind: Kind::Tcp, gso_size: size, hdr_len: 0, checksum: Some((20, 16)) };
    partial(packet, 16, vnet)
}

/// The datagrams for what was read.
fn cut(read: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let mut arena = read.to_vec();
    let mut outgoing = Outgoing::default();
    outgoing.take(&mut arena, 0..read.len(), &table())?;
    let datagrams = outgoing.datagrams().iter();
    Ok(datagrams.inspect(|d| assert_eq!(d.to, PEER)).map(|d| outgoing.parts(d, &arena).concat()).collect())
}

/// What is written for these packets: headers and packets.
fn join(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut arena = packets.concat();
    let mut incoming = Incoming::default();
    let mut from = 0;
    for packet in packets {
        incoming.take(&Packet::verify(packet).unwrap(), &arena, from..from + packet.len());
        from += packet.len();
    }
    incoming.finish(&mut arena);
    let trains = incoming.trains().iter();
    let all: usize = incoming.trains().iter().map(|train| train.bytes()).sum();
    assert_eq!(all, arena.len());
    trains.map(|t| [t.vnet().to_bytes().to_vec(), t.parts(&arena).collect::<Vec<_>>().concat()].concat()).collect()
}

/// Checks lengths and checksums. Returns the transport header and the payload.
fn whole(bytes: &[u8]) -> (Ipv4Header, TransportSlice<'_>) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(NetSlice::Ipv4(net)) = &sliced.net else { panic!("no IPv4") };
    let ip = net.header().to_header();
    assert_eq!(usize::from(ip.total_len), bytes.len());
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    let transport = sliced.transport.unwrap();
    match &transport {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            assert_eq!(header.checksum, header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap());
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            assert_eq!(header.checksum, header.calc_checksum_ipv4(&ip, udp.payload()).unwrap());
            assert_eq!(usize::from(header.length), 8 + udp.payload().len());
        }
        other => panic!("{other:?}"),
    }
    (ip, transport)
}

fn as_tcp(bytes: &[u8]) -> (Ipv4Header, TcpHeader, Vec<u8>) {
    let (ip, transport) = whole(bytes);
    let TransportSlice::Tcp(tcp) = transport else { panic!("no TCP") };
    (ip, tcp.to_header(), tcp.payload().to_vec())
}

proptest! {
    #[test]
    fn tcp_is_cut_into_whole_segments_and_joined_again(
        length in 1..50_000_usize, size in 200..9_000_u16, words in 0..=10_usize, push: bool, fin: bool, cwr: bool,
    ) {
        let payload = stream(length);
        let mut header = tcp(words * 4);
        (header.psh, header.fin, header.cwr) = (push, fin, cwr);
        let pieces = cut(&tso(&header, &payload, size)).unwrap();
        prop_assert_eq!(pieces.len(), length.div_ceil(size.into()));
        let (mut sequence, mut together) = (header.sequence_number, Vec::new());
        for (n, piece) in pieces.iter().enumerate() {
            let (ip, tcp, part) = as_tcp(piece);
            let last = n + 1 == pieces.len();
            prop_assert_eq!((ip.time_to_live, ip.identification), (63, 0xfffe_u16.wrapping_add(n as u16)));
            prop_assert_eq!((tcp.psh, tcp.fin, tcp.cwr), (push && last, fin && last, cwr && n == 0));
            prop_assert_eq!((tcp.sequence_number, &tcp.options), (sequence, &header.options));
            prop_assert!(part.len() == usize::from(size) || last);
            sequence = sequence.wrapping_add(part.len() as u32);
            together.extend(part);
        }
        prop_assert_eq!(&together, &payload);
        if !fin && !cwr {
            let joined = join(&pieces);
            prop_assert_eq!(joined.len(), 1);
            if pieces.len() > 1 {
                // the kernel gets the packet of the other host with only the time to live changed
                let mut sent = tso(&header, &payload, size);
                sent[VNET_HDR_LEN + packet::TTL] -= 1;
                packet::seal(&mut sent[VNET_HDR_LEN..][..20], (20 + header.header_len() + length) as u16);
                let hint = Vnet { hdr_len: (20 + header.header_len()) as u16, ..vnet(&sent) };
                sent[..VNET_HDR_LEN].copy_from_slice(&hint.to_bytes());
                prop_assert_eq!(&joined[0], &sent);
            }
        }
    }

    #[test]
    fn udp_is_cut_into_whole_datagrams(length in 1..50_000_usize, size in 100..9_000_u16) {
        let payload = stream(length);
        let udp = UdpHeader { source_port: 5_000, destination_port: 53, length: 0, checksum: 0 };
        let packet = [ip(IpNumber::UDP, 8 + length).to_bytes().as_slice(), &udp.to_bytes(), &payload].concat();
        let vnet = Vnet { kind: Kind::Udp, gso_size: size, hdr_len: 28, checksum: Some((20, 6)) };
        let mut together: Vec<u8> = Vec::new();
        for piece in cut(&partial(packet, 6, vnet)).unwrap() {
            let (_, TransportSlice::Udp(udp)) = whole(&piece) else { panic!("no UDP") };
            prop_assert_eq!((udp.source_port(), udp.destination_port()), (5_000, 53));
            together.extend(udp.payload());
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn whatever_comes_in_each_stream_stays_in_order(
        sent in vec((0..3_u16, 0..4_u32, 0..3_usize, 0..20_u8), 1..60),
    ) {
        let mut next = [0_u32; 3];
        let mut packets = Vec::new();
        for (stream_of, jump, size, odd) in sent {
            let payload = stream([100, 60, 0][size]);
            let mut header = tcp(if odd == 1 { 4 } else { 0 });
            header.source_port = stream_of;
            // a gap is a segment that was lost on the way
            header.sequence_number = next[usize::from(stream_of)].wrapping_add(if jump == 0 { 100 } else { 0 });
            header.psh = odd == 2;
            header.fin = odd == 3;
            header.window_size = if odd == 4 { 1 } else { 502 };
            next[usize::from(stream_of)] = header.sequence_number.wrapping_add(payload.len() as u32);
            let mut ip = ip(IpNumber::TCP, header.header_len() + payload.len());
            ip.dont_fragment = odd != 5;
            ip.identification = packets.len() as u16;
            ip.header_checksum = ip.calc_header_checksum();
            header.checksum = header.calc_checksum_ipv4(&ip, &payload).unwrap();
            let mut bytes = [ip.to_bytes().as_slice(), header.to_bytes().as_slice(), &payload].concat();
            if odd == 6 {
                bytes[30] ^= 0xff;
            }
            packets.push(bytes);
        }
        // a joined packet, segmented as a kernel does it, equals the originals; a broken one stays broken
        let written = join(&packets);
        let again: Vec<Vec<u8>> = written.iter().flat_map(|w| match vnet(w).kind {
            Kind::Whole => vec![w[VNET_HDR_LEN..].to_vec()],
            _ => cut(w).unwrap().into_iter().map(counted_up).collect(),
        }).collect();
        for stream_of in 0..3_u16 {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let mine = all.iter().filter(|bytes| bytes[20..22] == stream_of.to_be_bytes());
                mine.cloned().map(without_identification).collect()
            };
            prop_assert_eq!(of(&again), of(&packets));
        }
    }

    #[test]
    fn garbage_is_refused_and_nothing_else(read in vec(any::<u8>(), 0..200), keep: bool) {
        let mut read = read;
        if keep && read.len() > 30 {
            // up to a destination with a route
            read[VNET_HDR_LEN] = 0x45;
            read[VNET_HDR_LEN + 16..VNET_HDR_LEN + 20].copy_from_slice(&THERE);
            read[VNET_HDR_LEN + 2] = 0;
            read[1] %= 6;
        }
        drop(cut(&read));
        if let Ok(packet) = Packet::read(&read) {
            let mut incoming = Incoming::default();
            incoming.take(&packet, &read, 0..packet.total);
        }
    }
}

fn vnet(written: &[u8]) -> Vnet {
    Vnet::parse(*written.first_chunk().unwrap()).unwrap()
}

fn counted_up(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[packet::TTL] += 1;
    let total = bytes.len() as u16;
    packet::seal(&mut bytes[..20], total);
    bytes
}

fn without_identification(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[packet::IDENTIFICATION..packet::IDENTIFICATION + 2].fill(0);
    let total = bytes.len() as u16;
    packet::seal(&mut bytes[..20], total);
    bytes
}

/// An echo request with a counting payload, read from a TUN device that is opened as upstream does (IFF_TUN |
/// IFF_NO_PI). Go sends it with the time to live reduced by one.
const ECHO: [u8; 84] = {
    let mut bytes = [0; 84];
    let head = [
        0x45, 0x00, 0x00, 0x54, 0x7c, 0x22, 0x40, 0x00, 0x40, 0x01, 0xa7, 0x74, 0x0a, 0x05, 0x01, 0x00, 0x0a, 0x05,
        0x02, 0x09, 0x08, 0x00, 0x00, 0xe4, 0x00, 0x07, 0x00, 0x02,
    ];
    let mut n = 0;
    while n < bytes.len() {
        bytes[n] = if n < head.len() { head[n] } else { (n - head.len()) as u8 };
        n += 1;
    }
    bytes
};

fn plain(bytes: &[u8]) -> Vec<u8> {
    [Vnet::PLAIN.to_bytes().as_slice(), bytes].concat()
}

#[test]
fn a_packet_is_the_datagram() {
    assert_eq!(checksum::fold(checksum::sum(&ECHO[..20])), 0xffff, "the header is whole");
    let sent = cut(&plain(&ECHO)).unwrap();
    let mut expected = ECHO;
    // only the time to live and the checksum over it differ
    (expected[8], expected[10]) = (63, 0xa8);
    assert_eq!(sent, [expected]);
    assert_eq!(join(&sent), [plain(&expected)]);
}

#[test]
fn a_checksum_that_was_left_open_is_filled_in() {
    for payload in [0, 1, 8, 1_433] {
        let payload = stream(payload);
        let header = tcp(12);
        let mut read = tso(&header, &payload, 0);
        let whole_packet = Vnet { kind: Kind::Whole, ..vnet(&read) };
        read[..VNET_HDR_LEN].copy_from_slice(&whole_packet.to_bytes());
        assert_eq!(as_tcp(&cut(&read).unwrap()[0]).2, payload);
        let udp = UdpHeader { source_port: 5_000, destination_port: 53, length: 8 + payload.len() as u16, checksum: 0 };
        let packet = [ip(IpNumber::UDP, 8 + payload.len()).to_bytes().as_slice(), &udp.to_bytes(), &payload].concat();
        let vnet = Vnet { checksum: Some((20, 6)), ..Vnet::PLAIN };
        whole(&cut(&partial(packet, 6, vnet)).unwrap()[0]);
    }
}

#[test]
fn what_cannot_be_sent_is_told() {
    let refused = |read: &[u8]| cut(read).unwrap_err();
    let mut lost = ECHO;
    lost[18] = 99;
    packet::seal(&mut lost[..20], 84);
    assert_eq!(refused(&plain(&lost)), Loss::NoRoute.into());
    lost[9] = IpNumber::TCP.0;
    packet::seal(&mut lost[..20], 84);
    let Refused { why: Loss::NoRoute, answer: Some(answer) } = refused(&plain(&lost)) else { panic!() };
    // it contains the original packet, with the original time to live
    assert_eq!(
        (&answer[12..16], &answer[16..20], &answer[28..]),
        (&[10, 5, 1, 0][..], &[10, 5, 1, 0][..], &lost[..28])
    );
    let mut late = ECHO;
    late[8] = 1;
    packet::seal(&mut late[..20], 84);
    assert_eq!(refused(&plain(&late)), Loss::TtlExceeded.into());
    assert_eq!(refused(&plain(&[0x60; 48])), Loss::NotIpv4.into());
    assert_eq!(refused(&plain(&ECHO[..83])), Loss::Malformed.into());
    assert_eq!(refused(&[0; 9]), Loss::Malformed.into());
    // a packet to segment must say how, and must match its header
    let big = tso(&tcp(0), &stream(3_000), 1_000);
    let with = |change: &dyn Fn(&mut Vnet)| {
        let mut header = vnet(&big);
        change(&mut header);
        [header.to_bytes().as_slice(), &big[VNET_HDR_LEN..]].concat()
    };
    assert_eq!(refused(&with(&|vnet| vnet.gso_size = 0)), Loss::Malformed.into());
    assert_eq!(refused(&with(&|vnet| vnet.kind = Kind::Udp)), Loss::Malformed.into());
    let outside = Some((3_000, 100));
    let whole_packet = with(&|vnet| (vnet.kind, vnet.checksum) = (Kind::Whole, outside));
    assert_eq!(refused(&whole_packet), Loss::Malformed.into());
}

#[test]
fn runs_are_of_one_length_and_host() {
    let table = Table::new(
        "10.5.0.0/16".parse().unwrap(),
        "10.5.1.0/24".parse().unwrap(),
        [("10.5.2.0/24".parse().unwrap(), PEER), ("10.5.3.0/24".parse().unwrap(), [192, 0, 2, 3].into())],
    );
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    let mut add = |host: u8, payload: usize| {
        let mut header = ip(IpNumber::UDP, payload);
        header.destination = [10, 5, host, 9];
        let bytes = plain(&[header.to_bytes().as_slice(), &stream(payload)].concat());
        ranges.push(arena.len()..arena.len() + bytes.len());
        arena.extend(bytes);
    };
    // 3 equal ones and a shorter one; then longer ones; another host; more than one call can send
    [100, 100, 100, 40, 100, 120, 120].into_iter().for_each(|payload| add(2, payload));
    add(3, 120);
    (0..70).for_each(|_| add(3, 10));
    (0..50).for_each(|_| add(2, 1_400));
    let mut outgoing = Outgoing::default();
    for at in ranges {
        outgoing.take(&mut arena, at, &table).unwrap();
    }
    let lengths: Vec<_> = runs(outgoing.datagrams()).map(|run| (run.datagrams.len(), run.segment, run.bytes)).collect();
    let expected = [
        (4, 120, 420),
        (1, 120, 120),
        (2, 140, 280),
        (2, 140, 170),
        (64, 30, 1_920),
        (5, 30, 150),
        (46, 1_420, 65_320),
        (4, 1_420, 5_680),
    ];
    assert_eq!(lengths, expected);
}
