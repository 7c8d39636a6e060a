//! The lab itself.

use std::path::PathBuf;
use std::time::Duration;

use flanneld::lab::ping::Pinger;
use flanneld::lab::process::Launch;
use flanneld::lab::topology::Topology;
use flanneld::lab::wait::eventually;
use flanneld::lab::world::{World, users_of};
use kernel::types::Family;

use crate::Outcome;

const SECOND: Duration = Duration::from_secs(1);

pub fn every_host_reaches_every_host() -> Outcome {
    let world = World::build(Topology::every_third_routed(4))?;
    for family in Family::ALL {
        for from in world.topology.hosts() {
            for to in world.topology.hosts().into_iter().filter(|to| *to != from) {
                let addr = world.topology.underlay(to, family).ok_or("no address")?;
                let mut pinger = world.host(from)?.enter(|| Pinger::open(addr, 1))??;
                pinger.echo(SECOND).map_err(|error| format!("host{from} to host{to} at {addr}: {error}"))?;
            }
        }
    }
    Ok(())
}

fn sleeper(world: &World, outlive: bool) -> Result<Launch, Box<dyn std::error::Error>> {
    Ok(Launch {
        program: PathBuf::from("/bin/sleep"),
        args: vec!["1000".into()],
        netns: world.host(1)?.path().to_owned(),
        log: PathBuf::from("/run/sleep.log"),
        outlive,
    })
}

pub fn a_bound_process_dies_with_its_parent() -> Outcome {
    let world = World::build(Topology::flat(1))?;
    let number = world.host(1)?.netns().id()?.1;
    let mut daemon = sleeper(&world, false)?.start()?;
    eventually("the sleeper is in the host", SECOND, || {
        let users = users_of(&[number]).map_err(|error| error.to_string())?;
        if users.contains(&format!("process {}", daemon.pid())) { Ok(()) } else { Err(format!("{users:?}")) }
    })?;
    assert_eq!(daemon.ended()?, None);
    let pid = daemon.pid();
    drop(daemon);
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    Ok(())
}

pub fn nothing_is_left() -> Outcome {
    let world = World::build(Topology::every_third_routed(3))?;
    assert_eq!(world.size(), 6);
    let daemon = sleeper(&world, false)?.start()?;
    let host = world.host(1)?.netns().id()?.1;
    let inside = format!("process {}", daemon.pid());
    let user = || {
        users_of(&[host])
            .map_err(|e| e.to_string())
            .and_then(|u| u.contains(&inside).then_some(()).ok_or(format!("{u:?}")))
    };
    eventually("the sleeper is in the host", SECOND, user)?;
    let numbers = world.take_down()?;
    // what still holds a namespace is found …
    assert_eq!(users_of(&numbers)?, [inside]);
    let status = daemon.stop(SECOND)?;
    assert!(!status.success(), "sleep ends by the signal");
    // … and nothing is, when nothing does
    assert_eq!(users_of(&numbers)?, Vec::<String>::new());
    assert_eq!(std::fs::read_dir("/run/netns")?.count(), 0);
    Ok(())
}
