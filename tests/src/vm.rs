//! Runs tests on Debian's kernel, for features that this machine's kernel does not have. The virtual machine needs no
//! hardware support. It reads this machine's files, writes none of them, and runs the same test executable.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lab::process::{ends_within, last_lines};
use rustix::process::Pid;

use crate::cpio::Archive;
use crate::harness;
use crate::need::Need;

/// The time limit from power-on to power-off, for all tests together.
const LIMIT: Duration = Duration::from_secs(590);
/// The same when the drills try every point.
const LIMIT_OF_DRILLS: Duration = Duration::from_secs(4 * 3600);
/// The machine stops itself so much earlier.
const EARLIER: Duration = Duration::from_secs(20);
const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
/// The folder for results, inside the machine.
pub const OUT: &str = "/run/vm";
/// The command line of the machine's kernel.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";
/// The file with the names of the tests to run, one per line.
const NAMES: &str = "names";
/// Modules that the machine needs to see this machine's files.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// A module whose device file exists only after it is loaded.
const TUN: &str = "tun";

/// The outcome of each test that was run: whether it passed, and its output.
pub type Verdicts = BTreeMap<String, (bool, String)>;

/// An unpacked kernel with its modules.
#[derive(Debug, Clone)]
struct Linux {
    image: PathBuf,
    /// The folder of the modules: `lib/modules` and the version.
    modules: PathBuf,
    version: String,
}

/// Whether this process runs inside the machine, where a test may change the clock.
pub fn is_inside() -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.trim() == COMMAND_LINE)
}

/// Why no virtual machine can run here; `None` if one can.
pub fn absent() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("needs an x86_64 machine".into());
    }
    let needs = [Need::Program(QEMU), Need::Program("setpriv"), Need::File(BUSYBOX)];
    let why = needs.iter().find_map(|need| need.absent());
    why.or_else(|| linux().err().map(|error| format!("needs Debian's kernel, which tests/run fetches: {error}")))
}

/// Finds the kernel in the folder `vm/linux` of the target folder, where tests/run puts it.
fn linux() -> io::Result<Linux> {
    let me = std::env::current_exe()?;
    let root = me.ancestors().map(|dir| dir.join("vm/linux")).find(|dir| dir.is_dir());
    let root = root.ok_or(io::Error::other("no folder vm/linux in the target folder"))?;
    let modules = root.join("lib/modules");
    let version = fs::read_dir(&modules)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", modules.display())))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|version| modules.join(version).join("modules.dep").exists())
        .ok_or_else(|| io::Error::other(format!("{}: no modules.dep", modules.display())))?;
    let image = root.join("boot").join(format!("vmlinuz-{version}"));
    fs::metadata(&image).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", image.display())))?;
    Ok(Linux { image, modules, version })
}

/// What a machine did, and the end of its console.
type Booted = Result<(Verdicts, String), String>;

/// How many tests one machine runs: they share its time limit.
const GROUP: usize = 40;

/// The outcome of the test `name`, one of `names`. Each group of these has a machine, which the first call boots.
pub fn verdict(name: &str, names: &[&str]) -> Result<(bool, String), String> {
    static MACHINES: Mutex<BTreeMap<usize, Arc<OnceLock<Booted>>>> = Mutex::new(BTreeMap::new());
    let at = names.iter().position(|other| *other == name).unwrap_or_default() / GROUP;
    let machine = MACHINES.lock().unwrap_or_else(PoisonError::into_inner).entry(at).or_default().clone();
    let group = names.chunks(GROUP).nth(at).unwrap_or_default();
    let booted = machine.get_or_init(|| run(group).map_err(|error| format!("the virtual machine: {error}")));
    let (verdicts, console) = booted.as_ref().map_err(Clone::clone)?;
    verdicts
        .get(name)
        .cloned()
        .ok_or_else(|| format!("the virtual machine ended before this test; its console:\n{console}"))
}

fn run(names: &[&str]) -> io::Result<(Verdicts, String)> {
    let dir = tempfile::tempdir()?;
    let (initramfs, out, console) = (dir.path().join("initramfs"), dir.path().join("out"), dir.path().join("console"));
    fs::create_dir(&out)?;
    fs::write(out.join(NAMES), names.join("\n"))?;
    let linux = linux()?;
    fs::write(&initramfs, archive(&linux, &std::env::current_exe()?)?)?;
    let mut child = Command::new("setpriv")
        // the machine ends with this thread
        .args(["--pdeathsig", "KILL", QEMU, "-machine", "q35,accel=tcg", "-m", "1024", "-smp", "2"])
        .args(["-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(&linux.image)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", COMMAND_LINE])
        .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
        .arg("-virtfs")
        .arg(format!("local,path={},mount_tag=out,security_model=none", out.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.path().join("qemu"))?)
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::Error::other("invalid process ID"))?;
    let ended = ends_within(pid, limit());
    if !matches!(ended, Ok(true)) {
        child.kill()?;
    }
    let status = child.wait()?;
    let said = fs::read_to_string(dir.path().join("qemu"))?;
    if !status.success() && ended? {
        return Err(io::Error::other(format!("{QEMU}: {status}: {}", said.trim())));
    }
    Ok((collect(&out, names)?, last_lines(&console)))
}

