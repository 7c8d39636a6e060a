//! Host ports of SCTP, which the kernel of the build machine may not have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lab::netns::Room;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use tests::harness::Outcome;

use crate::Failure;
use crate::call::Whose;
use crate::portmap::{CLIENT, HOST, Host, portmap, room};

/// SCTP's protocol number (RFC 9260).
const SCTP: i32 = 132;

fn socket() -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(SCTP)))?;
    socket.set_read_timeout(Some(crate::portmap::LIMIT))?;
    socket.set_write_timeout(Some(crate::portmap::LIMIT))?;
    Ok(socket)
}

/// The address from which the connection arrives at the server.
fn connected(server: &Socket, client: &Room, to: SocketAddr) -> Result<Option<IpAddr>, Failure> {
    let stream = client.enter(socket)??;
    if stream.connect(&to.into()).is_err() {
        return Ok(None);
    }
    let (_, peer) = server.accept()?;
    Ok(peer.as_socket().map(|peer| peer.ip()))
}

pub fn a_port_leads_to_the_pod() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let (room, pod) = room("cid")?;
    let result = host.attach(&pod);
    let server = room.enter(socket)??;
    server.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9)).into())?;
    server.listen(4)?;
    let to = SocketAddr::new(HOST[0].parse()?, 9999);
    let conf = portmap(&json!([{ "hostPort": 9999, "containerPort": 9, "protocol": "sctp" }]), &result);
    host.caller.call("ADD", &pod, &conf).ok();
    assert_eq!(connected(&server, &host.client, to)?, Some(CLIENT[0].parse()?));
    host.caller.call("CHECK", &pod, &conf).ok();
    host.caller.call("DEL", &pod, &conf).ok();
    assert_eq!(connected(&server, &host.client, to)?, None);
    Ok(())
}
