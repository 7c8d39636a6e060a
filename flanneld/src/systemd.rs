//! Notifies the service manager as sd_notify(3) does: by a datagram to the socket that it named.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager at NOTIFY_SOCKET.
#[derive(Debug, Clone)]
pub struct Manager {
    socket: String,
}

impl Manager {
    /// The manager that listens at `socket`.
    pub fn new(socket: String) -> Self {
        Self { socket }
    }

    /// Reports that the start is done.
    pub fn ready(&self) -> std::io::Result<()> {
        self.send("READY=1")
    }

    /// Reports in one line what the daemon does or waits for. `systemctl status` shows it.
    pub fn status(&self, text: &str) -> std::io::Result<()> {
        self.send(&format!("STATUS={}", text.replace('\n', "; ")))
    }

    fn send(&self, text: &str) -> std::io::Result<()> {
        let address = match self.socket.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&self.socket)?,
        };
        UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = path.to_str().unwrap().replace('/', "-");
        let by_name = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (socket, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{abstract_name}")),
        ] {
            let manager = Manager::new(name);
            manager.ready().unwrap();
            manager.status("no route\nno link").unwrap();
            let mut buffer = [0; 64];
            for text in [&b"READY=1"[..], b"STATUS=no route; no link"] {
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], text);
            }
        }
        assert!(Manager::new("/nowhere/at/all".into()).ready().is_err());
    }
}
