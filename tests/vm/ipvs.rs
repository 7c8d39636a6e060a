//! Host ports beside kube-proxy's mode `ipvs`: services are addresses of the host, on the link `kube-ipvs0`.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;

use lab::netns::Room;
use serde_json::json;
use tests::harness::Outcome;
use tests::kube_proxy::SERVICE;

use crate::Failure;
use crate::call::Whose;
use crate::portmap::{CLIENT, HOST, Host, address, ip, mapping, portmap, room, seen};

fn run(line: &str) -> Outcome {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {output:?}").into()) }
}

/// Whoever connects is told `name`.
fn serve(room: &Room, name: &'static str) -> Outcome {
    let listener = room.enter(|| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 80))))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // a client that has gone misses the answer
            let _ = std::io::Write::write_all(&mut stream, name.as_bytes());
        }
    });
    Ok(())
}

fn answer(from: Option<&Room>, to: (&str, u16)) -> Result<String, Failure> {
    Ok(seen(from, to).map_err(|error| format!("{to:?}: {error}"))?)
}

/// Pod `one` has the service's port as a host port: each is reached at its own addresses.
pub fn services_keep_their_ports() -> Outcome {
    let host = Host::new(Whose::Ours)?;
    let ((one, first), (two, second)) = (room("one")?, room("two")?);
    let (result, endpoint) = (host.attach(&first), host.attach(&second));
    serve(&one, "one")?;
    serve(&two, "two")?;
    ip("link add kube-ipvs0 type dummy");
    ip(&format!("addr add {}/32 dev kube-ipvs0", SERVICE.0));
    ip(&format!("-n client route add {} via {}", SERVICE.0, HOST[0]));
    let to: IpAddr = address(&endpoint, 0).parse()?;
    run(&format!("ipvsadm -A -t {}:{} -s rr", SERVICE.0, SERVICE.1))?;
    // kube-proxy's setting, which is there with the module
    std::fs::write("/proc/sys/net/ipv4/vs/conntrack", "1")?;
    run(&format!("ipvsadm -a -t {}:{} -r {to}:80 -m", SERVICE.0, SERVICE.1))?;
    let conf = portmap(&json!([mapping(SERVICE.1, 80)]), &result);
    let client = Some(&host.client);
    assert_eq!(answer(client, SERVICE)?, "two");
    host.caller.call("ADD", &first, &conf).ok();
    assert_eq!(answer(client, SERVICE)?, "two", "the service has its port");
    assert_eq!(answer(client, (HOST[0], SERVICE.1))?, "one", "the host's own address");
    assert_eq!(answer(None, SERVICE)?, "two", "from the host");
    assert_eq!(answer(Some(&one), (HOST[0], SERVICE.1))?, "one", "from the pod itself");
    host.caller.call("CHECK", &first, &conf).ok();
    host.caller.call("DEL", &first, &conf).ok();
    assert_eq!(answer(client, SERVICE)?, "two");
    assert!(seen(client, (HOST[0], SERVICE.1)).is_err(), "{CLIENT:?} reaches a port that is gone");
    Ok(())
}
