//! A machine for a container runtime: namespaces for processes, mounts and control groups besides the sandbox's own. All
//! of it ends with the first process, and nothing that a runtime writes reaches the real machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use lab::wait::eventually;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::{WaitOptions, getpid, wait};
use rustix::thread::UnshareFlags;
use tests::harness::Outcome;

use crate::Failure;

/// The first argument of the machine's first process; then its group's name, and the test's.
pub const INIT: &str = "--init";
/// The first argument of a test's process on the machine; then its name.
pub const INSIDE: &str = "--inside";

/// Directories that runtimes write to. On the machine they are layers above the real ones.
const LAYERED: [&str; 3] = ["/etc", "/opt", "/var"];
/// Where the layers are: on the sandbox's own tmpfs.
const LAYERS: &str = "/run/layers";
const MOUNTS: &str = "/proc/self/mountinfo";

/// Runs the test `name` on a machine of its own, and removes the machine.
pub fn boot(name: &str) -> Outcome {
    let group = format!("t3-{}", getpid().as_raw_nonzero());
    let groups = Groups::make(&group)?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child=SIGKILL", "--mount", "--uts", "--ipc", "--"]);
    let status = unshare.arg(std::env::current_exe()?).args([INIT, &group, name]).status();
    groups.remove()?;
    let status = status?;
    if status.success() { Ok(()) } else { Err(format!("on the machine: {status}").into()) }
}

/// The machine's first process: sets it up, starts the test, and waits for every process that loses its parent.
pub fn init(group: &str, name: &str) -> ExitCode {
    match set_up(group).and_then(|()| run(name)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => crate::complain(&*error),
    }
}

fn set_up(group: &str) -> Outcome {
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    enter_groups(group)?;
    for dir in LAYERED {
        let name = dir.trim_start_matches('/');
        let (upper, work) = (format!("{LAYERS}/{name}"), format!("{LAYERS}/{name}.work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = std::ffi::CString::new(format!("lowerdir={dir},upperdir={upper},workdir={work}"))?;
        mount("overlay", dir, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    }
    Ok(())
}

/// Whether the test succeeds.
fn run(name: &str) -> Result<bool, Failure> {
    let child = Command::new(std::env::current_exe()?).args([INSIDE, name]).spawn()?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == child.id() => {
                return Ok(status.exit_status() == Some(0));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The machine's groups, one per hierarchy of the real machine.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn make(name: &str) -> Result<Self, Failure> {
        let mut made = Self(Vec::new());
        for (_, parent) in hierarchies()? {
            let group = parent.join(name);
            fs::create_dir(&group).map_err(|error| format!("make {}: {error}", group.display()))?;
            made.0.push(group.clone());
            // a new group of cpuset takes no process before it has both
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (Ok(value), true) = (fs::read(parent.join(file)), group.join(file).exists()) {
                    let _ = fs::write(group.join(file), value);
                }
            }
        }
        Ok(made)
    }

    /// Removes them with the groups that runtimes made in them. All their processes have been killed.
    fn remove(self) -> Outcome {
        for group in self.0 {
            let what = format!("{} is empty", group.display());
            eventually(what, Duration::from_secs(20), || remove_tree(&group).map_err(|error| error.to_string()))?;
        }
        Ok(())
    }
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Each hierarchy's mount point, and this process's group in it.
fn hierarchies() -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let mounts = fs::read_to_string(MOUNTS)?;
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if let Some(mounted) = mounts.lines().find_map(|mount| mounted_at(mount, controllers)) {
            let group = mounted.join(path.trim_start_matches('/'));
            found.push((mounted, group));
        }
    }
    if found.is_empty() { Err("no control groups are mounted".into()) } else { Ok(found) }
}

/// The mount point of the hierarchy with these controllers, if `line` of mountinfo is about it.
fn mounted_at(line: &str, controllers: &str) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    let (kind, options) = (kind.split(' ').next()?, kind.split(' ').nth(2)?);
    let is_it = match (kind, controllers) {
        ("cgroup2", "") => true,
        ("cgroup", controllers) => controllers.split(',').all(|one| options.split(',').any(|option| option == one)),
        _ => false,
    };
    (is_it && (kind == "cgroup2" || !controllers.is_empty())).then(|| place.split(' ').nth(4).map(PathBuf::from))?
}

/// Makes the machine's groups the roots of all hierarchies.
#[expect(deprecated, reason = "unsound for CLONE_FILES only")]
fn enter_groups(name: &str) -> Outcome {
    let hierarchies = hierarchies()?;
    for (_, parent) in &hierarchies {
        fs::write(parent.join(name).join("cgroup.procs"), "0")?;
    }
    rustix::thread::unshare(UnshareFlags::NEWCGROUP)?;
    for (mounted, parent) in &hierarchies {
        mount_bind(parent.join(name), mounted)?;
        if mounted.join("cgroup.controllers").exists() {
            // a group of the second version that shares out controllers has no processes
            fs::create_dir_all(mounted.join("init"))?;
            fs::write(mounted.join("init/cgroup.procs"), "0")?;
        }
    }
    Ok(())
}