fn limit() -> Duration {
    if harness::drills() { LIMIT_OF_DRILLS } else { LIMIT }
}

fn collect(out: &Path, names: &[&str]) -> io::Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for (number, name) in names.iter().enumerate() {
        let Ok(bytes) = fs::read(result_file(out, number)) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let (verdict, said) = text.split_once('\n').unwrap_or((&text, ""));
        verdicts.insert((*name).to_owned(), (verdict == "ok", said.to_owned()));
    }
    Ok(verdicts)
}

fn result_file(out: &Path, number: usize) -> PathBuf {
    out.join(format!("{number}.txt"))
}

/// Inside the machine: runs each requested test with `trial` and writes its outcome.
pub fn inside(trial: impl Fn(&str) -> io::Result<(bool, String)>) -> io::Result<()> {
    let out = Path::new(OUT);
    for (number, name) in fs::read_to_string(out.join(NAMES))?.lines().enumerate() {
        let (good, said) = trial(name).unwrap_or_else(|error| (false, error.to_string()));
        let partial = out.join("partial");
        fs::write(&partial, format!("{}\n{said}", if good { "ok" } else { "failed" }))?;
        fs::rename(&partial, result_file(out, number))?;
    }
    Ok(())
}

/// The initial file system: busybox, the modules for this machine's files, and the start script.
fn archive(linux: &Linux, me: &Path) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "sbin", "dev", "proc", "sys", "host", "out", "rw", "new", "lib", "lib/modules", "mod"] {
        archive.directory(dir);
    }
    archive.file("bin/busybox", &fs::read(BUSYBOX)?);
    // the kernel calls it to load modules that the tests need
    archive.link("sbin/modprobe", "/bin/busybox");
    let root = linux.modules.join(&linux.version);
    let dependencies = fs::read_to_string(root.join("modules.dep"))?;
    let mut insmod = String::new();
    for (number, path) in in_order(&dependencies, &[&MODULES[..], &[TUN]].concat()).into_iter().enumerate() {
        archive.file(&format!("mod/{number}.ko"), &fs::read(root.join(path))?);
        insmod += &format!("insmod /mod/{number}.ko\n");
    }
    archive.file("init", init(linux, me, &insmod).as_bytes());
    Ok(archive.finish())
}

fn init(linux: &Linux, me: &Path, insmod: &str) -> String {
    let (modules, me) = (linux.modules.display(), me.display());
    let drills = if harness::drills() { "export DRILLS=all" } else { "" };
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
{insmod}
{drills}
(sleep {own_limit}; echo 'out of time'; poweroff -f) &
common=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o $common,cache=loose,ro host /host
mount -t 9p -o $common,cache=none out /out
mount -t tmpfs tmpfs /rw
mkdir /rw/up /rw/work
mount -t overlay -o lowerdir=/host,upperdir=/rw/up,workdir=/rw/work overlay /new
mount -o bind '/host{modules}' /lib/modules
# for programs that load modules themselves
mkdir -p /new/lib/modules
mount -o bind '/host{modules}' /new/lib/modules
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mount -t tmpfs tmpfs /new/run
mkdir /new{OUT}
mount -o bind /out /new{OUT}
# a root of its own, so that a path says the same in every mount namespace
cd /new
mount -o move /new /
chroot . '{me}' {guest}
poweroff -f
",
        own_limit = (limit() - EARLIER).as_secs(),
        guest = harness::GUEST
    )
}

/// The files of `modules` and of their dependencies, each after its own dependencies. `dependencies` is modules.dep:
/// each line has a file and what it needs, nearest first.
fn in_order<'a>(dependencies: &'a str, modules: &[&str]) -> Vec<&'a str> {
    let mut files: Vec<&str> = Vec::new();
    for line in modules.iter().filter_map(|module| dependencies.lines().find(|line| is_of(line, module))) {
        let (file, needs) = line.split_once(':').unwrap_or((line, ""));
        for file in needs.split_whitespace().rev().chain([file]) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// Whether the line is for the module. A file name may have `-` where the module's name has `_`.
fn is_of(line: &str, module: &str) -> bool {
    let file = line.split(':').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_") == module
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs() {
        let dep = "k/9p.ko: k/9pnet.ko k/netfs.ko k/fscache.ko\nk/virtio-pci.ko: k/b.ko k/a.ko\nk/9pnet.ko:\n";
        assert_eq!(
            in_order(dep, &["virtio_pci", "9pnet", "9p", "built_in"]),
            ["k/a.ko", "k/b.ko", "k/virtio-pci.ko", "k/9pnet.ko", "k/fscache.ko", "k/netfs.ko", "k/9p.ko"]
        );
    }
}
