//! Problems of attachments that flanneld reports but does not repair.

use std::fs::{self, File};
use std::path::PathBuf;

use kernel::types::IfName;
use lab::cluster::{Cluster, Spec, log_file};
use lab::mode::Mode;
use lab::pods::NETWORK;
use lab::topology::Topology;
use overlay::status::Attachments;
use rustix::fs::{FlockOperation, flock};

use crate::disturb::{cluster, cluster_with, repaired, run, stays};
use crate::{Failure, Outcome};

/// Host 1's pod: the host's end of its cable, and its record.
fn attachment(cluster: &Cluster) -> Result<(IfName, PathBuf), Failure> {
    let veth = &cluster.pod(1)?.veth;
    let folder = PathBuf::from(attachment::record::DIRECTORY).join(NETWORK);
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.is_file() && fs::read_to_string(&path)?.contains(veth.as_str()) {
            return Ok((IfName::new(veth)?, path));
        }
    }
    Err(format!("{veth} is in no record").into())
}

fn status() -> Result<Attachments, Failure> {
    Ok(Cluster::status(1).and_then(|status| status.attachments).ok_or("no attachments in the status")?)
}

/// What is wrong with the port: it is down.
fn is_down(cluster: &Cluster, veth: &IfName) -> Result<Option<String>, Failure> {
    let link = cluster.world.host(1)?.kernel()?.link(veth)?.ok_or("no port")?;
    Ok((!link.link.up).then(|| format!("{veth} is down; {:?}", status())))
}

fn is_up(cluster: &Cluster, veth: &IfName) -> Result<Option<String>, Failure> {
    Ok(is_down(cluster, veth)?.is_none().then(|| format!("{veth} is up")))
}

pub fn a_link_to_a_pod_that_is_gone_is_reported() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let (veth, _) = attachment(&cluster)?;
    run(cluster.world.host(1)?, &format!("ip link del {veth}"))?;
    repaired("the report of a link that is gone", || {
        let reported = status()?.reported;
        let said = reported.iter().any(|text| text.starts_with(&format!("{veth}, ")) && text.contains("is gone"));
        Ok((!said).then(|| format!("{reported:?}")))
    })?;
    assert!(cluster.world.host(1)?.kernel()?.link(&veth)?.is_none(), "it is not made again");
    Ok(())
}

/// A pod that is removed in order is not reported.
pub fn a_detached_pod_is_not_reported() -> Outcome {
    let mut cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let counts = |pods: usize| {
        let status = status()?;
        Ok((status.count != pods).then(|| format!("{status:?}")))
    };
    repaired("the status with the pod", || counts(1))?;
    cluster.detach_pods()?;
    repaired("the status without the pod", || counts(0))?;
    assert_eq!((status()?.reported, status()?.healed), (vec![], [].into()));
    Ok(())
}

/// An ADD changes links, its record, and for some pods a table of packet rules at about one time.
pub fn pods_that_come_and_go_are_not_reported() -> Outcome {
    let mut cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    for _ in 0..10 {
        cluster.detach_pods()?;
        for host in [1, 2] {
            cluster.attach_pod(host)?;
        }
        run(cluster.world.host(1)?, "nft add table inet cni_plugins_masquerade")?;
        run(cluster.world.host(1)?, "nft delete table inet cni_plugins_masquerade")?;
    }
    repaired("the status with the pod", || {
        let status = status()?;
        Ok((status.count != 1).then(|| format!("{status:?}")))
    })?;
    for host in [1, 2] {
        let log = fs::read_to_string(log_file(host))?;
        let reported: Vec<&str> = log.lines().filter(|line| line.contains("is gone")).collect();
        assert_eq!(reported, Vec::<&str>::new());
    }
    Ok(())
}

pub fn an_exempted_attachment_is_left_alone() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let (veth, record) = attachment(&cluster)?;
    let (folder, file) = (record.with_file_name("quarantine"), record.file_name().ok_or("no name")?);
    fs::create_dir(&folder)?;
    fs::write(folder.join(file), "")?;
    let name = format!("{NETWORK}/{}", file.to_string_lossy());
    repaired("the exempted attachment in the status", || {
        let named = status()?.quarantined;
        Ok((named != [name.clone()]).then(|| format!("{named:?}")))
    })?;
    run(cluster.world.host(1)?, &format!("ip link set {veth} down"))?;
    stays("an exempted port that is down", || is_up(&cluster, &veth))?;
    fs::remove_file(folder.join(file))?;
    repaired("a port that is exempted no more", || is_down(&cluster, &veth))
}

pub fn without_the_flag_nothing_is_repaired() -> Outcome {
    let spec = Spec { topology: Topology::flat(2), mode: Mode::Vxlan, dual_stack: false, outlive: false };
    let cluster = cluster_with(spec, &["--heal-attachments=false"])?;
    let (veth, _) = attachment(&cluster)?;
    run(cluster.world.host(1)?, &format!("ip link set {veth} down"))?;
    stays("a port that is down", || {
        let link = cluster.world.host(1)?.kernel()?.link(&veth)?.ok_or("no port")?;
        Ok(link.link.up.then(|| "it is up".to_owned()))
    })?;
    assert_eq!(Cluster::status(1).ok_or("no status")?.attachments, None);
    Ok(())
}

/// An ADD or a DEL holds the record's lock.
pub fn a_record_in_use_is_waited_for() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let (veth, record) = attachment(&cluster)?;
    let file = File::open(record)?;
    flock(&file, FlockOperation::LockExclusive)?;
    run(cluster.world.host(1)?, &format!("ip link set {veth} down"))?;
    stays("a port whose record is in use", || is_up(&cluster, &veth))?;
    drop(file);
    repaired("a port whose record is in use no more", || is_down(&cluster, &veth))
}

pub fn the_sixth_repair_in_a_minute_waits() -> Outcome {
    let cluster = cluster(Topology::flat(2), Mode::Vxlan, false)?;
    let (veth, _) = attachment(&cluster)?;
    let down = || run(cluster.world.host(1)?, &format!("ip link set {veth} down"));
    for number in 1..=5 {
        down()?;
        repaired(&format!("repair {number} of a port"), || is_down(&cluster, &veth))?;
    }
    // the port is up before the repair is counted
    repaired("the report of a port that is changed again and again", || {
        let reported = status()?.reported;
        let said = reported.iter().any(|text| text.starts_with(&format!("{veth} was repaired five times")));
        if !said {
            down()?;
        }
        Ok((!said).then(|| format!("{reported:?}")))
    })?;
    down()?;
    stays("a port that was repaired five times", || is_up(&cluster, &veth))?;
    assert_eq!(status()?.healed.get("port"), Some(&5));
    Ok(())
}
