//! The source that a packet has when it arrives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lab::netns::Room;
use lab::wait::eventually;

use crate::Failure;

/// A first packet may be lost while neighbours are looked up.
const PATIENCE: Duration = Duration::from_secs(10);
const A_REPLY: Duration = Duration::from_millis(200);

/// A socket whose source the kernel chooses.
fn sender(room: &Room, to: IpAddr) -> Result<UdpSocket, Failure> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Ok(room.enter(|| UdpSocket::bind((any, 0)))??)
}

/// The source of a datagram that is sent in `from` when it comes to `address` in `to`.
pub fn seen(from: &Room, to: &Room, address: IpAddr) -> Result<IpAddr, Failure> {
    let receiver = to.enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))??;
    let sender = sender(from, address)?;
    receiver.set_read_timeout(Some(A_REPLY))?;
    let (target, mut buffer) = (receiver.local_addr()?, [0; 16]);
    Ok(eventually(format_args!("a datagram comes to {address}"), PATIENCE, || {
        sender.send_to(b"hello", target).map_err(|error| error.to_string())?;
        receiver.recv_from(&mut buffer).map(|(_, source)| source.ip()).map_err(|error| error.to_string())
    })?)
}

/// The source that a socket in `from` has towards `address`.
pub fn own(from: &Room, address: IpAddr) -> Result<IpAddr, Failure> {
    let socket = sender(from, address)?;
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip())
}
