//! Sends the kernel the netlink messages of a bridge and host-local ADD, and exits. It reads, checks, reserves, sets
//! and answers nothing. The rest of an ADD's time is the plugin's own.
//!
//! The environment has CNI_NETNS, as a plugin's has, BRIDGE and VETH. The pod gets eth0, 10.84.0.2/16 and a default route. The
//! messages are those that the plugin sends, byte for byte but for names, addresses and indexes; the benchmark compares
//! them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;

const ADDRESS: [u8; 4] = [10, 84, 0, 2];
const BROADCAST: [u8; 4] = [10, 84, 255, 255];
const GATEWAY: [u8; 4] = [10, 84, 0, 1];

/// Netlink messages being put together.
#[derive(Default)]
struct Messages(Vec<u8>);

/// A socket, and room for an answer.
struct Socket {
    socket: OwnedFd,
    answer: Vec<u8>,
}

fn main() -> io::Result<()> {
    let variable = |name| std::env::var(name).map_err(io::Error::other);
    let (bridge, veth) = (variable("BRIDGE")?, variable("VETH")?);
    let (home, netns) = (File::open("/proc/thread-self/ns/net")?, File::open(variable("CNI_NETNS")?)?);
    let mut host = Socket::open()?;
    enter(&netns)?;
    let mut pod = Socket::open()?;
    enter(&home)?;
    let master = host.ask(&Messages::get_link(&bridge))?;
    host.send(&Messages::pair(&veth, master, &netns), 1)?;
    host.send(&Messages::get_addresses(master), 2)?;
    host.send(&Messages::up(&veth), 1)?;
    let index = pod.ask(&Messages::get_link("eth0"))?;
    pod.send(&Messages::inside(index), 1)?;
    host.ask(&Messages::get_link(&veth)).map(drop)
}

fn enter(netns: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(std::os::fd::AsFd::as_fd(netns), Some(LinkNameSpaceType::Network))?)
}

impl Socket {
    fn open() -> io::Result<Self> {
        // protocol 0 is NETLINK_ROUTE
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, answer: vec![0; 8192] })
    }

    /// Sends the messages and reads as many datagrams as the kernel answers with.
    fn send(&mut self, messages: &Messages, answers: usize) -> io::Result<()> {
        send(&self.socket, &messages.0, SendFlags::empty())?;
        for _ in 0..answers {
            recv(&self.socket, &mut self.answer[..], RecvFlags::DONTWAIT)?;
            // NLMSG_ERROR, and the number behind the header
            if self.number(4) & 0xffff == 2 && self.number(16) != 0 {
                return Err(io::Error::from_raw_os_error(-self.number(16).cast_signed()));
            }
        }
        Ok(())
    }

    /// The index of the link that is asked for: struct ifinfomsg behind the header.
    fn ask(&mut self, messages: &Messages) -> io::Result<u32> {
        self.send(messages, 1)?;
        Ok(self.number(20))
    }

    fn number(&self, at: usize) -> u32 {
        self.answer[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

impl Messages {
    fn get_link(name: &str) -> Self {
        Self::default().message(GETLINK, REQUEST, |m| m.link(0, 0).text(3, name).number(29, 8))
    }

    fn get_addresses(index: u32) -> Self {
        Self::default().message(GETADDR, REQUEST | DUMP, |m| m.bytes(&[0; 4]).bytes(&index.to_ne_bytes()))
    }

    fn up(name: &str) -> Self {
        Self::default().message(NEWLINK, REQUEST | ACK, |m| m.link(0, 1).text(3, name))
    }

    fn pair(name: &str, master: u32, netns: &File) -> Self {
        let peer = |m: Self| {
            let m = m.link(0, 0).text(3, "eth0").number(31, 1).number(32, 1).attribute(1, &[0x3a, 1, 2, 3, 4, 5]);
            m.number(28, netns.as_raw_fd().cast_unsigned())
        };
        let kind = |m: Self| m.text(1, "veth").nest(2, |m| m.nest(1, peer));
        Self::default().message(NEWLINK, REQUEST | ACK | EXCL | CREATE, |m| {
            let m = m.link(0, 0).text(3, name).attribute(1, &[0x3a, 6, 7, 8, 9, 10]);
            m.number(10, master).number(31, 1).number(32, 1).nest(18, kind)
        })
    }

    /// The pod's address, interface and route.
    fn inside(index: u32) -> Self {
        let address = |m: Self| {
            let m = m.bytes(&[2, 16, 0, 0]).bytes(&index.to_ne_bytes());
            m.attribute(2, &ADDRESS).attribute(1, &ADDRESS).attribute(4, &BROADCAST)
        };
        // AF_INET, table 254, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST
        let route = |m: Self| {
            let m = m.bytes(&[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]).number(15, 254);
            m.attribute(5, &GATEWAY).number(4, index)
        };
        Self::default()
            .message(NEWADDR, REQUEST | CREATE | REPLACE, address)
            .message(NEWLINK, REQUEST, |m| m.link(index, 1))
            .message(NEWROUTE, REQUEST | ACK | CREATE, route)
    }

    fn message(mut self, kind: u16, flags: u16, body: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 4]);
        let me = self.bytes(&kind.to_ne_bytes()).bytes(&flags.to_ne_bytes()).bytes(&[0; 8]);
        let mut me = body(me);
        let length = (me.0.len() - start) as u32;
        me.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        me
    }

    /// struct ifinfomsg, of which flags and their mask are the same here.
    fn link(self, index: u32, flags: u32) -> Self {
        let (index, flags) = (index.to_ne_bytes(), flags.to_ne_bytes());
        self.bytes(&[0; 4]).bytes(&index).bytes(&flags).bytes(&flags)
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.nest(kind, |m| m.bytes(value.as_bytes()).bytes(&[0]))
    }

    fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.nest(kind, |m| m.bytes(value))
    }

    fn nest(mut self, kind: u16, value: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        let mut me = value(self.bytes(&kind.to_ne_bytes()));
        let length = (me.0.len() - start) as u16;
        me.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        let whole = me.0.len().next_multiple_of(4);
        me.0.resize(whole, 0);
        me
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}
