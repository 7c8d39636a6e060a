//! A sandbox: network and mount namespaces of its own. For a user who is not root they are in a new user namespace.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

/// Why no sandbox or no lab is possible here. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Other threads run already. Namespaces belong to threads, so they would stay outside.
    #[error("sandbox: {0} threads run already: enter it before any other thread starts")]
    Threads(usize),
    /// `user.max_user_namespaces` is 0.
    #[error(
        "sandbox: user namespaces are off (user.max_user_namespaces = 0): run as root, or `sysctl user.max_user_namespaces=10000`"
    )]
    NoUserNamespaces,
    /// Debian's setting `kernel.unprivileged_userns_clone` is 0.
    #[error(
        "sandbox: user namespaces are for root only (kernel.unprivileged_userns_clone = 0): run as root, or set it to 1"
    )]
    Unprivileged,
    /// AppArmor restricts user namespaces (`kernel.apparmor_restrict_unprivileged_userns`).
    #[error(
        "sandbox: AppArmor takes the rights of user namespaces away (kernel.apparmor_restrict_unprivileged_userns = 1): run as root, or set it to 0"
    )]
    AppArmor,
    /// The kernel was built without CONFIG_USER_NS.
    #[error("sandbox: this kernel has no user namespaces (CONFIG_USER_NS): run as root")]
    NotBuilt,
    /// The kernel refused a step: a seccomp filter, a chroot, or a container without CAP_SYS_ADMIN.
    #[error(
        "sandbox: {step} is refused ({errno}): run as root, or outside the container that forbids it (CAP_SYS_ADMIN, seccomp)"
    )]
    Refused {
        /// The step that was refused.
        step: &'static str,
        /// The kernel's error number.
        errno: Errno,
    },
    /// A uid or gid map cannot be written.
    #[error("sandbox: write {path}: {source}: run as root, or outside the container that forbids it")]
    Map {
        /// The file below /proc/self.
        path: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The kernel does not have a link kind.
    #[error("this kernel has no {kind} ({option}): `modprobe {kind}` as root, or boot a kernel that has it")]
    LinkKind {
        /// `veth`, `bridge`, `vxlan`
        kind: &'static str,
        /// The kernel's build option for it.
        option: &'static str,
    },
}

/// The privilege with which the sandbox was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Root's privilege on the machine.
    Root,
    /// The privilege that every user has in a user namespace of their own.
    UserNamespace,
}

/// Enters new network and mount namespaces with an empty `/run` and `/run/netns`. Call it while the process has one
/// thread.
pub fn enter() -> Result<Right, SandboxError> {
    match threads() {
        1 => {}
        more => return Err(SandboxError::Threads(more)),
    }
    let right = unshare_all()?;
    private_mounts().map_err(|error| diagnose(error, right))?;
    Ok(right)
}

fn threads() -> usize {
    // without /proc the next step fails with its own error
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn unshare_all() -> Result<Right, SandboxError> {
    let own = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if geteuid().is_root() && unshare(own).is_ok() {
        return Ok(Right::Root);
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare(own | UnshareFlags::NEWUSER).map_err(|errno| {
        diagnose(SandboxError::Refused { step: "unshare(CLONE_NEWUSER)", errno }, Right::UserNamespace)
    })?;
    // user_namespaces(7): without privilege, a gid may be mapped only after setgroups is denied
    write_map("/proc/self/setgroups", "deny")?;
    write_map("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write_map("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    Ok(Right::UserNamespace)
}

#[expect(deprecated, reason = "unsound for CLONE_FILES only, which is never among these flags")]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    rustix::thread::unshare(flags)
}

fn write_map(path: &'static str, text: &str) -> Result<(), SandboxError> {
    fs::write(path, text).map_err(|source| SandboxError::Map { path, source })
}

fn private_mounts() -> Result<(), SandboxError> {
    let refused = |step| move |errno| SandboxError::Refused { step, errno };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(refused("making mounts private"))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
        .map_err(refused("mounting a tmpfs on /run"))?;
    fs::create_dir("/run/netns").map_err(|source| SandboxError::Map { path: "/run/netns", source })
}

/// Finds the reason for a refusal in the kernel's settings.
fn diagnose(error: SandboxError, right: Right) -> SandboxError {
    match error {
        SandboxError::Refused { step, errno } if right == Right::UserNamespace => reason(step, errno, &sysctl),
        other => other,
    }
}

fn reason(step: &'static str, errno: Errno, read: &dyn Fn(&str) -> Option<String>) -> SandboxError {
    let is = |key: &str, value: &str| read(key).is_some_and(|text| text.trim() == value);
    match errno {
        Errno::INVAL => SandboxError::NotBuilt,
        _ if is("user/max_user_namespaces", "0") => SandboxError::NoUserNamespaces,
        _ if is("kernel/unprivileged_userns_clone", "0") => SandboxError::Unprivileged,
        _ if is("kernel/apparmor_restrict_unprivileged_userns", "1") => SandboxError::AppArmor,
        _ => SandboxError::Refused { step, errno },
    }
}

fn sysctl(key: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{key}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(errno: Errno, key: &str, value: &str) -> String {
        reason("unshare(CLONE_NEWUSER)", errno, &|asked| (asked == key).then(|| format!("{value}\n"))).to_string()
    }

    #[test]
    fn a_refusal_names_the_switch() {
        assert!(why(Errno::NOSPC, "user/max_user_namespaces", "0").contains("user.max_user_namespaces = 0"));
        assert!(why(Errno::PERM, "kernel/unprivileged_userns_clone", "0").contains("unprivileged_userns_clone"));
        assert!(why(Errno::ACCESS, "kernel/apparmor_restrict_unprivileged_userns", "1").contains("AppArmor"));
        assert!(why(Errno::INVAL, "", "").contains("CONFIG_USER_NS"));
        let other = why(Errno::PERM, "user/max_user_namespaces", "100");
        assert!(other.contains("unshare(CLONE_NEWUSER) is refused") && !other.contains('\n'), "{other}");
    }

    #[test]
    fn a_second_thread_is_refused() {
        // the test runner's own threads count
        assert!(matches!(enter(), Err(SandboxError::Threads(n)) if n > 1));
    }
}
