//! A private world: network and mount namespaces of its own, and for a user who is not root a user namespace in which
//! they are.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

/// What the machine or the user's rights lack, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// Namespaces belong to threads; a second one would stay outside.
    #[error("sandbox: {0} threads run already: it must be entered before any is started")]
    Threads(usize),
    /// user.max_user_namespaces
    #[error(
        "sandbox: user namespaces are off (user.max_user_namespaces = 0): run as root, or `sysctl user.max_user_namespaces=10000`"
    )]
    NoUserNamespaces,
    /// Debian's own switch
    #[error(
        "sandbox: user namespaces are for root only (kernel.unprivileged_userns_clone = 0): run as root, or set it to 1"
    )]
    Unprivileged,
    /// AppArmor's switch
    #[error(
        "sandbox: AppArmor takes the rights of user namespaces away (kernel.apparmor_restrict_unprivileged_userns = 1): run as root, or set it to 0"
    )]
    AppArmor,
    /// CONFIG_USER_NS
    #[error("sandbox: this kernel has no user namespaces (CONFIG_USER_NS): run as root")]
    NotBuilt,
    /// A seccomp filter, a chroot, a container without CAP_SYS_ADMIN …
    #[error(
        "sandbox: {step} is refused ({errno}): run as root, or outside the container that forbids it (CAP_SYS_ADMIN, seccomp)"
    )]
    Refused {
        /// The step.
        step: &'static str,
        /// The kernel's word.
        errno: Errno,
    },
    /// A uid or gid map cannot be written.
    #[error("sandbox: write {path}: {source}: run as root, or outside the container that forbids it")]
    Map {
        /// The file below /proc/self.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A link kind is missing.
    #[error("this kernel has no {kind} ({option}): `modprobe {kind}` as root, or boot a kernel that has it")]
    LinkKind {
        /// `veth`, `bridge`, `vxlan`
        kind: &'static str,
        /// The kernel's option.
        option: &'static str,
    },
}

/// By what right the world was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// By root's.
    Root,
    /// By those that everyone has in a user namespace of their own.
    UserNamespace,
}

/// Enters network and mount namespaces of the process's own, with an empty `/run` and `/run/netns`. To be called while
/// there is one thread.
pub fn enter() -> Result<Right, Lack> {
    match threads() {
        1 => {}
        more => return Err(Lack::Threads(more)),
    }
    let right = unshare_all()?;
    private_mounts().map_err(|lack| diagnose(lack, right))?;
    Ok(right)
}

fn threads() -> usize {
    // where there is no /proc the next step says so
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn unshare_all() -> Result<Right, Lack> {
    let own = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if geteuid().is_root() && unshare(own).is_ok() {
        return Ok(Right::Root);
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare(own | UnshareFlags::NEWUSER)
        .map_err(|errno| diagnose(Lack::Refused { step: "unshare(CLONE_NEWUSER)", errno }, Right::UserNamespace))?;
    // user_namespaces(7): groups are given up before a gid may be mapped without privilege
    write_map("/proc/self/setgroups", "deny")?;
    write_map("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write_map("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    Ok(Right::UserNamespace)
}

#[expect(deprecated, reason = "unsound for CLONE_FILES only, which is never among these flags")]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    rustix::thread::unshare(flags)
}

fn write_map(path: &'static str, text: &str) -> Result<(), Lack> {
    fs::write(path, text).map_err(|source| Lack::Map { path, source })
}

fn private_mounts() -> Result<(), Lack> {
    let refused = |step| move |errno| Lack::Refused { step, errno };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(refused("making mounts private"))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
        .map_err(refused("mounting a tmpfs on /run"))?;
    fs::create_dir("/run/netns").map_err(|source| Lack::Map { path: "/run/netns", source })
}

/// The reason behind a refusal, as far as the kernel's switches tell.
fn diagnose(lack: Lack, right: Right) -> Lack {
    match lack {
        Lack::Refused { step, errno } if right == Right::UserNamespace => reason(step, errno, &sysctl),
        other => other,
    }
}

fn reason(step: &'static str, errno: Errno, read: &dyn Fn(&str) -> Option<String>) -> Lack {
    let is = |key: &str, value: &str| read(key).is_some_and(|text| text.trim() == value);
    match errno {
        Errno::INVAL => Lack::NotBuilt,
        _ if is("user/max_user_namespaces", "0") => Lack::NoUserNamespaces,
        _ if is("kernel/unprivileged_userns_clone", "0") => Lack::Unprivileged,
        _ if is("kernel/apparmor_restrict_unprivileged_userns", "1") => Lack::AppArmor,
        _ => Lack::Refused { step, errno },
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
        // the test runner's own threads are there
        assert!(matches!(enter(), Err(Lack::Threads(n)) if n > 1));
    }
}
