//! A datagram to the kernel and one back, whatever the protocol: signals do not count.

use std::io::{self, ErrorKind};

use netlink_sys::Socket;

use super::error::Errno;

pub(crate) fn send(socket: &Socket, out: &[u8]) -> Result<(), Errno> {
    through(|| socket.send(out, 0))
}

/// Replaces what is in `buffer`, as far as its capacity goes.
pub(crate) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    through(|| {
        buffer.clear();
        socket.recv(buffer, 0)
    })
}

fn through(mut call: impl FnMut() -> io::Result<usize>) -> Result<(), Errno> {
    loop {
        match call() {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Errno::of(&e)),
        }
    }
}
